"""The figures of chapter 5. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hvp_utils import plots

from ..panels import bars, headline
from .measuring import LIMIT, Judged

_BLUE, _RED, _GREY = "#0072B2", "#D55E00", "#555555"
#: Colour (Okabe and Ito), marker and line of the first, second and third task.
_TASKS = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "D", "-."))


def cloud_figure(runs: Sequence[Judged], within: pd.DataFrame, title: str) -> Figure:
    """Score against true relative error, all heads, prompts and tasks of a model in a panel.

    Args:
        runs: What was measured.
        within: What ``within`` returns.
        title: What the figure says.
    """
    models = list(dict.fromkeys(run.model for run in runs))
    fig, axes = plt.subplots(
        1, len(models), figsize=(4.6 * len(models), 4.9), sharey=True, squeeze=False
    )
    share = within[within["heads"] == "all effects"].set_index("model").within
    ends = np.array([1e-4, 1e2])
    for ax, model in zip(axes[0], models, strict=True):
        x, y = (
            np.concatenate([getattr(run, key).ravel() for run in runs if run.model == model])
            for key in ("R", "error")
        )
        shown = (x > ends[0]) & (y > ends[0]) & (x < ends[1]) & (y < ends[1])
        cells = ax.hexbin(
            x[shown],
            y[shown],
            xscale="log",
            yscale="log",
            gridsize=50,
            bins="log",
            cmap="Blues",
            mincnt=1,
            vmin=0.4,
            vmax=1000,
            extent=(-4, 2, -4, 2),
            linewidths=0.1,
        )
        ax.plot(ends, ends, color=_RED, lw=1.6, label="error = R")
        ax.plot(ends, 2 * ends, color=_RED, lw=1.2, ls="--", label="within a factor of 2")
        ax.plot(ends, ends / 2, color=_RED, lw=1.2, ls="--")
        ax.axhline(LIMIT, color=_GREY, lw=0.9)
        ax.axvline(LIMIT, color=_GREY, lw=0.9)
        for place, text in (((0.04, 0.62), "missed"), ((0.70, 0.05), "false alarm")):
            ax.text(*place, text, transform=ax.transAxes, fontsize=11, style="italic")
        ax.set_title(
            f"{model}: {share[model].estimate:.0f} % within a factor of 2",
            fontsize=10,
            weight="normal",
        )
        ax.set(xlim=ends, ylim=ends, xlabel="reliability score R   [no unit]")
    fig.colorbar(cells, ax=list(axes[0]), label="head-prompt pairs in a cell", shrink=0.85)
    axes[0, 0].set_ylabel("true relative error   [no unit]")
    axes[0, 0].legend(loc="upper left", fontsize=9)
    headline(fig, title)
    return fig


def quarters_figure(table: pd.DataFrame, title: str, paper: float = 0.97) -> Figure:
    """AUROC of R by quarter: a panel a model, a row a size, a line a task.

    Args:
        table: What ``quarters`` returns.
        title: What the figure says.
        paper: What the paper reports for quarters two to four.
    """
    models, sizes = (list(dict.fromkeys(table[key])) for key in ("model", "by"))
    tasks = list(dict.fromkeys(table.task))
    fig, axes = plt.subplots(
        len(sizes),
        len(models),
        figsize=(4.3 * len(models), 0.6 + 3.4 * len(sizes)),
        sharey=True,
        squeeze=False,
    )
    for (by, model), part in table.groupby(["by", "model"], sort=False):
        ax = axes[sizes.index(by), models.index(model)]
        for i, task in enumerate(tasks):
            one = part[part.task == task]
            colour, marker, line = _TASKS[i % len(_TASKS)]
            middle, spread = bars(one.AUROC)
            x = one.quarter + 0.06 * (i - 1)
            look = dict(color=colour, marker=marker, ls=line, ms=6, lw=1.7, elinewidth=1)
            ax.errorbar(x, middle, spread, label=task, **look)
        ax.axhline(
            paper, color=_GREY, lw=1.1, ls=":", label=f"paper, quarters 2 to 4: above {paper}"
        )
        ax.set_title(model, fontsize=10, weight="normal")
        unit = "true effect |f|" if by == "|f|" else "patch |δ|"
        ax.set(xlabel=f"quarter of the {unit}   (4: largest)", xticks=[1, 2, 3, 4])
    for row in axes:
        row[0].set_ylabel("AUROC of R   (0.5: guessing)")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig


def layers_figure(
    tables: Mapping[str, pd.DataFrame], title: str, unit: str = "nats per prompt"
) -> Figure:
    """Score above, error below, by layer; a column a model.

    Args:
        tables: What ``by_layer`` returns, by model.
        title: What the figure says.
        unit: Unit of the error.
    """
    fig, axes = plt.subplots(
        2, len(tables), figsize=(4.6 * len(tables), 5.6), sharex="col", squeeze=False
    )
    for (above, below), (model, table) in zip(axes.T, tables.items(), strict=True):
        above.fill_between(
            table.layer, table.low, table.high, color=_BLUE, alpha=0.18, lw=0, label="quartiles"
        )
        middle, spread = bars(table.R)
        above.errorbar(table.layer, middle, spread, color=_BLUE, marker="o", ms=4.5, label="median")
        above.set(yscale="log")
        above.set_title(model, fontsize=10, weight="normal")
        mean, spread = bars(table.error)
        below.bar(table.layer, mean, 0.75, color=_RED)
        below.errorbar(table.layer, mean, spread, fmt="none", ecolor="#444444", lw=0.9)
        below.set_xlabel("layer of the head")
        below.grid(axis="x", visible=False)
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set_ylabel("reliability score R\n[no unit]")
    axes[1, 0].set_ylabel(f"summed |f − f_AP|\n[{unit}]")
    axes[0, 0].legend(loc="upper right", fontsize=9)
    headline(fig, title)
    return fig


def blind_figure(curve: pd.DataFrame, title: str, unit: str = "nats") -> Figure:
    """The metric along the axis of a head, and beside it the curvature along the way.

    Args:
        curve: What ``blind_curve`` returns.
        title: What the figure says.
        unit: Unit of the metric.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.2, 4.2))
    methods = {"truth": "activation_patching", "AP": "attribution_patching", "HVP": "hvp"}
    for column, method in methods.items():
        label, colour, marker, line = plots.METHODS[method]
        left.plot(curve.strength, curve[column], label=label, color=colour, ls=line, lw=2)
        left.plot(1, curve[column].iloc[-1], marker, color=colour, ms=7)
    left.set(xlabel="patch strength t   (1: fully patched)", ylabel=f"metric   [{unit}]")
    left.legend(loc="best", fontsize=9)
    half = curve["half curvature"]
    right.plot(curve.strength, half, color=_BLUE, lw=2.2)
    right.plot(0, half.iloc[0], "o", color=_RED, ms=9, zorder=5, clip_on=False)
    right.annotate(
        "all that R sees",
        (0, half.iloc[0]),
        xytext=(12, 4),
        textcoords="offset points",
        color="#B34700",
    )
    right.axhline(0, color="#888888", lw=0.8)
    right.margins(y=0.12)
    right.set(xlabel="patch strength t", ylabel=f"half the curvature, g″(t) / 2   [{unit}]")
    headline(fig, title)
    return fig
