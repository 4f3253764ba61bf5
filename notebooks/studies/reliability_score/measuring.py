"""From stored sweeps to scores and true errors, and how close the one is to the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from hvp_utils import reliability_score
from hvp_utils.stats import bootstrap_share

from .. import common

#: Names of tasks for the reader.
TASKS = {"ioi": "IOI", "factual": "Factual", "greater_than_01": "Greater-Than"}
ESTIMATORS = ("activation_patching", "attribution_patching", "hvp")
#: A relative error above this is an error to be warned of; a score below it calls a head safe.
LIMIT = 0.1
#: Resamples of all bootstraps of this study, unless it says otherwise.
N_RESAMPLES = 1000


class Judged(NamedTuple):
    """Effects of one model on one task, signed, in units of the metric."""

    model: str
    task: str
    labels: tuple[str, ...]
    layers: Int[ndarray, " head"]
    f: Float[ndarray, "prompt head"]
    f_ap: Float[ndarray, "prompt head"]
    q: Float[ndarray, "prompt head"]
    delta: Float[ndarray, "prompt head"]

    @property
    def E(self) -> Float[ndarray, "prompt head"]:
        """Absolute error of attribution patching, in units of the metric."""
        return np.abs(self.f - self.f_ap)

    @property
    def error(self) -> Float[ndarray, "prompt head"]:
        """Error relative to the estimate; 0 where nothing moves and nothing is missed."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(self.E == 0, 0.0, self.E / np.abs(self.f_ap))

    @property
    def R(self) -> Float[ndarray, "prompt head"]:
        """The reliability score, which needs no truth."""
        return reliability_score(torch.tensor(self.f_ap), torch.tensor(self.q)).numpy()

    @property
    def bad(self) -> Bool[ndarray, "prompt head"]:
        """Where attribution patching is off by more than ``LIMIT`` of its estimate."""
        return self.error > LIMIT

    @property
    def name(self) -> str:
        """The task, for the reader."""
        return TASKS.get(self.task, self.task)


def load(
    models: Sequence[str], n_prompts: Mapping[str, int], **options
) -> dict[tuple[str, str], xr.Dataset]:
    """Sweeps by (model, task), with a number of prompts for each task."""
    found = {}
    for model in models:
        for task, n in n_prompts.items():
            found |= common.load([model], [task], ESTIMATORS, n, **options)
    return found


def judged(sweeps: common.Sweeps) -> list[Judged]:
    """What is compared, one record for each model and task."""
    found = []
    for (model, task), data in sweeps.items():
        f, f_ap = data.activation_patching.values, data.attribution_patching.values
        labels = tuple(data.label.values.astype(str))
        q, delta = data.hvp.values - f_ap, data.delta_norm.values
        found.append(Judged(model, task, labels, data.layer.values, f, f_ap, q, delta))
    return found


def overview(sweeps: common.Sweeps) -> pd.DataFrame:
    """Models, tasks and prompts; a row a sweep, with one of its clean prompts."""
    rows = []
    for (model, task), data in sweeps.items():
        n = data.sizes
        text = str(data.clean.values[min(1, n["prompt"] - 1)]).split(">")[-1]
        weights = data.attrs.get("quantisation", "")
        rows.append(
            (model, weights, TASKS.get(task, task), n["prompt"], n["component"], text.strip())
        )
    columns = ["model", "weights", "task", "prompts", "heads", "a clean prompt"]
    return pd.DataFrame(rows, columns=columns)


def _ratios(run: Judged, large: bool) -> list[Float[ndarray, " pair"]]:
    """(True relative error) / R, an array for each prompt. Where both are 0 there is none."""
    kept = (run.E > 0) | (run.R > 0)
    if large:
        kept &= np.abs(run.f) >= np.quantile(np.abs(run.f), 0.75)
    with np.errstate(divide="ignore"):
        return [e[k] / r[k] for e, r, k in zip(run.error, run.R, kept, strict=True)]


def _by_model(runs: Sequence[Judged]):
    """Each model's ratios of all its tasks, of all effects and of large ones."""
    for model in dict.fromkeys(run.model for run in runs):
        for heads, large in (("all effects", False), ("large effects", True)):
            parts = [_ratios(run, large) for run in runs if run.model == model]
            yield model, heads, [prompt for part in parts for prompt in part]


def ratios(runs: Sequence[Judged]) -> pd.DataFrame:
    """Quantiles of (true relative error) / R, over all heads and prompts of a model's tasks.

    A large effect is one in the top quarter of its model and task.
    """
    quantiles = {"5 %": 0.05, "25 %": 0.25, "median": 0.5, "75 %": 0.75, "95 %": 0.95}
    rows = [
        (model, heads, *np.quantile(np.concatenate(found), [*quantiles.values()]))
        for model, heads, found in _by_model(runs)
    ]
    return pd.DataFrame(rows, columns=["model", "heads", *quantiles])


def within(runs: Sequence[Judged], factor: float = 2) -> pd.DataFrame:
    """Share of pairs whose true relative error is within a factor of R, in percent.

    Returns:
        Columns model, heads ("all effects" or "large effects") and within (an ``Interval`` over
        prompts).
    """
    rows = []
    for model, heads, found in _by_model(runs):
        inside = [((r > 1 / factor) & (r < factor)).sum() for r in found]
        rows.append((model, heads, bootstrap_share(inside, [len(r) for r in found])))
    return pd.DataFrame(rows, columns=["model", "heads", "within"])
