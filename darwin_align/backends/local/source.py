"""The recipe of a loaded model: which weights, and how they are placed and computed with. Plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import torch
import transformers
from transformers import quantizers

from darwin_align.backends.gguf_names import is_gguf
from darwin_align.core.errors import ConfigError, ModelLoadError

# They carry no types.
AutoQuantizationConfig: Any = quantizers.AutoQuantizationConfig  # type: ignore[attr-defined, unused-ignore]
BitsAndBytesConfig: Any = transformers.BitsAndBytesConfig

__all__ = ["DeviceMap", "Kind", "ModelSource", "real_device"]

Kind = Literal["causal", "reward", "custom_reward"]
Place = str | int | torch.device
DeviceMap = Place | Mapping[str, Place]
"""What transformers takes: "auto" and its like, one device, or module name → device."""

_AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")
_BITS = ("4bit", "8bit")


@dataclass(frozen=True)
class ModelSource:
    """The recipe of a loaded model: what a pickle or a copy carries instead of tensors.

    Raises:
        ConfigError: both a device and a device map.
    """

    path: str
    """A folder, an id on the Hugging Face hub, or a GGUF file."""
    kind: Kind = "causal"
    revision: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    trust_remote_code: bool = False
    device_map: str | int | tuple[tuple[str, str | int], ...] | None = None
    """A dict is kept as its items. Their order stays: the first device is where accelerate gathers what it offloads."""
    quantization: str | None = None
    """ "4bit", "8bit", or the JSON of a transformers quantization config."""
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.device_map is not None and self.device != "auto":
            raise ConfigError(
                f"device={self.device!r} and {self.requested_options} both place the model: leave out device to spread "
                "it by the map, or device_map to keep it on that one device"
            )

    @classmethod
    def of(
        cls,
        path: str | Path,
        kind: Kind,
        *,
        device: str,
        dtype: str | torch.dtype,
        device_map: DeviceMap | None,
        quantization: Any,
        attn_implementation: str | None,
        revision: str | None,
        trust_remote_code: bool,
    ) -> Self:
        """Make the recipe of what a ``from_pretrained`` was given.

        Raises:
            ConfigError: both a device and a device map, or an option of a kind that it cannot be.
        """
        return cls(
            path=str(path),
            kind=kind,
            revision=revision,
            device=device,
            dtype=str(dtype).removeprefix("torch."),
            trust_remote_code=trust_remote_code,
            device_map=_plain_map(device_map),
            quantization=_plain_quantization(quantization),
            attn_implementation=attn_implementation,
        )

    @property
    def place(self) -> str:
        """What every ``from_pretrained`` is given first: of a GGUF file its folder."""
        return str(Path(self.path).parent) if is_gguf(self.path) else self.path

    @property
    def hub(self) -> dict[str, Any]:
        """Arguments of every ``from_pretrained``."""
        file = {"gguf_file": Path(self.path).name} if is_gguf(self.path) else {}
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code, **file}

    @property
    def requested_options(self) -> str:
        """The options beyond the common ones, for error messages; empty if there are none."""
        bits = self.quantization is None or self.quantization in _BITS
        given = {
            "device_map": dict(self.device_map) if isinstance(self.device_map, tuple) else self.device_map,
            "quantization": self.quantization if bits else f"<{self.quantization_method} config>",
            "attn_implementation": self.attn_implementation,
        }
        return ", ".join(f"{name}={value!r}" for name, value in given.items() if value is not None)

    @property
    def on_cpu(self) -> bool:
        """Whether no accelerator computes."""
        if self.device_map is None or self.device_map in _AUTOMATIC:
            return torch.device(real_device(self.device)).type == "cpu"
        mapped = self.device_map
        places = {place for _, place in mapped} if isinstance(mapped, tuple) else {mapped}
        return places <= {"cpu", "disk"}

    def placement(self, device: str) -> Any:
        """The device map for a loader that places weights itself: everything on ``device`` if none was given."""
        if self.device_map is None:
            return device
        return dict(self.device_map) if isinstance(self.device_map, tuple) else self.device_map

    @property
    def quantization_method(self) -> str | None:
        """The requested quantization's method: "bitsandbytes", "gptq", …"""
        if self.quantization in _BITS:
            return "bitsandbytes"
        return json.loads(self.quantization)["quant_method"] if self.quantization else None

    def quantization_config(self, dtype: torch.dtype) -> Any:
        """The transformers config of the requested quantization; ``dtype`` is what "4bit" multiplies in."""
        if self.quantization == "4bit":
            return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
        if self.quantization == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True)
        return AutoQuantizationConfig.from_dict(json.loads(self.quantization)) if self.quantization else None


def real_device(wanted: str) -> str:
    """The name of a device; "auto" takes CUDA, then MPS, then the CPU.

    Raises:
        ModelLoadError: there is no such name.
    """
    if wanted != "auto":
        try:
            return str(torch.device(wanted))
        except RuntimeError:
            raise ModelLoadError(f"unknown device {wanted!r}: use 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from None
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _plain_map(given: Any) -> Any:
    if isinstance(given, Mapping) and given:
        if set(given) == {""}:
            return _plain_place(given[""])
        return tuple((str(module), _plain_place(place)) for module, place in given.items())
    return None if given is None else _plain_place(given)


def _plain_place(given: Any) -> str | int:
    if isinstance(given, torch.device):
        return str(given)
    if isinstance(given, str | int):
        return given
    raise ConfigError(
        f"device_map={given!r} is no placement: use 'auto', a device such as 'cuda:1', or a dict such as "
        "{'model': 0, 'lm_head': 1}"
    )


def _plain_quantization(given: Any) -> str | None:
    if given is None or given in _BITS:
        return given  # type: ignore[no-any-return]
    if not hasattr(given, "quant_method"):
        raise ConfigError(
            f"quantization={given!r} is unknown: use '4bit', '8bit' or a quantization config of transformers, such as "
            "GPTQConfig(bits=4)"
        )
    return json.dumps(given.to_dict(), sort_keys=True)
