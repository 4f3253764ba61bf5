"""Why: estimates beside circuits, and what a norm behind the heads does to a score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from scipy.stats import spearmanr

from hvp_utils import PatchedMetric, activation_patching, attribution_patching
from hvp_utils.circuits import Circuit, faithfulness, importance
from hvp_utils.prompt_batch import PromptBatch

from .tables import Measured, areas, errors

__all__ = [
    "Summary",
    "at_fraction",
    "better_estimates_better_circuits",
    "by_size",
    "estimates_and_circuits",
    "missing_links",
    "place",
    "summary",
    "without_jacobian",
    "worst_without_jacobian",
]


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
        rows.append(
            {
                "model": model,
                "task": task,
                "methods": len(part),
                "error and CMD": float(spearmanr(error, cmd).statistic),
                "error and loss of CPR": float(spearmanr(error, -cpr).statistic),
            }
        )
    return pd.DataFrame(rows)


def at_fraction(curves: pd.DataFrame, fraction: float, ranking: str) -> pd.Series:
    """Mean faithfulness over models and tasks at one size, by method.

    Args:
        curves: What ``curves`` returns.
        fraction: The size.
        ranking: ``"signed"`` or ``"absolute"``.
    """
    part = curves[(curves.ranking == ranking) & np.isclose(curves.fraction, fraction)]
    return part.assign(value=[f.estimate for f in part.faithfulness]).groupby("method").value.mean()


def worst_without_jacobian(M: PatchedMetric, n: int) -> list[str]:
    """Of edges from heads into the logits, those that a score without the norm's Jacobian misses most."""
    labels = [x for x in M.labels if x.endswith("->logits") and "H" in x]
    table = without_jacobian(M, labels)
    off = (table["exact"] - table["without the norm's Jacobian"]).abs()
    return table.edge[off.sort_values(ascending=False).index[:n]].tolist()


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


@dataclass(frozen=True)
class Summary:
    """The answer of the chapter, from its numbers."""

    both: pd.DataFrame
    against: pd.DataFrame
    few: pd.Series

    def mean(self, method: str, column: str) -> float:
        """The mean over models and tasks of a number of a method."""
        part = self.both[self.both.method == method]
        return float(np.mean([value.estimate for value in part[column]]))

    def better(self, method: str, area: str) -> tuple[int, int, int]:
        """In how many settings a method is better than EAP, significantly so, and of how many."""
        part = self.against[(self.against.method == method) & (self.against.area == area)]
        return int(part.better.sum()), int((part.better & (part.holm < 0.05)).sum()), len(part)

    @property
    def answer(self) -> str:
        """The box of the lesson, in Markdown."""
        ig, sure, n = self.better("EAP-IG", "CMD")
        hvp, hvp_sure, _ = self.better("HVP, sketched", "CMD")
        agree = (better_estimates_better_circuits(self.both)["error and CMD"] > 0).sum()
        word = "Not reliably" if agree < n else "Yes"
        return f""":::{{admonition}} The answer
:class: important
**{word}.** EAP is off by {self.mean("EAP", "error"):.0f} % of the exact effects of single edges, EAP-IG by {self.mean("EAP-IG", "error"):.0f} %. Yet with 0.2 % of
the edges EAP-IG keeps {self.few["EAP-IG"]:.2f} of the behaviour and EAP {self.few["EAP"]:.2f}. Over all sizes EAP-IG is closer to the model than EAP in {ig} of {n}
settings, significantly in {sure} (p < 0.05 after {{term}}`Holm's correction`). HVP from a sketch, off by {self.mean("HVP, sketched", "error"):.0f} %, is closer than EAP in {hvp}, significantly
in {hvp_sure}. Two models, three tasks, 50 prompts each.
:::"""


def summary(both: pd.DataFrame, against: pd.DataFrame, few: pd.Series) -> Summary:
    """The answer from ``estimates_and_circuits``, ``areas_against`` and ``at_fraction``."""
    return Summary(both, against, few)


def place(M: PatchedMetric, effects: torch.Tensor, label: str) -> int:
    """The place of an edge in the ranking by sign, from 1."""
    score = importance(M, effects)
    return int((score > score[M.index([label])]).sum()) + 1


def missing_links(
    M: PatchedMetric, bad: Circuit, good: Circuit, most: int = 3, tried: int = 400
) -> pd.DataFrame:
    """The edges that a circuit lacks most: added one by one, each the one that helps most.

    Args:
        M: The metric over edges, in the noising direction.
        bad: The circuit.
        good: Another, whose edges may be added.
        most: How many edges are added at most; fewer when the other circuit is reached.
        tried: If more are missing, only the first in the order of the network are tried: what all
            paths need is most often at the beginning.

    Returns:
        A row for each edge added, with faithfulness before and after, and that of ``good``.
    """
    of_good, before = faithfulness(M, [good, bad]).faithfulness()
    rows = []
    for _ in range(most):
        missing = list(good - bad)[:tried]
        if not missing or before >= 0.9 * of_good:
            break
        candidates = [bad | Circuit.of(bad.graph, [edge]) for edge in missing]
        after = faithfulness(M, candidates).faithfulness()
        best = int(after.argmax())
        rows.append(
            {
                "edge": missing[best],
                "before": before,
                "after": after[best],
                "other circuit": of_good,
            }
        )
        bad, before = candidates[best], after[best]
    return pd.DataFrame(rows)
