"""The figures and the prices of chapter 7."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hvp_utils import PatchedMetric, plots
from hvp_utils.plans import ModelSizes

from .. import prices
from ..panels import headline
from .measuring import N_STEPS

#: Colour (Okabe and Ito), marker and line of each task in turn.
_TASKS = (
    ("#0072B2", "o", "-"),
    ("#D55E00", "s", "--"),
    ("#009E73", "D", "-."),
    ("#CC79A7", "v", ":"),
)


def error_figure(means: pd.DataFrame, title: str, below: float = 1.0) -> Figure:
    """Mean error against the number of steps, a line a task, with 95 % intervals.

    Args:
        means: What ``at_steps`` returns, of one model.
        title: What the figure says.
        below: A level to draw a line at.
    """
    fig, ax = plt.subplots(figsize=(7.6, 4.9))
    tasks = dict.fromkeys(means.task)
    for (task, part), (colour, marker, line) in zip(
        means.groupby("task", sort=False), _TASKS, strict=False
    ):
        part = part.sort_values("steps")
        middle, low, high = np.array([tuple(ci) for ci in part.error]).T
        x = part.steps.to_numpy(float)
        none, some = x == 0, x > 0
        ax.fill_between(x[some], low[some], high[some], color=colour, alpha=0.13, lw=0)
        look = dict(color=colour, marker=marker, ms=5.5)
        ax.plot(x[some], middle[some], ls=line, lw=1.8, label=task, **look)
        # Attribution patching has no steps: it stands to the left of one.
        place = 0.58 * 1.07 ** list(tasks).index(task)
        spread = [middle[none] - low[none], high[none] - middle[none]]
        ax.errorbar(place, middle[none], spread, ls="", elinewidth=1, **look)
    guide = np.array([2.5, max(N_STEPS)])
    level = 4 * max(row.error.estimate for row in means.itertuples() if row.steps == 2)
    ax.plot(guide, level * (2 / guide) ** 2, color="#888888", lw=1)
    ax.annotate(
        "slope of 1/K²",
        (7, level * (2 / 7) ** 2),
        xytext=(6, 4),
        textcoords="offset points",
        color="#666666",
    )
    ax.axhline(below, color="#555555", lw=1, ls=":")
    ax.axvline(0.82, color="#bbbbbb", lw=0.8)
    ax.set(xscale="log", yscale="log", xlabel="steps K", ylabel="top-5 relative error   [%]")
    ticks = [k for k in (1, 2, 3, 4, 5, 10, 20) if k in N_STEPS]
    ax.set_xticks([0.64, *ticks], ["AP", *ticks])
    ax.xaxis.minorticks_off()
    ax.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig


def harm_figure(M: PatchedMetric, component: str, n_steps: int, title: str) -> Figure:
    """The metric along the axis of one head, with the parabolas of one step and of several."""
    fig, ax = plt.subplots(figsize=(7.6, 4.6))
    plots.axis_curve(M, component, n_steps=n_steps, ax=ax)
    ax.set_title("")
    ax.legend(loc="best", fontsize=9)
    headline(fig, title)
    return fig


def prices_of_steps(sizes: ModelSizes, steps: Sequence[int] = (1, 2, 5, 20)) -> pd.DataFrame:
    """What MS-HVP costs for every head of the reference pair, beside patching each of them.

    Returns:
        Columns method, runs (of all heads), percent (of patching every head), and per head (runs).
    """
    methods = ["attribution_patching", *(f"ms_hvp:{k}" for k in steps), "activation_patching"]
    counts = prices.counted(sizes, methods)
    names = ["attribution patching", *(f"MS-HVP, K = {k}" for k in steps), "patching every head"]
    return pd.DataFrame(
        {
            "method": names,
            "runs": counts.runs,
            "percent": counts.percent,
            "per head": counts.runs / counts.n,
        }
    )
