"""One prompt, head by head; the head that the score misjudges most; and what rounding does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from hvp_utils import PatchedMetric, PromptPair, activation_patching, reliability_score
from hvp_utils.stats import Auroc

from .measuring import LIMIT, Judged


def one_prompt(M: PatchedMetric) -> pd.DataFrame:
    """Truth, estimate and score of every component of one prompt.

    Returns:
        Columns component, truth, AP and q (in units of the metric), R, and error (relative to the
        estimate).
    """
    start = M.along_axes(0.0)
    slope, half = start.slope.cpu(), start.curvature.cpu() / 2
    truth = activation_patching(M).cpu()
    return pd.DataFrame(
        {
            "component": list(M.labels),
            "truth": truth,
            "AP": slope,
            "q": half,
            "R": reliability_score(slope, half),
            "error": (truth - slope).abs() / slope.abs(),
        }
    )


class Blind(NamedTuple):
    """A head that the score calls safe and that is not; effects in units of the metric."""

    component: str
    R: float
    AP: float
    truth: float
    q: float

    @property
    def remainder(self) -> float:
        """What is missing beside the quadratic term."""
        return self.truth - self.AP - self.q

    @property
    def missing(self) -> float:
        """Error of attribution patching, as a share of the true effect."""
        return abs(self.truth - self.AP) / abs(self.truth)


def blind_spot(table: pd.DataFrame) -> Blind:
    """The head with the largest absolute error among those that the score calls safe.

    Args:
        table: What ``one_prompt`` returns.

    Raises:
        ValueError: The score calls no head safe.
    """
    safe = table[table.R < LIMIT]
    if safe.empty:
        raise ValueError(f"No head of this prompt has a score below {LIMIT}.")
    worst = safe.loc[(safe.truth - safe.AP).abs().idxmax()]
    return Blind(worst.component, *(float(worst[key]) for key in ("R", "AP", "truth", "q")))


def blind_curve(M: PatchedMetric, component: str, n_points: int = 41) -> pd.DataFrame:
    """The metric and its curvature as one head is patched by degrees.

    Returns:
        Columns strength, truth, AP, HVP (the metric, and what the two estimates make of it) and
        half curvature, all in units of the metric.
    """
    t = torch.linspace(0, 1, n_points, dtype=torch.float64)
    path = M.along_axes(t, components=torch.full((n_points,), M.labels.index(component)))
    value, slope, curvature = (x.cpu().double() for x in path[:3])
    tangent = M.base + slope[0] * t
    return pd.DataFrame(
        {
            "strength": t,
            "truth": value,
            "AP": tangent,
            "HVP": tangent + curvature[0] / 2 * t**2,
            "half curvature": curvature / 2,
        }
    )


class Rounding(NamedTuple):
    """AUROC of R on the same heads, in two precisions."""

    n_heads: int
    single: float
    double: float

    @property
    def explains(self) -> bool:
        """Whether rounding is more than half of what is missing to 1."""
        return self.double - self.single > (1 - self.single) / 2


def rounding(run: Judged, model, pairs: Sequence[PromptPair]) -> Rounding:
    """The quarter of shortest patches again, in float64, beside what float32 made of it.

    Args:
        run: What was measured in float32.
        model: The same model in float64.
        pairs: The first prompts of the task.
    """
    shortest = run.delta <= np.quantile(run.delta, 0.25)
    single, double = ([], []), ([], [])
    for i, pair in enumerate(pairs):
        heads = torch.tensor(np.flatnonzero(shortest[i]))
        M = PatchedMetric(model, pair)
        start = M.along_axes(0.0, components=heads)
        error = (activation_patching(M, components=heads) - start.slope) / start.slope
        double[0].append(reliability_score(start.slope, start.curvature / 2).cpu().numpy())
        double[1].append(error.abs().cpu().numpy() > LIMIT)
        single[0].append(run.R[i][heads])
        single[1].append(run.bad[i][heads])
    areas = [
        Auroc(np.concatenate(score)[None], np.concatenate(bad)[None])()
        for score, bad in (single, double)
    ]
    return Rounding(sum(map(len, single[0])), *areas)
