"""bfloat16 weights on a CPU without instructions for them: long passes multiply in float32."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["multiplies_bfloat16", "upcast_long_passes"]

logger = logging.getLogger(__name__)

_MOST_ROWS = 16
"""Positions of one pass up to which reading half the bytes is worth more than torch's slow bfloat16 product."""


class _Linear(nn.Linear):
    """Multiplies many positions in float32, from the one copy of its weights, and rounds the result."""

    def forward(self, input: Tensor) -> Tensor:
        if input.numel() <= _MOST_ROWS * self.in_features or self.weight.dtype != torch.bfloat16:
            return super().forward(input)
        bias = None if self.bias is None else self.bias.float()
        return functional.linear(input.float(), self.weight.float(), bias).to(input.dtype)


def multiplies_bfloat16() -> bool:
    """Whether torch multiplies bfloat16 matrices by oneDNN here, as on CPUs with AVX-512 or AMX."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def upcast_long_passes(model: Any) -> None:
    """Replace a model's plain linear layers by those that multiply many positions in float32; logs what that costs."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Linear]
    for layer in layers:
        layer.__class__ = _Linear
    if layers:
        logger.warning(
            "bfloat16 halves the memory of %s, but this CPU has no instructions for it: passes of more than %d "
            "positions multiply in float32, and answers may depend on what is computed side by side. dtype='float32' "
            "avoids both, and is faster from 8 rows on",
            type(model).__name__,
            _MOST_ROWS,
        )
