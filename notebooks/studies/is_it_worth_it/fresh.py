"""Rules put to the test on prompts on which no number was fixed, and on a task that is new."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hvp_utils.stats import Interval, bootstrap_ci, paired_bootstrap, top_k_relative_error

from ..common import places
from .counts import counted
from .rules import FIRST, FOUND_ON, PROBES, ROWS, RULES, TASKS, Scored, patched, scored

#: Twice the length of the list that is wanted.
N_PATCHED = 10
AP = "AP alone"
N_RESAMPLES = 1000


def fresh(
    models: Sequence[str],
    n_prompts: int,
    n_fresh: int,
    store: str = "results",
    device=None,
    products: Sequence[int] = (4,),
    probes: Sequence[int] = PROBES,
) -> list[Scored]:
    """Prompts after those that the rules were found on, and all prompts of the fourth task.

    ``products`` and ``probes`` are those of ``scored``.
    """
    return scored(
        models,
        n_prompts + n_fresh,
        tuple(TASKS),
        products=products,
        probes=probes,
        far=False,
        skip=dict.fromkeys(FOUND_ON, n_prompts),
        store=store,
        device=device,
    )


def put_to_test(runs: Sequence[Scored], patches: Mapping[str, int], k: int = 5) -> pd.DataFrame:
    """Errors of some rules, each with a fixed number of patches, and of no patch at all.

    Args:
        runs: What is known of each setting.
        patches: How many are patched, by rule.
        k: The error is that on so many largest effects.

    Returns:
        Columns model, task, method (a rule, or "AP alone"), patches, prompt, error.
    """
    rows = []
    for run in runs:
        estimates = {AP: (0, run["f_ap"])}
        for rule, m in patches.items():
            estimates[rule] = m, patched(run, RULES[rule].size(run), m)
        for method, (m, estimate) in estimates.items():
            errors = top_k_relative_error(estimate, run["f"], k)
            rows += [(run.model, run.task, method, m, i, error) for i, error in enumerate(errors)]
    return pd.DataFrame(rows, columns=["model", "task", "method", "patches", "prompt", "error"])


def in_settings(errors: pd.DataFrame, rule: str = ROWS, against: str = FIRST) -> pd.DataFrame:
    """Mean errors of each setting, with intervals, and the paired difference of two rules.

    Returns:
        Columns model, task, prompts, one for each method, difference (an ``Interval``), p.
    """
    rows = []
    for (model, task), part in errors.groupby(["model", "task"], sort=False):
        by_method = {m: group.error.to_numpy() for m, group in part.groupby("method", sort=False)}
        test = paired_bootstrap(by_method[rule], by_method[against], N_RESAMPLES)
        row = {"model": model, "task": TASKS.get(task, task), "prompts": len(by_method[rule])}
        row |= {method: bootstrap_ci(values) for method, values in by_method.items()}
        row |= {"difference": Interval(test.difference, test.low, test.high), "p": test.p_value}
        rows.append(row)
    return pd.DataFrame(rows)


def pooled(errors: pd.DataFrame, rule: str = ROWS) -> pd.DataFrame:
    """Mean errors over all prompts, and the paired difference of one rule from each other method.

    Returns:
        Columns method, patches, prompts, error, difference (``Interval``: the rule less the other)
        and p; no difference for the rule itself.
    """
    by_method = {m: part.error.to_numpy() for m, part in errors.groupby("method", sort=False)}
    patches = errors.drop_duplicates("method").set_index("method").patches
    rows = []
    for method, values in by_method.items():
        row = {"method": method, "patches": int(patches[method]), "prompts": len(values)}
        row |= {"error": bootstrap_ci(values), "difference": "", "p": np.nan}
        if method != rule:
            test = paired_bootstrap(by_method[rule], values, N_RESAMPLES)
            row |= {"difference": Interval(test.difference, test.low, test.high), "p": test.p_value}
        rows.append(row)
    return pd.DataFrame(rows)


def second_terms(runs: Sequence[Scored], m: int = N_PATCHED, k: int = 5) -> pd.DataFrame:
    """Does a better second term choose better? Mean errors with m patches.

    Returns:
        Columns model, task, one for each number of differences, and "exact q".
    """
    rows = []
    for run in runs:
        terms = {f"{n} differences": run[f"r:{n}"] for n in PROBES}
        terms["exact q"] = np.abs(run["q"])
        row = {"model": run.model, "task": TASKS.get(run.task, run.task)}
        for name, second in terms.items():
            estimate = patched(run, np.abs(run["f_ap"]) + second, m)
            row[name] = top_k_relative_error(estimate, run["f"], k).mean()
        rows.append(row)
    return pd.DataFrame(rows)


def missed(runs: Sequence[Scored], rule: str = ROWS, m: int = N_PATCHED, k: int = 5) -> dict:
    """How many of the largest heads a rule leaves unpatched.

    Returns:
        heads: all among the k largest of their prompt; missed: those not patched; prompts; hit:
        prompts on which some are missed; worst: the largest error left on one of them, in percent
        of the range of its prompt.
    """
    found = {"heads": 0, "missed": 0, "prompts": 0, "hit": 0, "worst": 0.0}
    for run in runs:
        top = np.argsort(-np.abs(run["f"]), axis=1)[:, :k]
        beyond = np.take_along_axis(places(RULES[rule].size(run)), top, 1) > m
        left = np.abs(run["f"] - run["f_ap"]) / np.ptp(run["f"], axis=1, keepdims=True)
        found["heads"] += top.size
        found["missed"] += int(beyond.sum())
        found["prompts"] += len(top)
        found["hit"] += int(beyond.any(1).sum())
        worst = 100 * (np.take_along_axis(left, top, 1) * beyond).max()
        found["worst"] = max(found["worst"], float(worst))
    return found


def equal_price(
    runs: Sequence[Scored], rule: str = ROWS, m: int = N_PATCHED, against: str = FIRST
) -> pd.DataFrame:
    """A rule beside another that may patch until it has cost at least as many runs.

    Returns:
        Columns as those of ``put_to_test``; patches of the other rule differ by model.
    """
    parts = []
    for run in runs:
        screens = [RULES[name] for name in (rule, against)]
        runs_of = [s.times * counted(run.model, [s.runs]).runs.iloc[0] for s in screens]
        other = math.ceil(runs_of[0] + m - runs_of[1])
        parts.append(put_to_test([run], {against: other, rule: m}))
    return pd.concat(parts, ignore_index=True)
