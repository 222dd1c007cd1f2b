"""Makes the reward model of the policy's file and an adapter, once, in a cache folder."""

from __future__ import annotations

import hashlib
import logging
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from darwin_align.backends.gguf_names import is_gguf
from darwin_align.core.errors import DarwinError, MissingPackageError, ModelLoadError
from darwin_align.small.adapter import ADAPTER, FIRST, SECOND, Adapter, read_adapter
from darwin_align.small.wheel import policy_path

__all__ = ["dequantised", "file_digest", "merged", "reward_path"]

logger = logging.getLogger(__name__)

_VERSION = "1"
"""Of the conversion: another one makes the model anew."""


def reward_path(adapter: str | Path = ADAPTER, *, policy: str | Path | None = None) -> Path:
    """Folder of the reward model, which any loader of transformers reads.

    The first call makes it, which takes half a minute and 400 MB in ``DARWIN_ALIGN_CACHE``, else in ``darwin_align``
    below ``XDG_CACHE_HOME`` or ``~/.cache``. Processes and threads that ask at the same time wait for the one that
    makes it. The folder's name is a digest of the file, the adapter and the versions: another adapter has another one.

    Args:
        adapter: an adapter that ``python -m training.small`` made.
        policy: GGUF file that it was trained on; ``None`` is that of the wheel.

    Raises:
        MissingPackageError: the wheel or the package ``gguf`` is missing.
        ModelLoadError: the adapter belongs to another file, or one of them is broken.
        DarwinError: the cache folder cannot be written to.
    """
    file = policy_path() if policy is None else Path(policy)
    if not is_gguf(file) or not file.is_file():
        raise ModelLoadError(f"there is no GGUF file {str(file)!r}: give the one that the adapter was trained on")
    known = read_adapter(adapter)
    if (digest := file_digest(file)) != known.base:
        raise ModelLoadError(
            f"the adapter {str(adapter)!r} was trained on a file with the SHA-256 {known.base[:12]}…, and "
            f"{str(file)!r} has {digest[:12]}…: give that file, or an adapter of this one"
        )
    target = _cached(digest, file_digest(Path(adapter)))
    if (target / "config.json").is_file():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_suffix(".lock")):
            if not (target / "config.json").is_file():
                logger.info("making the reward model of the small pair in %s, once", target)
                _make(file, known, target)
    except OSError as error:
        raise DarwinError(
            f"cannot keep the reward model in {target.parent} ({error.strerror}): it takes 400 MB once; make room, or "
            "set DARWIN_ALIGN_CACHE to a folder that can be written to"
        ) from error
    return target


def _cached(*digests: str) -> Path:
    from importlib.metadata import version

    from darwin_align.backends.llama_cpp.gguf_file import cache_folder

    parts = (_VERSION, *digests, version("transformers"))
    return cache_folder() / "small" / hashlib.sha256(repr(parts).encode()).hexdigest()[:24]


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _make(file: Path, adapter: Adapter, target: Path) -> None:
    """Write the folder as a whole or not at all."""
    from darwin_align.backends.llama_cpp.gguf_file import open_gguf

    shutil.rmtree(target, ignore_errors=True)  # left by a process that ended meanwhile
    model = merged(dequantised(file), adapter)
    with TemporaryDirectory(dir=target.parent, prefix=".making-") as temporary:
        folder = Path(temporary) / "reward"
        shutil.copytree(open_gguf(file).folder, folder)
        model.save_pretrained(folder)
        folder.rename(target)


def dequantised(file: Path) -> Any:
    """The policy as transformers' language model, its weights in float32.

    Raises:
        MissingPackageError: the package ``gguf`` is missing.
        ModelLoadError: the file is broken.
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import quantization_config

    kinds: Any = quantization_config
    plain = getattr(kinds, "GgufConfig", None)  # older versions of transformers always dequantise
    options = {} if plain is None else {"quantization_config": plain(dequantize=True)}
    try:
        return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32, **options)
    except ImportError as error:
        raise MissingPackageError(
            "a GGUF file needs the package gguf: pip install 'darwin-align[llama-cpp]'"
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelLoadError(f"{str(file)!r} is broken ({type(error).__name__}: {error}): install it again") from error


def merged(policy: Any, adapter: Adapter) -> Any:
    """A sequence-classification model of a policy and an adapter.

    Args:
        policy: transformers' language model. Its tensors may be changed.
        adapter: what makes a reward model of it.

    Raises:
        ModelLoadError: the adapter names a matrix that the model lacks, or one of another shape.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    about = policy.config.to_dict()
    for name in ("architectures", "quantization_config", "id2label", "label2id"):
        about.pop(name, None)
    kind = about.pop("model_type")
    config = AutoConfig.for_model(kind, **{**about, "num_hidden_layers": adapter.layers, "num_labels": 1})
    with torch.no_grad():
        classifier: Any = AutoModelForSequenceClassification  # its methods have no types
        model = classifier.from_config(config, dtype=torch.float32)
        weights = {name: value for name, value in policy.state_dict().items() if name in model.state_dict()}
        _apply(adapter, weights, {name: tuple(value.shape) for name, value in model.state_dict().items()})
        model.load_state_dict(weights)
    return model.eval()


def _apply(adapter: Adapter, weights: dict[str, Any], shapes: dict[str, tuple[int, ...]]) -> None:
    """Add an adapter's products to the weights, and put its whole tensors in their place."""
    for name, tensor in adapter.tensors.items():
        if name.endswith(SECOND):
            continue
        matrix = f"{name.removesuffix(FIRST)}.weight" if name.endswith(FIRST) else name
        value = tensor.float()
        if name.endswith(FIRST):
            value = adapter.tensors[f"{name.removesuffix(FIRST)}{SECOND}"].float() @ value
        if tuple(value.shape) != shapes.get(matrix):
            raise ModelLoadError(
                f"the adapter has {tuple(value.shape)} for {matrix!r}, and the policy {shapes.get(matrix)}: it was "
                "made for another model"
            )
        weights[matrix] = weights[matrix] + value if name.endswith(FIRST) else value
