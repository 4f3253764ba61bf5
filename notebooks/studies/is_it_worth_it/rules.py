"""Which components to patch exactly: rules that sort them by a size, and what errors they leave.

A rule patches the largest by its size; all others keep attribution patching. The error is that on
the five largest true effects of a prompt, so it is 0 once these five have been patched.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy import ndarray

from hvp_utils.stats import bootstrap_ci, top_k_relative_error

from .. import common
from ..common import places

TASKS = {
    "ioi": "IOI",
    "greater_than_01": "Greater-Than",
    "factual": "Factual",
    "factual_swap": "Factual swap",
}
#: On the prompts of these the rules were found; the fourth task came later.
FOUND_ON = ("ioi", "greater_than_01", "factual")
#: Products with the Hessian of stored sketches.
PRODUCTS = (4, 8, 16, 32, 48, 64)
#: Differences of gradients that rows are estimated from.
PROBES = (2, 4, 16)
#: How many are patched.
NUMBERS = (5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 60)
#: A mean error that is good enough, in percent.
AIM = 1.0


@dataclass(frozen=True)
class Scored:
    """What is known of all components on some prompts of one task.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        values: By name, ``[prompt, component]``: f (exact), f_ap, hvp, q, r, and what else a sweep
            gave: "q:4" from four products, "r:16" from sixteen differences, "far" for the
            first-order estimate from the other run.
        labels: Names of the components.
    """

    model: str
    task: str
    values: Mapping[str, ndarray]
    labels: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> ndarray:
        return self.values[name]


def ratio(run: Scored, q: ndarray) -> ndarray:
    """The reliability score R: 0 where both terms are 0, infinite where the first alone is."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.nan_to_num(np.abs(q) / np.abs(run["f_ap"]), nan=0.0, posinf=np.inf)


@dataclass(frozen=True)
class Rule:
    """A way to sort components.

    Attributes:
        size: What they are sorted by, from what is known of them.
        runs: What has to be run for it, as a name for ``sweep``.
        times: How often.
    """

    size: Callable[[Scored], ndarray]
    runs: str
    times: int = 1


FIRST, BOTH, ROWS = "|f_AP|", "|f_AP| + |q|, 4 products", "|f_AP| + r, 2 differences"
RULES = {
    "R, exact": Rule(lambda run: ratio(run, run["q"]), "hvp"),
    FIRST: Rule(lambda run: np.abs(run["f_ap"]), "attribution_patching"),
    "size at both ends": Rule(
        lambda run: np.abs(run["f_ap"]) + np.abs(run["far"]), "attribution_patching", 2
    ),
    BOTH: Rule(lambda run: np.abs(run["f_ap"]) + np.abs(run["q:4"]), "sketched_hvp:4"),
    ROWS: Rule(lambda run: np.abs(run["f_ap"]) + run["r"], "row_norms:2"),
    "|f_AP| + |q|, exact": Rule(lambda run: np.abs(run["f_ap"]) + np.abs(run["q"]), "hvp"),
}


def scored(
    models: Sequence[str],
    n_prompts: int,
    tasks: Sequence[str] = FOUND_ON,
    products: Sequence[int] = PRODUCTS,
    probes: Sequence[int] = (2,),
    far: bool = True,
    skip: Mapping[str, int] | None = None,
    store: str = "results",
    device: str | None = None,
) -> list[Scored]:
    """What is stored of all heads on some prompts; what is missing is computed.

    Args:
        models: Names.
        n_prompts: Prompts of each task.
        tasks: Tasks.
        products: Products of sketches that are wanted.
        probes: Differences of gradients that are wanted.
        far: Whether the first-order estimate from the other run is wanted.
        skip: How many of the first prompts of a task are left out.
        store: Folder of stored sweeps.
        device: Where to run what is missing.
    """
    wanted = ("activation_patching", "attribution_patching", "hvp")
    wanted += tuple(f"sketched_hvp:{k}" for k in products)
    wanted += tuple(f"row_norms:{k}" for k in probes)
    near = common.load(models, tasks, wanted, n_prompts, store, device=device)
    other = {}
    if far:
        ends = ("attribution_patching",)
        other = common.load(
            models, tasks, ends, n_prompts, store, device=device, direction="noising"
        )
    found = []
    for (model, task), data in near.items():
        values = {name: data[name].values.astype(float) for name in wanted}
        values["f"], values["f_ap"] = values["activation_patching"], values["attribution_patching"]
        values["q"] = values["hvp"] - values["f_ap"]
        values |= {f"q:{k}": values[f"sketched_hvp:{k}"] - values["f_ap"] for k in products}
        values |= {f"r:{k}": values[f"row_norms:{k}"] / 2 for k in probes}
        values["r"] = values[f"r:{probes[0]}"]
        if far:
            there = other[model, task]
            if not (there.clean.values == data.clean.values).all():
                raise ValueError(f"The two directions of {task} are not on the same prompts.")
            values["far"] = -there.attribution_patching.values.astype(float)
        first = (skip or {}).get(task, 0)
        values = {name: value[first:] for name, value in values.items()}
        found.append(Scored(model, task, values, tuple(data.label.values.astype(str))))
    return found


def patched(run: Scored, size: ndarray, m: int) -> ndarray:
    """Attribution patching with the m largest, by some size, replaced by their true effects."""
    which = np.argsort(-size, axis=1, kind="stable")[:, :m]
    estimates = run["f_ap"].copy()
    np.put_along_axis(estimates, which, np.take_along_axis(run["f"], which, 1), 1)
    return estimates


def errors_after(
    runs: Sequence[Scored],
    rules: Sequence[str] = tuple(RULES),
    numbers: Sequence[int] = NUMBERS,
    k: int = 5,
) -> pd.DataFrame:
    """Error on the k largest effects after some patches.

    Returns:
        Columns model, task, rule, patches, prompt, error (percent of the range of true effects).
    """
    rows = []
    for run in runs:
        for rule in rules:
            size = RULES[rule].size(run)
            for m in numbers:
                errors = top_k_relative_error(patched(run, size, m), run["f"], k)
                rows += [
                    (run.model, run.task, rule, m, prompt, error)
                    for prompt, error in enumerate(errors)
                ]
    return pd.DataFrame(rows, columns=["model", "task", "rule", "patches", "prompt", "error"])


def chosen(after: pd.DataFrame, model: str, task: str = "ioi", aim: float = AIM) -> dict[str, int]:
    """The fewest patches of each rule whose mean error is surely below an aim, where it is found.

    Surely: the upper end of the 95 % interval is below it. Rules that do not reach it are left out.
    """
    found = {}
    part = after[(after.model == model) & (after.task == task)]
    for (rule, m), errors in part.groupby(["rule", "patches"], sort=False).error:
        if rule not in found and bootstrap_ci(errors).high < aim:
            found[rule] = m
    return found


def chosen_table(after: pd.DataFrame, numbers: Mapping[str, int], aim: float = AIM) -> pd.DataFrame:
    """How rules with a fixed number of patches do: mean error, and share of prompts below the aim.

    Returns:
        Columns model, task, and one for each rule, as text such as "0.25 (95%)".
    """
    rows = []
    for (model, task), part in after.groupby(["model", "task"], sort=False):
        row = {"model": model, "task": TASKS.get(task, task)}
        for rule, m in numbers.items():
            errors = part[(part.rule == rule) & (part.patches == m)].error
            row[f"{m} by {rule}"] = f"{errors.mean():.2f} ({np.mean(errors < aim):.0%})"
        rows.append(row)
    return pd.DataFrame(rows)


def rescued(run: Scored, k: int = 5) -> pd.DataFrame:
    """The k largest effects of each prompt, first those that a second term moves up farthest.

    Returns:
        Columns prompt, component, effect, f_ap, r, place by |f_AP|, place by |f_AP| + r.
    """
    first, both = places(RULES[FIRST].size(run)), places(RULES[ROWS].size(run))
    rows = [
        (
            i,
            run.labels[c],
            run["f"][i, c],
            run["f_ap"][i, c],
            run["r"][i, c],
            first[i, c],
            both[i, c],
        )
        for i, true in enumerate(places(np.abs(run["f"])))
        for c in np.flatnonzero(true <= k)
    ]
    columns = ["prompt", "component", "effect", "f_ap", "r", "place by |f_AP|"]
    table = pd.DataFrame(rows, columns=[*columns, "place by |f_AP| + r"])
    moved = table["place by |f_AP|"] - table["place by |f_AP| + r"]
    return table.iloc[np.argsort(-moved, kind="stable")].reset_index(drop=True)


def one_prompt(run: Scored, prompt: int) -> pd.DataFrame:
    """Columns component, effect, f_ap, r of all components on one prompt."""
    return pd.DataFrame(
        {
            "component": run.labels,
            "effect": run["f"][prompt],
            "f_ap": run["f_ap"][prompt],
            "r": run["r"][prompt],
        }
    )
