"""The one place that renders chat templates, for the policy's prompts and for what a reward model reads."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import TemplateError

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.turns import Chat, Shape, marked, shapes, to_chat, with_tool_turns_as_text
from darwin_align.core.errors import ModelLoadError, RequestError
from darwin_align.core.types import Request, Response
from darwin_align.formats.call_template import shared_length
from darwin_align.formats.tool_syntax import ToolSyntax

__all__ = ["BosFrom", "ChatTemplate", "Frame", "Turn", "to_chat"]

logger = logging.getLogger(__name__)

Turn = Literal["closed", "open"]
BosFrom = Literal["template", "tokenizer"]
Role = Literal["policy", "reward model"]

# Letters only: no template trims it, no tokenizer knows it, nobody writes it.
_MARK = "QzDarwinAlignMarkZq"
_UNSEEN = "the reward model's chat template takes no tools: it judges answers without seeing them"
_OPEN_THOUGHTS = re.compile(r"(<\|?(?:think|thinking|thought|reasoning)\|?>|\[THINK\])\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Frame:
    """What a template writes around the assistant's last turn."""

    before: str
    after: str

    def around(self, answer: str) -> Frame:
        """The frame of this answer."""
        if self.before.endswith(" ") and answer.startswith(" "):
            # A template that puts a space before answers: a policy that was trained on it writes that space itself.
            return replace(self, before=self.before[:-1])
        return self


class ChatTemplate:
    """A tokenizer's chat template: renders requests to token ids and frames answers for a reward model.

    What a template can do is found out by rendering a marker and looking for it, not by the model's name.

    Args:
        tokenizer: a transformers tokenizer.
        chat_template: Jinja source, or a path to a file with it, in place of the tokenizer's own.
        name: what error messages call the model.
        role: whose template it is. A policy's refuses tool calls and results that it does not render; for a reward
            model they are folded into the neighbouring turns as text.
        bos: "template" tokenises the rendered text as it is, like ``apply_chat_template``; "tokenizer" takes a leading
            BOS off the text and lets the tokenizer add its special tokens. Either way there is one BOS at most.

    Raises:
        ModelLoadError: there is no chat template.
    """

    def __init__(
        self,
        tokenizer: Any,
        chat_template: str | Path | None = None,
        *,
        name: str = "the model",
        role: Role = "policy",
        bos: BosFrom = "template",
    ) -> None:
        self._tokenizer = tokenizer
        self._name, self._role = name, role
        self._source = chat_template.read_text("utf-8") if isinstance(chat_template, Path) else chat_template
        self._bos = bos
        if not (self._source or tokenizer.chat_template):
            raise ModelLoadError(
                f"the tokenizer of {name} has no chat template, as is usual for base models: use an instruction-tuned "
                "model, or give chat_template=… (Jinja source, or a Path to a file with it) that renders `messages` in "
                "the form that the model was trained on"
            )
        # Rendering is quick; tokenising a long conversation again for every chunk is not.
        self._encode: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=256)(self._encoded)
        self._pieces: Callable[[str], tuple[int, ...]] = lru_cache(maxsize=256)(self._bare)
        self._shows: Callable[[str], tuple[bool, bool]] = lru_cache(maxsize=256)(self._probed)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer."""
        return self._tokenizer

    # -- prompts

    def prompt_ids(self, request: Request) -> list[int]:
        """Token ids of the conversation up to where the assistant's answer begins.

        Whoever lets a model go on from there sees to the request's ``response_format`` and ``tool_choice``.

        Raises:
            RequestError: the template refuses the conversation, or does not show tools.
        """
        return list(self._encode(self.prompt_text(request)))

    def prompt_text(self, request: Request, *, bos: bool = True) -> str:
        """Text of the conversation up to where the assistant's answer begins: what :meth:`prompt_ids` tokenises.

        Args:
            request: the conversation.
            bos: ``False`` takes a leading BOS off, for whoever tokenises the text with special tokens added.

        Raises:
            RequestError: the template refuses the conversation, or does not show tools.
        """
        tools = self._tools(request)
        self.check_tools(request)
        if not (text := self._render(self._chat(request), tools, answer_next=True)):
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
        return len(self._encoded(text))

    def _tools(self, request: Request) -> list[dict[str, Any]] | None:
        # tool_choice="none" forbids calls: a model that is not shown the tools cannot call them.
        return [dict(tool) for tool in request.tools] if request.tools and request.tool_choice != "none" else None

    def _chat(self, request: Request) -> Chat:
        shape = self._shape(request)
        if shape.note:
            _log_once(shape.note)
        return shape.chat

    def _shape(self, request: Request) -> Shape:
        """The conversation in the form that the template takes, and what was done to it."""
        chat, notes = to_chat(request.conversation), []
        has_tool_turns = any(turn["role"] == "tool" or turn.get("tool_calls") for turn in chat)
        if has_tool_turns and not self.takes_tool_turns:
            if self._role == "policy":
                raise RequestError(
                    "the conversation has tool calls and results, but the policy's chat template does not render them: "
                    "use a model that was trained with tools, or give another chat_template=…"
                )
            chat = with_tool_turns_as_text(chat)
            notes.append("takes no tool calls and results: it reads them as text of the neighbouring turns")
        shape = self._fitting(chat)
        notes += [shape.note] if shape.note else []
        whose = f"the {self._role}'s chat template"
        return Shape(shape.chat, "; ".join(f"{whose} {note}" for note in notes))

    def _fitting(self, chat: Chat) -> Shape:
        """The least changed form that the template shows whole, else the first that it does not refuse."""
        taken: Shape | None = None
        for shape in shapes(chat):
            renders, whole = self._shows(json.dumps(marked(shape.chat)))
            if whole:
                return shape
            taken = taken or (shape if renders else None)
        return taken or Shape(chat)

    def _probed(self, trial: str) -> tuple[bool, bool]:
        """Whether a marked conversation (as JSON, with its words) is rendered at all, and whether as a whole."""
        chat, words = json.loads(trial)
        text = self._probe(chat)
        return bool(text), all(word in text for word in words)

    def _render(self, chat: Chat, tools: list[dict[str, Any]] | None = None, *, answer_next: bool) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(
                chat,
                tools=tools,
                chat_template=self._source,
                tokenize=False,
                add_generation_prompt=answer_next,
            )
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            raise RequestError(f"the {self._role}'s chat template refuses this conversation: {error}") from error
        return text

    def _encoded(self, text: str) -> tuple[int, ...]:
        before, after = self._special
        return (*before, *self._bare(text), *after)

    def _bare(self, text: str) -> tuple[int, ...]:
        """Token ids of a text without what the tokenizer adds to it."""
        if self._bos == "tokenizer":
            text = text.removeprefix(self._tokenizer.bos_token or "")
        return tuple(self._tokenizer.encode(text, add_special_tokens=False, verbose=False))

    @property
    def _special(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that go before and behind every text."""
        return self._added if self._bos == "tokenizer" else ((), ())

    @cached_property
    def _added(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the tokenizer's post-processor puts before and behind a text: BOS, EOS, both or none."""
        bare, whole = (tuple(self._tokenizer.encode("x", add_special_tokens=added)) for added in (False, True))
        starts = range(len(whole) - len(bare) + 1)
        start = next((i for i in starts if whole[i : i + len(bare)] == bare), None)
        if start is None:
            raise ModelLoadError(
                f"the tokenizer of {self._name} changes texts when it adds special tokens ({bare} becomes {whole} for "
                "'x'): give a chat_template=… that writes them itself, and recipe='generic'"
            )
        return whole[:start], whole[start + len(bare) :]

    # -- answers, for a reward model

    def answer_ids(self, request: Request, responses: Sequence[Response], turn: Turn) -> list[list[int]]:
        """Token ids of the conversation and an answer to it, one list for each response.

        A response whose token ids spell its text in this tokenizer is framed by id: no white space is trimmed, nothing
        is tokenised anew. Another tokenizer's response goes by its text, also unchanged where the template allows it.

        Args:
            request: the conversation.
            responses: its answers, finished or not.
            turn: "closed" ends the turn as the template ends it, "open" stops behind the answer.

        Raises:
            RequestError: the template refuses the conversation.
        """
        chat, tools = self._chat(request), self._shown_tools(request)
        frame = self._frame(chat, tools, turn)
        if frame is None:
            return [list(self._encoded(self._whole(chat, tools, response.text, turn))) for response in responses]
        return [self._framed(frame.around(response.text), response) for response in responses]

    def answer_texts(
        self, request: Request, responses: Sequence[Response], turn: Turn, *, special: bool = False
    ) -> list[tuple[str, str]]:
        """Texts of the conversation and an answer to it, for a reader with this tokenizer at the far end of a wire.

        Joined, they are what :meth:`answer_ids` tokenises where it goes by text.

        Args:
            request: the conversation.
            responses: its answers, finished or not.
            turn: "closed" ends the turn as the template ends it, "open" stops behind the answer.
            special: whether the reader adds the tokenizer's special tokens. Either way it sees them once at most,
                unless the template writes none, none is wanted, and the reader adds them.

        Returns:
            For each response the text up to the answer, and the text from there on. A template that shows no frame
            around answers gives everything as the first.

        Raises:
            RequestError: the template refuses the conversation.
        """
        chat, tools = self._chat(request), self._shown_tools(request)
        frame = self._frame(chat, tools, turn)
        if frame is None:
            return [self._for_reader(self._whole(chat, tools, r.text, turn), "", special) for r in responses]
        framed = [(frame.around(response.text), response.text) for response in responses]
        return [self._for_reader(frame.before, text + frame.after, special) for frame, text in framed]

    def _for_reader(self, before: str, after: str, special: bool) -> tuple[str, str]:
        """Two pieces of a text, such that a reader of both sees the special tokens that :meth:`_encoded` sees."""
        first, last = ("".join(self._tokenizer.convert_ids_to_tokens(list(ids))) for ids in self._added)
        if self._bos == "tokenizer":
            before = before.removeprefix(self._tokenizer.bos_token or "")
            return (before, after) if special else (first + before, after + last)
        if not special:
            return before, after
        return before.removeprefix(first), after.removesuffix(last)

    def _framed(self, frame: Frame, response: Response) -> list[int]:
        if not self.detokenizer.spells(response.tokens, response.text):
            return list(self._encoded(frame.before + response.text + frame.after))
        first, last = self._special
        before, after = self._frame_ids(frame)
        return [*first, *before, *self.detokenizer.without_end(response.tokens), *after, *last]

    def _frame(self, chat: Chat, tools: list[dict[str, Any]] | None, turn: Turn = "closed") -> Frame | None:
        rendered = self._render([*chat, {"role": "assistant", "content": _MARK}], tools, answer_next=False)
        before, found, after = rendered.partition(_MARK)
        if not found or _MARK in after:
            return None
        return Frame(before, "" if turn == "open" else after)

    def _frame_ids(self, frame: Frame) -> tuple[list[int], list[int]]:
        # Tokenised behind a word, because some tokenizers treat the beginning of a text as the beginning of a word.
        word = self._pieces(frame.before + "x")
        whole = self._pieces(frame.before + "x" + frame.after)
        after = whole[len(word) :] if whole[: len(word)] == word else self._pieces(frame.after)
        return list(self._pieces(frame.before)), list(after)

    def _whole(self, chat: Chat, tools: list[dict[str, Any]] | None, text: str, turn: Turn) -> str:
        if turn == "open":
            return self._render(chat, tools, answer_next=True) + text
        return self._render([*chat, {"role": "assistant", "content": text}], tools, answer_next=False)

    def notes(self, request: Request) -> tuple[str, ...]:
        """What of a request is read in another form than it has, or not at all, by a reward model.

        Raises:
            RequestError: the conversation has no human turn, or a block that is no text.
        """
        unseen = self._tools(request) and not self.takes_tools
        return tuple(filter(None, (self._shape(request).note, _UNSEEN if unseen else "")))

    def _shown_tools(self, request: Request) -> list[dict[str, Any]] | None:
        tools = self._tools(request)
        if tools and not self.takes_tools:
            _log_once(_UNSEEN)
            return None
        return tools

    # -- what the template can do

    @cached_property
    def takes_system(self) -> bool:
        """Whether a system turn reaches the model."""
        chat = [{"role": "system", "content": _MARK}, {"role": "user", "content": "x"}]
        return _MARK in self._probe(chat)

    @cached_property
    def takes_tools(self) -> bool:
        """Whether tools reach the model."""
        parameters = {"type": "object", "properties": {}}
        about = {"name": _MARK, "description": "x", "parameters": parameters}
        return _MARK in self._probe([{"role": "user", "content": "x"}], [{"type": "function", "function": about}])

    @cached_property
    def tool_syntax(self) -> ToolSyntax:
        """How the model writes tool calls.

        Raises:
            RequestError: the template shows no form of a call that is recognised.
        """
        tokenizer = self._tokenizer
        ends = [tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in self.detokenizer.hidden]
        return ToolSyntax.found(
            self._rendered_calls,
            ends=ends,
            response_template=getattr(tokenizer, "response_template", None),
            read=lambda text, tools: tokenizer.parse_response(text, prefix="", tools=tools),
        )

    def _rendered_calls(self, calls: list[dict[str, Any]]) -> str:
        """What the template writes behind the generation prompt for a turn that makes these calls."""
        user = {"role": "user", "content": "x"}
        turn = {"role": "assistant", "content": "", "tool_calls": calls}
        prompt, whole = self._render([user], answer_next=True), self._render([user, turn], answer_next=False)
        # A prompt may open what the turn itself does not have, e.g. thoughts: the answer begins where they part.
        return whole[shared_length(prompt, whole) :]

    @cached_property
    def opens_thoughts(self) -> str:
        """The tag by which the prompt itself begins thoughts that the model has to end; empty if it does not."""
        found = _OPEN_THOUGHTS.search(self._probe([{"role": "user", "content": "x"}]))
        return found[1] if found else ""

    @property
    def takes_agents(self) -> bool:
        """Whether tools, calls of them and their results reach the model."""
        return self.takes_tools and self.takes_tool_turns

    @cached_property
    def takes_tool_turns(self) -> bool:
        """Whether tool calls and their results reach the model."""
        return all(_MARK in self._probe(_tool_turns(*names)) for names in ((_MARK, "x"), ("x", _MARK)))

    @cached_property
    def detokenizer(self) -> Detokenizer:
        """Decodes states; hidden are the tokens that end or frame turns."""
        special = _special_ids(self._tokenizer)
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
        turns, tool = _tool_turns("x", "x"), {"type": "function", "function": {"name": "x", "parameters": {}}}
        if not (call := self._probe_ids(turns[:2])):
            return set()
        return {*self._probe_ids(turns), *self._probe_ids(turns[:1], [tool])} - (set(call) - framing)

    @cached_property
    def end_of_turn(self) -> int | None:
        """Id of the special token by which the template ends an assistant's turn, if it does so."""
        frame = self._frame([{"role": "user", "content": "x"}], None)
        after = self._frame_ids(frame)[1] if frame else []
        return after[0] if after and after[0] in _special_ids(self._tokenizer) else None

    @cached_property
    def ends(self) -> frozenset[int]:
        """Ids that end an answer, as far as tokenizer and template tell."""
        return frozenset({self._tokenizer.eos_token_id, self.end_of_turn} - {None})

    def _probe(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> str:
        try:
            return self._render(chat, tools, answer_next=not chat or chat[-1]["role"] != "assistant")
        except RequestError:
            return ""

    def _probe_ids(self, chat: Chat, tools: list[dict[str, Any]] | None = None) -> Sequence[int]:
        return self._encoded(self._probe(chat, tools))


def _special_ids(tokenizer: Any) -> set[int]:
    added = {token for token, about in tokenizer.added_tokens_decoder.items() if about.special}
    return {*added, *tokenizer.all_special_ids}


def _tool_turns(name: str, result: str) -> Chat:
    # Nine letters: some templates insist on that length.
    call_id = "abcdefghi"
    call = {"type": "function", "id": call_id, "function": {"name": name, "arguments": {}}}
    return [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": result, "name": name, "tool_call_id": call_id},
    ]


@lru_cache
def _log_once(sentence: str) -> None:
    logger.warning(sentence)
