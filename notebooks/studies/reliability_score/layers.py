"""Scores and errors by layer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import spearmanr

from hvp_utils.stats import bootstrap_ci

from .measuring import Judged


def _parts(run: Judged) -> tuple[ndarray, list[ndarray], Float[ndarray, "layer prompt"]]:
    """Layers, the scores of each [prompt, head], and the summed errors of each on each prompt."""
    layers = np.unique(run.layers)
    R, E = run.R, run.E
    scores = [R[:, run.layers == layer] for layer in layers]
    return layers, scores, np.stack([E[:, run.layers == layer].sum(1) for layer in layers])


def by_layer(run: Judged) -> pd.DataFrame:
    """Score and error of every layer.

    Returns:
        Columns layer; low, high: quartiles of R over heads and prompts; R: its median, an
        ``Interval`` over prompts; error: the sum of ``|f - f_AP|`` over the layer's heads, mean over
        prompts, an ``Interval`` in units of the metric.
    """
    rows = []
    for layer, scores, sums in zip(*_parts(run), strict=True):
        low, high = np.quantile(scores, [0.25, 0.75])
        median = bootstrap_ci(
            np.arange(len(scores)),
            lambda drawn, scores=scores: np.median(scores[drawn.astype(int)]),
        )
        rows.append((layer, low, high, median, bootstrap_ci(sums)))
    return pd.DataFrame(rows, columns=["layer", "low", "high", "R", "error"])


def tracks(runs: Sequence[Judged], n_resamples: int = 300) -> pd.DataFrame:
    """Do layers with high scores have large errors?

    Returns:
        Columns model, task, peak of R (layer with the highest median), peak of the error (layer
        with the largest sum), and correlation: Spearman's, over layers, an ``Interval``.
    """
    rows = []
    for run in runs:
        layers, scores, sums = _parts(run)

        def correlation(drawn, scores=scores, sums=sums):
            chosen = drawn.astype(int)
            medians = [np.median(r[chosen]) for r in scores]
            return spearmanr(medians, sums[:, chosen].mean(1)).statistic

        found = bootstrap_ci(np.arange(sums.shape[1]), correlation, n_resamples=n_resamples)
        peak = int(layers[np.argmax([np.median(r) for r in scores])])
        rows.append((run.model, run.name, peak, int(layers[sums.mean(1).argmax()]), found))
    columns = ["model", "task", "peak of R", "peak of the error", "correlation"]
    return pd.DataFrame(rows, columns=columns)
