"""Runs a transformers model over slots, after a probe of whether it gives the model's own output."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from darwin_align.backends.local.engine.slots import SlotCache, Window

__all__ = ["Piece", "SlotForward", "cache_argument", "forward_for", "tolerance"]

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""Names of the parameter by which a forward takes its cache: of transformers from 5.24 on, before it, and of the purely
recurrent models before it."""
_EXACT = {torch.float64: 1e-6, torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""How far states over slots may be from the model's own, relative to the largest: rounding, not a wrong mask. Some
models compute a part in single precision always."""
_PROBE, _WINDOW = 24, 296
"""Tokens of the longer row that a model is tried on, and of the widest window that is tried as well."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Tokens of one row that are read in one go."""

    slot: int
    start: int
    """Position of the first of them."""
    ids: Sequence[int]


class SlotForward:
    """One model over the slots of one cache.

    Args:
        model: a decoder-only model that takes ``position_ids``, a 4-D mask and a cache.
        windows: how far layers look back, by the model's name for their kind; ``None`` is without a limit.
        named: whether the model takes one mask for every kind of layer, by name.
        device: where its embeddings are; ``None`` is the model's device.
    """

    compiled = False
    """Whether steps are compiled, which requires few shapes: see :meth:`compile`."""

    def __init__(
        self, model: Any, windows: dict[str, int | None], *, named: bool, device: torch.device | None = None
    ) -> None:
        self._model, self._windows, self._named = model, windows, named
        self._write: Any = model
        self._cache_argument = cache_argument(model.base_model.forward)
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.device = torch.device(model.device) if device is None else device
        self.dtype = model.dtype
        self.cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self._numbers = torch.arange(0, device=self.device)
        self.passes = self.positions = 0
        """Forward passes so far, and the positions that they fed (without padding and idle slots)."""

    @property
    def position_bytes(self) -> int:
        """Memory of one token's keys and values in all layers."""
        tensors = [t for layer in self.cache.layers for t in (layer.keys, layer.values)]
        return sum(t.element_size() * t.shape[2] * t.shape[3] for t in tensors)

    def compile(self) -> None:
        """Compile steps by ``torch.compile``, on a GPU into CUDA graphs: the first step of each shape is slow."""
        self.compiled = self.cache.static = True
        mode = "reduce-overhead" if self.device.type == "cuda" else None
        self._write = torch.compile(self._model.forward, fullgraph=True, dynamic=False, mode=mode)

    def read(self, pieces: Sequence[Piece]) -> Tensor:
        """Feed tokens of several rows side by side.

        Returns:
            The last hidden state of each piece, (pieces, hidden size).
        """
        self.count(sum(len(piece.ids) for piece in pieces))
        lengths = [len(piece.ids) for piece in pieces]
        longest, most = max(lengths), self.cache.width - 1
        ids = self._tensor([[*piece.ids, *[piece.ids[-1]] * (longest - len(piece.ids))] for piece in pieces])
        offsets = self._up_to(longest)
        last = self._tensor(lengths) - 1
        # Padding is written behind the row's end, where the next tokens overwrite it before any attends to it.
        starts = self._tensor([piece.start for piece in pieces])[:, None]
        places = (starts + offsets).clamp(max=most)
        slots = self._tensor([piece.slot for piece in pieces])[:, None]
        self.cache.window = Window(
            _range_or_indices([piece.slot for piece in pieces], slots[:, 0]),
            (slots * self.cache.width + places).flatten(),
            min(max(piece.start + longest for piece in pieces), most + 1),
        )
        # Learned positions end where the context ends: those of padding must not exceed it.
        positions = torch.minimum(starts + offsets, starts + last[:, None])
        output = self._model.base_model(**self._inputs(ids, positions, places))
        hidden: Tensor = output.last_hidden_state
        return hidden[torch.arange(len(pieces), device=hidden.device), last.to(hidden.device)]

    def step(self, rows: range, tokens: Tensor, lengths: Tensor, width: int) -> Tensor:
        """Feed the pending token of a range of slots.

        Args:
            rows: the range.
            tokens: int64 (rows,).
            lengths: int64 (rows,), positions of these tokens.
            width: more than any of the lengths that count.

        Returns:
            The next token's logits, (rows, vocabulary), in float32 at least.
        """
        slots = self._up_to(rows.stop)[rows.start :] * self.cache.width
        self.cache.window = Window(slice(rows.start, rows.stop), slots + lengths.clamp(max=self.cache.width - 1), width)
        keeps = {"logits_to_keep": 1} if self._keeps else {}
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        output = self._write(**self._inputs(tokens[:, None], lengths[:, None], lengths[:, None]), **keeps)
        logits: Tensor = output.logits[:, -1]
        return logits if logits.dtype == torch.float64 else logits.float()

    def _inputs(self, ids: Tensor, positions: Tensor, places: Tensor) -> dict[str, Any]:
        keys = self._up_to(self.cache.window.width)
        masks = {kind: self._mask(keys, places[:, :, None], window) for kind, window in self._windows.items()}
        return {
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": masks if self._named else next(iter(masks.values())),
            self._cache_argument: self.cache,
            "use_cache": True,
        }

    def _mask(self, keys: Tensor, places: Tensor, window: int | None) -> Tensor:
        """The offset of attention scores, (rows, 1, new tokens, width): 0 for keys that a token attends to.

        A key is visible up to the token's own position in its slot: that hides padding, idle slots and what an earlier
        row left behind the end of this one.
        """
        hidden = keys > places
        if window is not None:
            hidden = hidden | (keys <= places - window)
        blank = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        return blank.masked_fill_(hidden, torch.finfo(self.dtype).min)[:, None]

    def _up_to(self, end: int) -> Tensor:
        if len(self._numbers) < end:
            self._numbers = torch.arange(2 * end, device=self.device)
        return self._numbers[:end]

    def _tensor(self, values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)

    def count(self, positions: int) -> None:
        """Note one pass that fed so many positions."""
        self.passes += 1
        self.positions += positions


def _range_or_indices(slots: Sequence[int], indices: Tensor) -> slice | Tensor:
    if list(slots) == list(range(slots[0], slots[0] + len(slots))):
        return slice(slots[0], slots[0] + len(slots))
    return indices


# -- what a model can do


def cache_argument(forward: Any) -> str:
    """The name of the parameter by which a model's ``forward`` takes its cache; "" if none is known.

    >>> cache_argument(lambda input_ids, past_key_values=None: None)
    'past_key_values'
    """
    accepted = inspect.signature(forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in accepted), "")


def tolerance(model: Any) -> float:
    """The largest relative difference between two computations of one model that is mere rounding."""
    return 0.1 if getattr(model, "is_quantized", False) else _EXACT.get(model.dtype, 0.1)


def forward_for(model: Any, device: torch.device | None = None) -> tuple[SlotForward | None, str]:
    """Return a forward over slots with the same output as the model itself, or ``None`` and the reason.

    A few tokens are run through both; the model's name does not matter. To be called in inference mode.
    """
    if reason := _obstacle(model):
        return None, reason
    reason = "it has no attention layers"
    for windows, named in _shapes(model.config.get_text_config()):
        try:
            forward = SlotForward(model, windows, named=named, device=device)
            if (gap := _gap(forward, model)) <= tolerance(model):
                return forward, ""
            reason = f"its output over slots differs from its own by {gap:.2g}"
        except Exception as error:  # noqa: BLE001 - any error of an unknown model means that it does not work
            reason = f"it does not take slots ({type(error).__name__}: {str(error).partition(chr(10))[0]:.120})"
    return None, reason


def _obstacle(model: Any) -> str:
    if getattr(model, "base_model", None) is None or not hasattr(model, "config"):
        return "it is no transformers model"
    config = model.config.get_text_config()
    accepted = inspect.signature(model.base_model.forward).parameters
    if missing := [name for name in ("position_ids", "attention_mask") if name not in accepted]:
        return f"its forward takes no {missing[0]}"
    if not cache_argument(model.base_model.forward):
        return f"its forward takes no cache by a known name ({', '.join(CACHE_ARGUMENTS)})"
    return _obstacle_in(config)


def _obstacle_in(config: Any) -> str:
    if config.is_encoder_decoder or not getattr(config, "is_causal", True):
        return "it is no decoder-only model"
    if stretches(config):
        return "its positions are stretched by the longest row of a batch"
    kinds = set(getattr(config, "layer_types", None) or ())
    if odd := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"it has {odd[0]} layers, which cannot be rolled back"
    if getattr(config, "_attn_implementation", "eager") not in ("sdpa", "eager"):
        return f"its attention is {config._attn_implementation!r}, which takes no 4-D mask: load it with sdpa"
    return ""


def _shapes(config: Any) -> Iterator[tuple[dict[str, int | None], bool]]:
    """The formats in which models take masks: one for each kind of layer, or one for all."""
    window = getattr(config, "sliding_window", None)
    kinds = sorted(set(getattr(config, "layer_types", None) or ()))
    if kinds:
        yield {kind: window if kind == "sliding_attention" else None for kind in kinds}, True
    if len(kinds) < 2:
        yield {"all": window if kinds != ["full_attention"] else None}, False


def stretches(config: Any) -> bool:
    """Whether a row's positions depend on the longest row beside it, beyond the length that a model was trained on."""
    parameters = getattr(config, "rope_parameters", None) or {}
    # One set of parameters, or one for each kind of layer.
    sets = [parameters, *(one for one in parameters.values() if isinstance(one, dict))]
    return any(one.get("rope_type") in ("dynamic", "longrope") for one in sets)


def _gap(forward: SlotForward, model: Any) -> float:
    """Largest difference between hidden states over slots and the model's own, relative to the largest of them.

    Two rows, one of them much longer, are read in pieces: some tokens, more of them, and the last one.
    """
    long, short = _probe_ids(model)
    forward.cache.lay_out([], 3, len(long) + 1)
    for cut in (slice(0, 3), slice(3, -1)):
        forward.read([Piece(2, cut.start, long[cut]), Piece(0, cut.start, short[cut])])
    found = forward.read([Piece(0, len(short) - 1, short[-1:]), Piece(2, len(long) - 1, long[-1:])])
    expected = torch.cat([_last_state(model, ids, forward.device) for ids in (short, long)])
    return float((found.to(expected.device) - expected).abs().max() / expected.abs().max())


def _probe_ids(model: Any) -> tuple[list[int], list[int]]:
    config = model.config.get_text_config()
    windows = [value for name, value in config.to_dict().items() if "window" in name and type(value) is int]
    most = _PROBE + max((window for window in windows if window <= _WINDOW), default=0)
    most = min(most, int(getattr(config, "max_position_embeddings", most) or most))
    vocabulary = model.get_input_embeddings().num_embeddings
    long, short = ([(7 * i * i + at) % vocabulary for i in range(n)] for at, n in ((3, most), (5, _PROBE // 3)))
    return long, short


def _last_state(model: Any, ids: list[int], device: torch.device) -> Tensor:
    states: Tensor = model.base_model(input_ids=torch.tensor([ids], device=device), use_cache=False).last_hidden_state
    return states[:, -1]
