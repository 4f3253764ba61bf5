"""The largest effects, found as the book recommends: choose cheaply, then patch exactly.

Attribution patching and a rough second term say which components may matter, in three gradients
for all of them together. Those few are patched exactly, so what is reported is no estimate.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import pandas as pd
import torch

from hvp_utils import _checks
from hvp_utils.curvature import require_one_metric
from hvp_utils.estimators import activation_patching
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.plans import ModelSizes, pass_flops
from hvp_utils.reliability import row_screen

__all__ = ["FEW", "MANY", "top_effects"]

#: Up to so many components are all patched: a screen saves too little.
FEW = 100
#: Among more than so many, three candidates are patched for each effect that is wanted, not two.
MANY = 10_000


@of_metric
def top_effects(
    M: PatchedMetric, k: int = 5, n_patched: int | None = None, seed: int = 0
) -> pd.DataFrame:
    """The k components with the largest effects, with no argument that needs thought.

    Up to ``FEW`` components are all patched exactly. Among more, those with the largest
    ``|f_ap| + r`` are: f_ap is attribution patching, and r, half the length of the component's row
    of the Hessian, says how far its slope moves when other things are patched (``row_screen``,
    three gradients for all components). Twice as many are patched as are wanted, three times among
    more than ``MANY``.

    What is exact is exact; that no larger effect was left out is not certain. ``attrs["doubtful"]``
    names components that were not patched though their ``|f_ap| + r`` is above the smallest effect
    that is returned. If there are any, raise ``n_patched``.

    Args:
        M: The metric, of one prompt or the mean of many.
        k: How many effects are wanted.
        n_patched: How many components are patched. Fewer than k leave some effects estimated; none
            at all gives attribution patching alone.
        seed: Seed of the random signs behind r.

    Returns:
        One row for each of the k effects, the largest first: component, layer, effect, value
        ("exact" or "estimated"), runs (the price of that value), f_ap, and r (NaN where none was
        needed). ``attrs`` holds n, patched, runs (the price of it all; one run is one exact patch
        of one component), percent (of patching every component) and doubtful. Prices are counted
        operations, not seconds (``hvp_utils.plan``).

    Raises:
        ValueError: k or n_patched that cannot be, or ``M.each``.
        TypeError: The model runs in half precision, in which differences of gradients are noise.

    Source:
        Ours; measured in chapters 9 and 10.
    """
    require_one_metric(M)
    _require_between(1, k, M.n, "k")
    if n_patched is not None:
        _require_between(0, n_patched, M.n, "n_patched")
    _checks.seed(seed)
    prices = _prices(M)
    wanted = (3 if M.n > MANY else 2) * k if n_patched is None else n_patched
    screening = prices["gradient"] + 2 * prices["gradient_row"]
    if wanted >= M.n or (n_patched is None and (M.n <= FEW or wanted + screening >= M.n)):
        effects = activation_patching(M).double().cpu().numpy()
        first, r, size = (np.full(M.n, np.nan) for _ in range(3))
        exact, shared = np.ones(M.n, dtype=bool), 0.0
    else:
        screened = row_screen(M, seed=seed)
        first, r = (
            t.double().cpu().numpy() for t in (screened.first_order, screened.quadratic.abs())
        )
        size, effects, exact = np.abs(first) + r, first.copy(), np.zeros(M.n, dtype=bool)
        exact[np.argsort(-size, kind="stable")[:wanted]] = True
        if wanted:
            which = torch.as_tensor(exact.nonzero()[0])
            effects[exact] = activation_patching(M, which).double().cpu().numpy()
        shared = screening
    # Only what was patched is ranked, while it lasts: an estimate may be far too large.
    passed_over = ~exact if exact.sum() >= k else np.zeros(M.n, dtype=bool)
    order = np.lexsort((-np.abs(effects), passed_over))[:k]
    table = pd.DataFrame(
        {
            "component": [M.labels[c] for c in order],
            "layer": np.asarray(M.layers)[order],
            "effect": effects[order],
            "value": np.where(exact[order], "exact", "estimated"),
            "runs": exact[order] + shared / M.n,
            "f_ap": first[order],
            "r": r[order],
        }
    )
    above = ~exact & (size > np.abs(effects[order]).min())
    above[order] = False
    runs = float(exact.sum() + shared)
    table.attrs = {
        "n": M.n,
        "patched": int(exact.sum()),
        "runs": runs,
        "percent": 100 * runs / M.n,
        "doubtful": [M.labels[c] for c in np.argsort(-size, kind="stable") if above[c]],
    }
    return table


def _require_between(least: int, number: int, n: int, name: str) -> None:
    whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
    if not (whole and least <= number <= n):
        raise ValueError(
            f"{name} must be a whole number from {least} to the {n} components, not {number!r}."
        )


def _prices(M: PatchedMetric) -> dict[str, float]:
    """What a pass of each kind costs, in runs with one component patched."""
    kind = M.components if isinstance(M.components, str) else M.layers
    flops = pass_flops(
        ModelSizes.of(M.model),
        kind,
        cast("int", M.n_tokens),  # M.each was refused
        cast("int", M.n_run),
        M.batch_size,
    )
    return {kind: count / flops["forward"] for kind, count in flops.items()}
