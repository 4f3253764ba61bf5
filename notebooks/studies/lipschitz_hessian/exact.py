"""What is run again in float64: heads at which the bound failed, and paths of single heads."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from hvp_utils import PatchedMetric, activation_patching, load_model, make_prompts
from hvp_utils.reliability import hessian_lipschitz

from .remainders import TASKS


class Again(NamedTuple):
    """What float64 says of one model.

    Attributes:
        sample: Failures on the first prompt of the first task, run again: one row.
        resolved: Of the failures that count, on all tasks: whether the bound holds in float64.
        closest: The head, among those that matter, whose remainder is the largest share of its bound: its name.
        share: That share, in float32.
        path: What ``path`` returns for it.
    """

    sample: pd.DataFrame
    resolved: list[bool]
    closest: str
    share: float
    path: pd.DataFrame


def remainder_and_bound(M: PatchedMetric, heads: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """|R3| and L_H |delta|^3 / 6 of some heads, in the precision of the model."""
    start = M.along_axes(0.0, components=heads)
    left = activation_patching(M, components=heads) - start.slope - start.curvature / 2
    size = M.delta_norm[heads.to(M.delta_norm.device)]
    bound = hessian_lipschitz(M, components=heads) * size**3 / 6
    return left.abs().cpu().numpy(), bound.cpu().numpy()


def path(M: PatchedMetric, component: str, n_points: int = 21) -> pd.DataFrame:
    """A head's path: columns strength, effect, AP, HVP, curvature and bound (on HVP's error).

    The bound at strength t is L_H (t |delta|)^3 / 6.
    """
    c = M.labels.index(component)
    t = torch.linspace(0, 1, n_points, dtype=M.delta_norm.dtype)
    along = M.along_axes(t, components=torch.full((n_points,), c))
    bound = remainder_and_bound(M, torch.tensor([c]))[1][0]
    strength, slope = t.numpy(), along.slope[0].item()
    bend = along.curvature[0].item()
    return pd.DataFrame(
        {
            "strength": strength,
            "effect": along.value.cpu().numpy() - M.base,
            "AP": slope * strength,
            "HVP": slope * strength + bend * strength**2 / 2,
            "curvature": along.curvature.cpu().numpy(),
            "bound": bound * strength**3,
        }
    )


def again(
    table: pd.DataFrame, name: str, device: str | None = None, most: int = 8, model=None
) -> Again:
    """Run one model again in float64, where float32 says that the bound fails.

    Args:
        table: What ``records`` returns.
        name: The model.
        device: Where to load it.
        most: Failures of the first prompt of the first task that are run again, at most.
        model: The model in float64, if it is loaded already.
    """
    model = model or load_model(name, device=device, dtype=torch.float64)
    part = table[table.model == name]
    sizes = part.groupby("task", sort=False).prompt.nunique()
    pairs = {task: make_prompts(task, model, n) for task, n in sizes.items()}
    first = part[(part.task == part.task.iloc[0]) & (part.prompt == 0)].reset_index(drop=True)
    sample = _sample(first, PatchedMetric(model, pairs[part.task.iloc[0]][0]), most)

    resolved = []
    failing = part[~part.holds & part.counts]
    for (task, prompt), rows in failing.groupby(["task", "prompt"], sort=False):
        M = PatchedMetric(model, pairs[task][prompt])
        heads = torch.tensor([M.labels.index(label) for label in rows.component])
        R3, bound = remainder_and_bound(M, heads)
        resolved += (R3 <= bound).tolist()

    kept = part[part.matters & part.counts]
    worst = kept.loc[(kept.R3 / kept.bound).idxmax()]
    M = PatchedMetric(model, pairs[worst.task][worst.prompt])
    label = f"{worst.component}, {TASKS.get(worst.task, worst.task)}"
    return Again(sample, resolved, label, worst.R3 / worst.bound, path(M, worst.component))


def _sample(first: pd.DataFrame, M: PatchedMetric, most: int) -> pd.DataFrame:
    """Failures of one prompt, spread over the heads, in both precisions; no row if there are none.

    Returns:
        Columns model, failing, "run again", "fail in float64", "float32" and "float64" (median
        remainders), bound (its median), difference (of the remainders, the largest), threshold.
    """
    failing = first.index[~first.holds].to_numpy()
    if not len(failing):
        return pd.DataFrame()
    heads = failing[:: max(1, len(failing) // most)][:most]
    R3, bound = remainder_and_bound(M, torch.tensor(heads))
    before = first.R3[heads].to_numpy()
    row = {
        "model": first.model[0],
        "failing": len(failing),
        "run again": len(heads),
        "fail in float64": int((R3 > bound).sum()),
        "float32": np.median(before),
        "float64": float(torch.tensor(R3).median()),
        "bound": float(torch.tensor(bound).median()),
        "difference": np.abs(R3 - before).max(),
        "threshold": first.floor[0],
    }
    return pd.DataFrame([row])
