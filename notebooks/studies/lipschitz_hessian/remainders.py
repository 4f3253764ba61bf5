"""Remainders and their bounds, one row for each head of each prompt.

In the paper's notation: f is the true effect, f_AP attribution patching, q the quadratic term, and
R3 = f - f_AP - q what HVP leaves. With an estimate of L_H the bound on it is L_H |delta|^3 / 6.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
import xarray as xr

from hvp_utils import error_bounds
from hvp_utils.stats import Interval, bootstrap_share

from ..common import tidy

TASKS = {"ioi": "IOI", "factual": "Factual", "greater_than_01": "Greater-Than"}

#: Names of tasks for the reader, with that of all together.
NAMES = TASKS | {"all": "all tasks"}

#: Steps of MS-HVP whose bound is checked, and where their estimates are; one step is HVP.
STEPS = {1: "hvp", 2: "ms_hvp:2", 5: "ms_hvp:5"}

#: What a sweep must hold.
ESTIMATORS = (
    "activation_patching",
    "attribution_patching",
    "hessian_lipschitz",
    *STEPS.values(),
)

#: Above how many thresholds of rounding a bound or a remainder must be, by kind of record.
KINDS = {
    "all records": 0.0,
    "above 0.1 thresholds": 0.1,
    "that count": 1.0,
    "above 10 thresholds": 10.0,
}

#: Tables 6 and 7 of the paper. Its ratios of bound and remainder have no number in the text used here.
PAPER = pd.DataFrame(
    [
        ("GPT-2, paper", 2880, 2877, 82.4, 1.4e-3, 1.69e-2, 1.82e-2, 4.917, 1.08e-4, 3.48e-3, 1.8e-5, 9.2e-4),
        ("Gemma-2-2B, paper", 4160, 4152, 95.0, 2e-4, 1.4e-3, 2e-3, 0.699, 4.03e-3, 0.1193, 3.5e-4, 1.104e-2),
    ],
    columns=[
        "model", "records", "that count", "holds", "L_H median", "L_H mean", "L_H 90 %", "L_H largest",
        "bound median", "bound mean", "remainder median", "remainder mean",
    ],
)  # fmt: skip

_NAMES = {
    "activation_patching": "f",
    "attribution_patching": "f_AP",
    "hessian_lipschitz": "L_H",
    "delta_norm": "delta",
}


def threshold(base: np.ndarray | float) -> np.ndarray:
    """What float32 can resolve of a metric: 100 roundings of it, and of 1 at least."""
    return 100 * 2.0**-24 * np.maximum(1, np.abs(base))


def records(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """A row for each model, task, prompt and head.

    Args:
        sweeps: With ``ESTIMATORS``, by (model, task).

    Returns:
        Columns model, task, prompt, component, layer; f, f_AP, q, R3 (its magnitude), E (the
        error of AP), L_H, delta (length of the patch), bound, eta, R, relative (error of AP over
        f_AP), lower and upper (the band that Proposition 1 gives it); left_2, left_5 (what MS-HVP leaves);
        floor (the threshold of rounding), size (the larger of bound and R3, in thresholds), and
        whether the bound holds, whether the record counts (size above 1), and whether the head
        matters (1 % of the largest true effect of its prompt, or more).
    """
    table = tidy(sweeps, [*ESTIMATORS, "delta_norm"]).rename(columns=_NAMES)
    numbers = [*_NAMES.values(), *STEPS.values()]
    table[numbers] = table[numbers].astype(float)
    base = [np.repeat(d.base.values, d.sizes["component"]) for d in sweeps.values()]
    table["floor"] = threshold(np.concatenate(base).astype(float))
    for k, name in STEPS.items():
        table[f"left_{k}"] = (table.f - table[name]).abs()
    table["q"], table["E"] = table.hvp - table.f_AP, (table.f - table.f_AP).abs()
    table["R3"] = table.left_1
    terms = (torch.tensor(table[name].to_numpy()) for name in ("f_AP", "q", "delta", "L_H"))
    bounds = error_bounds(*terms)
    table["bound"], table["eta"] = bounds.hvp.numpy(), bounds.slack.numpy()
    table["lower"], table["upper"] = bounds.relative_lower.numpy(), bounds.relative_upper.numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        table["R"], table["relative"] = (table.q / table.f_AP).abs(), table.E / table.f_AP.abs()
    table["holds"] = table.R3 <= table.bound
    table["size"] = np.maximum(table.bound, table.R3) / table.floor
    table["counts"] = table["size"] > 1
    largest = table.f.abs().groupby([table.model, table.task, table.prompt]).transform("max")
    table["matters"] = table.f.abs() >= 0.01 * largest
    return table.drop(columns=list(STEPS.values()))


def share(table: pd.DataFrame, part: pd.Series, whole: pd.Series) -> Interval:
    """Records with both, in percent of those of the whole, with an interval over prompts."""
    counts = (
        pd.DataFrame({"part": part & whole, "whole": whole})
        .groupby([table.task, table.prompt], sort=False)
        .sum()
    )
    return bootstrap_share(counts.part.to_numpy(), counts.whole.to_numpy())


def settings(table: pd.DataFrame, pooled: bool = True) -> list[tuple[str, str, pd.DataFrame]]:
    """The table of each model and task; and of all tasks together, as task "all"."""
    found = []
    for model, part in table.groupby("model", sort=False):
        found += [(model, task, rows) for task, rows in part.groupby("task", sort=False)]
        found += [(model, "all", part)] * pooled
    return found


def held(table: pd.DataFrame) -> pd.DataFrame:
    """How often the remainder stays under its bound.

    Returns:
        Columns model, task, those of ``KINDS`` and "that matter"; an ``Interval`` in percent each.
    """
    rows = []
    for model, task, part in settings(table):
        chosen = {kind: part["size"] > least for kind, least in KINDS.items()}
        chosen["that matter"] = part.matters
        shares = {kind: share(part, part.holds, kept) for kind, kept in chosen.items()}
        rows.append({"model": model, "task": task} | shares)
    return pd.DataFrame(rows)


def counted_failures(table: pd.DataFrame) -> pd.DataFrame:
    """Columns model, failures (of all records), failures that count, and records that count."""
    rows = [
        (model, (~part.holds).sum(), (~part.holds & part.counts).sum(), part.counts.sum())
        for model, part in table.groupby("model", sort=False)
    ]
    return pd.DataFrame(rows, columns=["model", "failures", "failures that count", "that count"])


def distributions(table: pd.DataFrame) -> pd.DataFrame:
    """The columns of the paper's Tables 6 and 7 for the records that count, and "too large by".

    The last is the median of bound over remainder.
    """
    rows = []
    for model, task, part in settings(table, pooled=False):
        kept = part[part.counts]
        row = {"model": model, "task": task, "records": len(part), "that count": len(kept)}
        row |= {"L_H median": kept.L_H.median(), "L_H mean": kept.L_H.mean()}
        row |= {"L_H 90 %": kept.L_H.quantile(0.9), "L_H largest": kept.L_H.max()}
        for name, column in {"bound": "bound", "remainder": "R3"}.items():
            row |= {f"{name} median": kept[column].median(), f"{name} mean": kept[column].mean()}
        rows.append(row | {"too large by": (kept.bound / kept.R3).median()})
    return pd.DataFrame(rows)


def looseness(table: pd.DataFrame) -> pd.Series:
    """Median of bound over remainder by model, of the records that count."""
    kept = table[table.counts]
    return (kept.bound / kept.R3).groupby(kept.model, sort=False).median()


def steps(table: pd.DataFrame) -> pd.DataFrame:
    """The bound on MS-HVP with K steps, L_H |delta|^3 / (6 K^2), all tasks together.

    Returns:
        Columns model, K, records (with residual or bound above the threshold), held and "held, matter" (an
        ``Interval`` in percent each), "too large by" (the median), worst (the largest residual
        over its bound, of heads that matter), above (the largest residual above its bound, in
        thresholds) and "more than rounding": residuals above their bound and 10 thresholds.
    """
    rows = []
    for model, part in table.groupby("model", sort=False):
        for k in STEPS:
            residual, bound = part[f"left_{k}"], part.bound / k**2
            counts = np.maximum(residual, bound) > part.floor
            matter, above = counts & part.matters, counts & (residual > bound)
            ratio, in_thresholds = residual / bound, residual / part.floor
            rows.append(
                {
                    "model": model,
                    "K": k,
                    "records": int(counts.sum()),
                    "held": share(part, residual <= bound, counts),
                    "held, matter": share(part, residual <= bound, matter),
                    "too large by": 1 / ratio[counts].median(),
                    "worst": ratio[matter].max(),
                    "above": in_thresholds[above].max() if above.any() else float("nan"),
                    "more than rounding": int((above & (residual > 10 * part.floor)).sum()),
                }
            )
    return pd.DataFrame(rows)
