"""Renders chat templates: the policy's prompts, and the inputs of reward models."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from darwin_align.backends.answer_frames import AnswerFrames, Turn, frame_ids, frame_of
from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.renderer import Renderer, Role
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
from darwin_align.core.errors import RequestError
from darwin_align.core.json_types import Json
from darwin_align.core.log_once import log_once
from darwin_align.core.types import Request, Response
from darwin_align.formats.call_template import BEHIND, shared_length, whole_tags
from darwin_align.formats.thoughts import Tags, ThoughtFormat
from darwin_align.formats.tool_syntax import ToolSyntax

__all__ = ["ChatTemplate", "Turn", "to_chat"]

logger = logging.getLogger(__name__)

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
        self._renderer = Renderer(tokenizer, chat_template, name, role, switches)
        self._tokenizer, self._role = tokenizer, role
        self._encoder = TextEncoder(tokenizer, bos, name)
        self._behind: Callable[[str], ThoughtFormat | None] = lru_cache(maxsize=256)(self._thoughts_behind)
        self._rendering: Callable[[str], tuple[bool, bool]] = lru_cache(maxsize=256)(self._probe_rendering)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

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
        if unread := check_switches(self._renderer.source, switches, f"the {self._role}'s chat template"):
            raise RequestError(unread)
        if not (text := self._renderer.render(self._chat(request), tools, answer_next=True, switches=switches)):
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
            renders, whole = self._rendering(
                json.dumps([*marked(shape.chat), with_tools and self._renderer.has_own_for_tools])
            )
            if whole:
                return shape
            taken = taken or (shape if renders else None)
        return taken or Shape(chat)

    def _probe_rendering(self, marked_chat: str) -> tuple[bool, bool]:
        """Whether a marked conversation (JSON, with its markers) is rendered at all, and whether completely."""
        chat, words, named = json.loads(marked_chat)
        text = self._renderer.probe(chat, [] if named else None)
        return bool(text), all(word in text for word in words)

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
        return self._frames.ids(self._chat(request), self._shown_tools(request), responses, turn)

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
        texts = self._frames.texts(self._chat(request), self._shown_tools(request), responses, turn)
        return [self._encoder.for_reader(before, after, special) for before, after in texts]

    @cached_property
    def _frames(self) -> AnswerFrames:
        return AnswerFrames(self._renderer, self._encoder, self.detokenizer)

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

    @property
    def takes_system(self) -> bool:
        """Whether a system turn reaches the model."""
        return self._renderer.takes_system

    @property
    def takes_tools(self) -> bool:
        """Whether tools reach the model."""
        return self._renderer.takes_tools

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
        tools: list[dict[str, Any]] | None = [] if self._renderer.has_own_for_tools else None
        prompt = self._renderer.render([user], tools, answer_next=True)
        whole = self._renderer.render([user, turn], tools, answer_next=False)
        frame = frame_of(self._renderer, [user], tools)
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
        return thought_format(self._tokenizer, self._renderer.source, self._renderer.probe)

    @property
    def renders_tool_conversations(self) -> bool:
        """Whether tools, calls of them and their results reach the model."""
        return self.takes_tools and self.takes_tool_turns

    @property
    def takes_tool_turns(self) -> bool:
        """Whether tool calls and their results reach the model."""
        return self._renderer.takes_tool_turns

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
        frame = frame_of(self._renderer, [{"role": "user", "content": "x"}], None)
        after = frame_ids(self._encoder, frame)[1] if frame else []
        return after[0] if after and after[0] in special_ids(self._tokenizer) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer, according to tokenizer and template."""
        channels = frozenset() if self.thought_format is None else self.thought_format.ends
        return frozenset({self._tokenizer.eos_token_id, self.end_of_turn} - {None}) | channels

    def _probe_ids(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> Sequence[int]:
        return self._encoder.encode(self._renderer.probe(chat, tools))
