"""The book's recommendation beside its runner-up, on fresh prompts, as chapter 10 tests rules.

Both patch exactly the heads that come first: 10 by |f_AP| + r, which takes three gradients, or 25
by |f_AP| alone, which takes one. They cost about the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from .. import is_it_worth_it as worth
from .effects import ROWS

N_KNOWN, N_FRESH = 20, 30  # prompts of each task that rules were made on, and others
RUNNER_UP = worth.FIRST
#: How many heads each patches exactly, for the five largest effects.
PATCHES = {worth.ROWS: 10, RUNNER_UP: 25}
#: What chapter 9 calls them.
_NAMES = {worth.ROWS: ROWS, RUNNER_UP: RUNNER_UP}


def patched_errors(models: Sequence[str], **options) -> pd.DataFrame:
    """Errors of both on prompts on which no number of any rule was fixed; see ``put_to_test``."""
    wanted = {"products": (), "probes": (2,)}  # rows alone, of all that ``fresh`` can read
    return worth.put_to_test(worth.fresh(models, N_KNOWN, N_FRESH, **wanted, **options), PATCHES)


def patched_table(errors: pd.DataFrame) -> pd.DataFrame:
    """Mean errors by model and task, with intervals; a column for each rule."""
    table = worth.in_settings(errors, worth.ROWS, RUNNER_UP)
    names = {rule: f"{k} by {_NAMES[rule]}" for rule, k in PATCHES.items()}
    return table[["model", "task", "prompts", *names]].rename(columns=names)


def close_call(errors: pd.DataFrame) -> pd.Series:
    """The recommendation against its runner-up over all fresh prompts together.

    Returns:
        prompts, recommended and runner_up (mean errors in percent), difference (an ``Interval``),
        p and n_resamples.
    """
    whole = worth.pooled(errors, worth.ROWS).set_index("method")
    found = whole.loc[RUNNER_UP, ["prompts", "difference", "p"]].to_dict()
    found["recommended"] = whole.error[worth.ROWS].estimate
    found |= {"runner_up": whole.error[RUNNER_UP].estimate, "n_resamples": worth.N_RESAMPLES}
    return pd.Series(found)


def rule_prices(models: Sequence[str]) -> pd.DataFrame:
    """Price of each rule with its patches, in percent of patching every head.

    Returns:
        Columns model, rule, patches, percent.
    """
    rows = [
        (model, _NAMES[rule], k, worth.of_rule(model, rule, k))
        for model in models
        for rule, k in PATCHES.items()
    ]
    return pd.DataFrame(rows, columns=["model", "rule", "patches", "percent"])
