"""Proposition 2 and Corollary 2 of the paper, measured: how far the summed estimates can be off."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from hvp_utils.reliability import selective_bound

from .effects import TASKS, TAU, Effects, repaired

FINE_TAUS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


def guarantee(found: Sequence[Effects], taus: Sequence[float] = FINE_TAUS) -> pd.DataFrame:
    """The summed selective estimate, its error and its bounds.

    Args:
        found: Effects with Lipschitz constants.
        taus: Thresholds of the score.

    Returns:
        One row a model, task, prompt and tau: error (of the sum), bound and cubic (Proposition 2
        and its cubic term), gap, gap_bound and cancellation (Corollary 2), and identity_off: how
        far the gap to full HVP is from the sum of the quadratic terms that were left out.
    """
    rows = []
    for one in found:
        for tau in taus:
            sums = repaired(one, tau < one.R, "hvp").sum(1)
            for i, selected in enumerate(sums):
                parts = (one.f_ap[i], one.q[i], one.delta_norm[i], one.lipschitz[i])
                bound = selective_bound(*map(torch.tensor, parts), tau)
                off = abs(one.hvp[i].sum() - selected - bound.gap)
                error = abs(one.f[i].sum() - selected)
                rows.append((one.model, one.task, i, tau, error, *bound, off))
    columns = ["model", "task", "prompt", "tau", "error", "bound", "cubic", "gap", "gap_bound"]
    return pd.DataFrame(rows, columns=[*columns, "cancellation", "identity_off"])


def guarantee_table(bounds: pd.DataFrame, tau: float = TAU) -> pd.DataFrame:
    """Medians over the prompts of each model and task at one threshold.

    Returns:
        Columns model, task, holds (prompts on which the bound holds), prompts, looseness (bound
        over error), cubic (its part of the bound, in percent), gap (bound over gap), cancellation.
    """
    rows = []
    for (model, task), part in bounds[bounds.tau == tau].groupby(["model", "task"], sort=False):
        row = {"model": model, "task": TASKS.get(task, task)}
        row |= {"holds": int((part.error <= part.bound).sum()), "prompts": len(part)}
        row["looseness"] = (part.bound / part.error).median()
        row["cubic"] = 100 * (part.cubic / part.bound).median()
        row["gap"] = (part.gap_bound / np.abs(part.gap)).median()
        row["cancellation"] = part.cancellation.median()
        rows.append(row)
    return pd.DataFrame(rows)
