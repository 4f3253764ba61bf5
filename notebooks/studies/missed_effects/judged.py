"""What is said of bounds by subset sampling, beside what was found here."""

from __future__ import annotations

import pandas as pd

from hvp_utils import Claim, verdict

from .. import common
from .measuring import CONFIDENCE, CONTROLS

__all__ = ["claims"]


def claims(table: pd.DataFrame, heads: pd.DataFrame) -> list[Claim]:
    """The claim of the tutorial, which is that of Kramár et al., and ours.

    Args:
        table: What ``bounds`` returns.
        heads: What ``held`` returns.
    """
    most = table[table.n_subsets == table.n_subsets.max()]
    plain, ours = (most[most.control == control] for control in CONTROLS)
    # How often the bound held on heads, at the least over models and numbers of subsets.
    least = {c: heads[heads.control == c].held.map(lambda i: i.estimate).min() for c in CONTROLS}
    often = {c: least[c] >= 100 * CONFIDENCE for c in CONTROLS}
    holds = {c: bool(table[table.control == c].holds.all()) for c in CONTROLS}
    below = int((plain.bound < plain.shown).sum())
    smaller = ours.bound.to_numpy() < plain.bound.to_numpy()
    ratios = ours.bound.to_numpy() / plain.bound.to_numpy()
    n, n_subsets = len(plain), int(most.n_subsets.iloc[0])
    return [
        Claim(
            claim="Random subsets bound how large a missed effect can be",
            paper="a method to bound the probability of remaining false negatives; no number quoted here",
            source="tutorial on failure modes; Kramár et al. (2024), abstract",
            here=(
                f"heads: held in at least {least[CONTROLS[0]]:.0f} % of draws; neurons and edges: held in "
                f"{int(plain.holds.sum())} of {n}, {common.span(plain.ratio)} times the largest known, "
                f"below the largest effect shown in {below} of {n} ({n_subsets} subsets)"
            ),
            verdict=verdict(
                often[CONTROLS[0]] and holds[CONTROLS[0]] and below == n,
                often[CONTROLS[0]] and holds[CONTROLS[0]],
            ),
            rule=(
                f"held in at least {CONFIDENCE:.0%} of draws on heads and in every setting of neurons and "
                "edges, and there below the largest effect shown; partly: held"
            ),
        ),
        Claim(
            claim="Attribution patching as a control makes the bound tighter, and it still holds",
            paper="not in the source: ours",
            source="chapter 15",
            here=(
                f"heads: held in at least {least[CONTROLS[1]]:.0f} % of draws; neurons and edges: held in "
                f"{int(ours.holds.sum())} of {n}, tighter in {int(smaller.sum())} of {n}, "
                f"{common.span(ratios, 2)} of the plain bound ({n_subsets} subsets)"
            ),
            verdict=verdict(
                bool(smaller.all()) and often[CONTROLS[1]] and holds[CONTROLS[1]],
                bool(smaller.all()),
            ),
            rule=(
                f"tighter in every setting of neurons and edges, held in all of them and in at least "
                f"{CONFIDENCE:.0%} of draws on heads; partly: tighter"
            ),
        ),
    ]
