"""Draws over wide vocabularies on a CPU: the same tokens as over all columns, from a few of them.

Without top-k every token may be drawn, and most of a step would be sorting a vocabulary for top-p and making noise for
tokens that cannot win. Here a nucleus comes from the largest columns or, if it is wide, from a histogram; and noise is
made where the hash says that it may win. What a row draws is a function of its own logits and key.
"""

from __future__ import annotations

import torch
from torch import Tensor

from darwin_align.backends.local.columns import largest
from darwin_align.backends.local.noise import gumbel_noise, leading_bits

__all__ = ["draw_from_all", "draw_from_nuclei"]

_NARROW = 256
"""Columns that are looked at for a nucleus, before all are."""
_BINS, _BINS_PER_UNIT = 1 << 12, 64
"""Bins of the histogram, and how many there are to a unit of log-probability."""
_LEADERS = 32
"""Columns among which a good candidate is found, to compare all others with."""
_CHUNK = 1 << 13
"""Columns at a time, so that what is computed of them stays in a core's cache."""
_SLACK = 1.01
"""Float rounding must not lose a winner."""


def draw_from_nuclei(scores: Tensor, logprobs: Tensor, keys: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Draw one token a row from its nucleus: the smallest set of the likeliest tokens that has probability ``top_p``.

    It is that of transformers' warper. Probabilities are summed in double precision; of equally likely tokens at the
    border the higher ids belong to it, as a stable sort has it.

    Args:
        scores: (rows, vocabulary).
        logprobs: (rows, vocabulary), their logarithmic softmax.
        keys: int64 of shape (rows,).
        top_p: more than 0, less than 1.

    Returns:
        Token ids and their log-probabilities within the nucleus, both of shape (rows,).
    """
    tokens, drawn = torch.empty_like(keys), torch.empty_like(logprobs[:, 0])
    found, within, narrow = _draw_narrow(scores, logprobs, keys, top_p)
    tokens[narrow], drawn[narrow] = found[narrow], within[narrow]
    if len(rows := (~narrow).nonzero()[:, 0]):
        nuclei = [_nucleus(scores[row], logprobs[row], top_p) for row in rows]
        kept, own = (torch.stack(parts) for parts in zip(*nuclei, strict=True))
        tokens[rows], drawn[rows] = draw_from_all(kept, own, keys[rows])
    return tokens, drawn


def _draw_narrow(scores: Tensor, logprobs: Tensor, keys: Tensor, top_p: float) -> tuple[Tensor, Tensor, Tensor]:
    """Draw where the nucleus lies within the largest columns: tokens, log-probabilities, and in which rows it does."""
    values, columns = _by_score(*largest(scores, _NARROW))
    own = logprobs.gather(-1, columns).double()
    masses = own.exp().cumsum(dim=-1)
    sizes = _sizes(own.exp(), masses, top_p)
    # Behind the last column there may be more tokens of its score, and which of them belong is not known then.
    narrow = (sizes < _NARROW) & (values.gather(-1, sizes - 1) > values[:, -1:])
    kept = values.masked_fill(torch.arange(_NARROW) >= sizes, -torch.inf)
    place = (kept + gumbel_noise(keys[:, None], columns)).argmax(dim=-1, keepdim=True)
    within = own.gather(-1, place) - masses.gather(-1, sizes - 1).log()
    return columns.gather(-1, place)[:, 0], within[:, 0].to(logprobs.dtype), narrow[:, 0]


def _sizes(probabilities: Tensor, masses: Tensor, top_p: float, before: float = 0.0) -> Tensor:
    """How many columns belong to the nucleus: those before which ``top_p`` is not reached, (rows, 1)."""
    return (before + masses - probabilities < top_p).sum(dim=-1, keepdim=True).clamp(min=1)


def _nucleus(scores: Tensor, logprobs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """One row's scores and its log-probabilities within its nucleus, minus infinity outside: (vocabulary,) each."""
    probabilities = logprobs.double().exp()
    bins = ((logprobs.max() - logprobs) * _BINS_PER_UNIT).clamp_(max=_BINS - 1).long()
    masses = torch.bincount(bins, weights=probabilities, minlength=_BINS).cumsum(0)
    border = min(int((masses < top_p).sum()), _BINS - 1)
    before = float(masses[border - 1]) if border else 0.0
    ids = (bins == border).nonzero()[:, 0]
    _, ids = _by_score(scores[ids], ids)
    within = probabilities[ids].cumsum(0)
    size = int(_sizes(probabilities[ids], within, top_p, before))
    outside = bins > border
    outside[ids[size:]] = True
    mass = before + float(within[size - 1])
    own = (logprobs.double() - torch.tensor(mass, dtype=torch.float64).log()).to(logprobs.dtype)
    return scores.masked_fill(outside, -torch.inf), own.masked_fill_(outside, -torch.inf)


def _by_score(scores: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and their columns, falling; of equal ones the higher column first."""
    order = columns.argsort(dim=-1, descending=True)
    scores, columns = scores.gather(-1, order), columns.gather(-1, order)
    scores, order = scores.sort(dim=-1, descending=True, stable=True)
    return scores, columns.gather(-1, order)


def draw_from_all(scores: Tensor, logprobs: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token a row.

    A token of score s beats a sum of score and noise b only if its noise is above b - s, which a uniform number u gives
    if u < exp(s - b) at most. So of most tokens the hash is made, and no logarithm.

    Args:
        scores: (rows, vocabulary); minus infinity where a token cannot be drawn.
        logprobs: (rows, vocabulary), their logarithmic softmax.
        keys: int64 of shape (rows,).

    Returns:
        Token ids and their log-probabilities, both of shape (rows,).
    """
    values, columns = largest(logprobs, _LEADERS)
    best = (values + gumbel_noise(keys[:, None], columns)).amax(dim=-1, keepdim=True)
    rows, ids = _candidates(logprobs, keys, best)
    sums = scores[rows, ids] + gumbel_noise(keys[rows], ids)
    tokens = torch.empty_like(keys)
    for row in range(len(keys)):
        own = rows == row
        tokens[row] = ids[own][sums[own].argmax()]
    return tokens, logprobs.gather(-1, tokens[:, None])[:, 0]


def _candidates(logprobs: Tensor, keys: Tensor, best: Tensor) -> tuple[Tensor, Tensor]:
    """Rows and columns whose noise may lift them above ``best``: two of shape (found,), by falling column."""
    found: list[tuple[Tensor, Tensor]] = []
    for start in range(0, logprobs.shape[-1], _CHUNK):
        part = logprobs[:, start : start + _CHUNK]
        bits = leading_bits(keys[:, None], torch.arange(start, start + part.shape[-1]))
        most = (part - best).exp_().mul_(_SLACK * 2.0**31).add_(1.0)
        rows, columns = (bits <= most).nonzero(as_tuple=True)
        found.append((rows, columns + start))
    rows, ids = (torch.cat(parts) for parts in zip(*found, strict=True))
    return rows, ids
