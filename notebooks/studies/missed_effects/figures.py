"""The figure: the bound against the number of subsets."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from ..panels import headline
from .measuring import CONTROLS

__all__ = ["bounds_figure"]

#: Name, colour (Okabe and Ito), marker and line of each control.
_LOOKS = {
    CONTROLS[0]: ("subsets alone", "#E69F00", "s", "--"),
    CONTROLS[1]: ("attribution patching as control", "#0072B2", "o", "-"),
}
_MISSED = "largest missed effect (among those checked, if not all)"


def bounds_figure(table: pd.DataFrame, title: str) -> Figure:
    """Bounds by number of subsets, a panel for each model and kind of components.

    Args:
        table: What ``bounds`` returns.
        title: What the figure says.
    """
    settings = list(table.groupby(["model", "components"], sort=False))
    columns = table.components.nunique()
    rows = -(-len(settings) // columns)
    fig, axes = plt.subplots(
        rows, columns, figsize=(4.2 * columns, 2.9 * rows + 0.4), squeeze=False, sharex=True
    )
    for ax, ((model, components), part) in zip(axes.flat, settings, strict=False):
        for control, (label, colour, marker, line) in _LOOKS.items():
            one = part[part.control == control]
            ax.plot(
                one.n_subsets, one.bound, color=colour, marker=marker, ls=line, label=label, ms=6
            )
        first = part.iloc[0]
        ends = np.array([part.n_subsets.min(), part.n_subsets.max()])
        ax.plot(ends, [first.missed] * 2, color="black", lw=1.5, label=_MISSED)
        ax.plot(
            ends, [first.shown] * 2, color="#777777", lw=1.2, ls=":", label="largest effect shown"
        )
        ax.set(xscale="log", yscale="log")
        ax.set_title(f"{model}, {first.n:,} {components}", fontsize=10, weight="normal")
        ax.xaxis.set_major_locator(FixedLocator(sorted(part.n_subsets.unique())))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.yaxis.set_major_locator(FixedLocator([0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20]))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    for ax in axes[-1]:
        ax.set_xlabel("random subsets that are run")
    for ax in axes[:, 0]:
        ax.set_ylabel("|effect|   [nats]")
    for ax in list(axes.flat)[len(settings) :]:
        ax.set_axis_off()
    fig.legend(
        *axes.flat[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=9
    )
    headline(fig, title)
    return fig
