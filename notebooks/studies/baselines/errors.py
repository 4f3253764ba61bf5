"""How far each method is from the truth on the five largest heads of every prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.stats import Interval, holm, top_k_relative_error

from .. import common
from ..common import settings_of
from .methods import AP, METHODS, OTHER_GRADIENTS, SWEPT, TASKS, label

__all__ = [
    "RESAMPLES",
    "Cell",
    "compared",
    "counts",
    "error_table",
    "errors",
    "followed",
    "head_estimates",
    "larger_sample",
    "mean_errors",
    "median_and_largest",
    "overflown",
    "ranked",
    "rivals",
    "worse_prompts",
]

#: Resamples of the paired bootstrap of single comparisons; families use more, in ``common.paired``.
RESAMPLES = 1000
_SETTING = ["model", "task"]

Sweeps = Mapping[tuple[str, str], xr.Dataset]


class Cell(Interval):
    """An interval in a table: two digits below 1, and an arrow for a significant difference."""

    mark = ""

    @classmethod
    def of(cls, interval: Interval, sign: int = 0) -> Cell:
        """An interval with the arrow of a sign: ↓ for -1, ↑ for 1."""
        cell = cls(*interval)
        cell.mark = {-1: " ↓", 0: "", 1: " ↑"}[sign]
        return cell

    def __format__(self, spec: str) -> str:
        """``"graded"``: one digit after the point from 1 on, two significant ones below."""
        if spec != "graded":
            return super().__format__(spec) + self.mark
        if self.estimate < 0.001:
            return "< 0.001" + self.mark
        return super().__format__(".1f" if self.estimate >= 1 else ".2g") + self.mark


# --- from the store ------------------------------------------------------------------------------


def followed(
    models: Sequence[str], n_prompts: int, device: str | None = None, store: str = "results"
) -> dict[tuple[str, str], xr.Dataset]:
    """Sweeps of the five largest heads by all methods that follow a head along its axis."""
    names = ("activation_patching", AP, *SWEPT)
    return common.load(models, TASKS, names, n_prompts, store, top=5, device=device)


def ranked(
    models: Sequence[str],
    n_prompts: int,
    n_atp_star: int,
    device: str | None = None,
    store: str = "results",
) -> list[dict[tuple[str, str], xr.Dataset]]:
    """Sweeps of all heads by methods that need gradients only, and those with AtP*, of fewer prompts."""
    names = ("activation_patching", AP, "hvp", "gim", "relp")
    return [
        common.load(models, TASKS, found, n, store, device=device)
        for found, n in ((names, n_prompts), ((*names, "atp_star"), n_atp_star))
    ]


def head_estimates(sweeps: Sweeps) -> pd.DataFrame:
    """What each method says of the five largest heads of every prompt.

    A third derivative can overflow in float32; the estimate of HVP then stands in for it, and
    ``overflown`` is true. Slopes at both ends come from the sums of ten points on the left and on the
    right, which differ by a tenth of g'(1) - g'(0).

    Returns:
        Columns model, task, prompt, component, method, estimate, truth, range (of all true effects
        of the prompt) and overflown.
    """
    parts = []
    for (model, task), data in sweeps.items():
        values = {m: data[m].values.astype(float) for m in (AP, *SWEPT)}
        lost = np.isnan(values["third_order"]) & ~np.isnan(values["hvp"])
        values["third_order"] = np.where(lost, values["hvp"], values["third_order"])
        left, right = (values[f"integrated_gradients:10:{side}"] for side in ("left", "right"))
        values["two_ends"] = values[AP] + 5 * (right - left)
        truth = data.activation_patching.values.astype(float)
        prompt, component = np.nonzero(~np.isnan(values["hvp"]))
        head = {
            "model": model,
            "task": task,
            "prompt": prompt,
            "component": data.label.values.astype(str)[component],
        }
        for method, estimate in values.items():
            row = {
                "method": method,
                "estimate": estimate[prompt, component],
                "truth": truth[prompt, component],
                "range": np.ptp(truth, axis=1)[prompt],
                "overflown": lost[prompt, component] & (method == "third_order"),
            }
            parts.append(pd.DataFrame(head | row))
    return pd.concat(parts, ignore_index=True)


def overflown(estimates: pd.DataFrame) -> tuple[int, int]:
    """How many third derivatives overflowed, and of how many."""
    return int(estimates.overflown.sum()), int((estimates.method == "third_order").sum())


# --- errors --------------------------------------------------------------------------------------


def errors(estimates: pd.DataFrame, rankings: Sequence[Sweeps] = ()) -> pd.DataFrame:
    """Top-5 relative error of every method and prompt, in percent.

    Args:
        estimates: What ``head_estimates`` returns.
        rankings: Sweeps of all heads; of each, the other gradients that the earlier ones lack are
            added. AtP* has no sign and is given that of attribution patching.

    Returns:
        Columns model, task, method, prompt, error.
    """
    of_head = (
        estimates[[*_SETTING, "method", "prompt"]]
        .assign(error=100 * (estimates.estimate - estimates.truth).abs() / estimates["range"])
        .groupby([*_SETTING, "method", "prompt"], sort=False)
        .error.mean()
    )
    parts, seen = [of_head.reset_index()], set()
    for sweeps in rankings:
        new = [
            m
            for m in OTHER_GRADIENTS
            if m not in seen and all(m in d and d[m].notnull().all() for d in sweeps.values())
        ]
        seen |= set(new)
        for (model, task), data in sweeps.items():
            for method in new:
                sign = np.sign(data[AP]) if method == "atp_star" else 1
                error = top_k_relative_error(data[method] * sign, data.activation_patching)
                row = {"model": model, "task": task, "method": method}
                parts.append(pd.DataFrame(row | {"prompt": range(len(error)), "error": error}))
    return pd.concat(parts, ignore_index=True)


def compared(
    table: pd.DataFrame,
    value: str = "error",
    against: str = AP,
    methods: Sequence[str] | None = None,
    n_resamples: int = RESAMPLES,
) -> pd.DataFrame:
    """Paired tests of each method against another, on the prompts that both have.

    Returns:
        Columns model, task, method, difference, p, holm (over all rows) and sign: that of a
        difference with p < 0.05, or 0.
    """
    base = table[table.method == against]
    parts = []
    for method in methods or [m for m in table.method.unique() if m != against]:
        own = table[table.method == method]
        both = pd.concat([own, base[base.prompt.isin(own.prompt)]])
        both = both[both.prompt.isin(base.prompt)]
        parts.append(common.paired(both, _SETTING, value, against, [method], n_resamples))
    found = pd.concat(parts, ignore_index=True)
    of_difference = np.sign([d.estimate for d in found.difference])
    sign = (of_difference * (found.p < 0.05)).astype(int)
    return found.assign(holm=holm(found.p.to_numpy()), sign=sign)


def counts(tests: pd.DataFrame) -> dict[str, tuple[int, int]]:
    """On how many models and tasks each method is significantly lower, and higher."""
    signs = tests.groupby("method", sort=False)["sign"]
    return {m: (int((s == -1).sum()), int((s == 1).sum())) for m, s in signs}


def mean_errors(table: pd.DataFrame) -> pd.DataFrame:
    """Mean errors with their intervals: columns model, task, method, error."""
    return common.intervals(table, [*_SETTING, "method"], "error")


def error_table(table: pd.DataFrame, tests: pd.DataFrame, task: str) -> pd.DataFrame:
    """Errors of all methods on one task: a row a method, a column a model; for ``show``.

    Args:
        table: What ``errors`` returns.
        tests: What ``compared`` returns, for the arrows.
        task: Which task.
    """
    cells = mean_errors(table[table.task == task]).set_index(["model", "method"]).error
    signs = tests[tests.task == task].set_index(["model", "method"])["sign"]
    rows = [{"method": "activation patching"} | dict.fromkeys(table.model.unique(), "0")]
    for method in METHODS:
        row = {"method": label(method)}
        for model in table.model.unique():
            sign = int(signs.get((model, method), 0))
            row[model] = Cell.of(cells[model, method], sign)
        rows.append(row)
    return pd.DataFrame(rows)


def rivals(table: pd.DataFrame, price: pd.DataFrame) -> pd.DataFrame:
    """Each method against the MS-HVP with most steps among those that cost no more.

    Only K = 1 (HVP), 2, 5 and 10 were run for all. A method that is within 2 % counts as equal.

    Returns:
        Columns model, method, compared with, and one for each task: better, tied or worse.
    """
    words = {-1: "better", 0: "tied", 1: "worse"}
    steps = ("hvp", "ms_hvp:2", "ms_hvp:5", "ms_hvp:10")
    rows = []
    for model in table.model.unique():
        cost = price[price.model == model].set_index("method").percent
        for method in METHODS:
            affordable = [m for m in steps if cost[m] <= 1.02 * cost[method]]
            if not affordable or method.startswith(("hvp", "ms_hvp")):
                continue
            rival = affordable[-1]
            part = table[(table.model == model) & table.method.isin((method, rival))]
            sign = compared(part, against=rival).set_index("task")["sign"]
            row = {"model": model, "method": label(method), "compared with": label(rival)}
            rows.append(row | {name: words[sign[task]] for task, name in TASKS.items()})
    return pd.DataFrame(rows)


def larger_sample(
    models: Sequence[str],
    n_many: Mapping[str, int],
    n_first: Mapping[str, int],
    device: str | None = None,
    store: str = "results",
) -> pd.DataFrame:
    """Error of HVP less that of attribution patching, on the first prompts and on all stored ones.

    Args:
        models: Which models.
        n_many: Prompts of each task.
        n_first: How many of the first are compared, and of how many attribution patching alone is
            shown: ``{"compared": 20, "alone": 10}``.
        device: Where what is not stored is computed.
        store: Where sweeps are stored.

    Returns:
        Columns model, task, first, p of first, prompts, all, p of all, alone.
    """
    rows = []
    for model in models:
        for task, n in n_many.items():
            names = ("activation_patching", AP, "hvp")
            data = common.load([model], [task], names, n, store, device=device)[model, task]
            own = {m: top_k_relative_error(data[m], data.activation_patching) for m in (AP, "hvp")}
            long = pd.concat(
                pd.DataFrame(
                    {"model": model, "task": task, "method": m, "prompt": range(n), "error": e}
                )
                for m, e in own.items()
            )
            first, many = (
                compared(long[long.prompt < top]).iloc[0] for top in (n_first["compared"], n)
            )
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "first": first.difference,
                    "p of first": first.p,
                    "prompts": n,
                    "all": many.difference,
                    "p of all": many.p,
                    "alone": own[AP][: n_first["alone"]].mean(),
                }
            )
    return pd.DataFrame(rows)


# --- where single corrections fail ---------------------------------------------------------------

SINGLES = (
    "hvp",
    "third_order",
    "finite_difference_hvp",
    "gauss_newton",
    "two_ends",
    "ms_hvp:2",
)
_SHORT = {"finite_difference_hvp": "finite diff.", "two_ends": "both ends"}


def worse_prompts(table: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """On how many prompts single corrections are worse than attribution patching, with arrows."""
    wide = table.pivot(index=[*_SETTING, "prompt"], columns="method", values="error")
    signs = tests.set_index([*_SETTING, "method"])["sign"]
    rows = []
    for model, task in settings_of(table):
        part = wide.loc[(model, task)]
        row = {"model": model, "task": TASKS.get(task, task)}
        for method in SINGLES:
            own = part[method].dropna()
            worse = int((own > part[AP].loc[own.index]).sum())
            arrow = {-1: " ↓", 0: "", 1: " ↑"}[int(signs[(model, task, method)])]
            row[_SHORT.get(method, label(method))] = f"{worse} of {len(own)}{arrow}"
        rows.append(row)
    return pd.DataFrame(rows)


def median_and_largest(table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """Median and largest error over prompts: columns model, task, method, median, largest."""
    part = table[table.method.isin(methods)]
    found = part.groupby([*_SETTING, "method"], sort=False).error.agg(
        median="median", largest="max"
    )
    return found.reset_index()
