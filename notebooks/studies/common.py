"""What all studies need: stored sweeps of several models and tasks, tables and claims on a page.

A sweep is an ``xarray.Dataset`` [prompt, component]; ``tidy`` makes a DataFrame of some, with one
row for each model, task, prompt and component. Intervals are ``hvp_utils.Interval`` throughout,
also as cells of a DataFrame, and ``show`` formats them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown

from hvp_utils import Claim, Interval, bootstrap_ci, claims_table, sweep, write_claims

__all__ = ["BOOK_MODEL", "intervals", "load", "show", "show_claims", "tidy"]

#: Only what is run on it is published: with another model a page shows its claims and keeps them.
BOOK_MODEL = "smollm2-135m"

Sweeps = Mapping[tuple[str, str], xr.Dataset]


def load(
    models: Sequence[str],
    tasks: Sequence[str],
    estimators: Sequence[str],
    n_prompts: int,
    store: str = "results",
    **options,
) -> dict[tuple[str, str], xr.Dataset]:
    """One sweep for each model and task, by (model, task); what is not stored is computed.

    ``options`` are those of ``hvp_utils.sweep``.
    """
    return {
        (model, task): sweep(model, task, estimators, n_prompts=n_prompts, store=store, **options)
        for model in models
        for task in tasks
    }


def tidy(sweeps: Sweeps, variables: Sequence[str]) -> pd.DataFrame:
    """A row for each model, task, prompt and component; a column for each variable."""
    parts = []
    for (model, task), data in sweeps.items():
        n_prompts, n = data.sizes["prompt"], data.sizes["component"]
        part = {
            "model": model,
            "task": task,
            "prompt": np.repeat(np.arange(n_prompts), n),
            "component": np.tile(data.label.values.astype(str), n_prompts),
            "layer": np.tile(data.layer.values, n_prompts),
        }
        parts.append(pd.DataFrame(part | {name: data[name].values.ravel() for name in variables}))
    return pd.concat(parts, ignore_index=True)


def intervals(
    table: pd.DataFrame,
    by: Sequence[str],
    value: str,
    statistic: Callable[[np.ndarray], float] = np.mean,
    **options,
) -> pd.DataFrame:
    """A statistic of ``value`` for each group, with its bootstrap interval.

    The rows of a group are what is resampled: one for each prompt. ``options`` are those of
    ``hvp_utils.bootstrap_ci``.
    """
    groups = table.groupby(list(by), sort=False)[value]
    found = [
        {**dict(zip(by, key, strict=True)), value: bootstrap_ci(values, statistic, **options)}
        for key, values in groups
    ]
    return pd.DataFrame(found)


def show(
    table: pd.DataFrame, digits: Mapping[str, str] | str = ".2f", caption: str = ""
) -> Markdown:
    """A DataFrame as a Markdown table; numbers and intervals stand to the right.

    Args:
        table: What to show; its index is left out.
        digits: A number format for all columns, or one for each column by name.
        caption: A sentence above the table.
    """

    def text(name: str, value: object) -> str:
        spec = digits if isinstance(digits, str) else digits.get(name, ".2f")
        if isinstance(value, Interval) or isinstance(value, (float, np.floating)):
            value = format(value, spec).replace("-", "−")
        elif isinstance(value, (bool, np.bool_)):
            value = "yes" if value else "no"
        elif isinstance(value, (int, np.integer)):
            value = str(value).replace("-", "−")
        elif isinstance(value, (list, tuple)):
            value = " or ".join(map(str, value))
        return str(value).replace("|", "\\|")

    numeric = [
        all(
            isinstance(v, (int, float, np.number, Interval)) and not isinstance(v, bool)
            for v in table[name]
        )
        for name in table.columns
    ]
    lines = [
        [str(name) for name in table.columns],
        ["---:" if right else "---" for right in numeric],
        *([text(name, row[name]) for name in table.columns] for _, row in table.iterrows()),
    ]
    body = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return Markdown(f"{caption}\n\n{body}" if caption else body)


def show_claims(chapter: str, claims: Sequence[Claim], model: str) -> Markdown:
    """The table of claims of a chapter; those of the book's own model are written as data too."""
    if model == BOOK_MODEL:
        write_claims(chapter, claims)
    return Markdown(claims_table(claims))
