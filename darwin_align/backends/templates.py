"""Renders chat templates: the policy's prompts, and the inputs of reward models."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.frame import Frame
from darwin_align.backends.template_switches import check_switches
from darwin_align.backends.text_encoder import BosFrom, TextEncoder, special_ids
from darwin_align.backends.thought_formats import thought_format
from darwin_align.backends.turns import (
    Chat,
    Shape,
    marked,
    opaque_blocks,
    shapes,
    to_chat,
    tool_named,
    tool_turns,
    with_tool_turns_as_text,
)
from darwin_align.core.errors import ConfigError, ModelLoadError, RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.log_once import log_once
from darwin_align.core.types import Request, Response
from darwin_align.formats.call_template import BEHIND, shared_length, whole_tags
from darwin_align.formats.thoughts import Tags, ThoughtFormat
from darwin_align.formats.tool_syntax import ToolSyntax

__all__ = ["ChatTemplate", "Frame", "Turn", "to_chat"]

logger = logging.getLogger(__name__)

Turn = Literal["closed", "open"]
Role = Literal["policy", "reward model"]

# Letters only: no template trims it, no tokenizer has it as a token, and no conversation contains it.
_MARK = "QzDarwinAlignMarkZq"
_UNSEEN = "the reward model's chat template takes no tools: it judges answers without seeing them"


class ChatTemplate:
    """A tokenizer's chat template: renders requests to token ids and frames answers for a reward model.

    The abilities of a template are probed by rendering a marker and searching for it; the model's name does not matter.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        name: the model's name in messages.
        role: whose template it is. A policy's refuses tool calls and results that it does not render; for a reward
            model they are folded into the neighbouring turns as text.
        bos: "template" tokenises the rendered text as it is, like ``apply_chat_template``; "tokenizer" takes a leading
            BOS off the text and lets the tokenizer add its special tokens. Either way there is one BOS at most.
        switches: further variables of the template, e.g. ``{"enable_thinking": False}``; a request's overrule them.

    Raises:
        ModelLoadError: there is no chat template.
        ConfigError: a switch that the template does not read.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | Path | None = None,
        *,
        name: str = "the model",
        role: Role = "policy",
        bos: BosFrom = "template",
        switches: Mapping[str, Json] | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._role: Role = role
        self._source = chat_template.read_text("utf-8") if isinstance(chat_template, Path) else chat_template
        if not (self._source or tokenizer.chat_template):
            raise ModelLoadError(
                f"the tokenizer of {name} has no chat template, as is usual for base models: use an instruction-tuned "
                "model, or give chat_template=… (Jinja source, or a Path to a file with it) that renders `messages` in "
                "the form that the model was trained on"
            )
        self._switches = dict(switches or {})
        if unread := check_switches(self._own_text, self._switches, f"the chat template of {name}"):
            raise ConfigError(unread)
        # transformers takes the template of this name for conversations that come with tools.
        named = tokenizer.chat_template
        self._named = self._source is None and isinstance(named, Mapping) and "tool_use" in named
        self._encoder = TextEncoder(tokenizer, bos, name)
        self._behind: Callable[[str], ThoughtFormat | None] = lru_cache(maxsize=256)(self._thoughts_behind)
        self._rendering: Callable[[str], tuple[bool, bool]] = lru_cache(maxsize=256)(self._probe_rendering)
        self._check_without_tools(name)

    def _check_without_tools(self, name: str) -> None:
        """Refuse a template for conversations with tools alone.

        Raises:
            ModelLoadError: it is one.
        """
        try:
            self._render([{"role": "user", "content": "x"}], answer_next=True)
        except RequestError as error:
            if self._probe([{"role": "user", "content": "x"}], [tool_named("x")]):
                raise ModelLoadError(
                    f"the chat template of {name} renders conversations with tools only ({error}): give a "
                    "chat_template=… that renders others too, or set the tokenizer's chat_template to a dict with the "
                    "names 'default' and 'tool_use'"
                ) from error

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

    @property
    def _own_text(self) -> str:
        """The template itself; of several, all of them."""
        source = self._source or self._tokenizer.chat_template
        return "\n".join(source.values()) if isinstance(source, dict) else str(source)

    # -- prompts

    def prompt_ids(self, request: Request) -> list[int]:
        """Token ids of the conversation up to where the assistant's answer begins.

        The caller is responsible for the request's ``response_format`` and ``tool_choice``.

        Raises:
            RequestError: the template refuses the conversation, or does not show tools.
        """
        return list(self._encoder.encode_cached(self.prompt_text(request)))

    def prompt_text(self, request: Request, *, bos: bool = True) -> str:
        """Text of the conversation up to where the assistant's answer begins: what :meth:`prompt_ids` tokenises.

        Args:
            request: the conversation.
            bos: ``False`` removes a leading BOS, for a text that is tokenised with special tokens added.

        Raises:
            RequestError: the template refuses the conversation, does not show tools, or does not read a switch.
        """
        tools = self._tools(request)
        self.check_tools(request)
        switches = request.chat_template_kwargs
        if unread := check_switches(self._own_text, switches, f"the {self._role}'s chat template"):
            raise RequestError(unread)
        if not (text := self._render(self._chat(request), tools, answer_next=True, switches=switches)):
            raise RequestError(f"the {self._role}'s chat template rendered this conversation to nothing")
        return text if bos else text.removeprefix(self._tokenizer.bos_token or "")

    def check_tools(self, request: Request) -> None:
        """Refuse tools that the model would not see.

        Raises:
            RequestError: the template does not show tools.
        """
        if self._tools(request) and not self.takes_tools:
            raise RequestError(
                f"the request has tools, but the {self._role}'s chat template does not show tools to the model: use a "
                "model that was trained with tools, or give a chat_template=… that renders `tools`"
            )

    def count(self, text: str) -> int:
        """Tokens of a rendered text, or of a piece of an answer."""
        return len(self._encoder.encode(text))

    def _tools(self, request: Request) -> list[dict[str, Any]] | None:
        # tool_choice="none" forbids calls: a model that is not shown the tools cannot call them.
        return [dict(tool) for tool in request.tools] if request.tools and request.tool_choice != "none" else None

    def _chat(self, request: Request) -> Chat:
        shape = self._shape(request)
        if shape.note:
            log_once(logger, shape.note)
        return shape.chat

    def _shape(self, request: Request) -> Shape:
        """The conversation in a form that the template renders, and a note on the changes."""
        chat = to_chat(request.conversation)
        notes = [note] if (note := opaque_blocks(request.conversation)) else []
        has_tool_turns = any(turn["role"] == "tool" or turn.get("tool_calls") for turn in chat)
        if has_tool_turns and not self.takes_tool_turns:
            if self._role == "policy":
                raise RequestError(
                    "the conversation has tool calls and results, but the policy's chat template does not render them: "
                    "use a model that was trained with tools, or give another chat_template=…"
                )
            chat = with_tool_turns_as_text(chat)
            notes.append("takes no tool calls and results: it reads them as text of the neighbouring turns")
        shape = self._best_rendered_shape(chat, bool(self._tools(request)))
        notes += [shape.note] if shape.note else []
        whose = f"the {self._role}'s chat template"
        return Shape(shape.chat, "; ".join(f"{whose} {note}" for note in notes))

    def _best_rendered_shape(self, chat: Chat, with_tools: bool) -> Shape:
        """The least changed form that the template renders completely, else the first that it does not refuse."""
        taken: Shape | None = None
        for shape in shapes(chat):
            renders, whole = self._rendering(json.dumps([*marked(shape.chat), with_tools and self._named]))
            if whole:
                return shape
            taken = taken or (shape if renders else None)
        return taken or Shape(chat)

    def _probe_rendering(self, marked_chat: str) -> tuple[bool, bool]:
        """Whether a marked conversation (JSON, with its markers) is rendered at all, and whether completely."""
        chat, words, named = json.loads(marked_chat)
        text = self._probe(chat, [] if named else None)
        return bool(text), all(word in text for word in words)

    def _render(
        self,
        chat: Chat,
        tools: list[dict[str, Any]] | None = None,
        *,
        answer_next: bool,
        switches: Mapping[str, Json] | None = None,
    ) -> str:
        if self._named and tools is None and any(turn["role"] == "tool" or turn.get("tool_calls") for turn in chat):
            tools = []  # the template for tools renders their turns, even if no tool is shown any more
        try:
            text: str = self._tokenizer.apply_chat_template(
                chat,
                tools=tools,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=answer_next,
                **{**self._switches, **(switches or {})},
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestError(f"the {self._role}'s chat template refuses this conversation: {error}") from error
        return text

    # -- answers, for a reward model

    def answer_ids(self, request: Request, responses: Sequence[Response], turn: Turn) -> list[list[int]]:
        """Token ids of the conversation and an answer to it, one list for each response.

        A response whose token ids spell its text in this tokenizer is framed by id: no white space is trimmed, nothing
        is tokenised anew. Another tokenizer's response goes by its text, also unchanged where the template allows it.
        Thoughts go where the template puts those of an answer, or in front of the text if it has no place for them.

        Args:
            request: the conversation.
            responses: its answers, finished or not.
            turn: "closed" ends the turn as the template ends it, "open" stops behind the answer.

        Raises:
            RequestError: the template refuses the conversation.
        """
        chat, tools = self._chat(request), self._shown_tools(request)
        responses = self._with_shown_thoughts(responses)
        frames = self._frames(chat, tools, responses, turn)
        return [
            list(self._encoder.encode(self._whole(chat, tools, response, turn)))
            if (frame := frames[response.thoughts]) is None
            else self._framed(frame, response)
            for response in responses
        ]

    def answer_texts(
        self, request: Request, responses: Sequence[Response], turn: Turn, *, special: bool = False
    ) -> list[tuple[str, str]]:
        """Texts of the conversation and an answer to it, for a server with the same tokenizer.

        Joined, they are what :meth:`answer_ids` tokenises where it goes by text.

        Args:
            request: the conversation.
            responses: its answers, finished or not.
            turn: "closed" ends the turn as the template ends it, "open" stops behind the answer.
            special: whether the server adds the tokenizer's special tokens. Either way it reads them once at most,
                unless the template renders none, none is required, and the server adds them.

        Returns:
            For each response the text up to the answer, and the text from there on. A template that shows no frame
            around answers gives everything as the first.

        Raises:
            RequestError: the template refuses the conversation.
        """
        chat, tools = self._chat(request), self._shown_tools(request)
        responses = self._with_shown_thoughts(responses)
        frames = self._frames(chat, tools, responses, turn)
        texts = []
        for response in responses:
            if (frame := frames[response.thoughts]) is None:
                texts.append((self._whole(chat, tools, response, turn), ""))
            else:
                around = frame.around(response.text)
                texts.append((around.before, response.text + around.after))
        return [self._encoder.for_reader(before, after, special) for before, after in texts]

    def _with_shown_thoughts(self, responses: Sequence[Response]) -> list[Response]:
        """The responses; thoughts for which the template has no place become a part of the text."""
        return [
            Response(text=response.whole, finished=response.finished)
            if response.thoughts and not self.shows_thoughts
            else response
            for response in responses
        ]

    def _frames(
        self, chat: Chat, tools: list[dict[str, Any]] | None, responses: Sequence[Response], turn: Turn
    ) -> dict[str, Frame | None]:
        """The frame of each response's text, by its thoughts."""
        return {thoughts: self._frame(chat, tools, turn, thoughts) for thoughts in {r.thoughts for r in responses}}

    def _framed(self, frame: Frame, response: Response) -> list[int]:
        if not self.detokenizer.spells(response.tokens, response.text):
            frame = frame.around(response.text)
            return list(self._encoder.encode(frame.before + response.text + frame.after))
        if self.detokenizer.begins_word(response.tokens):
            frame = frame.without_space()
        first, last = self._encoder.special
        before, after = self._frame_ids(frame)
        return [*first, *before, *self.detokenizer.without_end(response.tokens), *after, *last]

    def _frame(
        self, chat: Chat, tools: list[dict[str, Any]] | None, turn: Turn = "closed", thoughts: str = ""
    ) -> Frame | None:
        rendered = self._render([*chat, _answer(_MARK, thoughts)], tools, answer_next=False)
        before, found, after = rendered.partition(_MARK)
        if not found or _MARK in after:
            return None
        return Frame(before, "" if turn == "open" else after)

    def _frame_ids(self, frame: Frame) -> tuple[list[int], list[int]]:
        # Tokenised behind a word, because some tokenizers treat the beginning of a text as the beginning of a word.
        word = self._encoder.pieces(frame.before + "x")
        whole = self._encoder.pieces(frame.before + "x" + frame.after)
        after = whole[len(word) :] if whole[: len(word)] == word else self._encoder.pieces(frame.after)
        return list(self._encoder.pieces(frame.before)), list(after)

    def _whole(self, chat: Chat, tools: list[dict[str, Any]] | None, response: Response, turn: Turn) -> str:
        if turn == "open":
            return self._render(chat, tools, answer_next=True) + response.whole
        return self._render([*chat, _answer(response.text, response.thoughts)], tools, answer_next=False)

    def notes(self, request: Request) -> tuple[str, ...]:
        """Notes on the parts of a request that a reward model reads in another form, or not at all.

        Raises:
            RequestError: the conversation has no human turn, or a block that is no text.
        """
        unseen = self._tools(request) and not self.takes_tools
        return tuple(filter(None, (self._shape(request).note, _UNSEEN if unseen else "")))

    def _shown_tools(self, request: Request) -> list[dict[str, Any]] | None:
        tools = self._tools(request)
        if tools and not self.takes_tools:
            log_once(logger, _UNSEEN)
            return None
        return tools

    # -- probes of the template

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn reaches the model."""
        chat = [{"role": "system", "content": _MARK}, {"role": "user", "content": "x"}]
        return _MARK in self._probe(chat)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools reach the model."""
        return _MARK in self._probe([{"role": "user", "content": "x"}], [tool_named(_MARK)])

    @cached_property
    def tool_syntax(self) -> ToolSyntax:
        """The model's format of tool calls.

        Raises:
            RequestError: the template shows no format of a call that is recognised.
        """
        tokenizer = self._tokenizer
        ends = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in self.detokenizer.hidden]
        return ToolSyntax.found(
            self._rendered_calls,
            ends=ends,
            render_behind=lambda calls: self._rendered_calls(calls, BEHIND),
            response_template=getattr(tokenizer, "response_template", None),
            read=lambda text, tools: tokenizer.parse_response(text, prefix="", tools=tools),
        )

    def _rendered_calls(self, calls: list[dict[str, Any]], content: str = "") -> str:
        """What the template renders for a turn with these calls, between the prompt and the end of the turn."""
        user = {"role": "user", "content": "x"}
        turn = {"role": "assistant", "content": content, "tool_calls": calls}
        tools: list[dict[str, Any]] | None = [] if self._named else None
        prompt = self._render([user], tools, answer_next=True)
        whole = self._render([user, turn], tools, answer_next=False)
        frame = self._frame([user], tools)
        whole = whole.removesuffix(frame.after if frame else "")
        form = self.thought_format.behind(prompt) if self.thought_format is not None else None
        if isinstance(form, Tags) and whole.startswith(bare := form.before_thoughts(prompt)):
            return form.behind_thoughts(whole[len(bare) :])
        # A prompt may begin something that the turn lacks: the answer begins where the two differ.
        return whole[whole_tags(whole, shared_length(prompt, whole)) :]

    def thoughts(self, request: Request) -> ThoughtFormat | None:
        """How thoughts are told from the text in answers to a request; ``None`` if the answers have none.

        Raises:
            RequestError: the template refuses the conversation.
        """
        return None if self.thought_format is None else self._behind(self.prompt_text(request))

    def _thoughts_behind(self, prompt: str) -> ThoughtFormat | None:
        return None if self.thought_format is None else self.thought_format.behind(prompt)

    @cached_property
    def thought_format(self) -> ThoughtFormat | None:
        """How the model's thoughts begin and end, whatever the prompt; ``None`` if it has none."""
        return thought_format(self._tokenizer, self._own_text, self._probe)

    @cached_property
    def shows_thoughts(self) -> bool:
        """Whether the template has a place for the thoughts of an answer."""
        return _MARK in self._probe([{"role": "user", "content": "x"}, _answer("x", _MARK)])

    @property
    def renders_tool_conversations(self) -> bool:
        """Whether tools, calls of them and their results reach the model."""
        return self.takes_tools and self.takes_tool_turns

    @cached_property
    def takes_tool_turns(self) -> bool:
        """Whether tool calls and their results reach the model."""
        return all(_MARK in self._probe(tool_turns(*names)) for names in ((_MARK, "x"), ("x", _MARK)))

    @cached_property
    def detokenizer(self) -> Detokenizer:
        """Decodes states without the tokens that end or frame turns."""
        special = special_ids(self._tokenizer)
        user, answer = {"role": "user", "content": "x"}, {"role": "assistant", "content": "x"}
        probes: list[Chat] = [[user], [user, answer, user], [user, answer]]
        if self.takes_system:
            probes.append([{"role": "system", "content": "x"}, user])
        framing = {token for chat in probes for token in self._probe_ids(chat)} & special
        framing |= self._tool_framing(framing) & special
        ends = {self._tokenizer.eos_token_id, self._tokenizer.pad_token_id, self._tokenizer.bos_token_id}
        return Detokenizer(self._tokenizer, {*framing, *ends} - {None})

    def _tool_framing(self, framing: set[int]) -> set[int]:
        """Tokens that frame tools and their results. What frames a call is not among them: it belongs to the answer."""
        turns, tool = tool_turns("x", "x"), tool_named("x")
        if not (call := self._probe_ids(turns[:2])):
            return set()
        return {*self._probe_ids(turns), *self._probe_ids(turns[:1], [tool])} - (set(call) - framing)

    @cached_property
    def end_of_turn(self) -> int | None:
        """Id of the special token by which the template ends an assistant's turn, if it does so."""
        frame = self._frame([{"role": "user", "content": "x"}], None)
        after = self._frame_ids(frame)[1] if frame else []
        return after[0] if after and after[0] in special_ids(self._tokenizer) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer, according to tokenizer and template."""
        channels = frozenset() if self.thought_format is None else self.thought_format.ends
        return frozenset({self._tokenizer.eos_token_id, self.end_of_turn} - {None}) | channels

    def _probe(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> str:
        try:
            return self._render(chat, tools, answer_next=not chat or chat[-1]["role"] != "assistant")
        except RequestError:
            return ""

    def _probe_ids(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> Sequence[int]:
        return self._encoder.encode(self._probe(chat, tools))


def _answer(text: str, thoughts: str = "") -> dict[str, Any]:
    """An assistant's turn. Thoughts have two names: older transformers does not give templates the second."""
    named = {"reasoning_content": thoughts, "thinking": thoughts} if thoughts else {}
    return {"role": "assistant", "content": text, **named}
