"""The book's recommendation beside its runner-up, on fresh prompts (chapter 10).

Both patch exactly the heads that come first: 10 by |f_AP| + r, which takes three gradients, or 25
by |f_AP| alone, which takes one. They cost about the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hvp_utils import Interval, bootstrap_ci, model_sizes, paired_bootstrap

from .effects import ROWS, Effects, flagged_by, load, top_5
from .price import percent, screen_passes

N_KNOWN, N_FRESH = 20, 30  # prompts of each task that rules were made on, and others
FRESH_TASKS = {
    "ioi": "IOI",
    "greater_than_01": "Greater-Than",
    "factual": "Factual",
    "factual_swap": "Factual swap",  # new as a whole
}
#: How many heads each patches exactly, for the five largest effects.
PATCHES = {ROWS: 10, "|f_AP|": 25}
N_RESAMPLES = 1000


def load_fresh(models: Sequence[str], **options) -> list[Effects]:
    """Effects on prompts on which no number of any rule was fixed."""
    found = load(models, N_KNOWN + N_FRESH, ["row_norms:2"], tasks=tuple(FRESH_TASKS), **options)
    fresh = []
    for one in found:
        first = 0 if one.task == "factual_swap" else N_KNOWN
        arrays = {
            name: value[first:] for name, value in one._asdict().items() if np.ndim(value) == 2
        }
        fresh.append(one._replace(**arrays))
    return fresh


def patched_errors(found: Sequence[Effects]) -> pd.DataFrame:
    """Top-5 error of each rule with its number of patches.

    Returns:
        Columns model, task, prompt (running over all), rule, left (in percent).
    """
    parts, start = [], 0
    for one in found:
        prompts = np.arange(start, start + len(one.f))
        start += len(prompts)
        for rule, k in PATCHES.items():
            left = top_5(one, flagged_by(one, rule, min(k, one.n)), "exact")
            part = {"model": one.model, "task": one.task, "prompt": prompts, "rule": rule}
            parts.append(pd.DataFrame(part | {"left": left}))
    return pd.concat(parts, ignore_index=True)


def patched_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Mean errors by model and task, with intervals; a column for each rule."""
    rows = []
    for (model, task), part in errors.groupby(["model", "task"], sort=False):
        row = {"model": model, "task": FRESH_TASKS[task], "prompts": part.prompt.nunique()}
        for rule, k in PATCHES.items():
            row[f"{k} by {rule}"] = bootstrap_ci(part[part.rule == rule].left)
        rows.append(row)
    return pd.DataFrame(rows)


def close_call(errors: pd.DataFrame) -> pd.Series:
    """The recommendation against its runner-up over all fresh prompts together.

    Returns:
        prompts, recommended and runner_up (mean errors in percent), difference (an ``Interval``),
        p and n_resamples.
    """
    wide = errors.pivot(index="prompt", columns="rule", values="left")
    test = paired_bootstrap(wide[ROWS], wide["|f_AP|"], n_resamples=N_RESAMPLES)
    return pd.Series(
        {
            "prompts": len(wide),
            "recommended": wide[ROWS].mean(),
            "runner_up": wide["|f_AP|"].mean(),
            "difference": Interval(test.difference, test.low, test.high),
            "p": test.p_value,
            "n_resamples": N_RESAMPLES,
        }
    )


def rule_prices(models: Sequence[str]) -> pd.DataFrame:
    """Price of each rule with its patches, in percent of patching every head.

    Returns:
        Columns model, rule, patches, percent.
    """
    rows = []
    for model in models:
        sizes = model_sizes(model)
        n = sizes.n_components("heads", 1)
        for rule, k in PATCHES.items():
            run = screen_passes(rule, n) | {"forward": min(k, n)}
            rows.append((model, rule, k, percent(sizes, run)))
    return pd.DataFrame(rows, columns=["model", "rule", "patches", "percent"])
