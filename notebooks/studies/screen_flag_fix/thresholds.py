"""Fixed thresholds of the score: what they flag, find and leave."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hvp_utils.stats import bootstrap_ci, bootstrap_share

from .. import common
from .effects import TAU, TAUS, Effects, by_model, pooled, summed, top_5

N_RESAMPLES = 1000


def thresholds(found: Sequence[Effects], taus: Sequence[float] = TAUS) -> pd.DataFrame:
    """What each threshold flags, finds and leaves, over all tasks.

    Returns:
        One row a model and tau: flagged (percent of all heads), recall (percent of the heads off by
        more than 10 % that are flagged), precision (percent of the flagged that are), and the
        top-5 and summed errors left by HVP and by exact patching; all ``Interval``.
    """
    rows = []
    for model, ones in by_model(found).items():
        bad = pooled(ones, lambda one: one.off_by_10.sum(1))
        heads = np.concatenate([np.full(len(one.f), one.n) for one in ones])
        for tau in taus:
            hit = pooled(ones, lambda one, t=tau: ((one.R > t) & one.off_by_10).sum(1))
            flagged = pooled(ones, lambda one, t=tau: (one.R > t).sum(1))
            row = {"model": model, "tau": tau, "flagged": bootstrap_share(flagged, heads)}
            row |= {"recall": bootstrap_share(hit, bad), "precision": bootstrap_share(hit, flagged)}
            for fix in ("hvp", "exact"):
                for name, measure in (("top_5", top_5), ("summed", summed)):
                    left = pooled(ones, lambda one, t=tau, f=fix, m=measure: m(one, one.R > t, f))
                    row[f"{name}, {fix}"] = bootstrap_ci(left)
            rows.append(row)
    return pd.DataFrame(rows)


def full_against_selective(found: Sequence[Effects], tau: float = TAU) -> pd.DataFrame:
    """Top-5 error of HVP of every head less that of HVP of the flagged heads, by model."""
    parts = []
    for model, ones in by_model(found).items():
        for method in ("full", "selective"):
            left = pooled(ones, lambda one, m=method: top_5(one, m == "full" or one.R > tau, "hvp"))
            part = {"model": model, "prompt": np.arange(len(left)), "method": method, "left": left}
            parts.append(pd.DataFrame(part))
    return common.paired(pd.concat(parts), ["model"], "left", "selective", n_resamples=N_RESAMPLES)
