"""What others have computed, in the shape that a page shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown

from .. import common, prices
from .errors import compared, mean_errors
from .methods import METHODS, TASKS, label

__all__ = [
    "after_holm",
    "by_model",
    "ends_against_hvp",
    "matched_tally",
    "origin",
    "overlap_table",
    "price_table",
    "seconds_shown",
    "tally_text",
]


def origin(sweeps: Mapping[tuple[str, str], xr.Dataset], largest: int = 5) -> pd.DataFrame:
    """Heads and prompts of every sweep, and how large the largest effects are."""
    rows = []
    for (model, task), data in sweeps.items():
        effects = np.sort(np.abs(data.activation_patching.values), 1)[:, -largest:]
        row = {"model": model, "task": TASKS.get(task, task), "heads": data.sizes["component"]}
        rows.append(row | {"prompts": data.sizes["prompt"], "effect": float(np.median(effects))})
    return pd.DataFrame(rows)


def price_table(price: pd.DataFrame) -> pd.DataFrame:
    """A row a method: its kind, the paper's count, and the price in percent on every model.

    Args:
        price: What ``priced`` returns.
    """
    models = list(price.model.unique())
    percent = price.pivot(index="method", columns="model", values="percent")
    rows = [{"method": "activation patching", "kind": "the truth", "paper's count": "–"}]
    rows[0] |= {f"{model}, %": 100.0 for model in models}
    for method, (name, family, paper) in METHODS.items():
        row = {"method": name, "kind": family, "paper's count": paper}
        rows.append(row | {f"{model}, %": percent.loc[method, model] for model in models})
    return pd.DataFrame(rows)


def seconds_shown(measured: pd.DataFrame, n: int) -> pd.io.formats.style.Styler | Markdown:
    """Seconds of some methods for n heads, or a sentence why there are none.

    Args:
        measured: What ``prices.timed`` returns.
        n: How many heads.
    """
    if prices.steady(measured):
        caption = f"Seconds for {n} heads: medians of repeats that agree."
        return common.show(measured[["method", "seconds"]], ".3f", caption)
    return Markdown(prices.why_not(measured))


def tally_text(counts: Mapping[str, tuple[int, int]]) -> str:
    """On how many settings methods are better and worse, as Markdown."""
    text = "; ".join(f"{label(m)} better on {a} and worse on {b}" for m, (a, b) in counts.items())
    return text.replace("*", "\\*")


def after_holm(tests: pd.DataFrame) -> pd.DataFrame:
    """How many differences from attribution patching are significant, before and after Holm's correction.

    Args:
        tests: What ``compared`` returns, with enough resamples for the whole family.
    """
    surely = np.sign([d.estimate for d in tests.difference]) * (tests.holm < 0.05)
    counted = {
        "lower, p < 0.05": tests["sign"] == -1,
        "lower, Holm": surely == -1,
        "higher, p < 0.05": tests["sign"] == 1,
        "higher, Holm": surely == 1,
    }
    found = pd.DataFrame(counted).groupby(tests.method, sort=False).sum().reset_index()
    return found.assign(method=found.method.map(label))


def by_model(table: pd.DataFrame, rows: Sequence[str], value: str) -> pd.DataFrame:
    """A long table with a column for each model, in the order of the table."""
    wide = table.pivot(index=list(rows), columns="model", values=value).reset_index()
    order = table[list(rows)].drop_duplicates()
    return order.merge(wide, on=list(rows))[[*rows, *table.model.unique()]]


def matched_tally(versus: pd.DataFrame, family: pd.DataFrame) -> pd.DataFrame:
    """How often MS-HVP is better, tied or worse under each rule, and how often that is sure.

    Args:
        versus: What ``steps_against_points`` returns.
        family: The same with enough resamples for Holm's correction of the whole family.
    """
    rows = []
    for rule, part in versus.groupby("rule", sort=False):
        found = {name: int((part["sign"] == x).sum()) for x, name in _WORDS.items()}
        surely = int((family.holm[family.rule == rule] < 0.05).sum())
        rows.append({"rule": rule} | found | {"significant after Holm": surely})
    return pd.DataFrame(rows)


_WORDS = {-1: "better", 0: "tied", 1: "worse"}


def ends_against_hvp(table: pd.DataFrame) -> pd.DataFrame:
    """Slopes at both ends against HVP: columns model, task, HVP, both ends, difference, p, sign."""
    tests = compared(table, against="hvp", methods=["two_ends"])
    cells = mean_errors(table).set_index(["model", "task", "method"]).error
    keys = list(zip(tests.model, tests.task, strict=True))
    found = tests[["model", "task"]].replace({"task": TASKS})
    found["HVP"] = [cells[(*key, "hvp")] for key in keys]
    found["both ends"] = [cells[(*key, "two_ends")] for key in keys]
    return found.join(tests[["difference", "p", "sign"]])


def overlap_table(changes: pd.DataFrame, model: str) -> pd.DataFrame:
    """Changes of the overlap on one model: a row for each task and method, a column for each k.

    Args:
        changes: What ``overlap_changes`` returns.
        model: Which model.
    """
    rows = []
    own = changes[changes.model == model]
    for (task, method), part in own.groupby(["task", "method"], sort=False):
        row = {"task": TASKS.get(task, task), "method": label(method)}
        rows.append(row | {f"top {k}": d for k, d in zip(part.k, part.difference, strict=True)})
    return pd.DataFrame(rows)
