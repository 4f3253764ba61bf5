"""How many prompts a reduction needs before it stands still."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from .errors import both, compare, reduction

#: Numbers of prompts at which it is looked at, and the one from which it should have settled.
SIZES = tuple(range(5, 51, 5))
SETTLED_FROM = 15
_BY = ["model", "task", "measure"]


def running(errors: pd.DataFrame, sizes: Sequence[int] = SIZES) -> pd.DataFrame:
    """The reduction after the first prompts, as more are added in the order of the store.

    Args:
        errors: What ``measure`` returns.
        sizes: How many prompts.

    Returns:
        Columns model, task, measure, n and reduction (an ``Interval``, 500 resamples).
    """
    rows = []
    for key, part in errors.groupby(_BY, sort=False):
        ap, hvp = both(part)
        rows += [(*key, n, reduction(ap[:n], hvp[:n], n_resamples=500)) for n in sizes]
    return pd.DataFrame(rows, columns=[*_BY, "n", "reduction"])


def settled(found: pd.DataFrame) -> pd.DataFrame:
    """How far the reduction is from its last value later on, of what ``running`` returns.

    Returns:
        Columns model, task, measure, a column for some numbers of prompts (the reduction, percent),
        ``off later``: the largest distance from the last value from 15 prompts on, in points, and
        width: of the last interval.
    """
    rows = []
    for key, part in found.groupby(_BY, sort=False):
        at = {n: r.estimate for n, r in zip(part.n, part.reduction, strict=True)}
        last, end = max(at), part.reduction.iloc[int(part.n.argmax())]
        row = dict(zip(_BY, key, strict=True))
        row |= {f"n = {n}": at[n] for n in (min(at), SETTLED_FROM, last) if n in at}
        row["off later"] = max(abs(v - at[last]) for n, v in at.items() if n >= SETTLED_FROM)
        rows.append(row | {"width": end.high - end.low})
    return pd.DataFrame(rows)


def needed(
    errors: pd.DataFrame, sizes: Sequence[int] = SIZES, within: float = 10.0, seed: int = 0
) -> pd.DataFrame:
    """Prompts for a reduction that is known to within some points either way, in 95 % of draws.

    Samples of n prompts are drawn from all of them; the width of what they give at the largest n is
    carried to the width wanted by the rule 1 / sqrt(n). The power with which the width really
    shrinks is fitted. It cannot show whether prompts are independent.

    Returns:
        Columns model, task, measure, prompts (at least 2) and power (the rule says -0.5).
    """
    rng, rows, sizes = np.random.default_rng(seed), [], np.asarray(sizes)
    for key, part in errors.groupby(_BY, sort=False):
        ap, hvp = both(part)
        spread = []
        for n in sizes:
            drawn = rng.integers(len(ap), size=(1000, n))
            cut = 100 * (1 - hvp[drawn].mean(1) / ap[drawn].mean(1))
            spread.append(np.ptp(np.quantile(cut, [0.025, 0.975])))
        power = np.polyfit(np.log(sizes), np.log(spread), 1)[0]
        prompts = int(max(2, np.ceil(sizes[-1] * (spread[-1] / (2 * within)) ** 2)))
        rows.append((*key, prompts, power))
    return pd.DataFrame(rows, columns=[*_BY, "prompts", "power"])


def first_and_all(errors: pd.DataFrame, n: int, measure: str = "top 5") -> pd.DataFrame:
    """The paired test of one measure on the first n prompts, and on all.

    Returns:
        Columns model, task, ``first n`` and all (AP less HVP, ``Interval``), and their p-values.
    """
    part = errors[errors.measure == measure]
    few, many = (compare(e, ("model", "task")) for e in (part[part.prompt < n], part))
    names = {"difference": f"first {n}", "p": f"p, first {n}"}
    few = few[["model", "task", "difference", "p"]].rename(columns=names)
    many = many[["model", "task", "difference", "p"]].rename(
        columns={"difference": "all", "p": "p, all"}
    )
    return few.merge(many, on=["model", "task"], validate="one_to_one")
