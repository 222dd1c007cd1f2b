"""Recorded answers with verdicts: what any scorer and any choice would have made of them, without a policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from darwin_align.lazy import lazy_getattr

if TYPE_CHECKING:
    from darwin_align.evaluation.pools.figures import Chooser, PoolFigures, pool_figures
    from darwin_align.evaluation.pools.records import PooledPrompt, pooled_prompt, read_pool
    from darwin_align.evaluation.pools.scoring import score_pool

_HOMES = {
    "Chooser": "figures",
    "PoolFigures": "figures",
    "PooledPrompt": "records",
    "pool_figures": "figures",
    "pooled_prompt": "records",
    "read_pool": "records",
    "score_pool": "scoring",
}

__all__ = ["Chooser", "PoolFigures", "PooledPrompt", "pool_figures", "pooled_prompt", "read_pool", "score_pool"]


__getattr__ = lazy_getattr(__name__, {name: f"{__name__}.{home}" for name, home in _HOMES.items()})


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
