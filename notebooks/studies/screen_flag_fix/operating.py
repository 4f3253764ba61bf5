"""Operating curves: the error that is left against the number of heads that are fixed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from numpy import ndarray

from hvp_utils.stats import Interval, bootstrap_ci

from ..common import places
from .effects import FIXES, MEASURES, ORACLE, RULES, TAUS, Effects, by_model, pooled, top_5


def numbers(n: int) -> Int[ndarray, " m"]:
    """How many heads are fixed at the points of a curve of n heads: 0, and 1 to n by ratio."""
    return np.unique([0, *np.geomspace(1, n, 40).round().astype(int)])


def operating(
    found: Sequence[Effects],
    rules: Sequence[str] = ("R", "|f_AP|", "|q|", ORACLE),
    fixes: Sequence[str] = tuple(FIXES),
    measure: str = "top-5 error",
) -> pd.DataFrame:
    """The error left in each prompt, with more and more heads fixed.

    The oracle knows what the measure is about: relative errors for ``"off by > 10 %"``.

    Returns:
        Columns model, task, prompt, rule, fix, fixed (a number of heads), share (in percent of all
        heads) and left (the measure).
    """
    parts = []
    for one in found:
        for rule in rules:
            score = RULES[rule](one)
            if rule == ORACLE and measure == "off by > 10 %":
                score = one.error / np.abs(one.f_ap)
            place = places(score)
            for fix in fixes:
                for k in numbers(one.n):
                    left = MEASURES[measure](one, place <= k, fix)
                    part = {"model": one.model, "task": one.task, "prompt": np.arange(len(left))}
                    part |= {"rule": rule, "fix": fix, "fixed": k, "share": 100 * k / one.n}
                    parts.append(pd.DataFrame(part | {"left": left}))
    return pd.concat(parts, ignore_index=True)


def errors_of(
    curves: pd.DataFrame, model: str, rule: str, fix: str = "exact"
) -> tuple[ndarray, ndarray, Float[ndarray, "m prompt"]]:
    """One curve: numbers of heads fixed, shares in percent, and the errors of all prompts."""
    part = curves[(curves.model == model) & (curves.rule == rule) & (curves.fix == fix)]
    wide = part.pivot(index="fixed", columns=["task", "prompt"], values="left")
    wide = wide[list(dict.fromkeys(zip(part.task, part.prompt, strict=True)))]
    shares = part.groupby("fixed").share.first()
    return wide.index.to_numpy(), shares.to_numpy(), wide.to_numpy()


def at_thresholds(found: Sequence[Effects], fix: str, taus: Sequence[float] = TAUS) -> pd.DataFrame:
    """Where fixed thresholds of R fall on the curve: means over prompts of share and error."""
    rows = [
        (
            model,
            tau,
            pooled(ones, lambda one, t=tau: 100 * (one.R > t).mean(1)).mean(),
            pooled(ones, lambda one, t=tau: top_5(one, one.R > t, fix)).mean(),
        )
        for model, ones in by_model(found).items()
        for tau in taus
    ]
    return pd.DataFrame(rows, columns=["model", "tau", "share", "left"])


def what_fixes_leave(found: Sequence[Effects], curves: pd.DataFrame) -> pd.DataFrame:
    """Top-5 error with nothing fixed and with every head fixed, over the prompts of all tasks.

    Returns:
        One row a model and fix: model, fix, none, all (both ``Interval``), left (in percent of
        none), best (the mean error of the best number of heads that an oracle fixes).
    """
    rows = []
    for model, ones in by_model(found).items():
        none = bootstrap_ci(pooled(ones, lambda one: top_5(one, False, "exact")))
        for fix in FIXES:
            all_fixed = bootstrap_ci(pooled(ones, lambda one, fix=fix: top_5(one, True, fix)))
            best = errors_of(curves, model, ORACLE, fix)[2].mean(1).min()
            left = 100 * all_fixed.estimate / none.estimate
            rows.append((model, fix, none, all_fixed, left, best))
    return pd.DataFrame(rows, columns=["model", "fix", "none", "all", "left", "best"])


# --- how many heads a rule needs -----------------------------------------------------------------

AIMS = {
    "top-5 error ≤ 1 %": ("top-5 error", 1),
    "summed error ≤ 10 % of AP's": ("summed error", 10),
}


def needed(fixed: ndarray, errors: Float[ndarray, "m prompt"], target: float) -> int:
    """Smallest number of heads, of those on a curve, with a mean error of at most the target.

    Raises:
        ValueError: No number of them reaches it.
    """
    reached = errors.mean(1) <= target
    if not reached.any():
        raise ValueError(f"No number of heads brings the mean error down to {target}.")
    return int(fixed[np.argmax(reached)])


def shares_needed(curves: pd.DataFrame, target: float, fix: str = "exact") -> pd.DataFrame:
    """Percent of the heads that each rule must fix for a mean error of at most the target.

    Returns:
        A row a rule, a column a model.
    """
    table = {}
    for model in curves.model.unique():
        for rule in curves.rule.unique():
            fixed, shares, errors = errors_of(curves, model, rule, fix)
            at = needed(fixed, errors, target)
            table.setdefault(model, {})[rule] = shares[fixed == at][0]
    return pd.DataFrame(table)


def saved(fixed: ndarray, errors: ndarray, others: ndarray, target: float) -> Interval:
    """Which share of all heads a rule needs less than another one, with its interval."""
    n = fixed[-1]

    def of(drawn):
        drawn = drawn.astype(int)
        mine, other = errors[:, drawn], others[:, drawn]
        return needed(fixed, other, target) / n - needed(fixed, mine, target) / n

    return bootstrap_ci(np.arange(errors.shape[1]), of)


def allowance(curves: pd.DataFrame, summed_curves: pd.DataFrame) -> pd.DataFrame:
    """How many heads each rule must patch exactly, and what a screen by it may cost.

    A screen pays against patching everything if it costs less than the share of the heads that
    then need no patch; and against the free rule by size if it costs less than the patches it saves.

    Args:
        curves: ``operating`` of the top-5 error.
        summed_curves: ``operating`` of the summed error.

    Returns:
        One row a model, aim and rule: model, aim, rule, needed (percent of all heads), against_all
        (what a screen may cost if the rest is patched, in runs a head), saves (what it may cost
        against |f_AP|, in runs a head, an ``Interval``; below 0 it would lose if it were free).
    """
    rows = []
    for aim, (measure, target) in AIMS.items():
        source = {"top-5 error": curves, "summed error": summed_curves}[measure]
        source = source[source.fix == "exact"]
        rules = [rule for rule in source.rule.unique() if rule != ORACLE]
        for model in source.model.unique():
            fixed, _, by_size = errors_of(source, model, "|f_AP|")
            n = fixed[-1]
            for rule in rules:
                errors = errors_of(source, model, rule)[2]
                share = needed(fixed, errors, target) / n
                gain = saved(fixed, errors, by_size, target)
                rows.append((model, aim, rule, 100 * share, 1 - share, gain))
    columns = ["model", "aim", "rule", "needed", "against_all", "saves"]
    return pd.DataFrame(rows, columns=columns)
