"""The settings of a search, by the paper's letters, and its presets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from darwin_align.core.budget import Budget
from darwin_align.core.clauses import Clause
from darwin_align.core.errors import ConfigError
from darwin_align.core.presets import PRESETS
from darwin_align.core.record import Settings, did_you_mean

__all__ = ["SearchConfig"]

MutatorName = Literal["auto", "policy", "aspects", "crossover", "fusion", "critique", "identity", "clauses"]
SelectorName = Literal["top_k", "tournament", "smc", "speculative_rejection", "args", "none"]
Decoding = Literal["sample", "candidates"]
Choice = Literal["best", "soft"]
OnFailure = Literal["best_so_far", "raise"]


class SearchConfig(Settings):
    """Settings of a search. Defaults are the paper's; letters in brackets are those of its Algorithm 1.

    ``survivors`` and ``champions`` shrink by themselves for small searches; given by hand, an impossible value is
    refused.

    Raises:
        ConfigError: an unknown name, a value out of range, or settings that contradict each other.

    >>> SearchConfig(mutations=2).survivors
    1
    >>> SearchConfig(survivor=2)
    Traceback (most recent call last):
    ...
    darwin_align.core.errors.ConfigError: unknown setting 'survivor' for SearchConfig: did you mean 'survivors'?
    """

    mutations: int = Field(5, gt=0)
    """Mutated instructions a cycle [n]."""
    beams_per_mutation: int = Field(1, gt=0)
    """Beams under each mutated instruction [nb]."""
    survivors: int = Field(3, gt=0)
    """Best beams of a step, donors for the others; counted in beams [k]."""
    replacement_period: int = Field(40, gt=0)
    """Tokens decoded between two replacements [m]."""
    cycles: int = Field(3, ge=0)
    """Mutation cycles [N]; 0 is one plain sample."""
    champions: int = Field(3, gt=0)
    """Instructions a cycle that may enter the archive [p]."""
    lookahead: int = Field(0, ge=0)
    """Tokens decoded only for scoring and thrown away [l]."""
    max_new_tokens: int = Field(2048, gt=0)
    """Length at which an answer is cut, in policy tokens."""
    mutator: MutatorName = "auto"
    """Exploration. "policy" is the paper's: the policy rewords the instruction. "aspects" adds short guidance sentences
    to it and needs no model. "auto" has the policy reword if it can, and adds guidance sentences where it cannot.
    Beside it, from the second cycle on, "crossover" combines the guidance of two good instructions, "fusion" shows the
    best answers for one that unites them, and "critique" turns the best and the worst answer into guidance.
    "clauses" adds some of ``clauses``, and with "identity" the instruction stays as it is."""
    clauses: tuple[Clause, ...] = ()
    """What "clauses" adds, and what "aspects" begins with; :func:`~darwin_align.core.learning.learn_clauses` finds some
    in finished searches."""
    selector: SelectorName = "top_k"
    """Exploitation: who takes whose state after each step."""
    decoding: Decoding = "sample"
    """How beams decode: by sampling, or, where they share instruction and state, by taking the most likely next tokens,
    one each. Candidates are single tokens, and need a policy that ranks tokens (a local one)."""
    choice: Choice = "best"
    """The answer: the best rewarded one, or one that is drawn in proportion to ``exp(reward / reward_temperature)``.
    See :mod:`darwin_align.core.choice`; :func:`~darwin_align.core.calibration.calibrate` finds one on judged
    answers."""
    reward_temperature: float = Field(1.0, ge=0)
    """In units of the reward: the smaller, the greedier. Read by ``choice="soft"``, by "smc", and by "args",
    where 0 takes the best candidate."""
    resample_below: float = Field(0.5, ge=0, le=1)
    """"smc" resamples once the effective sample size falls under this share of the unfinished beams."""
    rejection: float = Field(0.5, gt=0, lt=1)
    """Share of the beams that "speculative_rejection" gives up after each step [alpha]."""
    reward_weight: float = Field(1.0, gt=0)
    """What a unit of reward is worth in log-probabilities for "args" [w]."""
    target_reward: float | None = None
    """End with the first finished answer that is rewarded so much, in the middle of a cycle too; it is looked at after
    every step. A partial answer may still fall, so it does not count."""
    patience: int | None = Field(None, gt=0)
    """End when the best answer rose by less than ``min_improvement`` (or not at all) in so many cycles together. Before
    the first cycle the best answer is the first response."""
    min_improvement: float = Field(0.0, ge=0)
    seed: int | None = None
    """``None`` draws a seed and records it in the result."""
    budget: Budget = Budget()
    on_failure: OnFailure = "best_so_far"
    """When a server fails for good in the middle of a search, or a scorer or mutator with any error: end with the best
    scored answer so far, if there is one, or raise what the operator raised. A failure before anything was scored is
    raised in any case, and so are answers and settings that break the algorithm (``OperatorError``, ``ConfigError``),
    and other errors of the policy and the selector. It does not apply to a replay: recorded failures end a search as
    they did."""

    @model_validator(mode="after")
    def _possible(self) -> Self:
        self._shrink("survivors", self.beams - 1)
        self._shrink("champions", self.mutations)
        for contradiction in (*self._contradictions(), *self._unread()):
            raise ConfigError(contradiction)
        return self

    def _contradictions(self) -> Iterator[str]:
        by_hand = "survivors" in self.model_fields_set
        if by_hand and self.replaces and self.selector == "top_k" and self.survivors >= self.beams:
            yield (
                f"survivors ({self.survivors}) must be fewer than the beams "
                f"({self.mutations} mutations x {self.beams_per_mutation}), else nothing is ever replaced: "
                "lower survivors, raise mutations, or set selector='none'"
            )
        if self.champions > self.mutations:
            yield (
                f"champions ({self.champions}) are chosen among the mutations ({self.mutations}): "
                "lower champions or raise mutations"
            )
        if self.lookahead and not self.replaces:
            yield "lookahead only serves a selector: set lookahead=0, or a selector other than 'none'"
        if self.reward_temperature == 0 and (self.choice != "best" or self.selector == "smc"):
            yield "reward_temperature=0 leaves nothing to chance: set choice='best' or a positive reward_temperature"
        if self.target_reward is not None and self.choice != "best":
            yield "target_reward would be met, and the answer drawn all the same: set choice='best', or leave it out"
        if self.cycles:
            yield from self._contradictions_of_cycles()

    def _contradictions_of_cycles(self) -> Iterator[str]:
        """A plain sample (cycles=0) does without them all: any settings have one beside them."""
        if self.patience is not None and self.patience >= self.cycles:
            yield (
                f"patience ({self.patience}) must be less than the cycles ({self.cycles}), else it never ends a "
                "search: raise cycles, or leave patience out"
            )
        if self.candidates and (self.replacement_period > 1 or self.lookahead):
            yield "decoding='candidates' decodes one token a step: set replacement_period=1 and lookahead=0"
        if self.candidates and not self.replaces:
            yield "decoding='candidates' leaves the choice to a selector: set one other than 'none'"
        if self.selector == "args" and not self.candidates:
            yield "selector='args' chooses among the most likely next tokens: set decoding='candidates'"

    def _unread(self) -> Iterator[str]:
        """Settings that would be ignored; ``survivors`` is read wherever the selector is."""
        readers = {
            "clauses": (self.mutator in ("clauses", "aspects"), "mutator='clauses' or mutator='aspects'"),
            "rejection": (self.selector == "speculative_rejection", "selector='speculative_rejection'"),
            "resample_below": (self.selector == "smc", "selector='smc'"),
            "reward_weight": (self.selector == "args", "selector='args'"),
            "reward_temperature": (
                self.choice != "best" or self.selector in ("smc", "args"),
                "choice='soft', selector='smc' or selector='args'",
            ),
            "min_improvement": (self.patience is not None, "patience"),
        }
        for name, (read, reader) in readers.items():
            if name in self.model_fields_set and not read:
                yield f"{name} only serves {reader}: set that too, or leave {name} out"

    def _shrink(self, name: str, most: int) -> None:
        # A default is adapted to a small search. `frozen` is bypassed so that the field still counts as unset.
        if name not in self.model_fields_set:
            self.__dict__[name] = max(1, min(getattr(self, name), most))

    @model_serializer(mode="wrap")
    def _without_adapted(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Adapted defaults are left out: read back they would count as set by hand, and could be refused.
        adapted = {"survivors", "champions"} - self.model_fields_set
        return {name: value for name, value in dump(self).items() if name not in adapted}

    @property
    def identity(self) -> str:
        """The settings that decide which questions a search yields, as JSON: what it shares with its replay."""
        # A search that broke off may be resumed by one that would not: on_failure decides no answer. Recordings from
        # before "auto" was the default are of "policy", and name neither.
        default = {name: type(self).model_fields[name].default for name in ("on_failure", "mutator")}
        kept = {} if self.mutator in ("auto", "policy") else {"mutator": self.mutator}
        return self.model_copy(update={**default, **kept}).to_json()

    @property
    def beams(self) -> int:
        """Beams of a cycle, the first response apart."""
        return self.mutations * self.beams_per_mutation

    @property
    def replaces(self) -> bool:
        """Whether partial states are compared at all."""
        return self.selector != "none" and self.cycles > 0

    @property
    def candidates(self) -> bool:
        """Whether beams take the most likely next tokens instead of sampling."""
        return self.decoding == "candidates" and self.cycles > 0

    @property
    def answers(self) -> int:
        """Answers that a full search begins, the first response included."""
        return self.beams * self.cycles + 1

    @classmethod
    def preset(cls, name: str, **changes: Any) -> SearchConfig:
        """Return a named setting, with changes: the methods and their costs are in :mod:`darwin_align.core.presets`.

        The first response is one of the samples: ``best_of_n`` with ``mutations=14`` is best of 15.

        >>> SearchConfig.preset("best_of_n", mutations=14).answers
        15
        """
        if name not in PRESETS:
            raise ConfigError(f"unknown preset {name!r}: {did_you_mean(name, PRESETS)}")
        return cls(**{**PRESETS[name], **changes})

    def replace(self, **changes: Any) -> SearchConfig:
        """Return the settings with changes, checked anew."""
        by_hand = {name: getattr(self, name) for name in self.model_fields_set}
        return type(self)(**{**by_hand, **changes})
