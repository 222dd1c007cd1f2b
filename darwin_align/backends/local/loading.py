"""Loads checkpoints: one copy of the weights for each (kind, folder, revision, dtype, device)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any, Literal, Self
from weakref import WeakValueDictionary

import torch
from huggingface_hub import utils as hub_utils
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)
from transformers.utils import logging

from darwin_align.backends.local.engine import Engine
from darwin_align.core.errors import ModelLoadError

# What is used of them carries no types.
transformers_logging: Any = logging
hub: Any = hub_utils

__all__ = ["Kind", "LoadedModel", "ModelSource", "SharedModel", "load", "model_context_length"]

Kind = Literal["causal", "reward", "custom_reward"]
_LOADERS: dict[Kind, Any] = {
    "causal": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "custom_reward": AutoModel,
}
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


@dataclass(frozen=True)
class ModelSource:
    """The recipe of a loaded model: what a pickle or a copy carries instead of tensors."""

    path: str
    """A folder, or an id on the Hugging Face hub."""
    kind: Kind = "causal"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False

    @property
    def hub(self) -> dict[str, Any]:
        """What every ``from_pretrained`` needs."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


@dataclass(eq=False)
class LoadedModel:
    """Weights, tokenizer and the engines that run them."""

    model: Any
    """A transformers ``PreTrainedModel`` in evaluation mode."""
    tokenizer: Any
    """A transformers ``PreTrainedTokenizerBase``."""
    source: ModelSource | None = None
    """``None`` for objects that were made in memory."""
    engines: dict[tuple[int, int | None], Engine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval()

    def engine(self, most_rows: int, row_memory: int | None) -> Engine:
        """The one engine with these limits: whoever uses these weights shares it."""
        with _loading:
            return self.engines.setdefault(
                (most_rows, row_memory), Engine(self.model, most_rows=most_rows, row_memory=row_memory)
            )

    @property
    def name(self) -> str:
        """What error messages call the model."""
        return self.source.path if self.source else type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """Where the first layer lives."""
        return torch.device(self.model.device)


_loaded: WeakValueDictionary[tuple[Any, ...], LoadedModel] = WeakValueDictionary()
_loading = RLock()


def load(source: ModelSource) -> LoadedModel:
    """Return the model of a source; sources that name the same weights share them while any of them is in use.

    Args:
        source: a folder or hub id. ``device="auto"`` takes CUDA, then MPS, then the CPU; ``dtype="auto"`` keeps the
            checkpoint's type on an accelerator and computes in float32 (or float64) on a CPU.

    Raises:
        ModelLoadError: there is no such model, it is of another kind, or its weights are incomplete.
    """
    device = _device(source.device)
    path = Path(source.path)
    where = str(path.resolve()) if path.is_dir() else source.path
    key = (where, _stamp(path), source.kind, source.revision, source.dtype, device, source.trust_remote_code)
    with _loading:
        if (found := _loaded.get(key)) is None:
            _check_place(source)
            found = _loaded[key] = _read(source, device)
        return found


class SharedModel:
    """Something built on a loaded model: copies share the weights, pickles carry the recipe and never tensors."""

    _loaded: LoadedModel
    _options: Any

    def _setup(self, loaded: LoadedModel, options: Any) -> None:
        raise NotImplementedError

    @classmethod
    def _restore(cls, source: ModelSource, options: Any) -> Self:
        restored = cls.__new__(cls)
        restored._setup(load(source), options)
        return restored

    def __reduce__(self) -> tuple[Any, ...]:
        if self._loaded.source is None:
            raise TypeError(
                f"a {type(self).__name__} made of a model object cannot be pickled: save the model to a folder and use "
                "from_pretrained"
            )
        return type(self)._restore, (self._loaded.source, self._options)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


def _device(wanted: str) -> str:
    if wanted != "auto":
        try:
            return str(torch.device(wanted))
        except RuntimeError:
            raise ModelLoadError(f"unknown device {wanted!r}: use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _stamp(folder: Path) -> tuple[int, ...]:
    # A folder that was trained anew is another model.
    return tuple(sorted(f.stat().st_mtime_ns for f in folder.glob("*") if f.suffix in (".safetensors", ".json")))


def _check_place(source: ModelSource) -> None:
    if Path(source.path).is_dir():
        return
    if not _HUB_ID.fullmatch(source.path):
        raise ModelLoadError(
            f"no model at {source.path!r}: it is neither a folder on this machine nor in the hub cache "
            "(and no hub id like 'owner/name' either)"
        )


def _read(source: ModelSource, device: str) -> LoadedModel:
    try:
        config = AutoConfig.from_pretrained(source.path, **source.hub)
        tokenizer = AutoTokenizer.from_pretrained(source.path, **source.hub)
        with _quiet(Path(source.path).is_dir()):
            model, report = _LOADERS[source.kind].from_pretrained(
                source.path,
                config=config,
                dtype=_dtype(source.dtype, device, config),
                use_safetensors=True,
                output_loading_info=True,
                **source.hub,
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _explained(source, error) from error
    if missing := sorted(report["missing_keys"]):
        what = "language model" if source.kind == "causal" else "reward model"
        raise ModelLoadError(
            f"{source.path!r} is no complete {what}: it has no weights for {', '.join(missing[:3])}"
            f"{' and more' if missing[3:] else ''}, which would be random"
        )
    return LoadedModel(model.to(device), tokenizer, source)


@contextmanager
def _quiet(folder: bool) -> Iterator[None]:
    # A folder is loaded in a blink and needs no progress bar; a download keeps its own.
    if not folder or not transformers_logging.is_progress_bar_enabled() or hub.are_progress_bars_disabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _dtype(wanted: str, device: str, config: Any) -> Any:
    if wanted != "auto":
        dtype = getattr(torch, wanted, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ModelLoadError(f"unknown dtype {wanted!r}: use 'auto', 'float32', 'bfloat16' or 'float16'")
        return dtype
    if device != "cpu":
        return "auto"
    # Half precision is slower than single precision on most CPUs.
    return torch.float64 if getattr(config, "dtype", None) == torch.float64 else torch.float32


def _explained(source: ModelSource, error: Exception) -> ModelLoadError:
    reason = str(error).strip().partition("\n")[0]
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"{source.path!r} brings its own code, which runs only if you trust it: read it, then give "
            "trust_remote_code=True"
        )
    if Path(source.path).is_dir():
        return ModelLoadError(f"the folder {source.path!r} holds no model that can be loaded safely: {reason}")
    return ModelLoadError(
        f"no model {source.path!r}: it is neither a folder on this machine nor in the hub cache, and the hub did "
        f"not give it ({reason})"
    )


def model_context_length(loaded: LoadedModel) -> int:
    """Positions that the model can read, prompt and answer together; very large where nothing limits them."""
    config = loaded.model.config.get_text_config()
    for name in ("max_position_embeddings", "max_seq_len", "seq_length"):
        length = getattr(config, name, None)
        if isinstance(length, int) and length > 0:
            return length
    return int(min(loaded.tokenizer.model_max_length, 2**31))
