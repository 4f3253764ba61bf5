"""Why the error falls as it does, and when one step does harm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from hvp_utils import PatchedMetric, activation_patching, ms_hvp

from .. import common
from .measuring import TASKS


def leftovers(
    M: PatchedMetric, ks: Sequence[int] = (1, 2, 5, 10, 20), top: int = 5
) -> pd.DataFrame:
    """What MS-HVP leaves out for the largest effects, and what two curvatures predict.

    The sum is a quadrature rule, and to leading order its error is
    ``(g''(1) - g''(0)) / (6 K^2)``.

    Returns:
        Columns component, truth, K, estimate, error (truth less estimate) and predicted, all in
        units of the metric.
    """
    truth = activation_patching(M).cpu()
    chosen = truth.abs().topk(top).indices
    start, end = (M.along_axes(t, components=chosen).curvature.cpu() for t in (0.0, 1.0))
    rows = []
    for k in ks:
        estimate = ms_hvp(M, k, components=chosen).cpu()
        for i, c in enumerate(chosen.tolist()):
            f, found = truth[c].item(), estimate[i].item()
            predicted = (end[i] - start[i]).item() / (6 * k**2)
            rows.append((M.labels[c], f, k, found, f - found, predicted))
    columns = ["component", "truth", "K", "estimate", "error", "predicted"]
    table = pd.DataFrame(rows, columns=columns)
    order = {M.labels[c]: i for i, c in enumerate(chosen.tolist())}
    return table.sort_values("component", key=lambda s: s.map(order), kind="stable")


def precisions(
    data: xr.Dataset, double: PatchedMetric, ks: tuple[int, int] = (10, 20), top: int = 5
) -> pd.DataFrame:
    """Mean error of the largest effects of a prompt in float32, as stored, and in float64.

    Args:
        data: A sweep of one prompt, in float32.
        double: The same prompt in float64.
        ks: Two numbers of steps.
        top: How many components.

    Returns:
        Columns precision, a column for each K (mean absolute error in units of the metric), and
        slope: the power of K between the two.
    """
    followed = torch.tensor(np.argsort(-np.abs(data.activation_patching.values))[:top].copy())
    exact = activation_patching(double, components=followed)
    found = {
        "float32": [
            float(np.abs(data[f"ms_hvp:{k}"] - data.activation_patching).mean()) for k in ks
        ],
        "float64": [
            (ms_hvp(double, k, components=followed) - exact).abs().mean().item() for k in ks
        ],
    }
    rows = [
        {"precision": name}
        | {f"K = {k}": error for k, error in zip(ks, pair, strict=True)}
        | {"slope": np.log(pair[1] / pair[0]) / np.log(ks[1] / ks[0])}
        for name, pair in found.items()
    ]
    return pd.DataFrame(rows)


class Harm(NamedTuple):
    """The head to which one step does most harm on a prompt; effects in units of the metric."""

    component: str
    AP: float
    truth: float
    q: float
    remainder: float


def harm(data: xr.Dataset) -> Harm:
    """The head whose error one step raises most.

    Args:
        data: A sweep of one prompt.
    """
    truth, ap, hvp = (
        data[name].values for name in ("activation_patching", "attribution_patching", "ms_hvp:1")
    )
    c = int(np.nanargmax(np.abs(hvp - truth) - np.abs(ap - truth)))
    values = (ap[c], truth[c], hvp[c] - ap[c], truth[c] - hvp[c])
    return Harm(str(data.label.values[c]), *map(float, values))


def bent_back(sweeps: common.Sweeps, least: float = 1e-4) -> pd.DataFrame:
    """Is one step worse than none exactly when the remainder opposes the quadratic term by half?

    Pairs count whose quadratic term is larger than ``least``: below it float32 decides.

    Returns:
        Columns model, task, pairs, worse (pairs that one step makes worse), and agree (pairs on
        which the rule says what happened).
    """
    rows = []
    for (model, task), data in sweeps.items():
        q = (data["ms_hvp:1"] - data.attribution_patching).values
        remainder = (data.activation_patching - data["ms_hvp:1"]).values
        counted = np.abs(q) > least  # false where nothing was followed
        worse = np.abs(remainder) > np.abs(q + remainder)
        opposes = (q * remainder < 0) & (np.abs(remainder) > np.abs(q) / 2)
        agree = (worse == opposes) & counted
        counts = (counted.sum(), (worse & counted).sum(), agree.sum())
        rows.append((model, TASKS.get(task, task), *map(int, counts)))
    return pd.DataFrame(rows, columns=["model", "task", "pairs", "worse", "agree"])
