"""Some layers of a Llama over packed rows, and the low-rank adapters on their matrices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.small.packing import Packed

MATRICES = {
    "self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "mlp": ("gate_proj", "up_proj", "down_proj"),
}


class LowRank(nn.Module):
    """A frozen matrix and a low-rank addition to it."""

    def __init__(self, base: nn.Linear, rank: int, dropout: float, generator: torch.Generator) -> None:
        super().__init__()
        self.dropout = dropout
        self.base = base.requires_grad_(False)
        bound = 1.0 / math.sqrt(base.in_features)
        first = (torch.rand(rank, base.in_features, generator=generator) * 2 - 1) * bound
        self.lora_a, self.lora_b = nn.Parameter(first), nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, states: Tensor) -> Tensor:
        """Both applied, shape (tokens, out)."""
        read = functional.dropout(states, self.dropout, self.training) if self.dropout else states
        return self.base(states) + (read @ self.lora_a.T) @ self.lora_b.T  # type: ignore[no-any-return]


class Tower(nn.Module):
    """Layers ``begin`` to ``end`` of a Llama model, its final norm and a scalar head.

    Args:
        model: transformers' ``LlamaModel`` in float32; it is frozen, and its layers are shared.
        begin: first layer.
        end: the layer behind the last one.
        rank: of the adapters; 0 adds none.
        dropout: of what the adapters read, while it is trained.
        seed: of the adapters' first values.
    """

    def __init__(self, model: Any, begin: int, end: int, *, rank: int = 0, dropout: float = 0.0, seed: int = 0) -> None:
        super().__init__()
        self.rotary, self.begin = model.rotary_emb, begin
        self.head_size = model.config.hidden_size // model.config.num_attention_heads
        layers = model.layers[begin:end]
        self.layers = nn.ModuleList(deepcopy(layers) if rank else layers)
        self.norm = nn.RMSNorm(model.config.hidden_size, eps=model.config.rms_norm_eps)
        self.norm.weight.data.copy_(model.norm.weight.data)
        self.score = nn.Linear(model.config.hidden_size, 1, bias=False)
        nn.init.zeros_(self.score.weight)
        for parameter in self.layers.parameters():
            parameter.requires_grad_(False)
        if rank:
            generator = torch.Generator().manual_seed(seed)
            for _, part, name in self.matrices():
                setattr(part, name, LowRank(getattr(part, name), rank, dropout, generator))

    def matrices(self) -> Iterator[tuple[str, Any, str]]:
        """Name in a transformers model, owner and attribute of each adapted matrix."""
        for number, layer in enumerate(self.layers):
            for part, names in MATRICES.items():
                for name in names:
                    yield f"model.layers.{self.begin + number}.{part}.{name}", getattr(layer, part), name

    def run(self, states: Tensor, packed: Packed) -> Tensor:
        """Hidden states behind the last layer, before the norm, shape (tokens, hidden).

        Args:
            states: what goes into the first layer, of the same shape.
            packed: the row's layout.
        """
        cosine, sine = self.rotary(states[None], packed.positions[None])
        for layer in self.layers:
            states = self._layer(layer, states, cosine[0], sine[0], packed)
        return states

    def rewards(self, states: Tensor, packed: Packed) -> Tensor:
        """Rewards at all of the row's reads, shape (reads,)."""
        cosine, sine = self.rotary(states[None], packed.positions[None])
        for layer in self.layers[:-1]:
            states = self._layer(layer, states, cosine[0], sine[0], packed)
        # Of the last layer nothing else is read.
        last = self._layer(self.layers[-1], states, cosine[0], sine[0], packed, reads_only=True)
        return self.score(self.norm(last))[:, 0]  # type: ignore[no-any-return]

    def _layer(
        self, layer: Any, states: Tensor, cosine: Tensor, sine: Tensor, packed: Packed, *, reads_only: bool = False
    ) -> Tensor:
        attention = layer.self_attn
        normed = layer.input_layernorm(states)
        key, value = self._heads(attention.k_proj(normed)), self._heads(attention.v_proj(normed))
        key = _rotated(key, cosine, sine)
        reads = list(packed.reads) if reads_only else slice(None)
        states = states[reads]
        query = _rotated(self._heads(attention.q_proj(normed[reads])), cosine[reads], sine[reads])
        shared = query.shape[0] // key.shape[0]
        key, value = key.repeat_interleave(shared, dim=0), value.repeat_interleave(shared, dim=0)
        attend = self._attend_at_reads if reads_only else self._attend
        seen = attend(query, key, value, packed)
        states = states + attention.o_proj(seen.transpose(0, 1).reshape(len(states), -1))
        return states + layer.mlp(layer.post_attention_layernorm(states))  # type: ignore[no-any-return]

    def _heads(self, states: Tensor) -> Tensor:
        return states.view(len(states), -1, self.head_size).transpose(0, 1)

    @staticmethod
    def _attend(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        attend, prompt = functional.scaled_dot_product_attention, packed.prompt
        parts = [attend(query[None, :, :prompt], key[None, :, :prompt], value[None, :, :prompt], is_causal=True)]
        for one in packed.segments:
            own = slice(one.begin, one.end)
            keys, values = (torch.cat([of[:, :prompt], of[:, own]], dim=1)[None] for of in (key, value))
            parts.append(attend(query[None, :, own], keys, values, attn_mask=one.mask))
        return torch.cat(parts, dim=2)[0]

    @staticmethod
    def _attend_at_reads(query: Tensor, key: Tensor, value: Tensor, packed: Packed) -> Tensor:
        parts, done = [], 0
        for one in packed.segments:
            own = slice(one.begin, one.end)
            rows = [read - one.begin for read in packed.reads if one.begin <= read < one.end]
            keys, values = (torch.cat([of[:, : packed.prompt], of[:, own]], dim=1)[None] for of in (key, value))
            asking = query[None, :, done : done + len(rows)]
            parts.append(functional.scaled_dot_product_attention(asking, keys, values, attn_mask=one.mask[rows]))
            done += len(rows)
        return torch.cat(parts, dim=2)[0]


def _rotated(states: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary positions, as transformers' Llama has them: the halves of a head are the pairs."""
    first, second = states.chunk(2, dim=-1)
    return states * cosine + torch.cat([-second, first], dim=-1) * sine
