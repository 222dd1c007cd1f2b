"""What every answer must leave alone: an operator cannot quietly break the algorithm."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, ValuesView
from math import isfinite
from sys import float_info
from typing import Any

from darwin_align.core.errors import OperatorError, RewardError
from darwin_align.core.types import STATE, Beam, OperatorName, Population

__all__ = ["check_answer", "check_rewards", "is_ordered"]

_MAY_CHANGE = {
    "mutate": {"instruction"},
    "decode": {*STATE},
    "score": {"reward", "valid"},
    "select": {*STATE, "ancestor", "log_weight", "wins", "alive"},
}


def check_rewards(rewards: Iterable[object], expected: int) -> list[float]:
    """Return the rewards as floats.

    Args:
        rewards: numbers in the order of the responses: a list, a tuple, a generator, a NumPy array, a tensor. ``True``
            counts 1 and ``False`` counts 0.
        expected: the number of responses.

    Raises:
        RewardError: they are unordered (a dict, a set) or not numbers, their number is not the number of responses,
            or one is not finite.
    """
    plain = _plain(rewards)
    if not is_ordered(plain):
        raise RewardError(
            f"the scorer returned {rewards!r:.80}, not a list of {expected} rewards: give a list of numbers in the "
            "order of the responses"
        )
    values = [_plain(value) for value in plain]
    if len(values) != expected:
        raise RewardError(f"the scorer was given {expected} responses and returned {len(values)} rewards: one for each")
    for i, value in enumerate(values):
        if not isinstance(value, (int, float)) or not abs(value) <= float_info.max:
            raise RewardError(f"the scorer's reward for response {i} is {value!r}: rewards must be finite numbers")
    return [float(value) for value in values]


def is_ordered(values: object) -> bool:
    """Whether these are values in a meaningful order: not a dict, a set or a text.

    >>> is_ordered([1.0]), is_ordered({"a": 1.0}), is_ordered({1.0}), is_ordered("12")
    (True, False, False, False)
    """
    ordered = isinstance(values, (Sequence, Iterator, ValuesView)) or hasattr(values, "tolist")
    return ordered and not isinstance(values, (str, bytes, bytearray, memoryview))


def _plain(value: Any) -> Any:
    # Tensors and numpy arrays come as a whole, or as a list of scalars.
    return value.tolist() if hasattr(value, "tolist") else value


def check_answer(operator: OperatorName, before: Population, answer: Population) -> None:
    """Refuse an answer that changed what its operator must not change.

    Raises:
        OperatorError: with the operator, the beam and the field.
    """
    if not isinstance(answer, Population):
        raise OperatorError(f"{operator} answered with {answer!r:.80}; operators answer with a population")
    for name in ("request", "parent", "beams_per_mutation", "max_new_tokens", "known"):
        if getattr(answer, name) != getattr(before, name):
            raise OperatorError(f"{operator} changed the population's {name}; operators answer with changed beams only")
    if operator != "mutate" and answer.exploration is not None:
        raise OperatorError(f"{operator} set the population's exploration, which is a mutator's")
    if len(answer.beams) != len(before.beams):
        raise OperatorError(
            f"{operator} was given {len(before.beams)} beams and returned {len(answer.beams)}: "
            "to end a beam, set alive=False"
        )
    if any(spent < 0 for _, spent in answer.usage - before.usage):
        raise OperatorError(f"{operator} lowered the usage; operators may only add to it")
    unscored = before.unscored
    for i, (old, new) in enumerate(zip(before.beams, answer.beams, strict=True)):
        if old is not new or (operator == "decode" and old.open):
            _check_beam(operator, before, i, old, new)
        if operator == "score" and i not in unscored and old != new:
            raise OperatorError(f"score changed beam {i}, which needs no reward")
    if operator == "score" and answer.unscored:
        raise RewardError(f"score left beams {', '.join(map(str, answer.unscored))} without a reward")


def _check_beam(operator: OperatorName, before: Population, i: int, old: Beam, new: Beam) -> None:
    if operator == "select" and new.alive and not new.first_response:
        if new.pending_finish_reason is not None:
            raise OperatorError(f"select left it open whether beam {i} ends: use Beam.settled")
        old = old.settled if new.ancestor == old.ancestor else old
    changed = {name for name in Beam.model_fields if getattr(old, name) != getattr(new, name)}
    if alien := changed - _MAY_CHANGE[operator]:
        raise OperatorError(f"{operator} changed {', '.join(sorted(alien))} of beam {i}, which it must leave alone")
    kept = {*STATE, "alive", "ancestor"} - (_MAY_CHANGE["score"] if operator == "score" else set())
    if old.finished and (broken := changed & kept):
        raise OperatorError(f"{operator} changed {', '.join(sorted(broken))} of beam {i}, which is finished")
    if not old.alive and changed:
        raise OperatorError(f"{operator} changed {', '.join(sorted(changed))} of beam {i}, which was dropped")
    if old.unready and operator == "select" and changed:
        raise OperatorError(f"select changed {', '.join(sorted(changed))} of beam {i}, which is {_inside(old)}")
    if old.first_response and operator in ("mutate", "select") and changed:
        raise OperatorError(f"{operator} changed the first response (beam {i}), which takes no part in it")
    if operator == "mutate" and not new.instruction.strip():
        raise OperatorError(f"the mutator gave beam {i} a blank instruction")
    if operator == "decode":
        _check_decoded(before, i, old, new)
    if operator == "score" and new.reward is not None:
        check_rewards([new.reward], 1)
    if operator == "select" and not isfinite(new.log_weight):
        raise OperatorError(f"select gave beam {i} the weight {new.log_weight!r}: weights must be finite numbers")
    if operator == "select" and changed & {*STATE, "ancestor"}:
        _check_taken(before, i, new)


def _check_decoded(before: Population, i: int, old: Beam, new: Beam) -> None:
    if not isinstance(new.text, str) or not isinstance(new.tokens, tuple):
        raise OperatorError(f"decode gave beam {i} the state {new.tokens!r:.80}, {new.text!r:.80}: give ids and a text")
    if new.tokens[: len(old.tokens)] != old.tokens:
        raise OperatorError(f"decode rewrote tokens of beam {i}: it may only append to a state")
    most = min(before.step.tokens, before.max_new_tokens - old.length)
    if not 0 <= new.length - old.length <= most:
        raise OperatorError(
            f"decode took beam {i} from {old.length} to {new.length} tokens; at most {most} were requested"
        )
    timed = before.step.seconds_left is not None  # time may be over before the first token
    if i in before.awaited and not new.finished and new.length == old.length and not timed:
        raise OperatorError(f"decode gave beam {i} no token and did not finish it: the search would never end")
    if old != new and new.reward is not None:
        raise OperatorError(f"decode kept the reward of beam {i}'s former state: set reward=None")
    if before.step.candidates and new.finished and not (old.first_response or new.thinking):
        raise OperatorError(
            f"decode finished beam {i}, a candidate that is not selected yet: set pending_finish_reason instead"
        )
    if new.thinking and new.finished and new.valid:
        raise OperatorError(f"decode finished beam {i} within its thoughts, which are no answer: set valid=False")
    if new.in_tool_call and new.finished:
        raise OperatorError(f"decode finished beam {i} inside a tool call: set in_tool_call=False or no finish_reason")


def _check_taken(before: Population, i: int, new: Beam) -> None:
    taken = -1 if new.ancestor is None else new.ancestor.beam
    if taken in before.contenders and before.beams[taken].unready:
        inside = _inside(before.beams[taken])
        raise OperatorError(f"select gave beam {i} the state of beam {taken}, which is {inside}")
    if taken not in before.contenders or any(getattr(before.beams[taken].settled, f) != getattr(new, f) for f in STATE):
        raise OperatorError(f"select gave beam {i} a state that no contender has: use Beam.take_state")


def _inside(beam: Beam) -> str:
    return "inside a tool call" if beam.in_tool_call else "inside its thoughts"
