"""The workflow on one pair of prompts, where every head can be seen."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from hvp_utils import PatchedMetric, activation_patching, reliability_score, screen_flag_fix
from hvp_utils.costs import Costs
from hvp_utils.reliability import Screened, flag
from hvp_utils.stats import top_k_relative_error

from .effects import FIXES, TAU

_NAMES = {"hvp": "hvp", "ms_hvp": "ms_hvp", "exact": "activation_patching"}


def heads_of(M: PatchedMetric, tau: float = TAU) -> pd.DataFrame:
    """Every head of a pair, with its true effect, its estimate and its score.

    Returns:
        Columns component, f, f_ap, q, remainder (all in nats, or the metric's unit), R, flagged,
        error (absolute, of attribution patching), place_f and place_ap (1 for the largest).
    """
    start = M.along_axes(0.0)
    q = start.curvature / 2
    R = reliability_score(start.slope, q)
    columns = {"f": activation_patching(M), "f_ap": start.slope, "q": q, "R": R}
    table = pd.DataFrame({name: values.double().cpu() for name, values in columns.items()})
    table.insert(0, "component", M.labels)
    table["remainder"] = table.f - table.f_ap - table.q
    table["flagged"] = flag(R, tau).cpu().numpy()
    table["error"] = (table.f - table.f_ap).abs()
    for short, name in (("f", "f"), ("ap", "f_ap")):
        table[f"place_{short}"] = table[name].abs().rank(ascending=False, method="min").astype(int)
    return table


def worst_trusted(heads: pd.DataFrame) -> pd.Series:
    """The trusted head with the largest error, with ``share``: its percent of all trusted error."""
    trusted = heads[~heads.flagged]
    worst = trusted.loc[trusted.error.idxmax()].copy()
    worst["share"] = 100 * worst.error / trusted.error.sum()
    return worst


def workflows(M: PatchedMetric, costs: Costs, tau: float = TAU) -> dict[str, Screened]:
    """The workflow with each fix, by name of the fix."""
    return {
        fix: screen_flag_fix(M, tau, fix=name, n_steps=5, costs=costs)
        for fix, name in _NAMES.items()
    }


def by_fix(heads: pd.DataFrame, screened: Mapping[str, Screened], costs: Costs) -> pd.DataFrame:
    """What each fix leaves and costs, beside attribution patching alone and every head.

    Args:
        heads: What ``heads_of`` returns.
        screened: What ``workflows`` returns.
        costs: Prices in runs.

    Returns:
        Columns what, fixed (heads), error (top-5, in percent), runs, percent (of patching all).
    """
    n, f, f_ap = len(heads), heads.f.to_numpy(), heads.f_ap.to_numpy()
    every_hvp = costs.price({"gradient": 1, "curvature": n})
    rows = [("attribution patching alone", 0, f_ap, costs.gradient)]
    for fix, one in screened.items():
        name = f"screen by R, fix with {FIXES[fix]}"
        rows.append((name, int(one.flagged.sum()), one.estimates.cpu().numpy(), one.cost))
    rows += [
        ("HVP of every head", n, f_ap + heads.q.to_numpy(), every_hvp),
        ("exact patching of every head", n, f, float(n)),
    ]
    return pd.DataFrame(
        [
            (what, fixed, top_k_relative_error(estimates, f), runs, 100 * runs / n)
            for what, fixed, estimates, runs in rows
        ],
        columns=["what", "fixed", "error", "runs", "percent"],
    )


def small_flags(heads: pd.DataFrame) -> pd.Series:
    """Where the flagged heads stand: their number, and how much of the error they carry.

    Returns:
        flagged (how many), median_flagged and median_trusted (medians of the true effect's size),
        outside (how many of the flagged are not among the 25 largest estimates), top_flagged (how
        many of the five largest true effects are flagged).
    """
    flagged = heads[heads.flagged]
    return pd.Series(
        {
            "flagged": len(flagged),
            "median_flagged": flagged.f.abs().median(),
            "median_trusted": heads[~heads.flagged].f.abs().median(),
            "outside": int((flagged.place_ap > 25).sum()),
            "top_flagged": int((flagged.place_f <= 5).sum()),
        }
    )
