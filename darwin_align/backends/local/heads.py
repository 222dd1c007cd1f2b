"""What a checkpoint is by its head: a language model, a reward model, or something that is neither."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache
from typing import Any

from transformers.models.auto import modeling_auto

from darwin_align.backends.local.source import Kind
from darwin_align.core.errors import ModelLoadError

__all__ = ["check_architectures", "check_class", "check_weights", "is_sequence_classifier"]

logger = logging.getLogger(__name__)

_NAMES: Any = modeling_auto
_HEADS = {
    "a causal language model": "CAUSAL_LM",
    "a sequence classification model": "SEQUENCE_CLASSIFICATION",
    "a token classification model (as process reward models are: one score for each token)": "TOKEN_CLASSIFICATION",
    "a question answering model": "QUESTION_ANSWERING",
    "a masked language model": "MASKED_LM",
    "a sequence-to-sequence model": "SEQ_TO_SEQ_CAUSAL_LM",
    "a multiple choice model": "MULTIPLE_CHOICE",
    "a next sentence model": "NEXT_SENTENCE_PREDICTION",
}
_BARE = "a model without a head"
_WANTED: dict[Kind, str] = {"causal": "CAUSAL_LM", "reward": "SEQUENCE_CLASSIFICATION"}
_USE: dict[Kind, tuple[str, str]] = {
    "causal": ("policy", "a causal language model (…ForCausalLM)"),
    "reward": ("reward model", "a sequence classification model with one label (…ForSequenceClassification)"),
}
_PARAMETERS = ("weight", "bias")


def check_architectures(path: str, kind: Kind, architectures: Iterable[str] | None) -> None:
    """Refuse a checkpoint whose config names another head, before its weights are read.

    Raises:
        ModelLoadError: what the architectures are, and what is needed.
    """
    names = [str(name) for name in architectures or ()]
    if kind not in _WANTED or not names or any(name in _accepted(kind) for name in names):
        return
    if found := [(name, head) for name in names if (head := _head_of(name)) is not None]:
        name, head = found[0]
        raise ModelLoadError(
            f"{path!r} cannot be used as a {_USE[kind][0]}: its config.json names the architecture {name}, {head}. Use "
            f"{_USE[kind][1]}; if the checkpoint is one, correct `architectures` in its config.json"
        )


def check_class(kind: Kind, model: Any, name: str) -> None:
    """Refuse a model object whose class has another head. Classes that transformers does not know pass.

    Raises:
        ModelLoadError: what the model is, and what is needed.
    """
    lineage = _lineage(model)
    if kind not in _WANTED or any(one in _accepted(kind) for one in lineage):
        return
    if (head := next(filter(None, map(_head_of, lineage)), None)) is not None:
        raise ModelLoadError(
            f"the model {name!r} cannot be used as a {_USE[kind][0]}: it is {head}. Use {_USE[kind][1]}"
        )


def is_sequence_classifier(model: Any) -> bool:
    """Whether transformers' own sequence classification makes the logits: of the last token, by its head alone."""
    return any(name in _accepted("reward") for name in _lineage(model))


def check_weights(path: str, kind: Kind, model: Any, report: Mapping[str, Any]) -> None:
    """Refuse a checkpoint of which weights are missing, or hold what the model would leave out of its computation.

    Args:
        path: what messages call the checkpoint.
        kind: what it is loaded as.
        model: the model that was made.
        report: transformers' loading info (``missing_keys``, ``unexpected_keys``).

    Raises:
        ModelLoadError: the names of the weights.
    """
    what = "language model" if kind == "causal" else "reward model"
    if missing := sorted(report["missing_keys"]):
        raise ModelLoadError(
            f"{path!r} is no complete {what}: it has no weights for {_listed(missing)}, which would be random"
        )
    unexpected = sorted(report["unexpected_keys"])
    # Quantized checkpoints keep other tensors than their modules name, among them biases that are zero.
    quantized = getattr(model.config, "quantization_config", None) is not None
    if dropped := [] if quantized else [key for key in unexpected if _is_dropped(key, kind, model)]:
        raise ModelLoadError(
            f"{path!r} is not the {what} that {type(model).__name__} makes of it: its weights {_listed(dropped)} have "
            f"no place there and would be left out of the computation. Use {_USE.get(kind, _USE['reward'])[1]}, or "
            "correct `architectures` and the sizes in its config.json"
        )
    if unexpected:
        logger.warning("%r also holds weights that a %s does not use: %s", path, what, _listed(unexpected))


def _is_dropped(key: str, kind: Kind, model: Any) -> bool:
    """Whether a weight belongs to a part that the model has, or is the head of a model of unknown architecture."""
    owner, _, leaf = key.rpartition(".")
    modules = {name for name, _ in model.named_modules()}
    base = f"{model.base_model_prefix}."
    if leaf in _PARAMETERS and {owner, base + owner} & modules:
        return True
    named = {*map(str, getattr(model.config, "architectures", None) or ())} & _accepted(kind)
    return kind in _WANTED and not named and not key.startswith(base)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3]) + (" and more" if names[3:] else "")


def _lineage(model: Any) -> list[str]:
    """Class names of a model, without what wraps it (PEFT, torch.compile)."""
    inner = getattr(model, "_orig_mod", model)
    if callable(base := getattr(inner, "get_base_model", None)):
        inner = base()
    return [one.__name__ for one in type(inner).__mro__]


@lru_cache
def _accepted(kind: Kind) -> frozenset[str]:
    if kind not in _WANTED:
        return frozenset()
    names = _names(_WANTED[kind])
    # Of a model that also sees pictures, transformers takes the language model out.
    return names | _names("IMAGE_TEXT_TO_TEXT") if kind == "causal" else names


def _names(head: str) -> frozenset[str]:
    mapping: Mapping[str, str | tuple[str, ...]] = getattr(_NAMES, f"MODEL_FOR_{head}_MAPPING_NAMES")
    return _flat(mapping.values())


def _flat(values: Collection[str | tuple[str, ...]]) -> frozenset[str]:
    return frozenset(name for value in values for name in ([value] if isinstance(value, str) else value))


def _head_of(architecture: str) -> str | None:
    """What an architecture of transformers is; ``None`` where it is not one of them."""
    for head, mapping in _HEADS.items():
        if architecture in _names(mapping):
            return head
    return _BARE if architecture in _flat(_NAMES.MODEL_MAPPING_NAMES.values()) else None
