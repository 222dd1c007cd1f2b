"""A chat template that renders conversations, and what it can show: probed by rendering a marker."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from darwin_align.backends.template_switches import check_switches
from darwin_align.backends.turns import Chat, tool_named, tool_turns
from darwin_align.core.errors import ConfigError, ModelLoadError, RequestError
from darwin_align.core.json_types import Json

__all__ = ["Renderer", "Role", "answer_turn"]

Role = Literal["policy", "reward model"]

MARK = "QzDarwinAlignMarkZq"
"""Letters only: no template trims it, no tokenizer has it as a token, and no conversation contains it."""


class Renderer:
    """Renders conversations by one template.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        name: the model's name in messages.
        role: whose template it is, in messages.
        switches: further variables of the template.

    Raises:
        ModelLoadError: there is no chat template, or one for conversations with tools alone.
        ConfigError: a switch that the template does not read.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | Path | None,
        name: str,
        role: Role,
        switches: Mapping[str, Json] | None,
    ) -> None:
        self.tokenizer, self.role = tokenizer, role
        self._source = chat_template.read_text("utf-8") if isinstance(chat_template, Path) else chat_template
        if not (self._source or tokenizer.chat_template):
            raise ModelLoadError(
                f"the tokenizer of {name} has no chat template, as is usual for base models: use an instruction-tuned "
                "model, or give chat_template=… (Jinja source, or a Path to a file with it) that renders `messages` in "
                "the form that the model was trained on"
            )
        self._switches = dict(switches or {})
        if unread := check_switches(self.source, self._switches, f"the chat template of {name}"):
            raise ConfigError(unread)
        # transformers takes the template of this name for conversations that come with tools.
        named = tokenizer.chat_template
        self.has_own_for_tools = self._source is None and isinstance(named, Mapping) and "tool_use" in named
        self._check_without_tools(name)

    def _check_without_tools(self, name: str) -> None:
        try:
            self.render([{"role": "user", "content": "x"}], answer_next=True)
        except RequestError as error:
            if self.probe([{"role": "user", "content": "x"}], [tool_named("x")]):
                raise ModelLoadError(
                    f"the chat template of {name} renders conversations with tools only ({error}): give a "
                    "chat_template=… that renders others too, or set the tokenizer's chat_template to a dict with the "
                    "names 'default' and 'tool_use'"
                ) from error

    @property
    def source(self) -> str:
        """The template itself; of several, all of them."""
        source = self._source or self.tokenizer.chat_template
        return "\n".join(source.values()) if isinstance(source, dict) else str(source)

    def render(
        self,
        chat: Chat,
        tools: list[dict[str, Any]] | None = None,
        *,
        answer_next: bool,
        switches: Mapping[str, Json] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            chat: turns as transformers takes them.
            tools: in OpenAI's form.
            answer_next: whether the assistant's turn is to begin behind it.
            switches: further variables, which overrule the template's own.

        Raises:
            RequestError: the template refuses it.
        """
        has_tool_turns = any(turn["role"] == "tool" or turn.get("tool_calls") for turn in chat)
        if self.has_own_for_tools and tools is None and has_tool_turns:
            tools = []  # the template for tools renders their turns, even if no tool is shown any more
        try:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                tools=tools,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=answer_next,
                **{**self._switches, **(switches or {})},
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestError(f"the {self.role}'s chat template refuses this conversation: {error}") from error
        return text

    def probe(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> str:
        """Render a conversation; one that the template refuses is rendered to nothing."""
        try:
            return self.render(chat, tools, answer_next=not chat or chat[-1]["role"] != "assistant")
        except RequestError:
            return ""

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn reaches the model."""
        return MARK in self.probe([{"role": "system", "content": MARK}, {"role": "user", "content": "x"}])

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools reach the model."""
        return MARK in self.probe([{"role": "user", "content": "x"}], [tool_named(MARK)])

    @cached_property
    def takes_tool_turns(self) -> bool:
        """Whether tool calls and their results reach the model."""
        return all(MARK in self.probe(tool_turns(*names)) for names in ((MARK, "x"), ("x", MARK)))

    @cached_property
    def shows_thoughts(self) -> bool:
        """Whether the template has a place for the thoughts of an answer."""
        return MARK in self.probe([{"role": "user", "content": "x"}, answer_turn("x", MARK)])


def answer_turn(text: str, thoughts: str = "") -> dict[str, Any]:
    """An assistant's turn. Thoughts have two names: older transformers does not give templates the second."""
    named = {"reasoning_content": thoughts, "thinking": thoughts} if thoughts else {}
    return {"role": "assistant", "content": text, **named}
