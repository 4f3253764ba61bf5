"""L_H by layer, and the length that it goes with.

A normalisation beside other entries of length r has a third derivative of 3 / r^3. So where the
first norm that a head's output meets divides by r, L_H should be as 1 / r^3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pandas as pd
from numpy import ndarray
from scipy.stats import spearmanr

from hvp_utils.stats import Interval, bootstrap_ci

Lengths = Mapping[str, Mapping[str, ndarray]]


def _matrix(part: pd.DataFrame, column: str) -> tuple[ndarray, ndarray]:
    """Of one model and task: values [prompt, head], and the layer of each head."""
    n = part.prompt.nunique()
    return part[column].to_numpy().reshape(n, -1), part.layer.to_numpy()[: len(part) // n]


def _medians(values: ndarray, layers: ndarray) -> ndarray:
    return np.array([np.median(values[:, layers == k]) for k in np.unique(layers)])


def by_layer(part: pd.DataFrame, column: str) -> ndarray:
    """Median of each layer over heads and prompts of one model and task."""
    return _medians(*_matrix(part, column))


def _over_prompts(
    part: pd.DataFrame, statistic: Callable[[ndarray], float], n_resamples: int
) -> Interval:
    """A statistic of the medians of L_H, with its interval over prompts."""
    values, layers = _matrix(part, "L_H")
    return bootstrap_ci(
        np.arange(len(values)),
        lambda drawn: statistic(_medians(values[drawn.astype(int)], layers)),
        n_resamples=n_resamples,
    )


def trends(
    table: pd.DataFrame, lengths: Lengths, task: str, n_resamples: int = 300
) -> pd.DataFrame:
    """How L_H goes with depth and with lengths, for the medians of each layer on one task.

    Args:
        table: What ``records`` returns.
        lengths: One number a layer, by model and name of the length.
        task: Which task.
        n_resamples: Resamples of the bootstrap over prompts.

    Returns:
        Columns model, depth (rank correlation of L_H with the layer), "exponent, <length>" (slope
        of log L_H against log length; both with an ``Interval``), "correlation, <length>" (of the logs), "spread of
        L_H" and "spread of the bound" (in powers of ten).
    """
    rows = []
    for model, part in table[table.task == task].groupby("model", sort=False):
        layers, rate = np.unique(part.layer), by_layer(part, "L_H")
        depth = _over_prompts(
            part, lambda m, layers=layers: spearmanr(layers, m).statistic, n_resamples
        )
        row = {"model": model, "depth": depth}
        for name, length in lengths[model].items():
            r = np.log(length)
            row[f"exponent, {name}"] = _over_prompts(
                part, lambda m, r=r: np.polyfit(r, np.log(m), 1)[0], n_resamples
            )
            row[f"correlation, {name}"] = np.corrcoef(r, np.log(rate))[0, 1]
        for name, column in {"L_H": "L_H", "the bound": "bound"}.items():
            row[f"spread of {name}"] = np.ptp(np.log10(by_layer(part, column)))
        rows.append(row)
    return pd.DataFrame(rows)


def best_length(row: pd.Series) -> str:
    """The length that falls most closely as L_H rises, of a row of ``trends``."""
    found = {name.split(", ")[1]: row[name] for name in row.index if name.startswith("correlation")}
    return min(found, key=found.get)


def laws(part: pd.DataFrame, lengths: Mapping[str, ndarray]) -> dict[str, ndarray]:
    """1 / length^3 by layer, raised to the height of L_H: nothing else is fitted."""
    found = {}
    for name, length in lengths.items():
        law = -3 * np.log(length)
        found[name] = np.exp(law + np.median(np.log(by_layer(part, "L_H")) - law))
    return found
