"""The family: every method is one setting of the same search.

What a search costs, with ``n`` mutations (beams, without rewording), ``N`` cycles, the replacement period ``m`` and
answers of ``L`` tokens each, in ``S = ceil(L / m)`` steps. Tokens of the mutation replies come on top where the policy
rewords (``mutator="auto"`` or ``"policy"``); equal responses of one step are scored once, so reward calls are at most
these.

======================  =======================================  ==============================================
preset                  decoded tokens                           reward calls
======================  =======================================  ==============================================
sample                  L                                        1
best_of_n               (n + 1) L                                n + 1
soft_best_of_n          (n + 1) L                                n + 1
sample_replace          (n + 1) L                                n S + 1
smc                     (n + 1) L                                n S + 1
speculative_rejection   L + sum over steps s of b_s m            1 + sum over steps s of b_s
args                    (n + 1) L                                n L + 1
mutate_best_of_n        (n N + 1) L                              n N + 1
learned_clauses         (n + 1) L                                n + 1
darwin                  (n N + 1) L                              n N S + 1
======================  =======================================  ==============================================

``b_s`` beams are left in step ``s``: ``b_1 = n``, ``b_{s+1} = b_s - floor(alpha b_s)`` (the last step decodes
what is left of L). The ``+ 1`` is the first response: a plain sample that decodes beside every search, takes no part
in its selection, and is one of the answers to choose from. The methods, and what is ours in them:

``sample``, ``best_of_n``, ``sample_replace``, ``mutate_best_of_n``, ``darwin``
    The family of Hung et al. 2024 (arXiv 2406.15193): with and without rewording, with and without replacement.
``soft_best_of_n``
    Verdun et al. 2025 (arXiv 2505.03156): the answer is one of the samples, drawn with probability in proportion to
    ``exp(reward / reward_temperature)`` and not the maximum, which bounds how far the answer's distribution is from
    the policy's.
``learned_clauses``
    Ours: best of n over the instruction with sentences that raised rewards in earlier searches of other instructions
    (:func:`~darwin_align.core.learning.learn_clauses`, which spends their tokens once). Nothing is reworded, so all
    answers are decoded side by side. It needs ``clauses``.
``speculative_rejection``
    Sun et al. 2024 (arXiv 2410.20290): start with more samples than could be finished, and give up the share
    ``rejection`` whose partial answers are rewarded worst, again and again, until the rest is finished; the best of it
    is the answer. The paper rejects when the accelerator's memory is full, this search every ``replacement_period``
    tokens.
``smc``
    Twisted sequential Monte Carlo, Zhao et al. 2024 (arXiv 2404.17546): particles of the policy whose weight grows in
    every step by ``exp((reward - reward before) / reward_temperature)``, resampled when they are uneven; the answer is
    drawn by the final weights. So it approximates a draw from policy x ``exp(reward / reward_temperature)``. The paper
    learns its twist functions; here the reward of the partial answer is the twist. ``choice="best"`` takes the maximum.
``args``
    Khanov et al. 2024 (arXiv 2402.01694): for every token the policy's ``n`` most likely ones are candidates, and the
    one with the largest ``log p + reward_weight * reward`` is taken; with a ``reward_temperature`` above 0 one is drawn
    by its softmax (the paper's ARGS-stochastic). Needs a policy that ranks tokens.
"""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS", "WHOLE_ANSWERS"]

PRESETS: dict[str, dict[str, Any]] = {
    "darwin": {"cycles": 3},
    "sample": {"cycles": 0},
    "best_of_n": {"cycles": 1, "mutations": 4, "mutator": "identity", "selector": "none"},
    "soft_best_of_n": {"cycles": 1, "mutations": 4, "mutator": "identity", "selector": "none", "choice": "soft"},
    "sample_replace": {"cycles": 1, "mutator": "identity"},
    "mutate_best_of_n": {"cycles": 3, "selector": "none"},
    "speculative_rejection": {
        "cycles": 1,
        "mutations": 20,
        "mutator": "identity",
        "selector": "speculative_rejection",
    },
    "learned_clauses": {"cycles": 1, "mutations": 13, "mutator": "clauses", "selector": "none"},
    "smc": {"cycles": 1, "mutations": 8, "mutator": "identity", "selector": "smc", "choice": "soft"},
    "args": {
        "cycles": 1,
        "mutations": 10,
        "mutator": "identity",
        "decoding": "candidates",
        "replacement_period": 1,
        "selector": "args",
        "reward_temperature": 0.0,
    },
}
"""Settings by name, for :meth:`SearchConfig.preset <darwin_align.core.config.SearchConfig.preset>`."""

WHOLE_ANSWERS = tuple(name for name, one in PRESETS.items() if one["cycles"] == 0 or one.get("selector") == "none")
"""Presets that compare whole answers only: they need no policy that continues a partial one."""
