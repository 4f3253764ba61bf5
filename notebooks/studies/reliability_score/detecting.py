"""The score as a detector of errors: against simple rivals, by size, and what it gets wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int
from numpy import ndarray

from hvp_utils.stats import Auroc, bootstrap_ci, bootstrap_share, holm

from .. import common
from .measuring import LIMIT, N_RESAMPLES, Judged

#: What else heads could be ranked by. |q| costs as much as R; the other two are free.
RIVALS: Mapping[str, Callable[[Judged], ndarray]] = {
    "|q|": lambda run: np.abs(run.q),
    "small |f_AP|": lambda run: -np.abs(run.f_ap),
    "|δ|": lambda run: run.delta,
}
#: What heads are cut into quarters by.
SIZES: Mapping[str, Callable[[Judged], ndarray]] = {
    "|δ|": lambda run: run.delta,
    "|f|": lambda run: np.abs(run.f),
}


def detector(runs: Sequence[Judged]) -> pd.DataFrame:
    """AUROC for "is attribution patching off by more than 10 %?", pooled over prompts.

    Returns:
        Columns model, task, base rate (percent), R (an ``Interval``), a column for each of
        ``RIVALS``, and "R, of the true effect": R again, asked for an error above 10 % of the true
        effect instead, so that score and target share no denominator.
    """
    rows = []
    for run in runs:
        others = {name: Auroc(rule(run), run.bad)() for name, rule in RIVALS.items()}
        rows.append(
            {
                "model": run.model,
                "task": run.name,
                "base rate": 100 * run.bad.mean(),
                "R": Auroc(run.R, run.bad).interval(),
                **others,
                "R, of the true effect": Auroc(run.R, run.E > LIMIT * np.abs(run.f)).interval(),
            }
        )
    return pd.DataFrame(rows)


def rivals_beaten(runs: Sequence[Judged], n_resamples: int = N_RESAMPLES) -> pd.DataFrame:
    """AUROC of R less that of each rival, within prompts: what ``common.paired`` returns.

    Prompts on which no head, or every head, is off by more than 10 % have no AUROC and are left out.
    """
    rows = []
    for run in runs:
        scores = {"R": run.R} | {name: rule(run) for name, rule in RIVALS.items()}
        for method, score in scores.items():
            areas = Auroc(score, run.bad).by_prompt()
            part = {"model": run.model, "task": run.name, "method": method, "AUROC": areas}
            rows.append(pd.DataFrame(part | {"prompt": np.arange(len(areas))}).dropna())
    table = pd.concat(rows)
    found = []
    for rival in RIVALS:
        options = dict(against=rival, methods=["R"], n_resamples=n_resamples)
        tests = common.paired(table, ["model", "task"], "AUROC", **options)
        found.append(tests.assign(rival=rival))
    tests = pd.concat(found, ignore_index=True)
    tests["holm"] = holm(tests.p.to_numpy())  # of one family, over all rivals
    return tests.drop(columns="method")


def _quarter(values: ndarray) -> Int[ndarray, "prompt head"]:
    return np.digitize(values, np.quantile(values, [0.25, 0.5, 0.75]))


def quarters(runs: Sequence[Judged], by: Sequence[str] = tuple(SIZES)) -> pd.DataFrame:
    """AUROC of R within quarters of a size, the fourth the largest.

    Returns:
        Columns model, task, by, quarter (1 to 4), AUROC (an ``Interval``), and base rate (percent).
    """
    rows = []
    for run in runs:
        for name in by:
            quarter = _quarter(SIZES[name](run))
            for k in range(4):
                kept = quarter == k
                area = Auroc(run.R, run.bad, kept).interval()
                rows.append((run.model, run.name, name, k + 1, area, 100 * run.bad[kept].mean()))
    return pd.DataFrame(rows, columns=["model", "task", "by", "quarter", "AUROC", "base rate"])


def falls(runs: Sequence[Judged], by: Sequence[str] = tuple(SIZES)) -> pd.DataFrame:
    """AUROC of R in the second quarter less that in the fourth, an ``Interval``: ``2 less 4``."""
    rows = []
    for run in runs:
        for name in by:
            quarter = _quarter(SIZES[name](run))
            second, fourth = (Auroc(run.R, run.bad, quarter == k) for k in (1, 3))
            fall = bootstrap_ci(
                np.arange(len(run.f)),
                lambda drawn, second=second, fourth=fourth: second(drawn) - fourth(drawn),
            )
            rows.append((run.model, run.name, name, fall))
    return pd.DataFrame(rows, columns=["model", "task", "by", "2 less 4"])


def lowest_quarter(table: pd.DataFrame, by: str = "|f|") -> pd.DataFrame:
    """Which quarter has the lowest AUROC, by model and task.

    Args:
        table: What ``quarters`` returns.
        by: The size.
    """
    part = table[table.by == by].reset_index(drop=True)
    part = part.assign(area=[ci.estimate for ci in part.AUROC])
    rows = part.loc[part.groupby(["model", "task"], sort=False).area.idxmin()]
    return rows[["model", "task", "quarter"]].reset_index(drop=True)


def misses(runs: Sequence[Judged], matter: float = 0.01) -> pd.DataFrame:
    """How often the threshold ``LIMIT`` on R misleads.

    Args:
        runs: What was measured.
        matter: Heads count whose true effect is at least this share of their prompt's largest.

    Returns:
        Columns model, task, pairs (that count), safe (R below the limit), missed (safe, and the
        error above it), missed % (an ``Interval``), flagged, alarms (flagged, and the error below
        the limit), alarms %, and worst (the largest relative error of a safe head, in percent).
    """
    rows = []
    for run in runs:
        size = np.abs(run.f)
        matters = size >= matter * size.max(1, keepdims=True)
        safe, flagged = matters & (run.R < LIMIT), matters & ~(run.R < LIMIT)
        missed, alarms = (safe & run.bad).sum(1), (flagged & ~run.bad).sum(1)
        rows.append(
            {
                "model": run.model,
                "task": run.name,
                "pairs": int(matters.sum()),
                "safe": int(safe.sum()),
                "missed": int(missed.sum()),
                "missed %": bootstrap_share(missed, safe.sum(1)),
                "flagged": int(flagged.sum()),
                "alarms": int(alarms.sum()),
                "alarms %": bootstrap_share(alarms, flagged.sum(1)),
                "worst": 100 * float(np.max(run.error, where=safe, initial=0.0)),
            }
        )
    return pd.DataFrame(rows)
