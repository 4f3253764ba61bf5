"""What figures of studies share: panels, one for each model and task, under one headline."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hvp_utils.stats import Interval

from .common import settings_of

__all__ = ["bars", "headline", "panels"]


def panels(
    table: pd.DataFrame, height: float, names: Mapping[str, str], row_each: bool = False
) -> tuple[Figure, dict[Axes, tuple[str, str]], int]:
    """A figure with a panel for each model and task of a table.

    Args:
        table: With columns ``model`` and ``task``.
        height: Height of a row of panels, in inches.
        names: Names of tasks for the reader.
        row_each: Whether each model has a row of its own, which needs as many tasks of each.

    Returns:
        The figure, the model and task of each panel, and how many stand in a row.
    """
    settings = settings_of(table)
    rows = table.model.nunique() if row_each else 1
    columns = len(settings) // rows
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.75 * columns, height * rows),
        sharey=True,
        sharex=rows > 1,
        squeeze=False,
    )
    found = dict(zip(np.ravel(axes), settings, strict=True))
    for ax, (model, task) in found.items():
        ax.set_title(f"{model}\n{names.get(task, task)}", fontsize=10, weight="normal")
    return fig, found, columns


def bars(intervals: Iterable[Interval]) -> tuple[np.ndarray, np.ndarray]:
    """Estimates, and how far the ends of their intervals are from them, as ``errorbar`` takes it."""
    middle, low, high = np.array([tuple(one) for one in intervals], dtype=float).T
    return middle, np.maximum([middle - low, high - middle], 0)


def headline(fig: Figure, title: str) -> None:
    """What the figure says, in bold above all panels."""
    fig.suptitle(title, weight="bold", x=0.01, ha="left")
