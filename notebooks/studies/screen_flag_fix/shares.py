"""The same share of the heads fixed by every rule: what is left, and how sure the difference is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hvp_utils.stats import bootstrap_ci

from .. import common
from .effects import FIXES, TASKS, Effects, by_model, flagged_by, pooled, still_off, summed, top_5

PAPER_SHARE = 0.15  # of the heads; the paper flags 7.0 to 19.0 % (section 4.4)
N_RESAMPLES = 1000


def at_share(
    found: Sequence[Effects], share: float = PAPER_SHARE, fixes: Sequence[str] = ("hvp", "exact")
) -> pd.DataFrame:
    """What each rule leaves with the same share of the heads fixed.

    At random the expected error lies on the line from nothing fixed to everything fixed.

    Returns:
        Columns fix, model, task, prompt, method (a rule, ``"random"``, ``"none"`` or ``"all"``),
        top_5, summed.
    """
    parts = []
    for fix in fixes:
        for one in found:
            k = round(share * one.n)
            flags = {"none": False, "all": True}
            flags |= {rule: flagged_by(one, rule, k) for rule in ("R", "|f_AP|", "|q|")}
            left = {m: (top_5(one, by, fix), summed(one, by, fix)) for m, by in flags.items()}
            left["random"] = tuple(
                a + (b - a) * k / one.n for a, b in zip(left["none"], left["all"], strict=True)
            )
            for method, (top, whole) in left.items():
                part = {"fix": fix, "model": one.model, "task": one.task, "method": method}
                part |= {"prompt": np.arange(len(top)), "top_5": top, "summed": whole}
                parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True)


def share_table(shared: pd.DataFrame, fix: str) -> pd.DataFrame:
    """Mean top-5 errors of ``at_share`` for one fix, one row a model and task."""
    part = shared[shared.fix == fix].replace({"task": TASKS})
    wide = part.pivot_table(index=["model", "task"], columns="method", values="top_5", sort=False)
    columns = ["none", "all", "R", "random", "|f_AP|", "|q|"]
    return wide[columns].reset_index().rename_axis(columns=None)


def share_tests(shared: pd.DataFrame) -> pd.DataFrame:
    """R against other rules with as many heads fixed, and every head against none.

    Returns:
        Columns test, fix, model, task, difference (an ``Interval``), p, and holm (adjusted within
        one test: all fixes, models and tasks).
    """
    by = ["fix", "model", "task"]
    tests = {
        "R less random": ("R", "random", "top_5"),
        "R less |f_AP|": ("R", "|f_AP|", "top_5"),
        "R less random, summed error": ("R", "random", "summed"),
        "all less none": ("all", "none", "top_5"),
    }
    parts = [
        common.paired(shared, by, value, other, [method], N_RESAMPLES).assign(test=name)
        for name, (method, other, value) in tests.items()
    ]
    return pd.concat(parts, ignore_index=True)[["test", *by, "difference", "p", "holm"]]


def significant(tests: pd.DataFrame, test: str, fix: str, sign: int, p: str = "p") -> int:
    """How many settings of a test have a significant difference of one sign."""
    part = tests[(tests.test == test) & (tests.fix == fix)]
    signs = np.array([sign * one.estimate > 0 for one in part.difference])
    return int((signs & (part[p] < 0.05)).sum())


def gains_kept(shared: pd.DataFrame, tests: pd.DataFrame, fix: str = "hvp") -> dict:
    """What part of the gain of fixing every head is kept by fixing those that R flags, in percent.

    Only where that gain is significant (its whole interval above 0), by model and task.
    """
    means = shared[shared.fix == fix].groupby(["model", "task", "method"], sort=False).top_5.mean()
    part = tests[(tests.test == "all less none") & (tests.fix == fix)]
    found = {}
    for row in part.itertuples():
        none, kept, full = (means[row.model, row.task, m] for m in ("none", "R", "all"))
        if row.difference.high < 0:
            found[row.model, row.task] = 100 * (none - kept) / (none - full)
    return found


def summed_table(found: Sequence[Effects], share: float = PAPER_SHARE) -> pd.DataFrame:
    """Summed error left by each fix, in percent of attribution patching's, with intervals."""
    rows = []
    for model, ones in by_model(found).items():
        k = round(share * ones[0].n)
        flags = {
            f"{share:.0%}, by {rule}": lambda one, rule=rule, k=k: flagged_by(one, rule, k)
            for rule in ("R", "|f_AP|", "|q|")
        } | {"all": lambda _: True}
        for label, by in flags.items():
            cells = {
                title: bootstrap_ci(
                    pooled(ones, lambda one, by=by, fix=fix: summed(one, by(one), fix))
                )
                for fix, title in FIXES.items()
            }
            rows.append({"model": model, "heads fixed": label} | cells)
    return pd.DataFrame(rows)


def median_cuts(found: Sequence[Effects], share: float = PAPER_SHARE) -> dict:
    """By how many percent HVP of the heads with the highest R cuts the median prompt's summed error.

    The share is of all heads of all prompts of a model and task, as with one fixed threshold.
    """
    cuts = {}
    for one in found:
        at = np.quantile(one.R, 1 - share)
        cuts[one.model, one.task] = float(np.median(100 - summed(one, one.R > at, "hvp")))
    return cuts


def percentages(found: Sequence[Effects], share: float) -> pd.DataFrame:
    """Percent of all heads left off by more than 10 %, with a share patched exactly, by rule.

    Returns:
        Columns model, rule (``"none"`` too), left (an ``Interval``).
    """
    rows = []
    for model, ones in by_model(found).items():
        rules = {"none": lambda _: False}
        rules |= {
            rule: lambda one, rule=rule: flagged_by(one, rule, round(share * one.n))
            for rule in ("R", "|f_AP|")
        }
        for rule, by in rules.items():
            left = pooled(ones, lambda one, by=by: still_off(one, by(one)))
            rows.append((model, rule, bootstrap_ci(left)))
    return pd.DataFrame(rows, columns=["model", "rule", "left"])
