"""Loads checkpoints: one copy of the weights for each recipe (folder, kind, revision, dtype, placement …)."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from typing import Any, Self
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
    utils,
)
from transformers.utils import quantization_config

from darwin_align.backends.gguf_names import is_gguf
from darwin_align.backends.local.engine import Engine
from darwin_align.backends.local.heads import check_architectures, check_weights
from darwin_align.backends.local.source import DeviceMap, Kind, ModelSource, real_device
from darwin_align.backends.local.upcast import multiplies_bfloat16, upcast_long_passes
from darwin_align.backends.request_bounds import characters_per_token
from darwin_align.core.errors import ModelLoadError

# What is used of them carries no types.
transformers_utils: Any = utils
quantizer_configs: Any = quantization_config
transformers_logging: Any = transformers_utils.logging
hub: Any = hub_utils

__all__ = ["DeviceMap", "Kind", "LoadedModel", "ModelSource", "SharedModel", "load", "model_context_length"]

_LOADERS: dict[Kind, Any] = {
    "causal": AutoModelForCausalLM,
    "reward": AutoModelForSequenceClassification,
    "custom_reward": AutoModel,
}
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")
_USABLE: dict[str, Any] = {
    "accelerate": transformers_utils.is_accelerate_available,
    "bitsandbytes": transformers_utils.is_bitsandbytes_available,
}
"""Whether transformers finds a package new enough."""
_FAILURES = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError)
_REFUSALS = (ValueError, ImportError, RuntimeError, AttributeError, AssertionError)
"""Errors by which transformers and its dependencies refuse options; broken folders raise others."""


@dataclass(eq=False)
class LoadedModel:
    """Weights, tokenizer and the engines that run them."""

    model: Any
    """A transformers ``PreTrainedModel`` in evaluation mode."""
    tokenizer: Any
    """A transformers ``PreTrainedTokenizerBase``."""
    source: ModelSource | None = None
    """``None`` for objects that were made in memory."""
    engines: dict[tuple[int, int | None, bool], Engine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.model.eval()
        plain = getattr(self.model, "dtype", None) == torch.bfloat16 and not getattr(self.model, "is_quantized", False)
        if plain and self.device.type == "cpu" and not multiplies_bfloat16():
            upcast_long_passes(self.model)

    def engine(self, max_rows: int, row_memory: int | None, compiled: bool = False) -> Engine:
        """The engine with these settings, shared by all users of these weights."""
        with _loading:
            key = (max_rows, row_memory, compiled)
            if key not in self.engines:
                self.engines[key] = Engine(
                    self.model, device=self.device, max_rows=max_rows, row_memory=row_memory, compiled=compiled
                )
            return self.engines[key]

    @cached_property
    def characters_per_token(self) -> float:
        """See :func:`~darwin_align.backends.request_bounds.characters_per_token`."""
        return characters_per_token(self.tokenizer)

    @property
    def name(self) -> str:
        """The model's name in error messages."""
        return self.source.path if self.source else type(self.model).__name__

    @property
    def device(self) -> torch.device:
        """The device of token ids: where the input embeddings are, or are moved to for use."""
        if getattr(self.model, "hf_device_map", None):
            hook = getattr(self.model.get_input_embeddings(), "_hf_hook", None)
            if (place := getattr(hook, "execution_device", None)) is not None:
                return torch.device(place)
        return torch.device(self.model.device)


_loaded: WeakValueDictionary[tuple[Any, ...], LoadedModel] = WeakValueDictionary()
_loading = RLock()


def load(source: ModelSource) -> LoadedModel:
    """Return the model of a source; sources that name the same weights share them while any of them is in use.

    Args:
        source: a folder or hub id. ``device="auto"`` takes CUDA, then MPS, then the CPU; ``dtype="auto"`` keeps the
            checkpoint's type on an accelerator and computes in float32 (or float64) on a CPU.

    Raises:
        ModelLoadError: there is no such model, it is of another kind, its weights are incomplete, or an option needs a
            package that is not installed.
    """
    device = real_device(source.device)
    path = Path(source.path)
    where = str(path.resolve()) if path.exists() else source.path
    key = (where, _stamp(path), device, replace(source, path="", device="auto"))
    with _loading:
        if (found := _loaded.get(key)) is None:
            _check_place(source)
            found = _loaded[key] = _read(source, device)
        return found


class SharedModel:
    """The base of what is built on a loaded model: copies share the weights, pickles contain the recipe, no tensors."""

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


def _stamp(folder: Path) -> tuple[int, ...]:
    # A folder whose files changed is another model.
    files = [folder] if folder.is_file() else [f for f in folder.glob("*") if f.suffix in (".safetensors", ".json")]
    return tuple(sorted(f.stat().st_mtime_ns for f in files))


def _check_place(source: ModelSource) -> None:
    if is_gguf(source.path) and source.kind != "causal":
        raise ModelLoadError(
            f"{source.path!r} is a GGUF file, and these are read as policies only: give the reward model's own folder "
            "or hub id"
        )
    if Path(source.path).is_dir() or (is_gguf(source.path) and Path(source.path).is_file()):
        return
    if not _HUB_ID.fullmatch(source.path):
        raise ModelLoadError(
            f"no model at {source.path!r}: it is neither a folder on this machine nor in the hub cache "
            "(and no hub id like 'owner/name' either)"
        )


def _read(source: ModelSource, device: str) -> LoadedModel:
    try:
        config = AutoConfig.from_pretrained(source.place, **source.hub)
        check_architectures(source.path, source.kind, getattr(config, "architectures", None))
        tokenizer = AutoTokenizer.from_pretrained(source.place, **source.hub)
        model, report = _weights(source, device, config)
    except _FAILURES as error:
        raise _explained(source, error) from error
    check_weights(source.path, source.kind, model, report)
    return LoadedModel(model, tokenizer, source)


def _weights(source: ModelSource, device: str, config: Any) -> tuple[Any, Any]:
    """The model where it belongs, and transformers' report on its weights."""
    loader = _LOADERS[source.kind]
    try:
        options = _options(source, device, config)
        with _quiet(Path(source.path).is_dir()):
            model, report = loader.from_pretrained(
                source.place, config=config, use_safetensors=True, output_loading_info=True, **options, **source.hub
            )
    except _REFUSALS as error:
        if not source.requested_options or "trust_remote_code" in str(error):
            raise
        raise ModelLoadError(
            f"{source.path!r} cannot be loaded with {source.requested_options}: {_reason(error)}"
        ) from error
    _check_map(source, model)
    return model if "device_map" in options else _moved(model, device), report


def _check_map(source: ModelSource, model: Any) -> None:
    """Refuse unknown names in a device map: transformers ignores them, and puts what a map does not name on the CPU."""
    if not isinstance(source.device_map, tuple):
        return
    known = {name for name, _ in (*model.named_modules(), *model.named_parameters())}
    if unknown := [name for name, _ in source.device_map if name not in known]:
        parts = ", ".join(repr(name) for name, _ in model.named_children())
        raise ModelLoadError(
            f"device_map names {unknown[0]!r}, which {source.path!r} does not have: its parts are {parts} and what is "
            "in them, such as 'model.layers.0'"
        )


def _moved(model: Any, device: str) -> Any:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"the model cannot be brought to device={device!r}: {_reason(error)}") from error


def _options(source: ModelSource, device: str, config: Any) -> dict[str, Any]:
    """How the loader makes the weights. With a device map, it also puts them in their place."""
    options = {"dtype": _dtype(source, config)}
    if is_gguf(source.path) and (plain := getattr(quantizer_configs, "GgufConfig", None)) is not None:
        options["quantization_config"] = plain(dequantize=True)  # older versions of transformers always do that
    if source.attn_implementation is not None:
        options["attn_implementation"] = source.attn_implementation
    quantized = getattr(config, "quantization_config", None)  # the checkpoint is quantized already
    what = source.requested_options or f"the quantized checkpoint {source.path!r}"
    if (source.quantization_method or dict(quantized or {}).get("quant_method")) == "bitsandbytes":
        _require("bitsandbytes", "quantized", what)
        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_once)
    if source.quantization is not None:
        own = getattr(config.get_text_config(), "dtype", None) or torch.float16
        options["quantization_config"] = source.quantization_config(
            own if options["dtype"] == "auto" else options["dtype"]
        )
    if source.device_map is not None or source.quantization is not None or quantized is not None:
        # Quantized weights stay where they are made.
        _require("accelerate", "gpu" if source.quantization is quantized is None else "quantized", what)
        options["device_map"] = source.placement(device)
    return options


def _require(package: str, extra: str, what: str) -> None:
    if find_spec(package) is None or not _USABLE[package]():
        raise ModelLoadError(
            f"{what} needs the package {package}, which is missing here or too old: pip install 'darwin-align[{extra}]'"
        )


_seen_messages: set[str] = set()


def _once(record: logging.LogRecord) -> bool:
    """Let every message through once: bitsandbytes logs the type that it casts to for every layer and token."""
    new = record.getMessage() not in _seen_messages
    _seen_messages.add(record.getMessage())
    return new


@contextmanager
def _quiet(folder: bool) -> Iterator[None]:
    # A folder loads quickly and needs no progress bar; a download keeps its own.
    if not folder or not transformers_logging.is_progress_bar_enabled() or hub.are_progress_bars_disabled():
        yield
        return
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.enable_progress_bar()


def _dtype(source: ModelSource, config: Any) -> Any:
    if source.dtype != "auto":
        dtype = getattr(torch, source.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise ModelLoadError(f"unknown dtype {source.dtype!r}: use 'auto', 'float32', 'bfloat16' or 'float16'")
        return dtype
    if not source.on_cpu:
        return "auto"
    # Half precision is slower than single precision on most CPUs.
    return torch.float64 if getattr(config, "dtype", None) == torch.float64 else torch.float32


def _reason(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _explained(source: ModelSource, error: Exception) -> ModelLoadError:
    reason = _reason(error)
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
