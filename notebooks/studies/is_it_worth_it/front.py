"""Error against price: every method on one scale, and the paper's workflow in its variants."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from hvp_utils.stats import top_k_relative_error

from .. import common
from ..common import places
from .counts import counted, of_rule, passes_in_runs
from .rules import AIM, BOTH, FIRST, PRODUCTS, ROWS, RULES, TASKS, Scored, patched, ratio

#: Methods of many steps, which are stored for the five largest heads of each prompt.
FOLLOWED = {
    "MS-HVP": ("ms_hvp:2", "ms_hvp:5", "ms_hvp:10"),
    "IG, midpoint": ("integrated_gradients:5:midpoint", "integrated_gradients:10:midpoint"),
    "IG, Gauss–Legendre": (
        "integrated_gradients:5:gausslegendre",
        "integrated_gradients:10:gausslegendre",
    ),
}
#: Series that patch, with their rules.
PATCHING = {
    "AP, then patch the largest |f_AP|": FIRST,
    "4 products, then patch the largest |f_AP| + |q|": BOTH,
    "2 differences, then patch the largest |f_AP| + r": ROWS,
}
#: How many heads the series patch.
SHOWN = (5, 7, 10, 15, 25, 40)
_COLUMNS = ["model", "task", "series", "point", "percent", "prompt", "error"]


def followed(
    runs: Sequence[Scored], n_prompts: int, store: str = "results", device: str | None = None
) -> dict[tuple[str, str], dict[str, np.ndarray]]:
    """What methods of many steps give for the five largest heads, by model and task.

    Raises:
        ValueError: They were not run on the same prompts.
    """
    wanted = ("activation_patching", *(m for group in FOLLOWED.values() for m in group))
    found = {}
    for run in runs:
        options = dict(top=5, device=device)
        few = common.load([run.model], [run.task], wanted, n_prompts, store, **options)
        data = few[run.model, run.task]
        values = {key: data[key].values.astype(float) for key in wanted}
        known = ~np.isnan(values["activation_patching"])
        if not np.allclose(values["activation_patching"][known], run["f"][known], atol=1e-3):
            raise ValueError(f"The largest heads of {run.model}, {run.task} are of other prompts.")
        found[run.model, run.task] = values
    return found


def front(
    runs: Sequence[Scored], steps: Mapping[tuple[str, str], Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """Error on the five largest heads against the price for all heads.

    Args:
        runs: What is known of each setting.
        steps: What ``followed`` returns.

    Returns:
        Columns model, task, series, point (method, or number of patches), percent (counted
        operations, of patching every head), prompt, error (percent of the range).
    """
    rows = []
    for run in runs:
        plain = {
            "AP": [("attribution_patching", run["f_ap"])],
            "AP + sketched q": [(f"sketched_hvp:{k}", run[f"sketched_hvp:{k}"]) for k in PRODUCTS],
            "HVP": [("hvp", run["hvp"])],
        }
        for series, group in FOLLOWED.items():
            plain[series] = [(method, steps[run.model, run.task][method]) for method in group]
        methods = [method for group in plain.values() for method, _ in group]
        percent = counted(run.model, methods).set_index("method").percent
        for series, points in plain.items():
            for method, estimate in points:
                errors = top_k_relative_error(estimate, run["f"])
                rows += _points(run, series, method, percent[method], errors)
        for series, rule in PATCHING.items():
            size = RULES[rule].size(run)
            for m in SHOWN:
                errors = top_k_relative_error(patched(run, size, m), run["f"])
                rows += _points(run, series, str(m), of_rule(run.model, rule, m), errors)
    return pd.DataFrame(rows, columns=_COLUMNS)


def _points(run, series, point, percent, errors) -> list[tuple]:
    return [
        (run.model, run.task, series, point, percent, prompt, error)
        for prompt, error in enumerate(errors)
    ]


def cheapest(points: pd.DataFrame, aim: float = AIM) -> pd.DataFrame:
    """The lowest price of each series at which its mean error is below an aim.

    Returns:
        Columns model, task, series, least (the least mean error), price (percent of patching all;
        NaN if the aim is not reached).
    """
    means = points.groupby(["model", "task", "series", "point"], sort=False)[["percent", "error"]]
    means = means.mean().reset_index()
    rows = []
    for key, part in means.groupby(["model", "task", "series"], sort=False):
        good = part[part.error < aim].percent
        rows.append((*key, part.error.min(), good.min() if len(good) else math.nan))
    return pd.DataFrame(rows, columns=["model", "task", "series", "least", "price"])


def cheaper_than_all(points: pd.DataFrame, aim: float = AIM) -> tuple[list[str], list[str]]:
    """Which series reach the aim in every setting for less than patching all, and which in none."""
    table = cheapest(points, aim)
    cheap = (table.price < 100).groupby(table.series, sort=False)
    return list(cheap.all()[cheap.all()].index), list(cheap.any()[~cheap.any()].index)


# --- Screen-Flag-Fix, with every screen and every fix ---------------------------------------------

TAU, K_FIX, N_LARGEST = 0.1, 5, 10
FIXES = {"HVP": None, f"MS-HVP, K = {K_FIX}": f"ms_hvp:{K_FIX}", "exact patching": "f"}
SCREENS = {  # name: quadratic term, what the screen runs, how it flags
    f"R > {TAU}, exact": ("q", "hvp", "R"),
    f"R > {TAU}, 48 products": ("q:48", "sketched_hvp:48", "R"),
    f"R > {TAU}, 8 products": ("q:8", "sketched_hvp:8", "R"),
    f"{N_LARGEST} largest, exact": ("q", "hvp", "size"),
    f"{N_LARGEST} largest, 8 products": ("q:8", "sketched_hvp:8", "size"),
    f"{N_LARGEST} largest, rows": ("r", "row_norms:2", "size"),
}


def workflow(
    runs: Sequence[Scored], steps: Mapping[tuple[str, str], Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """Error and price of the workflow with every screen and every fix.

    Curvatures of a few heads are priced as if they came in full batches, so what HVP and MS-HVP add
    is a lower bound.

    Returns:
        Columns model, task, screen, fix, prompt, flagged (heads), error (percent of the range),
        percent (price, of patching every head).
    """
    rows = []
    for run in runs:
        for screen, (key, ran, how) in SCREENS.items():
            flagged = flags(run, run[key], how)
            screening = counted(run.model, [ran]).percent.iloc[0]
            for fix, source in FIXES.items():
                fixed = _fixed(run, key, source, steps[run.model, run.task])
                errors = top_k_relative_error(np.where(flagged, fixed, run["f_ap"]), run["f"])
                more = extra_price(run.model, flagged.sum(1), flagged.shape[1], key, ran, source)
                for prompt, m in enumerate(flagged.sum(1)):
                    price = screening + more[prompt]
                    key_of = (run.model, run.task, screen, fix, prompt)
                    rows.append((*key_of, int(m), errors[prompt], price))
    columns = ["model", "task", "screen", "fix", "prompt", "flagged", "error", "percent"]
    return pd.DataFrame(rows, columns=columns)


def flags(run: Scored, q: np.ndarray, how: str) -> np.ndarray:
    """Which heads are flagged: by R above the threshold, or as the largest by size."""
    if how == "R":
        return ratio(run, q) > TAU
    size = np.abs(run["f_ap"]) + np.abs(q)
    return places(size) <= N_LARGEST


def _fixed(run: Scored, key: str, source: str | None, steps) -> np.ndarray:
    if source is None:  # rows know no quadratic terms
        return run["hvp"] if key == "r" else run["f_ap"] + run[key]
    # MS-HVP is known for the five largest heads, which are all that the error asks for.
    return run["f"] if source == "f" else steps[source]


def extra_price(
    model: str, m: np.ndarray, n: int, key: str, ran: str, source: str | None
) -> np.ndarray:
    """What fixing m flagged heads adds to the screen, in percent of patching every head."""
    one = passes_in_runs(model)
    again = (m > 0) * one["gradient"]  # the run that curvatures share
    if source == "f":
        runs = m * 1.0
    elif source is None:
        runs = again + m * one["curvature"] if key == "r" else 0.0 * m
    else:
        known = ran == "hvp"  # the curvature at 0 is there already
        runs = m * ((K_FIX - 1) * one["curvature_on_path"] + (not known) * one["curvature"])
        runs = runs + (not known) * again
    return 100 * runs / n


def workflow_table(found: pd.DataFrame, runs: Sequence[Scored]) -> pd.DataFrame:
    """Means over tasks, as text such as "9.9 at 291", and AP alone for comparison."""
    mean = found.groupby(["model", "screen", "fix", "task"], sort=False)[
        ["error", "percent"]
    ].mean()
    mean = mean.groupby(["model", "screen", "fix"], sort=False).mean()
    rows = []
    for model in dict.fromkeys(found.model):
        for screen in SCREENS:
            row = {"model": model, "flagged": screen}
            for fix in FIXES:
                error, price = mean.loc[(model, screen, fix)]
                row[f"fix: {fix}"] = f"{error:.1f} at {price:,.0f}"
            rows.append(row)
        alone = [
            top_k_relative_error(run["f_ap"], run["f"]).mean() for run in runs if run.model == model
        ]
        price = counted(model, ["attribution_patching"]).percent.iloc[0]
        none = {"model": model, "flagged": "none: AP alone"}
        rows.append(none | {f"fix: {next(iter(FIXES))}": f"{np.mean(alone):.1f} at {price:.1f}"})
    return pd.DataFrame(rows).fillna("")


def cheapest_table(points: pd.DataFrame, aim: float = AIM) -> pd.DataFrame:
    """``cheapest`` with a row for each series and a column for each model and task."""
    table = cheapest(points, aim)
    setting = table.model + ", " + table.task.map(lambda task: TASKS.get(task, task))
    return (
        table.assign(setting=setting)
        .pivot_table(index="series", columns="setting", values="price", sort=False, dropna=False)
        .reset_index()
    )


def front_title(points: pd.DataFrame, aim: float = AIM) -> str:
    """What ``front_figure`` says: who gets below the aim for less than patching everything."""
    everywhere, nowhere = cheaper_than_all(points, aim)
    series = set(points.series)
    if set(everywhere) == set(PATCHING) and set(everywhere) | set(nowhere) == series:
        return f"Below {aim:g} % error for less than patching all: only by patching a few exactly"
    return (
        f"{len(everywhere)} of {len(series)} ways get below {aim:g} % error for less than "
        "patching all"
    )
