"""Why: estimates beside circuits, and what a norm behind the heads does to a score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from hvp_utils import PatchedMetric, activation_patching, attribution_patching
from hvp_utils.circuits import Circuit, faithfulness
from hvp_utils.prompt_batch import PromptBatch

from .tables import Measured, areas, errors

__all__ = ["by_size", "estimates_and_circuits", "without_jacobian"]


def by_size(
    M: PatchedMetric, effects: dict[str, torch.Tensor], sizes: Sequence[int], signed: bool = True
) -> pd.DataFrame:
    """Faithfulness of the circuits of some scores, a row for each size and a column for each score.

    Args:
        M: The metric over edges, in the noising direction.
        effects: Scores by name.
        sizes: Numbers of edges.
        signed: As in ``Circuit.top``.
    """
    circuits = [Circuit.top(M, e, n, signed) for n in sizes for e in effects.values()]
    found = faithfulness(M, circuits).faithfulness().reshape(len(sizes), len(effects))
    return pd.DataFrame(found, columns=list(effects)).assign(edges=list(sizes))[["edges", *effects]]


def estimates_and_circuits(measured: Measured, **options: float) -> pd.DataFrame:
    """For each model, task and method the error of its scores, and the areas of its circuits.

    ``options`` are those of ``bootstrap_ci``.
    """
    keys = ["model", "task", "method"]
    table = errors(measured)[[*keys, "error", "rank correlation"]]
    return table.merge(areas(measured, **options), on=keys)


def better_estimates_better_circuits(table: pd.DataFrame) -> pd.DataFrame:
    """Rank correlation, over methods, of the error of scores with the distance from the model.

    1 would mean that the best estimates give the circuits closest to the model.
    """
    rows = []
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        error, cmd, cpr = (
            np.array([value.estimate for value in part[name]]) for name in ("error", "CMD", "CPR")
        )
        rank = [pd.Series(x).rank() for x in (error, cmd, -cpr)]
        rows.append(
            {
                "model": model,
                "task": task,
                "methods": len(part),
                "error and CMD": float(np.corrcoef(rank[0], rank[1])[0, 1]),
                "error and loss of CPR": float(np.corrcoef(rank[0], rank[2])[0, 1]),
            }
        )
    return pd.DataFrame(rows)


def without_jacobian(M: PatchedMetric, labels: Sequence[str]) -> pd.DataFrame:
    """Edges out of heads behind a norm: exact, slope, and the slope as if there were no norm.

    Args:
        M: The metric over edges of one prompt.
        labels: The edges; the writers are heads.
    """
    which = M.index(labels)
    patches = M.batches[0].patches

    def plain(batch: PromptBatch, rows) -> torch.Tensor:
        readers = [group.hook for group in patches.graph.readers]
        gradients = batch.gradients_at(readers, rows)
        kept, patches.tangent = patches.tangent, patches.difference
        try:
            return patches.slopes(gradients, rows)
        finally:
            patches.tangent = kept

    return pd.DataFrame(
        {
            "edge": list(labels),
            "exact": activation_patching(M, which).tolist(),
            "slope": attribution_patching(M, which).tolist(),
            "without the norm's Jacobian": M.of_prompts(plain)[which].tolist(),
        }
    )
