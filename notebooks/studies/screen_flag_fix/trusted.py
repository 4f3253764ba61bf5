"""What the score misses: the error that stays on heads that it trusts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hvp_utils.stats import bootstrap_ci

from ..common import places
from .effects import TASKS, TAU, Effects


def on_trusted(found: Sequence[Effects], tau: float = TAU) -> pd.DataFrame:
    """The error left with all flagged heads patched exactly, and where it comes from.

    Returns:
        One row a model and task: left (percent of attribution patching's summed error, an
        ``Interval``), five_worst (percent of it on the five worst trusted heads), quadratic and
        remainder (sums of ``|q|`` and ``|f - f_HVP|`` over trusted heads, over the error left),
        top_trusted (percent of the five largest true effects that are trusted), top_off (percent
        of these that are off by more than 10 %).
    """
    rows = []
    for one in found:
        trusted = one.R <= tau
        left = one.error * trusted
        total = left.sum(1)
        top = places(np.abs(one.f)) <= 5
        row = {"model": one.model, "task": TASKS.get(one.task, one.task)}
        row["left"] = bootstrap_ci(100 * total / one.error.sum(1))
        row["five_worst"] = 100 * (np.sort(left, axis=1)[:, -5:].sum(1) / total).mean()
        row["quadratic"] = ((np.abs(one.q) * trusted).sum(1) / total).mean()
        row["remainder"] = ((np.abs(one.f - one.hvp) * trusted).sum(1) / total).mean()
        row["top_trusted"] = 100 * (top & trusted).sum() / top.sum()
        known = one.off_by_10[top & trusted]
        row["top_off"] = 100 * known.mean() if known.size else np.nan
        rows.append(row)
    return pd.DataFrame(rows)
