"""True effects of heads and what estimates make of them, and what is left after some are fixed.

``Effects`` holds arrays [prompt, head] of one model and task. A *rule* says which heads are fixed
first, a *fix* what replaces their estimates, a *measure* how wrong the heads of a prompt are then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool, Float
from numpy import ndarray

from hvp_utils import reliability_score
from hvp_utils.stats import top_k_relative_error

from .. import common

TASKS = {"ioi": "IOI", "factual": "Factual", "greater_than_01": "Greater-Than"}
#: What is swept for every head.
ALL_HEADS = ("activation_patching", "attribution_patching", "hvp")
#: What a flagged estimate is replaced by.
FIXES = {"hvp": "HVP", "ms_hvp": "MS-HVP (5 steps)", "exact": "exact patching"}
TAU = 0.1  # the threshold of the lesson
TAUS = (0.05, 0.1, 0.2, 0.5, 1.0)

Array = Float[ndarray, "prompt head"]


class Effects(NamedTuple):
    """Effects of all heads of one model on one task.

    Attributes:
        model: Name of the model.
        task: Name of the task.
        f: True effects, by exact patching.
        f_ap: Attribution patching.
        hvp: HVP.
        delta_norm: Length of each head's patch.
        ms_hvp: MS-HVP with five steps, NaN where it was not run.
        lipschitz: Lipschitz constant of the Hessian along each patch.
        r: Half the length of each head's row of the Hessian, from two differences.
    """

    model: str
    task: str
    f: Array
    f_ap: Array
    hvp: Array
    delta_norm: Array | None = None
    ms_hvp: Array | None = None
    lipschitz: Array | None = None
    r: Array | None = None

    @property
    def q(self) -> Array:
        """The quadratic term that attribution patching leaves out."""
        return self.hvp - self.f_ap

    @property
    def error(self) -> Array:
        """Absolute error of attribution patching."""
        return np.abs(self.f - self.f_ap)

    @property
    def R(self) -> Array:
        """The reliability score."""
        return reliability_score(torch.tensor(self.f_ap), torch.tensor(self.q)).numpy()

    @property
    def off_by_10(self) -> Bool[ndarray, "prompt head"]:
        """Which estimates of attribution patching are wrong by more than a tenth of themselves."""
        return self.error > 0.1 * np.abs(self.f_ap)

    @property
    def n(self) -> int:
        """Number of heads."""
        return self.f.shape[1]

    def by(self, fix: str) -> Array:
        """Estimates of every head by a fix."""
        return {"hvp": self.hvp, "ms_hvp": self.ms_hvp, "exact": self.f}[fix]


_OPTIONAL = {"ms_hvp": "ms_hvp:5", "lipschitz": "hessian_lipschitz"}


def effects(
    sweeps: Mapping[tuple[str, str], xr.Dataset],
    largest: Mapping[tuple[str, str], xr.Dataset] | None = None,
) -> list[Effects]:
    """Effects from sweeps by model and task, in double precision.

    Args:
        sweeps: With the estimators ``ALL_HEADS`` at least.
        largest: Sweeps of the five largest heads only, on the same prompts, for MS-HVP.
    """
    found = []
    for key, data in sweeps.items():
        optional = {
            name: data[variable].values.astype(float)
            for name, variable in _OPTIONAL.items()
            if variable in data
        }
        if "row_norms:2" in data:
            optional["r"] = data["row_norms:2"].values.astype(float) / 2
        if largest is not None:
            optional["ms_hvp"] = largest[key]["ms_hvp:5"].values.astype(float)
        f, f_ap, hvp = (data[name].values.astype(float) for name in ALL_HEADS)
        found.append(Effects(*key, f, f_ap, hvp, data.delta_norm.values.astype(float), **optional))
    return found


def load(
    models: Sequence[str],
    n_prompts: Mapping[str, int] | int,
    more: Sequence[str] = (),
    five_steps: bool = False,
    tasks: Sequence[str] = tuple(TASKS),
    **options,
) -> list[Effects]:
    """Effects from the store, the tasks of the first model first.

    Args:
        models: Names of the models.
        n_prompts: Prompts of each task, by task or the same for all.
        more: Estimators beside ``ALL_HEADS``.
        five_steps: Whether MS-HVP is wanted of the five largest heads of each prompt.
        tasks: Names of the tasks.
        **options: As for ``hvp_utils.sweep``.
    """
    n = {task: n_prompts if isinstance(n_prompts, int) else n_prompts[task] for task in tasks}
    found = []
    for model in models:
        for task in tasks:
            sweeps = common.load([model], [task], (*ALL_HEADS, *more), n[task], **options)
            largest = None
            if five_steps:
                wanted = ("activation_patching", "attribution_patching", "ms_hvp:5")
                largest = common.load([model], [task], wanted, n[task], top=5, **options)
            found += effects(sweeps, largest)
    return found


def by_model(found: Sequence[Effects]) -> dict[str, list[Effects]]:
    """The effects of each model, in the order given."""
    models = dict.fromkeys(one.model for one in found)
    return {model: [one for one in found if one.model == model] for model in models}


def pooled(found: Sequence[Effects], function: Callable[[Effects], ndarray]) -> ndarray:
    """One number for each prompt, the prompts of all tasks in a row."""
    return np.concatenate([function(one) for one in found])


# --- which heads are fixed first -----------------------------------------------------------------

ORACLE = "true error (oracle)"
ROWS = "|f_AP| + r"
#: The score that heads are sorted by, by name of the rule.
RULES: dict[str, Callable[[Effects], Array]] = {
    "R": lambda one: one.R,
    "|f_AP|": lambda one: np.abs(one.f_ap),
    "|q|": lambda one: np.abs(one.q),
    ORACLE: lambda one: one.error,
    ROWS: lambda one: np.abs(one.f_ap) + one.r,
}


def flagged_by(one: Effects, rule: str, k: int) -> Bool[ndarray, "prompt head"]:
    """The k heads of each prompt that a rule puts first."""
    return common.places(RULES[rule](one)) <= k


def repaired(one: Effects, flagged: Bool[ndarray, "prompt head"] | bool, fix: str) -> Array:
    """Attribution patching, with the flagged heads replaced by the fix."""
    return np.where(flagged, one.by(fix), one.f_ap)


# --- how wrong the heads of a prompt are ---------------------------------------------------------


def top_5(one: Effects, flagged, fix: str) -> Float[ndarray, " prompt"]:
    """Top-5 relative error, in percent of the range of all true effects."""
    return top_k_relative_error(repaired(one, flagged, fix), one.f)


def summed(one: Effects, flagged, fix: str) -> Float[ndarray, " prompt"]:
    """Summed absolute error, in percent of that of attribution patching."""
    return 100 * np.abs(repaired(one, flagged, fix) - one.f).sum(1) / one.error.sum(1)


def still_off(one: Effects, flagged, fix: str = "exact") -> Float[ndarray, " prompt"]:
    """Percent of the heads that attribution patching has off by more than 10 % and are not fixed."""
    return 100 * (one.off_by_10 & ~np.asarray(flagged)).mean(1)


MEASURES = {"top-5 error": top_5, "summed error": summed, "off by > 10 %": still_off}
