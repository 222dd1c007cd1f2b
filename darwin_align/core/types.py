"""The records: frozen plain data that questions, answers and results are made of.

In one file, for they are made of one another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, JsonValue, model_validator

from darwin_align.core.budget import Usage
from darwin_align.core.errors import RequestError
from darwin_align.core.exploration import Exploration, Knowledge
from darwin_align.core.record import Record, Settings

__all__ = [
    "Ancestor",
    "Beam",
    "FinishReason",
    "Grounded",
    "Message",
    "OperatorName",
    "Population",
    "Request",
    "Response",
    "Role",
    "Sampling",
    "Step",
    "ToolCall",
]

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "tool_calls"]
OperatorName = Literal["mutate", "decode", "score", "select"]


class ToolCall(Record):
    """A tool call of the assistant."""

    name: str
    arguments: dict[str, JsonValue]
    id: str | None = None


class Message(Record):
    """One turn. Content is text, or a list of content blocks kept as they came."""

    role: Role
    content: str | tuple[dict[str, JsonValue], ...] = ""
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    @property
    def text(self) -> str:
        """The text of the turn: text blocks joined, other blocks left out.

        >>> Message(role="user", content=[{"type": "text", "text": "Hi"}]).text
        'Hi'
        """
        if isinstance(self.content, str):
            return self.content
        return "".join(str(block.get("text", "")) for block in self.content if block.get("type") == "text")

    def with_text(self, text: str) -> Message:
        """Return the turn with another text; blocks that are no text stay where they are."""
        if isinstance(self.content, str):
            return self.model_copy(update={"content": text})
        texts = [i for i, block in enumerate(self.content) if block.get("type") == "text"]
        blocks = [block for i, block in enumerate(self.content) if i not in texts]
        blocks.insert(texts[0] if texts else 0, {"type": "text", "text": text})
        return self.model_copy(update={"content": tuple(blocks)})


COLDEST = 0.01
"""Temperatures between this and 0 would only make numbers overflow."""


class Sampling(Settings):
    """How the policy draws tokens. ``top_k`` here limits tokens; survivors are another thing."""

    temperature: float = Field(0.7, ge=0)
    """0 is greedy: all beams under one instruction are then equal."""
    top_k: int | None = Field(40, gt=0)
    top_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0)
    max_thinking_tokens: int | None = Field(None, gt=0)
    """Tokens after which a reasoning model's thoughts are ended, where they are found; ``None`` leaves their length to
    the model."""

    @model_validator(mode="after")
    def _check_temperature(self) -> Self:
        if 0 < self.temperature < COLDEST:
            raise ValueError(
                f"temperature={self.temperature:g} is too small to divide by: use 0 to be greedy, or {COLDEST} and more"
            )
        return self


Grounded = Literal[False, True, "where_possible"]
"""Whether values are copied. Where nothing fits, ``True`` refuses and "where_possible" leaves it to the schema."""


class Request(Record):
    """A conversation and the settings of one call."""

    conversation: tuple[Message, ...]
    tools: tuple[dict[str, JsonValue], ...] = ()
    tool_choice: str | dict[str, JsonValue] | None = None
    parallel_tool_calls: bool = True
    """Whether one answer may make several calls."""
    response_format: dict[str, JsonValue] | None = None
    grounded: Grounded = False
    """Whether every free text and every number in calls and in the format is copied from :attr:`sources`."""
    grounded_in: tuple[str, ...] = ()
    """Texts that they are copied from; the conversation's, if there are none."""
    stop: tuple[str, ...] = ()
    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
    """Switches of the policy's chat template, e.g. ``{"enable_thinking": False}``; they overrule the policy's own."""
    sampling: Sampling = Sampling()

    @model_validator(mode="after")
    def _check_grounded(self) -> Self:
        if self.grounded_in and not self.grounded:
            raise ValueError("grounded_in=… names the texts that values are copied from, so give grounded=True as well")
        return self

    @classmethod
    def of(cls, text: str, **settings: Any) -> Self:
        """Ask one question without any context.

        >>> Request.of("How do I brew green tea?").instruction
        'How do I brew green tea?'
        """
        return cls(conversation=(Message(role="user", content=text),), **settings)

    @property
    def turn(self) -> int:
        """Index of the last human turn: the one that mutations reword.

        Raises:
            RequestError: the conversation cannot be answered.
        """
        conversation = self.conversation
        if not conversation:
            raise RequestError("the conversation is empty: give at least one human message")
        last = conversation[-1]
        if last.role == "assistant" and not last.tool_calls:
            raise RequestError("the conversation ends with an AI message: end it with a human message or a tool result")
        if last.role == "assistant":
            raise RequestError(
                f"the conversation ends with open tool calls ({', '.join(call.name for call in last.tool_calls)}): "
                "append their tool results"
            )
        for index in reversed(range(len(conversation))):
            if conversation[index].role == "user":
                if not conversation[index].text.strip():
                    raise RequestError("the last human message has no text: there is no instruction to follow")
                return index
        raise RequestError("the conversation has no human message: add one, it is the instruction to follow")

    @property
    def instruction(self) -> str:
        """The text of the last human turn."""
        return self.conversation[self.turn].text

    @property
    def sources(self) -> tuple[str, ...]:
        """The texts that values are copied from; none if they need not be copied.

        Messages of all roles count: a value may be in the system message or in a tool's result.

        >>> Request.of("Heat it to 80.", grounded=True).sources
        ('Heat it to 80.',)
        """
        if not self.grounded:
            return ()
        return self.grounded_in or tuple(message.text for message in self.conversation)

    def with_instruction(self, instruction: str) -> Request:
        """Return the same request with a reworded instruction; every other turn is kept word for word.

        Grounded values still come from the original conversation: no rewording may add one.
        """
        if instruction == self.instruction:
            return self
        turn = self.turn
        reworded = self.conversation[turn].with_text(instruction)
        return self.model_copy(
            update={
                "conversation": (*self.conversation[:turn], reworded, *self.conversation[turn + 1 :]),
                "grounded_in": self.sources,
            }
        )


class Response(Record):
    """An answer, partial or finished, as a scorer sees it."""

    text: str
    """The text alone, behind the thoughts of a reasoning model."""
    tokens: tuple[int, ...] = ()
    """Token ids of the text in the policy's tokenizer, where it has them."""
    finished: bool = True
    thoughts: str = ""
    """What the model thought before, for scorers with ``score_thoughts``; empty for all others."""

    @property
    def whole(self) -> str:
        r"""The text, behind the thoughts where there are some to be judged.

        >>> Response(text="Heat it.", thoughts="Tea?").whole
        '<think>\nTea?\n</think>\n\nHeat it.'
        """
        return f"<think>\n{self.thoughts}\n</think>\n\n{self.text}" if self.thoughts else self.text


class Ancestor(Record):
    """Whose state a beam took, and at which step."""

    beam: int
    step: int


class Beam(Record):
    """An instruction and the state that was decoded under it.

    The state is ``tokens`` where the policy has token ids, and ``thoughts`` and ``text`` are derived from them; a
    policy without ids leaves ``tokens`` empty, and these two are the state.
    """

    instruction: str
    first_response: bool = False
    """True for the plain sample of the original instruction: never a donor, never replaced."""
    tokens: tuple[int, ...] = ()
    text: str = ""
    """The answer, behind the thoughts of a reasoning model."""
    thoughts: str = ""
    """What a reasoning model thought before the text; empty for all others."""
    thinking: bool = False
    """True while the thoughts have not ended: there is nothing to judge yet, and no beam takes the state. A beam that
    ended so is invalid and has no reward."""
    text_from: int = 0
    """Index of the text's first token among ``tokens``."""
    length: int = 0
    """New tokens in the state, those of the thoughts included."""
    reward: float | None = None
    """Reward of exactly this state against the original conversation; ``None`` until it is scored."""
    logprob: float | None = None
    """Sum of the log-probabilities of the state's tokens, where the policy reports them."""
    log_weight: float = 0.0
    """Weight of this beam for a weighted selector; the soft choice of an answer uses it too, see
    :mod:`darwin_align.core.choice`."""
    wins: int = 0
    """Steps in which the beam was among the best."""
    valid: bool = True
    """An invalid beam loses to every valid one."""
    in_tool_call: bool = False
    """True while the state ends within a tool call: then no beam takes it, and it is not replaced."""
    pending_finish_reason: FinishReason | None = None
    """Why this state is finished if it is selected, while it is one candidate among others (``Step.candidates``)."""
    finish_reason: FinishReason | None = None
    alive: bool = True
    """False once a selector dropped the beam."""
    ancestor: Ancestor | None = None
    message: dict[str, JsonValue] = Field(default_factory=dict, exclude_if=lambda message: not message)
    """What the model's own message holds beside its text, of a policy that writes whole messages: fields of LangChain's
    ``AIMessage``, e.g. ``content`` in blocks, ``tool_calls`` with their ids."""

    @property
    def finished(self) -> bool:
        """Whether the state is complete."""
        return self.finish_reason is not None

    @property
    def open(self) -> bool:
        """Whether the beam is still to be decoded."""
        return self.alive and self.finish_reason is None

    @property
    def unready(self) -> bool:
        """Whether the state ends where it cannot be compared: within a tool call, or within the thoughts."""
        return self.in_tool_call or self.thinking

    @property
    def response(self) -> Response:
        """The state as scorers see it; the thoughts are for those that ask for them."""
        return Response(
            text=self.text,
            tokens=self.tokens[self.text_from :],
            finished=self.finished or self.pending_finish_reason is not None,
            thoughts=self.thoughts,
        )

    @property
    def cut(self) -> Beam:
        """This beam, ended where it stands; a tool call that is cut cannot be made, nor are thoughts an answer."""
        if self.finished:
            return self
        ended = {"finish_reason": self.pending_finish_reason or "length", "pending_finish_reason": None}
        return self.model_copy(update={**ended, "valid": self.valid and not self.unready, "in_tool_call": False})

    @property
    def settled(self) -> Beam:
        """This beam after the selection: an end that was a candidate is one."""
        if self.pending_finish_reason is None:
            return self
        return self.model_copy(update={"finish_reason": self.pending_finish_reason, "pending_finish_reason": None})

    def take_state(self, donor: Beam) -> Beam:
        """Return this beam with the donor's state: its own instruction stays (Alg. 1: recombination)."""
        return self.model_copy(update={name: getattr(donor, name) for name in STATE})


STATE = (
    "tokens",
    "text",
    "thoughts",
    "thinking",
    "text_from",
    "length",
    "reward",
    "logprob",
    "valid",
    "in_tool_call",
    "pending_finish_reason",
    "finish_reason",
    "message",
)
"""Fields of a beam that move together when its state is taken."""


class Step(Record):
    """The current question, and its position in the search."""

    operator: OperatorName = "mutate"
    cycle: int = 0
    index: int = 0
    """Replacement step within the cycle."""
    tokens: int = 40
    """Decode at most so many tokens a beam."""
    seed: int = 0
    """Seed of the cycle; operators derive theirs from it and from the beam's index."""
    tokens_left: int | None = None
    """What is left of the budget's tokens, for all beams and rewordings of this question together; ``None``: no
    limit."""
    seconds_left: float | None = None
    """What is left of the budget's seconds: the operator stops then, at the next token where it can; ``None``: no
    limit."""
    grace_seconds: float = 0.0
    """Seconds beyond that after which the operator is interrupted."""
    finished_only: bool = False
    """Score finished beams only, where no selection compares partial ones."""
    candidates: bool = False
    """Beams that share instruction and state take different tokens, the most likely ones, instead of sampling; where
    one ends, that is its ``pending_finish_reason`` until the selection."""
    thoughts_first: bool = False
    """Rows stop where their thoughts end, so that all beams begin their texts together; as long as any beam thinks,
    only those that think are decoded."""


class Population(Record):
    """All beams of one mutation cycle, and the current question."""

    request: Request
    parent: str
    """Instruction that this cycle's mutations descend from."""
    beams: tuple[Beam, ...]
    """``mutations * beams_per_mutation`` beams, one mutation's side by side; the first response, if any, comes last."""
    beams_per_mutation: int = 1
    max_new_tokens: int = 2048
    step: Step = Step()
    usage: Usage = Usage()
    """Spent so far; operators add to it."""
    notes: tuple[str, ...] = ()
    """Notes of this question's operators, e.g. on a fallback."""
    known: Knowledge = Knowledge()
    """What the search knows when the instruction is reworded."""
    exploration: Exploration | None = None
    """What came of this question's rewordings, by its mutator."""
    search_id: str = Field("", exclude=True)
    """Opaque hint for caches; it never decides an answer."""

    @classmethod
    def start(
        cls,
        request: Request,
        *,
        mutations: int = 5,
        beams_per_mutation: int = 1,
        first_response: bool = False,
        parent: str | None = None,
        **fields: Any,
    ) -> Self:
        """Begin a cycle: empty states, every beam under the parent instruction until the mutator rewords it.

        >>> len(Population.start(Request.of("Hi"), mutations=2, beams_per_mutation=3).beams)
        6
        """
        parent = request.instruction if parent is None else parent
        beams = [Beam(instruction=parent)] * (mutations * beams_per_mutation)
        if first_response:
            beams.append(Beam(instruction=request.instruction, first_response=True))
        return cls(request=request, parent=parent, beams=tuple(beams), beams_per_mutation=beams_per_mutation, **fields)

    @property
    def contenders(self) -> tuple[int, ...]:
        """Indices of the beams that compete."""
        return tuple(i for i, beam in enumerate(self.beams) if beam.alive and not beam.first_response)

    @property
    def selectable(self) -> tuple[int, ...]:
        """Indices of the contenders that take part in this step's selection: those outside a tool call or thoughts."""
        return tuple(i for i in self.contenders if not self.beams[i].unready)

    @property
    def open(self) -> tuple[int, ...]:
        """Indices of the beams that are still to be decoded, the first response included."""
        return tuple(i for i, beam in enumerate(self.beams) if beam.open)

    @property
    def thinking(self) -> tuple[int, ...]:
        """Indices of the open beams whose thoughts have not ended, the first response included."""
        return tuple(i for i in self.open if self.beams[i].thinking)

    @property
    def awaited(self) -> tuple[int, ...]:
        """Indices of the beams that the current question decodes: the open ones, or those that the others wait for."""
        return (self.thinking if self.step.thoughts_first else ()) or self.open

    @property
    def waiting(self) -> bool:
        """Whether the texts of all beams are still to begin together: nothing is compared before that, unless a
        selection has to settle an end.
        """
        beams = [self.beams[i] for i in self.open]
        silent = any(beam.thinking or (beam.thoughts and not beam.text) for beam in beams)
        pending = any(beam.pending_finish_reason is not None for beam in beams)
        return self.step.thoughts_first and silent and not pending

    @property
    def unscored(self) -> tuple[int, ...]:
        """Indices of the beams whose state has no reward yet. The first response is scored at its end, and thoughts
        without a text have none.
        """
        return tuple(
            i
            for i, beam in enumerate(self.beams)
            if beam.alive
            and beam.reward is None
            and not beam.thinking
            and (beam.finished or not (beam.first_response or self.step.finished_only))
        )

    def with_beams(self, changed: dict[int, Beam], **fields: Any) -> Self:
        """Return the population with some beams exchanged, by index."""
        beams = tuple(changed.get(i, beam) for i, beam in enumerate(self.beams))
        return self.model_copy(update={"beams": beams, **fields})

    @property
    def first_response(self) -> int | None:
        """Index of the first response; ``None`` in cycles without one."""
        return next((i for i, beam in enumerate(self.beams) if beam.first_response), None)

    def spend(self, usage: Usage) -> Self:
        """Return the population with added usage."""
        return self.model_copy(update={"usage": self.usage + usage})

    def note(self, *notes: str) -> Self:
        """Return the population with more notes."""
        return self.model_copy(update={"notes": (*self.notes, *notes)})

    def groups(self) -> Sequence[range]:
        """Beam indices of each mutation, in order."""
        n, nb = sum(not beam.first_response for beam in self.beams), self.beams_per_mutation
        return [range(start, start + nb) for start in range(0, n, nb)]
