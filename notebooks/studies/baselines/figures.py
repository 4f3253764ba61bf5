"""The figures of chapter 8. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hvp_utils import plots
from hvp_utils.stats import bootstrap_ci

from ..common import settings_of
from ..panels import bars, headline, panels
from .methods import AP, TASKS, label
from .ranking import KS

__all__ = ["area_figure", "map_figure", "overlap_figure", "quarter_figure", "weights_figure"]


class Line(NamedTuple):
    """Methods that are drawn as one line: its name, colour (Okabe and Ito), marker and filling."""

    methods: tuple[str, ...]
    colour: str
    marker: str
    fill: str = "full"


_AP_COLOUR, _HVP_COLOUR, _MS_COLOUR = (plots.METHODS[m][1] for m in (AP, "hvp", "ms_hvp"))
_IG = "integrated_gradients"

#: The map of errors and prices, in the order of its legend.
LINES = {
    "attribution patching": Line((AP,), _AP_COLOUR, "s"),
    "GIM": Line(("gim",), "#CC79A7", "o"),
    "RelP": Line(("relp",), "#CC79A7", "X"),
    "AtP*": Line(("atp_star",), "#CC79A7", "v"),
    "HVP": Line(("hvp",), _HVP_COLOUR, "^"),
    "third order": Line(("third_order",), _HVP_COLOUR, "P"),
    "Gauss–Newton": Line(("gauss_newton",), _HVP_COLOUR, "v", "none"),
    "IH, pairwise": Line(
        ("integrated_hessians:5", "integrated_hessians:5:grid:pairwise:right"), "#555555", "x"
    ),
    "MS-HVP, K = 2, 5, 10": Line(tuple(f"ms_hvp:{k}" for k in (2, 5, 10)), _MS_COLOUR, "D"),
    "IG, right, 10 and 35": Line(tuple(f"{_IG}:{k}:right" for k in (10, 35)), "#999999", ">"),
    "IG, midpoint, 5 and 10": Line(tuple(f"{_IG}:{k}:midpoint" for k in (5, 10)), "#E69F00", "o"),
    "IG, Gauss–Legendre, 5": Line((f"{_IG}:5:gausslegendre",), "#56B4E9", "h"),
    "slopes at both ends": Line(("two_ends",), "#E69F00", "d", "none"),
}
#: Equal prices are drawn a little apart.
_SHIFT = {"GIM": 0.72, "RelP": 1.4}
_TASK_LOOKS = {
    "ioi": ("#0072B2", "o"),
    "greater_than_01": ("#D55E00", "s"),
    "factual": ("#009E73", "^"),
}
_RANK_LOOKS = {
    "gim": ("#CC79A7", "o"),
    "relp": ("#E69F00", "X"),
    "atp_star": ("#D55E00", "v"),
    "hvp": ("#0072B2", "^"),
}


def area_figure(axis: pd.DataFrame, n: int, title: str) -> Figure:
    """The slope of one head along its axis, and the areas that four rules take for its integral.

    Args:
        axis: What ``quadrature.axis`` returns.
        n: Points of the midpoint rule, and steps of MS-HVP.
        title: What the figure says.
    """
    t, slope = axis.t.to_numpy(), axis.slope.to_numpy()
    curvature = axis.curvature.to_numpy()

    def at(x: float, values: np.ndarray) -> float:
        return float(np.interp(x, t, values))

    def tangent(x: float, width: float) -> tuple[list[float], list[float]]:
        end = at(x, slope) + width * at(x, curvature)
        return [x, x + width], [at(x, slope), end]

    ends = np.arange(n + 1) / n
    middles = (ends[:-1] + ends[1:]) / 2
    pieces = {
        "AP: the height at 0": [([0, 1], [slope[0], slope[0]])],
        "HVP: the tangent at 0": [tangent(0, 1)],
        f"MS-HVP: {n} tangents": [tangent(x, 1 / n) for x in ends[:-1]],
        f"midpoint: {n} heights": [
            ([a, b], [at(m, slope)] * 2)
            for a, b, m in zip(ends[:-1], ends[1:], middles, strict=True)
        ],
    }
    colours = (_AP_COLOUR, _HVP_COLOUR, _MS_COLOUR, "#E69F00")
    fig, axes = plt.subplots(2, 2, figsize=(7.6, 5.6), sharex=True, sharey=True)
    for ax, (name, parts), colour in zip(axes.flat, pieces.items(), colours, strict=True):
        for x, y in parts:
            ax.fill_between(x, y, color=colour, alpha=0.3, lw=0)
            ax.plot(x, y, color=colour, lw=2)
        area = sum((x[1] - x[0]) * (y[0] + y[1]) / 2 for x, y in parts)
        ax.plot(t, slope, color="black", lw=2)
        ax.axhline(0, color="#888888", lw=0.8)
        ax.set_title(f"{name}, area {area:+.2f}", fontsize=10.5, weight="normal")
    middle = len(t) // 2
    axes[0, 0].annotate(
        "slope g′(t)",
        (t[middle], slope[middle]),
        (-8, 4),
        textcoords="offset points",
        ha="right",
        fontsize=10,
    )
    fig.supxlabel("patch strength t", fontsize=11)
    fig.supylabel("slope of the metric   [nats]", fontsize=11)
    headline(fig, title)
    return fig


def map_figure(
    errors: pd.DataFrame,
    price: pd.DataFrame,
    title: str,
    lines: Sequence[str] = tuple(LINES),
    by_task: bool = True,
) -> Figure:
    """Error against price on logarithmic axes, with 95 % intervals; exact patching is a line.

    Args:
        errors: What ``errors.errors`` returns.
        price: What ``priced`` returns.
        title: What the figure says.
        lines: Names of ``LINES``.
        by_task: A panel for each model and task, or one for each model, over all tasks.
    """
    if by_task:
        fig, axes, columns = panels(errors, 3.4, TASKS, row_each=True)
    else:
        fig, found = plt.subplots(
            1, errors.model.nunique(), figsize=(9.2, 4.9), sharex=True, sharey=True, squeeze=False
        )
        axes = dict(zip(found[0], ((model, None) for model in errors.model.unique()), strict=True))
        for ax, (model, _) in axes.items():
            ax.set_title(model, fontsize=10.5, weight="normal")
    for ax, (model, task) in axes.items():
        part = errors[(errors.model == model) & ((errors.task == task) | (task is None))]
        percent = price[price.model == model].set_index("method").percent
        for name in lines:
            line = LINES[name]
            mean, spread = bars(bootstrap_ci(part[part.method == m].error) for m in line.methods)
            ax.errorbar(
                [percent[m] * _SHIFT.get(name, 1) for m in line.methods],
                mean,
                spread,
                color=line.colour,
                marker=line.marker,
                fillstyle=line.fill,
                ms=7,
                lw=1.5,
                elinewidth=1,
                label=name,
            )
        ax.axvline(100, color="black", lw=2, label="exact patching: no error")
        ax.set(xscale="log", yscale="log", xlabel="price   [% of patching all]")
    first = next(iter(axes))
    fig.supylabel("top-5 relative error   [%]", fontsize=11)
    fig.legend(
        *first.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=9.5
    )
    if by_task:
        for ax in list(axes)[:-columns]:
            ax.set_xlabel("")
    headline(fig, title)
    return fig


def quarter_figure(left: pd.DataFrame, title: str) -> Figure:
    """The error of ten midpoints against that of ten HVPs, head by head.

    Args:
        left: What ``quadrature.rest`` returns.
        title: What the figure says.
    """
    models = list(left.model.unique())
    fig, axes = plt.subplots(
        1, len(models), figsize=(9.2, 4.6), sharex=True, sharey=True, squeeze=False
    )
    x, y = (left[m].abs() for m in ("ms_hvp:10", f"{_IG}:10:midpoint"))
    ends = np.array([max(x[x > 0].quantile(0.01), 1e-5) / 3, 1.5 * x.max()])
    for ax, model in zip(axes[0], models, strict=True):
        for task, (colour, marker) in _TASK_LOOKS.items():
            own = (left.model == model) & (left.task == task)
            ax.scatter(
                x[own],
                y[own],
                s=20,
                color=colour,
                marker=marker,
                alpha=0.65,
                lw=0,
                label=TASKS[task],
            )
        ax.plot(ends, ends, color="#888888", lw=1.2, ls="--", label="equal errors")
        ax.plot(ends, ends / 4, color="black", lw=1.6, label="predicted: one quarter")
        ax.set(xscale="log", yscale="log", xlim=ends, ylim=ends / 6)
        ax.set_xlabel("error of MS-HVP, K = 10   [% of the range]")
        ax.set_title(model, fontsize=10.5, weight="normal")
    axes[0, 0].set_ylabel("error of IG, midpoint, 10 points\n[% of the range]")
    fig.legend(
        *axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=9.5
    )
    headline(fig, title)
    return fig


def weights_figure(corrected: pd.DataFrame, title: str) -> Figure:
    """The weight that Integrated Hessians give the curvature, and the corrections that come of it.

    Args:
        corrected: What ``quadrature.corrections`` returns.
        title: What the figure says.
    """
    models = list(corrected.model.unique())
    fig, axes = plt.subplots(
        1, 1 + len(models), figsize=(9.4, 3.9), width_ratios=[0.85, *(1 for _ in models)]
    )
    s = np.linspace(1e-6, 1, 200)
    axes[0].plot(s, 1 - s, color="black", lw=2.2)
    axes[0].plot(s, -s * np.log(s), color=_AP_COLOUR, lw=2.2, ls="--")
    axes[0].text(0.27, 0.79, "needed: 1 − s,\narea 1/2", fontsize=9.5)
    axes[0].text(0.17, 0.06, "pairwise: −s ln s,\narea 1/4", fontsize=9.5, color="#B34700")
    axes[0].set(xlabel="place s on the axis", ylabel="weight of the curvature")
    axes[0].set_title("the two weights", fontsize=10.5, weight="normal")
    reach = 1.05 * corrected.needed.abs().max()
    ends = np.array([-reach, reach])
    for ax, model in zip(axes[1:], models, strict=True):
        part = corrected[corrected.model == model]
        ax.plot(ends, ends, color="black", lw=1.2, zorder=1)
        ax.plot(ends, ends / 2, color=_AP_COLOUR, lw=1.2, ls="--", zorder=1)
        ax.scatter(part.needed, part.complete, s=15, color="black", lw=0, label="complete")
        ax.scatter(
            part.needed,
            part.path,
            s=18,
            marker="s",
            color=_AP_COLOUR,
            alpha=0.7,
            lw=0,
            label="pairwise",
        )
        ax.text(0.82, 0.93, "slope 1", transform=ax.transAxes, ha="right", fontsize=9.5)
        ax.text(
            0.98,
            0.58,
            "slope 1/2",
            transform=ax.transAxes,
            ha="right",
            fontsize=9.5,
            color="#B34700",
        )
        ax.set(xlabel="needed: f − f_AP   [% of range]", xlim=ends, ylim=ends)
        ax.set_title(model, fontsize=10.5, weight="normal")
    axes[1].set_ylabel("added to f_AP   [% of range]")
    axes[1].legend(loc="upper left", fontsize=9.5, handletextpad=0.2)
    headline(fig, title)
    return fig


def overlap_figure(changes: pd.DataFrame, title: str) -> Figure:
    """Change of the overlap with the true top heads against attribution patching.

    Args:
        changes: What ``ranking.overlap_changes`` returns.
        title: What the figure says.
    """
    settings = settings_of(changes)
    fig, axes = plt.subplots(
        1, len(KS), figsize=(9.4, 0.85 * len(settings) + 1), sharey=True, sharex=True
    )
    indexed: Mapping = changes.set_index(["model", "task", "method", "k"]).difference
    for ax, k in zip(axes, KS, strict=True):
        for j, (method, (colour, marker)) in enumerate(_RANK_LOOKS.items()):
            change, spread = bars(indexed[(*key, method, k)] for key in settings)
            ax.errorbar(
                change,
                np.arange(len(settings)) + 0.17 * (j - 1.5),
                xerr=spread,
                fmt=marker,
                color=colour,
                ms=6.5,
                elinewidth=1.2,
                label=label(method),
            )
        ax.axvline(0, color="black", lw=1.2)
        ax.set_title(f"top {k}", fontsize=10.5, weight="normal")
        ax.set_xlabel("overlap, less that of AP\n[percentage points]")
    axes[0].set_yticks(range(len(settings)), [f"{m}\n{TASKS.get(t, t)}" for m, t in settings])
    axes[0].invert_yaxis()
    fig.legend(
        *axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=9.5
    )
    headline(fig, title)
    return fig
