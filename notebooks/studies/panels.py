"""What figures of studies share: a row of panels, one for each model and task, under one headline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

__all__ = ["headline", "panels"]


def panels(
    settings: Sequence[tuple[str, str]],
    height: float,
    names: Mapping[str, str],
    columns: int | None = None,
) -> tuple[Figure, list[Axes]]:
    """A figure with a panel for each (model, task), with names of tasks for the reader.

    Args:
        settings: Models and tasks.
        height: Height of a row of panels, in inches.
        names: Names of tasks.
        columns: Panels in a row; all by default.
    """
    columns = columns or len(settings)
    rows = -(-len(settings) // columns)
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(2.75 * columns, height * rows),
        sharey=True,
        sharex=True,
        squeeze=False,
    )
    for ax, (model, task) in zip(np.ravel(axes), settings, strict=True):
        ax.set_title(f"{model}\n{names.get(task, task)}", fontsize=10, weight="normal")
    return fig, list(np.ravel(axes))


def headline(fig: Figure, title: str) -> None:
    """What the figure says, in bold above all panels."""
    fig.suptitle(title, weight="bold", x=0.01, ha="left")
