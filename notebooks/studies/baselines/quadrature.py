"""Integrals of the slope along one head's axis: which rule leaves how much, and what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from hvp_utils import PatchedMetric
from hvp_utils.estimators.integrals import quadrature
from hvp_utils.stats import Interval, bootstrap_ci, holm

from ..common import settings_of
from .errors import compared
from .methods import AP, TASKS, label

__all__ = [
    "IH",
    "PREDICTED",
    "REFERENCE",
    "RULES",
    "axis",
    "corrections",
    "grid_weight",
    "is_the_middle",
    "median_against_ten",
    "median_ratio",
    "ratios",
    "rest",
    "rules_on_axis",
    "shares",
    "steps_against_points",
]

#: What the others are compared with.
REFERENCE = "ms_hvp:10"
RULES = ("left", "right", "trapezoid", "midpoint", "gausslegendre")
#: Error of a rule over that of MS-HVP with ten steps, from the leading terms.
PREDICTED = {
    "ms_hvp:5": 4.0,
    "integrated_gradients:5:midpoint": 1.0,
    "integrated_gradients:10:midpoint": 1 / 4,
    "integrated_gradients:10:trapezoid": -(10**2) / 2 / 9**2,
}
#: The parts of Integrated Hessians that are looked at, by a short name.
IH = {
    "path": "integrated_hessians:5",
    "coarse": "integrated_hessians:3:grid:pairwise:right",
    "grid": "integrated_hessians:5:grid:pairwise:right",
    "complete": "integrated_hessians:5:grid:complete:gausslegendre",
}

_KEY = ["model", "task", "prompt", "component"]


# --- one head ------------------------------------------------------------------------------------


def axis(M: PatchedMetric, component: str, n_points: int = 31) -> pd.DataFrame:
    """Slope and curvature of the metric along one component's axis, columns t, slope, curvature."""
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    c = torch.full((n_points,), M.labels.index(component))
    found = M.along_axes(t, 2, c)
    return pd.DataFrame(
        {"t": t, "slope": found.slope.cpu(), "curvature": found.curvature.cpu()}, dtype=float
    )


def rules_on_axis(M: PatchedMetric, component: str, n: int = 5) -> pd.DataFrame:
    """What each rule makes of one component's effect, and how far off it is.

    Returns:
        Columns rule, slopes, curvatures, leading error (Δ₁ and Δ₂: how slope and curvature change
        from 0 to 1), estimate, error (true effect less estimate).
    """
    c = torch.tensor([M.labels.index(component)])
    effect = M.along_axes(1.0, 0, c).value.item() - M.base

    def at(t: float, order: int = 1):
        return M.along_axes(float(t), order, c)

    def mean_slope(method: str, points: int) -> float:
        return sum(
            w.item() * at(t).slope.item() for t, w in zip(*quadrature(points, method), strict=True)
        )

    def steps(k: int) -> float:
        found = [at(i / k, 2) for i in range(k)]
        return sum(g.slope.item() / k + g.curvature.item() / (2 * k**2) for g in found)

    rows = [
        ("AP", 1, 0, "Δ₁/2", at(0).slope.item()),
        ("HVP", 1, 1, "Δ₂/6", steps(1)),
        ("slopes at both ends", 2, 0, "−Δ₂/12", mean_slope("trapezoid", 2)),
        (f"left, {n} points", n, 0, "Δ₁/(2n)", mean_slope("left", n)),
        (f"MS-HVP, K = {n}", n, n, "Δ₂/(6K²)", steps(n)),
        (f"midpoint, {n} points", n, 0, "Δ₂/(24n²)", mean_slope("midpoint", n)),
        (f"Gauss–Legendre, {n} points", n, 0, "smaller still", mean_slope("gausslegendre", n)),
    ]
    columns = ["rule", "slopes", "curvatures", "leading error", "estimate"]
    table = pd.DataFrame(rows, columns=columns)
    return table.assign(error=effect - table.estimate)


# --- many heads ----------------------------------------------------------------------------------


def rest(estimates: pd.DataFrame) -> pd.DataFrame:
    """True effect less estimate in percent of the prompt's range: a column a method, a row a head."""
    left = 100 * (estimates.truth - estimates.estimate) / estimates["range"]
    wide = estimates[[*_KEY, "method"]].assign(rest=left)
    wide = wide.pivot(index=_KEY, columns="method", values="rest")
    order = estimates[_KEY].drop_duplicates()  # pivot would sort models and tasks
    return wide.loc[pd.MultiIndex.from_frame(order)].reset_index()


def median_ratio(top: np.ndarray, bottom: np.ndarray, group: np.ndarray) -> Interval:
    """Median over heads of top / bottom, with an interval from whole groups (prompts) resampled."""
    ratio = np.asarray(top, dtype=float) / np.asarray(bottom, dtype=float)
    codes = pd.factorize(np.asarray(group))[0]
    by_group = [ratio[codes == code] for code in range(codes.max() + 1)]

    def median(drawn: np.ndarray) -> float:
        return float(np.median(np.concatenate([by_group[int(i)] for i in drawn])))

    return bootstrap_ci(np.arange(len(by_group)), median)


def _prompts(part: pd.DataFrame) -> np.ndarray:
    return (part.task + " " + part.prompt.astype(str)).to_numpy()


def ratios(left: pd.DataFrame) -> pd.DataFrame:
    """The error of each rule over that of MS-HVP with ten steps, beside the prediction.

    Args:
        left: What ``rest`` returns.

    Returns:
        Columns method, rule, predicted, model, ratio. The one-sided sum is compared with half the
        difference of the two one-sided sums, which is what the theory predicts for it.
    """
    rows = []
    for model, part in left.groupby("model", sort=False):
        for method, expected in PREDICTED.items():
            found = median_ratio(part[method], part[REFERENCE], _prompts(part))
            rows.append((method, label(method), expected, model, found))
        one, other = (part[f"integrated_gradients:10:{side}"] for side in ("left", "right"))
        found = median_ratio(one, (one - other) / 2, _prompts(part))
        rows.append(("left", "IG, left, 10 points, against Δ₁/20", 1.0, model, found))
    return pd.DataFrame(rows, columns=["method", "rule", "predicted", "model", "ratio"])


def corrections(left: pd.DataFrame) -> pd.DataFrame:
    """What Integrated Hessians add to attribution patching, and what was needed, a row a head.

    Returns:
        Columns model, task, prompt, component, needed, and one for each of ``IH``.
    """
    added = {name: left[AP] - left[method] for name, method in IH.items()}
    return left[_KEY].assign(needed=left[AP], **added)


def shares(corrected: pd.DataFrame) -> pd.DataFrame:
    """The median share of the needed correction: columns part, method, model, share."""
    rows = [
        (name, label(IH[name]), model, median_ratio(part[name], part.needed, _prompts(part)))
        for name in ("path", "coarse", "complete")
        for model, part in corrected.groupby("model", sort=False)
    ]
    return pd.DataFrame(rows, columns=["part", "method", "model", "share"])


def grid_weight(k: int) -> float:
    """What the weights ab of a k by k grid add up to, by the right-hand rule: 1/4 if exact."""
    return float(np.mean(np.arange(1, k + 1) / k) ** 2)


# --- tests ---------------------------------------------------------------------------------------


def steps_against_points(table: pd.DataFrame, n_resamples: int = 1000) -> pd.DataFrame:
    """MS-HVP with 5 steps less integrated gradients with 10 points, under every rule.

    Returns:
        Columns model, task, rule, difference (below 0, MS-HVP is better), p, holm and sign.
    """
    parts = []
    for rule in RULES:
        tests = compared(
            table,
            against=f"integrated_gradients:10:{rule}",
            methods=["ms_hvp:5"],
            n_resamples=n_resamples,
        )
        parts.append(tests.assign(rule=rule))
    found = pd.concat(parts, ignore_index=True).drop(columns="method")
    return found.assign(holm=holm(found.p.to_numpy()))


def median_against_ten(table: pd.DataFrame) -> pd.DataFrame:
    """The median of K = 5, 10, 20 against K = 10: what ``compared`` returns, with both errors."""
    tests = compared(table, against="ms_hvp:10", methods=["ms_hvp_median"])
    mean = table.groupby(["model", "task", "method"], sort=False).error.mean()
    both = {
        m: [mean[(r.model, r.task, m)] for r in tests.itertuples()]
        for m in ("ms_hvp_median", "ms_hvp:10")
    }
    return tests.assign(median=both["ms_hvp_median"], ten=both["ms_hvp:10"])


def is_the_middle(left: pd.DataFrame) -> dict[str, float]:
    """How often the median of three K is the estimate of the middle one, by model."""
    same = (left["ms_hvp_median"] - left["ms_hvp:10"]).abs() < 0.01 * (
        left["ms_hvp:5"] - left["ms_hvp:10"]
    ).abs()
    return same.groupby(left.model, sort=False).mean().to_dict()


def wide_by_setting(tests: pd.DataFrame, rows: str, models: Sequence[str]) -> pd.DataFrame:
    """Differences of many tests: a row for each model and task, a column for each of ``rows``."""
    kept = tests[tests.model.isin(models)]
    wide = kept.pivot(index=["model", "task"], columns=rows, values="difference")
    order = settings_of(kept)
    wide = wide.loc[order, list(dict.fromkeys(kept[rows]))].reset_index()
    return wide.replace({"task": TASKS})
