"""Which corruption is hardest, and is it the length of the patch?"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy import ndarray

from hvp_utils.stats import Interval, bootstrap_ci, bootstrap_share

from .. import common
from .errors import ESTIMATORS, NAMES, SAME_PROMPTS, K, Sweeps, direction_of


def against_the_usual(errors: pd.DataFrame, measure: str = "top 5") -> pd.DataFrame:
    """The error under one corruption less that under the usual one, on the same clean prompts.

    Args:
        errors: What ``measure`` returns.
        measure: Which measure of error.

    Returns:
        Columns model, task, usual (the task it is compared with), method ("AP" or "HVP"),
        difference (an ``Interval``) and p, of a paired bootstrap with 1,000 resamples.
    """
    chosen, parts = errors[errors.measure == measure], []
    for usual, *others in SAME_PROMPTS.values():
        part = chosen[chosen.task.isin([usual, *others])]
        if part.task.nunique() > 1 and usual in set(part.task):
            part = part.rename(columns={"method": "estimator", "task": "method"})
            tests = common.paired(part, ["model", "estimator"], "error", usual, n_resamples=1000)
            parts.append(tests.rename(columns={"method": "task"}).assign(usual=usual))
    found = pd.concat(parts, ignore_index=True).rename(columns={"estimator": "method"})
    return found[["model", "task", "usual", "method", "difference", "p"]]


def side_by_side(found: pd.DataFrame) -> pd.DataFrame:
    """What ``against_the_usual`` returns, a row for each corruption, both methods beside it."""
    found = found.assign(
        corruption=[NAMES.get(task, task) for task in found.task],
        usual=[NAMES.get(task, task).split(": ")[-1] for task in found.usual],
    )
    found["corruption"] += " less " + found.usual
    parts = [
        part.set_index(["model", "corruption"])[["difference", "p"]].set_axis(
            [f"{method}, points", f"p, {method}"], axis=1
        )
        for method, part in found.groupby("method", sort=False)
    ]
    wide = pd.concat(parts, axis=1).reset_index()
    return wide.sort_values(
        "model", key=lambda m: m.map(list(found.model.unique()).index), kind="stable"
    )


def _of_largest(data) -> tuple[ndarray, list[ndarray]]:
    """Places of the largest true effects of every prompt; truth, AP, HVP and |delta| there."""
    truth = data[ESTIMATORS[0]].values.astype(float)
    top = np.argsort(-np.abs(truth), axis=1)[:, :K]
    names = (*ESTIMATORS, "delta_norm")
    return top, [np.take_along_axis(data[n].values.astype(float), top, 1) for n in names]


def warnings(sweeps: Sweeps) -> pd.DataFrame:
    """Signs that a series is in trouble, for the five largest heads of each prompt.

    Returns:
        Columns model, task, length (|delta| / |a|: the mean over prompts of their medians; NaN
        where no zero ablation of the same prompts says what |a| is), and three shares of heads in
        percent: ``R > 1``, ``R3 > q`` (the remainder exceeds the quadratic term) and ``HVP worse``
        (than attribution patching). All are ``Interval``.
    """
    rows = []
    for (model, task), data in sweeps.items():
        top, (f, f_ap, f_hvp, moved) = _of_largest(data)
        q, remainder = np.abs(f_hvp - f_ap), np.abs(f - f_hvp)
        signs = {
            "R > 1": q > np.abs(f_ap),
            "R3 > q": remainder > q,
            "HVP worse": remainder > np.abs(f - f_ap),
        }
        whole = np.full(len(top), top.shape[1])
        shares = {name: bootstrap_share(sign.sum(1), whole) for name, sign in signs.items()}
        length = _length(sweeps, model, task, top, moved)
        rows.append({"model": model, "task": task, "length": length, **shares})
    return pd.DataFrame(rows)


def _length(sweeps: Sweeps, model: str, task: str, top: ndarray, moved: ndarray) -> Interval:
    """|delta| / |a| of some heads: zero ablation of the same prompts moves them by |a|."""
    for tasks in SAME_PROMPTS.values():
        zero = next(name for name in tasks if direction_of(name) == "noising")
        if task in tasks and (model, zero) in sweeps:
            whole = np.take_along_axis(sweeps[model, zero].delta_norm.values, top, 1)
            return bootstrap_ci(np.median(moved / whole, axis=1))
    return np.nan


def lengths(sweeps: Sweeps, tasks: tuple[str, ...] = ("factual", "factual_swap")) -> pd.DataFrame:
    """The mean |delta| over all heads under some corruptions; columns model, task, length."""
    rows = [
        (model, task, bootstrap_ci(data.delta_norm.values.mean(1)))
        for (model, task), data in sweeps.items()
        if task in tasks
    ]
    return pd.DataFrame(rows, columns=["model", "task", "length"])
