"""What is said of bounds by subset sampling, beside what was found here."""

from __future__ import annotations

import pandas as pd

from hvp_utils.claims import Claim, verdict

from .. import common
from .measuring import CONFIDENCE, CONTROLS

__all__ = ["claims"]

PLAIN = CONTROLS[0]  # without a control variate


def claims(table: pd.DataFrame, heads: pd.DataFrame) -> list[Claim]:
    """The claim of the tutorial, which is that of Kramár et al.

    Args:
        table: What ``bounds`` returns.
        heads: What ``held`` returns.
    """
    most = table[table.n_subsets == table.n_subsets.max()]
    plain = most[most.control == PLAIN]
    # How often the bound held on heads, at the least over models and numbers of subsets.
    least = heads[heads.control == PLAIN].held.map(lambda i: i.estimate).min()
    held = least >= 100 * CONFIDENCE and bool(table[table.control == PLAIN].holds.all())
    below = int((plain.bound < plain.shown).sum())
    n, n_subsets = len(plain), int(most.n_subsets.iloc[0])
    return [
        Claim(
            claim="Random subsets bound how large a missed effect can be",
            paper="a method to bound the probability of remaining false negatives; no number quoted here",
            source="tutorial on failure modes; Kramár et al. (2024), abstract",
            here=(
                f"heads: held in at least {least:.0f} % of draws; neurons and edges: held in "
                f"{int(plain.holds.sum())} of {n}, {common.span(plain.ratio)} times the largest known, "
                f"below the largest effect shown in {below} of {n} ({n_subsets} subsets)"
            ),
            verdict=verdict(held and below == n, held),
            rule=(
                f"held in at least {CONFIDENCE:.0%} of draws on heads and in every setting of neurons and "
                "edges, and there below the largest effect shown; partly: held"
            ),
        ),
    ]
