"""The plain engine: the paper's cost model, as a fair baseline for the library's engine.

Per call it reads prompt and state of every row from the first token, all rows in one batch, and then decodes token by
token; it reads conversation and answer from the first token for every reward. It makes the same model calls in the same
dtype, draws by the same noise and leaves out what the search leaves out, so its tokens and rewards are the engine's.
Nothing is kept between calls. :class:`PositionBounds` counts how little of that reading is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from threading import Lock
from time import perf_counter
from typing import Any

import torch
from pydantic import PrivateAttr
from torch import Tensor
from transformers import GenerationConfig

from darwin_align.backends.local import LocalPolicy, LocalScorer
from darwin_align.backends.local.padded import PaddedForward, _Batch
from darwin_align.backends.local.reward import _RewardSequence
from darwin_align.core.budget import Usage
from darwin_align.core.types import Request, Response, Sampling
from darwin_align.operators.policy import Continuation, Row
from darwin_align.operators.report import Report
from darwin_align.operators.scorer import Scorer

__all__ = ["GeneratePolicy", "PlainPolicy", "PlainScorer", "PositionBounds"]


class _CountedForward(PaddedForward):
    """The manual loop, with its positions and its time."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        self.prefilled = self.decoded = 0
        self.seconds = 0.0

    def prefill(self, batch: _Batch) -> Tensor:
        self.prefilled += int(batch.mask[:, : batch.width].sum())
        return super().prefill(batch)

    def step(self, batch: _Batch, tokens: Tensor) -> Tensor:
        self.decoded += len(tokens)
        return super().step(batch, tokens)

    def _run(self, batch: _Batch, ids: Tensor, positions: Tensor) -> Tensor:
        start = perf_counter()
        logits = super()._run(batch, ids, positions)
        self.seconds += perf_counter() - start
        return logits


class PlainPolicy:
    """A local policy without its engine: a :class:`~darwin_align.operators.policy.Policy` that keeps nothing.

    It works in the caller's thread, one caller at a time.

    Args:
        policy: whose model, template, end tokens and settings are used.
    """

    def __init__(self, policy: LocalPolicy) -> None:
        self._policy, self._model = policy, policy._loaded.model
        self._forward = _CountedForward(self._model)
        self._lock = Lock()

    @property
    def prefill_positions(self) -> int:
        """Prompt and state tokens that were fed, padding aside."""
        return self._forward.prefilled

    @property
    def decode_positions(self) -> int:
        """Decoded tokens that were fed: all but the last one of every row of a call."""
        return self._forward.decoded

    @property
    def positions(self) -> int:
        """All positions that were fed."""
        return self.prefill_positions + self.decode_positions

    @property
    def seconds(self) -> float:
        """Time in the model's forward pass (on a GPU: until it was launched)."""
        return self._forward.seconds

    def prompt_length(self, request: Request) -> int:
        """Tokens of the rendered conversation."""
        return self._policy.prompt_length(request)

    def refusal(self, request: Request, max_new_tokens: int) -> str | None:
        """Why a request leaves too little of the context: see ``LocalPolicy.refusal``."""
        return self._policy.refusal(request, max_new_tokens)

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        """Read all rows anew and continue each.

        Raises:
            ContextLengthError: a prompt leaves no space for an answer.
        """
        lines = [self._policy._sequence(row) for row in rows]
        with self._lock, torch.inference_mode():
            if open_lines := [line for line in lines if line.remaining > 0]:
                self._write(open_lines)
        return [line.continuation() for line in lines]

    def _write(self, lines: Sequence[Any]) -> None:
        self._forward.decode(lines)


class GeneratePolicy(PlainPolicy):
    """The plain policy on transformers' ``generate``: the same law, but drawn from the global random state.

    Log-probabilities are not computed and stay 0.
    """

    def _write(self, lines: Sequence[Any]) -> None:
        alike: dict[tuple[Sampling, int], list[Any]] = {}
        for line in lines:
            alike.setdefault((line.sampling, line.remaining), []).append(line)
        for (sampling, steps), group in alike.items():
            self._generate(group, sampling, steps)

    def _generate(self, lines: Sequence[Any], sampling: Sampling, steps: int) -> None:
        batch = _Batch.of([line.ids for line in lines], 0, torch.device(self._model.device))
        for line in lines:
            line.reused = 0
        start = perf_counter()
        output = self._model.generate(
            input_ids=batch.ids, attention_mask=batch.mask, generation_config=self._settings(sampling, steps)
        )
        forward, decoded = self._forward, output[:, batch.width :].tolist()
        forward.seconds += perf_counter() - start
        forward.prefilled += int(batch.mask.sum())
        forward.decoded += len(lines) * (len(decoded[0]) - 1)
        for line, tokens in zip(lines, decoded, strict=True):
            for token in tokens:
                if line.remaining > 0:  # behind a row's end come padding ids
                    line.push(token, 0.0)

    def _settings(self, sampling: Sampling, steps: int) -> GenerationConfig:
        ends = sorted(self._policy.eos_ids)
        drawn = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p or 1.0}
        return GenerationConfig(
            max_new_tokens=steps,
            do_sample=sampling.temperature > 0,
            repetition_penalty=sampling.repetition_penalty or 1.0,
            eos_token_id=ends or None,
            pad_token_id=ends[0] if ends else 0,
            **(drawn if sampling.temperature > 0 else {}),
        )


class PlainScorer(Scorer):
    """A local scorer without its engine: every answer is read from the conversation's first token, in one batch."""

    scorer: LocalScorer
    """Whose model, template and recipe are used."""
    _positions: int = PrivateAttr(default=0)
    _seconds: float = PrivateAttr(default=0.0)
    _lock: Any = PrivateAttr(default_factory=Lock)

    def __init__(self, scorer: LocalScorer | None = None, **fields: Any) -> None:
        super().__init__(**({} if scorer is None else {"scorer": scorer}), **fields)

    @property
    def positions(self) -> int:
        """Positions that were fed, padding aside."""
        return self._positions

    @property
    def seconds(self) -> float:
        """Time in the reward model (on a GPU: until the rewards arrived)."""
        return self._seconds

    def max_response_tokens(self, request: Request) -> int | None:
        """Tokens of an answer that the model can still read."""
        return self.scorer.max_response_tokens(request)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Read everything and reward it."""
        model = self.scorer.reward_model
        if model.recipe.reads == "get_score":
            raise TypeError(f"the {model.recipe.name!r} recipe reads by itself: there is nothing to compare")
        inputs = model._inputs(request, responses)
        answers = {one: _RewardSequence(list(one.ids), input=one) for one in dict.fromkeys(inputs)}
        model._check_context(answers)
        lines = sorted(answers.values(), key=lambda answer: (len(answer.ids), answer.ids))
        with self._lock, torch.inference_mode():
            start = perf_counter()
            model._score_without_slots(lines)
            self._seconds += perf_counter() - start
            read = sum(len(line.ids) for line in lines)
            self._positions += read
        return Report([answers[one].reward for one in inputs], Usage(reward_tokens=read))


class _Trie:
    """Token rows by their prefixes: a node stands for one prefix, shared by its rows."""

    def __init__(self) -> None:
        self._nodes: dict[tuple[int, int], int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def add(self, ids: Iterable[int]) -> int:
        """Add a row and return how many of its prefixes were new."""
        before, node = len(self._nodes), 0
        for token in ids:
            node = self._nodes.setdefault((node, token), len(self._nodes) + 1)
        return len(self._nodes) - before


class PositionBounds:
    """The fewest positions that any engine must feed for the rows that it sees, however much it keeps.

    Watch a search's policy and scorer, run it, and compare:

    * ``reward``: distinct prefixes among all inputs that were scored;
    * ``prefill``: for every row to continue, the tokens that were not fed or decoded before, its last one
      aside, which the first step feeds (it is where the first new token comes from);
    * ``decoded``: tokens that were decoded; each takes a step.

    So an engine's prefill is the positions that it fed, less ``decoded``.

    >>> bounds = PositionBounds()
    >>> bounds.add_row([1, 2, 3]), bounds.add_row([1, 2, 4])  # the second shares all but its last token
    (2, 0)
    >>> bounds.add_decoded([1, 2, 3], [7, 8])
    >>> bounds.add_row([1, 2, 3, 7, 8])
    0
    """

    def __init__(self) -> None:
        self._rows, self._inputs = _Trie(), _Trie()
        self._lock = Lock()
        self.prefill = self.decoded = 0

    @property
    def reward(self) -> int:
        """Positions that the reward model must read."""
        return len(self._inputs)

    def add_row(self, ids: Sequence[int]) -> int:
        """Note prompt and state of a row that is to be continued; return how many tokens must be read for it."""
        with self._lock:
            new = self._rows.add(ids[:-1])
            self.prefill += new
            return new

    def add_decoded(self, ids: Sequence[int], tokens: Sequence[int]) -> None:
        """Note the tokens decoded for a row. The last one was never fed."""
        with self._lock:
            self.decoded += len(tokens)
            self._rows.add([*ids, *tokens][:-1])

    def add_scored(self, ids: Sequence[int]) -> int:
        """Note an input of the reward model; return how many tokens must be read for it."""
        with self._lock:
            return self._inputs.add(ids)

    def policy(self, policy: LocalPolicy) -> WatchedPolicy:
        """Return a policy that counts this one's rows: use it instead."""
        return WatchedPolicy(policy, self)

    def scorer(self, scorer: LocalScorer) -> WatchedScorer:
        """Return a scorer that counts this one's inputs: use it instead."""
        return WatchedScorer(scorer=scorer, seen=self.add_scored)


class WatchedPolicy:
    """A local policy whose rows are noted."""

    def __init__(self, policy: LocalPolicy, bounds: PositionBounds) -> None:
        self._policy, self._bounds = policy, bounds
        self.refusal, self.release, self.prompt_length = policy.refusal, policy.release, policy.prompt_length

    def generate(self, rows: Sequence[Row]) -> list[Continuation]:
        """Note the rows, continue them, note the decoded tokens."""
        prompts = [self._policy.template.prompt_ids(row.request) for row in rows]
        for prompt, row in zip(prompts, rows, strict=True):
            self._bounds.add_row([*prompt, *row.tokens])
        continuations = self._policy.generate(rows)
        for prompt, row, continuation in zip(prompts, rows, continuations, strict=True):
            self._bounds.add_decoded([*prompt, *row.tokens], continuation.tokens[len(row.tokens) :])
        return continuations


class WatchedScorer(Scorer):
    """A local scorer whose inputs are noted."""

    scorer: LocalScorer
    seen: Callable[[Sequence[int]], Any]

    @property
    def resources(self) -> tuple[Any, ...]:
        """The watched scorer's resources."""
        return self.scorer.resources

    def max_response_tokens(self, request: Request) -> int | None:
        """The watched scorer's limit."""
        return self.scorer.max_response_tokens(request)

    def score(self, request: Request, responses: Sequence[Response]) -> Report[list[float]]:
        """Note what the model reads, and score."""
        for one in self.scorer.reward_model._inputs(request, responses):
            self.seen(one.ids)
        return self.scorer.score(request, responses)
