"""What components do together: interactions of pairs, and patches of many at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from hvp_utils import PatchedMetric

#: Heads among which pairs and sets are drawn.
RANKED = 30
SIZES = (2, 5, 10, 20)
PREDICTIONS = (
    "slopes",
    "quadratic model",
    "exact effects",
    "exact effects + Hessian's interactions",
    "exact effects + measured interactions",
)


@dataclass(frozen=True)
class Together:
    """The largest components of one metric, and what every pair of them does.

    Attributes:
        model: Name of the model.
        M: The metric.
        truth: Exact effect of every component.
        H: The whole Hessian at 0.
        ranked: Numbers of the largest components.
        measured: Their interactions, ``[ranked, ranked]``, zero on the diagonal.
    """

    model: str
    M: PatchedMetric
    truth: torch.Tensor
    H: torch.Tensor
    ranked: torch.Tensor
    measured: torch.Tensor


def _joint(M: PatchedMetric, alpha: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return M(alpha.to(M.delta_norm)).double().cpu() - M.base


def measure_pairs(
    model: str, M: PatchedMetric, truth: torch.Tensor, H: torch.Tensor, n_ranked: int = RANKED
) -> Together:
    """Patch every pair of the largest components: M(i, j) - M(i) - M(j) + M(0)."""
    truth = truth.double().cpu()
    ranked = truth.abs().argsort(descending=True)[:n_ranked]
    i, j = torch.triu_indices(len(ranked), len(ranked), offset=1)
    alpha = torch.zeros(len(i), M.n)
    alpha[torch.arange(len(i)), ranked[i]] = 1.0
    alpha[torch.arange(len(i)), ranked[j]] = 1.0
    measured = torch.zeros(len(ranked), len(ranked), dtype=torch.float64)
    measured[i, j] = _joint(M, alpha) - truth[ranked[i]] - truth[ranked[j]]
    return Together(model, M, truth, H, ranked, measured + measured.T)


def pairs_table(found: Sequence[Together]) -> pd.DataFrame:
    """Columns model, i, j (places by true effect, from 0), predicted (H_ij), measured (nats)."""
    rows = []
    for one in found:
        i, j = torch.triu_indices(len(one.ranked), len(one.ranked), offset=1)
        predicted = one.H[one.ranked[i], one.ranked[j]]
        rows += zip(
            [one.model] * len(i),
            i.tolist(),
            j.tolist(),
            predicted.tolist(),
            one.measured[i, j].tolist(),
            strict=True,
        )
    return pd.DataFrame(rows, columns=["model", "i", "j", "predicted", "measured"])


def correlations(pairs: pd.DataFrame, first: int = 10) -> pd.DataFrame:
    """Correlation of predicted and measured interactions, among the first and among all.

    Returns:
        Columns model, pairs, among the largest, all pairs, all.
    """
    rows = []
    for model, part in pairs.groupby("model", sort=False):
        few = part[(part.i < first) & (part.j < first)]
        rows.append(
            {
                "model": model,
                "pairs of the largest": len(few),
                "correlation": np.corrcoef(few.predicted, few.measured)[0, 1],
                "all pairs": len(part),
                "correlation, all": np.corrcoef(part.predicted, part.measured)[0, 1],
            }
        )
    return pd.DataFrame(rows)


def joint_patches(
    found: Sequence[Together], sizes: Sequence[int] = SIZES, n_sets: int = 40, seed: int = 0
) -> pd.DataFrame:
    """Five predictions of what random sets of components do together.

    Returns:
        Columns model, heads, prediction, error: the summed error over the summed size of the joint
        effects, in percent; NaN where a prediction is right by definition.
    """
    generator, rows = torch.Generator().manual_seed(seed), []
    for one in found:
        slope = one.M.gradient().double().cpu()
        for k in sizes:
            n = len(one.ranked)
            sets = torch.stack([torch.randperm(n, generator=generator)[:k] for _ in range(n_sets)])
            inside = torch.zeros(n_sets, n, dtype=torch.float64).scatter(1, sets, 1.0)
            alpha = torch.zeros(n_sets, one.M.n, dtype=torch.float64)
            alpha[:, one.ranked] = inside
            joint = _joint(one.M, alpha)
            bend = torch.einsum("bi,ij,bj->b", alpha, one.H, alpha) / 2
            own = alpha @ one.H.diagonal() / 2
            pairwise = torch.einsum("bi,ij,bj->b", inside, one.measured, inside) / 2
            singles = alpha @ one.truth
            guesses = (
                alpha @ slope,
                alpha @ slope + bend,
                singles,
                singles + bend - own,
                singles + pairwise,
            )
            for prediction, guess in zip(PREDICTIONS, guesses, strict=True):
                error = (100 * (guess - joint).abs().sum() / joint.abs().sum()).item()
                if k == 2 and prediction == PREDICTIONS[-1]:
                    error = float("nan")
                rows.append((one.model, k, prediction, error))
    return pd.DataFrame(rows, columns=["model", "heads", "prediction", "error"])
