"use strict";
// Everything on the page can be read without this: it opens a beam's details beside the picture, and moves by arrow keys.
(() => {
  const sheet = document.getElementById("sheet");
  const body = document.getElementById("sheet-body");
  const beams = [...document.querySelectorAll("a.beam")];
  let opener = null;

  const mark = (id) => {
    for (const beam of beams) {
      beam.setAttribute("aria-expanded", String(beam.getAttribute("href") === "#" + id));
    }
  };

  const open = (id, from) => {
    const row = document.getElementById(id)?.closest("details");
    if (!row) return;
    const head = document.createElement("h2");
    head.className = "beam-head";
    head.textContent = row.dataset.title;
    head.tabIndex = -1;
    const panel = row.querySelector(".panel").cloneNode(true);
    panel.removeAttribute("id");
    const asked = row.querySelector("summary .instruction")?.cloneNode(true);
    body.replaceChildren(...[head, asked, panel].filter(Boolean));
    sheet.hidden = false;
    sheet.scrollTop = 0;
    opener = from;
    mark(id);
    head.focus({ preventScroll: true });
  };

  const close = () => {
    if (sheet.hidden) return;
    sheet.hidden = true;
    mark("");
    opener?.focus();
  };

  const move = (event, steps) => {
    const next = beams[beams.indexOf(event.target.closest("a.beam")) + steps];
    if (!next) return;
    event.preventDefault();
    next.focus();
  };

  for (const beam of beams) {
    beam.setAttribute("role", "button");
    beam.setAttribute("aria-controls", "sheet");
  }
  mark("");

  document.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
    const link = event.target.closest("a[href^='#beam-']");
    if (!link) return;
    event.preventDefault();
    open(link.getAttribute("href").slice(1), link);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") close();
    if (!event.target.closest("a.beam")) return;
    if (event.key === "ArrowDown") move(event, 1);
    if (event.key === "ArrowUp") move(event, -1);
    if (event.key === " ") {
      event.preventDefault();
      open(event.target.closest("a.beam").getAttribute("href").slice(1), event.target.closest("a.beam"));
    }
  });
  document.getElementById("close").addEventListener("click", close);
})();
