"""The text that a chat template renders around an answer, and answers in it: the inputs of reward models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from darwin_align.backends.detokenizer import Detokenizer
from darwin_align.backends.renderer import MARK, Renderer, answer_turn
from darwin_align.backends.text_encoder import TextEncoder
from darwin_align.backends.turns import Chat
from darwin_align.core.types import Response

__all__ = ["AnswerFrames", "Frame", "Turn", "frame_ids", "frame_of"]

Turn = Literal["closed", "open"]


@dataclass(frozen=True)
class Frame:
    """The text that a template renders around the assistant's last turn."""

    before: str
    after: str

    def around(self, answer: str) -> Frame:
        """The frame of this answer."""
        return self.without_space() if answer.startswith(" ") else self

    def without_space(self) -> Frame:
        """The frame of an answer that brings the space before it.

        Some templates put a space before answers, and a policy that was trained on that generates the space itself.
        """
        return replace(self, before=self.before.removesuffix(" "))


@dataclass(frozen=True)
class AnswerFrames:
    """Puts answers into the frame that a template renders around them."""

    renderer: Renderer
    encoder: TextEncoder
    detokenizer: Detokenizer

    def ids(
        self, chat: Chat, tools: list[dict[str, Any]] | None, responses: Sequence[Response], turn: Turn
    ) -> list[list[int]]:
        """Token ids of a conversation and an answer to it, one list for each response."""
        responses = self._with_shown_thoughts(responses)
        frames = self._frames(chat, tools, responses, turn)
        return [
            list(self.encoder.encode(self._whole(chat, tools, response, turn)))
            if (frame := frames[response.thoughts]) is None
            else self._framed(frame, response)
            for response in responses
        ]

    def texts(
        self, chat: Chat, tools: list[dict[str, Any]] | None, responses: Sequence[Response], turn: Turn
    ) -> list[tuple[str, str]]:
        """Texts of a conversation up to an answer to it, and from there on; no second where there is no frame."""
        responses = self._with_shown_thoughts(responses)
        frames = self._frames(chat, tools, responses, turn)
        texts = []
        for response in responses:
            if (frame := frames[response.thoughts]) is None:
                texts.append((self._whole(chat, tools, response, turn), ""))
            else:
                around = frame.around(response.text)
                texts.append((around.before, response.text + around.after))
        return texts

    def _with_shown_thoughts(self, responses: Sequence[Response]) -> list[Response]:
        """The responses; thoughts for which the template has no place become a part of the text."""
        return [
            Response(text=response.whole, finished=response.finished)
            if response.thoughts and not self.renderer.shows_thoughts
            else response
            for response in responses
        ]

    def _frames(
        self, chat: Chat, tools: list[dict[str, Any]] | None, responses: Sequence[Response], turn: Turn
    ) -> dict[str, Frame | None]:
        """The frame of each response's text, by its thoughts."""
        all_thoughts = {response.thoughts for response in responses}
        return {thoughts: frame_of(self.renderer, chat, tools, turn, thoughts) for thoughts in all_thoughts}

    def _framed(self, frame: Frame, response: Response) -> list[int]:
        if not self.detokenizer.spells(response.tokens, response.text):
            frame = frame.around(response.text)
            return list(self.encoder.encode(frame.before + response.text + frame.after))
        if self.detokenizer.begins_word(response.tokens):
            frame = frame.without_space()
        first, last = self.encoder.special
        before, after = frame_ids(self.encoder, frame)
        return [*first, *before, *self.detokenizer.without_end(response.tokens), *after, *last]

    def _whole(self, chat: Chat, tools: list[dict[str, Any]] | None, response: Response, turn: Turn) -> str:
        if turn == "open":
            return self.renderer.render(chat, tools, answer_next=True) + response.whole
        return self.renderer.render([*chat, answer_turn(response.text, response.thoughts)], tools, answer_next=False)


def frame_of(
    renderer: Renderer, chat: Chat, tools: list[dict[str, Any]] | None, turn: Turn = "closed", thoughts: str = ""
) -> Frame | None:
    """The frame of an answer with these thoughts; ``None`` if the template shows none.

    Raises:
        RequestError: the template refuses the conversation.
    """
    rendered = renderer.render([*chat, answer_turn(MARK, thoughts)], tools, answer_next=False)
    before, found, after = rendered.partition(MARK)
    if not found or MARK in after:
        return None
    return Frame(before, "" if turn == "open" else after)


def frame_ids(encoder: TextEncoder, frame: Frame) -> tuple[list[int], list[int]]:
    """Token ids of a frame's two parts."""
    # Tokenised behind a word, because some tokenizers treat the beginning of a text as the beginning of a word.
    word = encoder.pieces(frame.before + "x")
    whole = encoder.pieces(frame.before + "x" + frame.after)
    after = whole[len(word) :] if whole[: len(word)] == word else encoder.pieces(frame.after)
    return list(encoder.pieces(frame.before)), list(after)
