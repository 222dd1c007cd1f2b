"""A request's grammar in llguidance's variant of Lark: JSON by a schema, calls of tools, text around them."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from darwin_align.core.json_types import Json
from darwin_align.formats.call_template import ID_LETTERS, INDEX_DIGITS, INDEX_MARK, CallTexts
from darwin_align.formats.grounded_json import GroundedJson, NoSourceValue
from darwin_align.formats.grounding import Sources
from darwin_align.formats.schemas import closed

__all__ = ["GrammarWriter", "writable"]

logger = logging.getLogger(__name__)

_SPACE = r" |\n[ \t]{0,20}"
"""White space between two tokens of JSON: one blank, or a line break and an indent. Without a bound, a weak model
generates white space for ever."""


class GrammarWriter:
    """Generates a grammar in llguidance's variant of Lark.

    Args:
        tokens: ids of the tokenizer's added tokens, by their text. In a template's text they stand for
            themselves, as in the conversations that the model was trained on.
        sources: what the values of JSON are copied from; nothing in particular, if there are none.
    """

    def __init__(self, tokens: Mapping[str, int], sources: Sources | None = None) -> None:
        self._tokens = tokens
        self._rules: list[str] = []
        self._grounded = None if sources is None else GroundedJson(sources, self._rules, _SPACE)

    def json(self, schema: Json, owner: str) -> str:
        """A rule for JSON that keeps a schema.

        Args:
            schema: any that llguidance takes.
            owner: what the schema is of, as errors name it.

        Raises:
            RequestError: a part of the schema cannot be grounded.
            NoSourceValue: the sources hold nothing for it.
        """
        if self._grounded:
            return self._grounded.rule(closed(schema), owner)
        rule = f"json_{len(self._rules)}"
        if schema is True:
            schema = {}
        options = {"whitespace_pattern": _SPACE, **schema.get("x-guidance", {})} if isinstance(schema, dict) else {}
        body = {**closed(schema), "x-guidance": options} if isinstance(schema, dict) else schema
        self._rules.append(f"{rule}: %json {json.dumps(body)}")
        return rule

    def calls(self, texts: CallTexts, tools: Mapping[str, Any], *, many: bool) -> str:
        """A rule for a call of one of the tools, or for several calls.

        Raises:
            RequestError: a part of a tool's schema cannot be grounded.
            NoSourceValue: the sources hold nothing for any tool.
        """
        quoted = texts.first.endswith('"')
        made = []
        for name, schema in tools.items():
            spelled = json.dumps(name, ensure_ascii=False)[1:-1] if quoted else name
            made.append(partial(self._call, self.text(spelled + texts.middle), name, schema))
        self._rules.append(f"call: {' | '.join(writable(*made))}")
        more = f"({self.text(texts.between)} call)*" if many and texts.between is not None else ""
        return f"{self.text(texts.first)} call {more} {self.text(texts.last)}"

    def _call(self, before: str, name: str, schema: Json) -> str:
        try:
            return f"{before} {self.json(schema, f'the tool {name!r}')}"
        except NoSourceValue as nothing:
            raise NoSourceValue(nothing.kind, f"{name}({nothing.path})") from nothing

    def calls_behind_text(self, texts: CallTexts, tools: Mapping[str, Any], *, many: bool) -> str | None:
        """A rule for any text, behind which there may be calls; ``None`` if no added token marks their beginning."""
        found = [(at, -len(token), token) for token in self._tokens if (at := texts.first.find(token)) >= 0]
        at, _, mark = min(found, default=(-1, 0, ""))
        if at < 0 or texts.first[:at].strip():
            return None
        # Any token but the mark: what follows the mark is a call, so the text before it is not one.
        self._rules.append(f"free: (<[^{self._tokens[mark]}]>)*")
        try:
            return f"free ({self.calls(replace(texts, first=texts.first[at:]), tools, many=many)})?"
        except NoSourceValue as nothing:
            logger.info("no call can be grounded: %s", nothing)
            return "free"

    def mark(self, texts: CallTexts) -> int | None:
        """Id of the added token that a call begins with; ``None`` if it begins with other text."""
        longest = max((token for token in self._tokens if texts.first.startswith(token)), key=len, default=None)
        return None if longest is None else self._tokens[longest]

    def text(self, text: str) -> str:
        """Exactly this text; added tokens in it as such."""
        parts: list[str] = []
        for piece in CallTexts.pieces(text):
            parts += [f"/{ID_LETTERS}/"] if piece is None else self._counted(piece)
        return " ".join(parts)

    def _counted(self, text: str) -> Iterable[str]:
        for i, piece in enumerate(text.split(INDEX_MARK)):
            if i:
                yield f"/{INDEX_DIGITS}/"
            yield from self._plain(piece)

    def _plain(self, text: str) -> Iterable[str]:
        while text:
            found = [(at, -len(token), token) for token in self._tokens if (at := text.find(token)) >= 0]
            at, _, token = min(found, default=(len(text), 0, ""))  # of those at one index, the longest
            if at:
                yield json.dumps(text[:at], ensure_ascii=False)
            if token:
                yield f"<[{self._tokens[token]}]>"
            text = text[at + len(token) :]

    def starting(self, *alternatives: str) -> str:
        """The grammar of answers that are one of these."""
        return "\n".join(["%llguidance {}", f"start: {' | '.join(alternatives)}", *self._rules])


def writable(*starts: Callable[[], str]) -> list[str]:
    """The alternatives that can be generated, without those for which the sources hold nothing to copy.

    Args:
        starts: make a rule each, or raise :class:`~darwin_align.formats.grounded_json.NoSourceValue`.

    Raises:
        NoSourceValue: all of them do.
    """
    found, missing = [], []
    for start in starts:
        try:
            found.append(start())
        except NoSourceValue as nothing:
            missing.append(nothing)
    for reason in missing:
        if not found:
            raise reason
        logger.info("a grounded answer does without: %s", reason)
    return found
