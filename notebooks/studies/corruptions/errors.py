"""Stored sweeps under every corruption, and three measures of what an estimate gets wrong.

Zero ablation has no corrupted run to start from, so it is noising; all else is denoising.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy import ndarray
from numpy.typing import ArrayLike

from hvp_utils import sweep
from hvp_utils.stats import Interval, top_k_relative_error

from .. import common

#: What is read of every sweep: the truth, then the two estimates.
ESTIMATORS = ("activation_patching", "attribution_patching", "hvp")
#: Task and corruption for the reader, by the name of the task.
CORRUPTIONS = {
    "ioi": ("IOI", "name swap"),
    "ioi_random_token": ("IOI", "random token"),
    "ioi_resample": ("IOI", "other prompt"),
    "ioi_zero": ("IOI", "zero ablation"),
    "factual": ("Factual", "random token"),
    "factual_resample": ("Factual", "other prompt"),
    "factual_zero": ("Factual", "zero ablation"),
    "factual_swap": ("Factual", "entity swap"),
    "greater_than_01": ("Greater-Than", "year 01"),
}
#: The same in one cell.
NAMES = {task: f"{family}: {label}" for task, (family, label) in CORRUPTIONS.items()}
#: Tasks with the same clean prompts; the first is the corruption that the book uses elsewhere.
SAME_PROMPTS = {
    "IOI": ("ioi", "ioi_random_token", "ioi_resample", "ioi_zero"),
    "Factual": ("factual", "factual_resample", "factual_zero"),
}
#: How many components are "the largest".
K = 5

Sweeps = Mapping[tuple[str, str], xr.Dataset]


def direction_of(task: str) -> str:
    """The direction in which a task is patched."""
    return "noising" if task.endswith("_zero") else "denoising"


def load(
    models: Sequence[str],
    tasks: Sequence[str],
    n_prompts: int,
    components: str = "heads",
    store: str = "results",
    device: str | None = None,
) -> dict[tuple[str, str], xr.Dataset]:
    """The sweeps of some models and tasks, by model and task; zero ablation is noising.

    Raises:
        ValueError: Tasks that are compared prompt by prompt do not have the same clean prompts.
    """
    found = {
        (model, task): sweep(
            model,
            task,
            ESTIMATORS,
            n_prompts=n_prompts,
            components=components,
            direction=direction_of(task),
            store=store,
            device=device,
        )
        for model in dict.fromkeys(models)
        for task in tasks
    }
    for (model, _), first, task, other in _pairs_of_tasks(found):
        if not np.array_equal(first.clean.values, other.clean.values):
            raise ValueError(f"{model}: the clean prompts of {task} are not those of its family.")
    return found


def _pairs_of_tasks(sweeps: Sweeps):
    """Every task beside the first of its family: key and sweep of the first, name and sweep."""
    for base, *others in SAME_PROMPTS.values():
        for (model, task), first in sweeps.items():
            for other in others if task == base else ():
                if (model, other) in sweeps:
                    yield (model, task), first, other, sweeps[model, other]


def median_error(estimate: ArrayLike, truth: ArrayLike) -> float | ndarray:
    """Median over all components of |error| / |effect|, in percent; one number a prompt."""
    estimate, truth = np.asarray(estimate, float), np.asarray(truth, float)
    return 100 * np.median(np.abs(estimate - truth) / np.maximum(np.abs(truth), 1e-30), axis=-1)


def mean_error(estimate: ArrayLike, truth: ArrayLike) -> float | ndarray:
    """Mean over all components of |error|, in units of the metric; one number a prompt."""
    return np.abs(np.asarray(estimate, float) - np.asarray(truth, float)).mean(-1)


#: One number a prompt from estimates and truth ``[prompt, component]``.
MEASURES = {"median head": median_error, "top 5": top_k_relative_error, "mean error": mean_error}


def measure(sweeps: Sweeps, column: str = "task") -> pd.DataFrame:
    """The errors of attribution patching and of HVP on every prompt, by three measures.

    Args:
        sweeps: By model and something else, such as a task.
        column: What the something else is.

    Returns:
        Columns model, ``column``, measure ("median head" and "top 5" in percent, "mean error" in
        units of the metric), prompt, method ("AP" or "HVP") and error.
    """
    parts = []
    for (model, key), data in sweeps.items():
        truth, *estimates = (data[name].values.astype(float) for name in ESTIMATORS)
        for name, function in MEASURES.items():
            for method, estimate in zip(("AP", "HVP"), estimates, strict=True):
                error = function(estimate, truth)
                about = {"model": model, column: key, "measure": name}
                about |= {"prompt": np.arange(len(error)), "method": method, "error": error}
                parts.append(pd.DataFrame(about))
    return pd.concat(parts, ignore_index=True)


def of_means(
    function: Callable[..., ndarray], *values: ArrayLike, n_resamples: int = 1000, seed: int = 0
) -> Interval:
    """A function of means over prompts, with a bootstrap interval; all means of the same prompts.

    Args:
        function: Takes as many means as there are ``values``, numbers or arrays.
        values: One number a prompt each.
        n_resamples: Resamples.
        seed: Of the resampling; the draws are those of ``hvp_utils.stats.bootstrap_ci``.
    """
    values = [np.asarray(v, float) for v in values]
    n = len(values[0])
    draws = np.random.default_rng(seed).integers(n, size=(n_resamples, n))
    low, high = np.quantile(function(*(v[draws].mean(1) for v in values)), [0.025, 0.975])
    return Interval(float(function(*(v.mean() for v in values))), float(low), float(high))


def reduction(ap: ArrayLike, hvp: ArrayLike, **options) -> Interval:
    """Of AP's mean error, the percentage that HVP takes away; negative where it adds."""
    return of_means(lambda a, h: 100 * (1 - h / a), ap, hvp, **options)


def both(part: pd.DataFrame) -> tuple[ndarray, ndarray]:
    """Errors of AP and of HVP of one group of ``measure``, prompts in order."""
    wide = part.pivot(index="prompt", columns="method", values="error")
    return wide.AP.to_numpy(), wide.HVP.to_numpy()


def compare(errors: pd.DataFrame, by: Sequence[str], n_resamples: int = 1000) -> pd.DataFrame:
    """Attribution patching and HVP, side by side.

    Args:
        errors: What ``measure`` returns.
        by: What is one comparison, such as ``("model", "task", "measure")``.
        n_resamples: Of the paired bootstrap test. Holm's correction of a family of m tests needs
            more than 40 m.

    Returns:
        Columns ``by``, AP and HVP (``Interval`` of the means), reduction (an ``Interval``, in
        percent), difference (AP less HVP, an ``Interval``), p, and holm over all rows.
    """
    by, rows = list(by), []
    for key, part in errors.groupby(by, sort=False):
        ap, hvp = both(part)
        means = common.bootstrap_ci(ap), common.bootstrap_ci(hvp)
        rows.append((*key, *means, reduction(ap, hvp)))
    table = pd.DataFrame(rows, columns=[*by, "AP", "HVP", "reduction"])
    tests = common.paired(errors, by, "error", "HVP", ["AP"], n_resamples=n_resamples)
    return table.merge(tests.drop(columns="method"), on=by, validate="one_to_one")


def better(table: pd.DataFrame, column: str = "p") -> pd.Series:
    """Where HVP has the significantly lower error, of what ``compare`` returns."""
    return (table[column] < 0.05) & (table.difference.map(lambda d: d.estimate) > 0)


def worse(table: pd.DataFrame, column: str = "p") -> pd.Series:
    """Where HVP has the significantly higher error."""
    return (table[column] < 0.05) & (table.difference.map(lambda d: d.estimate) < 0)


def estimates(column: pd.Series) -> pd.Series:
    """The numbers of a column of intervals, without these."""
    return column.map(lambda interval: interval.estimate)


def examples(sweeps: Sweeps, model: str) -> pd.DataFrame:
    """The first prompt of every corruption of one model.

    Returns:
        Columns task, corruption, clean, other (the corrupted prompt) and change: the mean over
        prompts of the metric in the clean run less that in the corrupted one.
    """
    rows = []
    for (name, task), data in sweeps.items():
        if name != model:
            continue
        family, label = CORRUPTIONS.get(task, (task, ""))
        zero = direction_of(task) == "noising"
        other = "none" if zero else _shown(data.corrupted.values[0])
        change = np.nan if zero else float(data.other.mean() - data.base.mean())
        rows.append((family, label, _shown(data.clean.values[0]), other, change))
    return pd.DataFrame(rows, columns=["task", "corruption", "clean", "other", "change"])


def _shown(text: str) -> str:
    """A prompt without its first special token."""
    return str(text).split(">", 1)[-1]
