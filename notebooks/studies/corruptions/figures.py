"""The figures of chapter 14. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from hvp_utils import plots

from ..panels import bars, headline
from .errors import CORRUPTIONS, NAMES
from .strengths import CONTROL, WAYS

_METHODS = {"AP": "attribution_patching", "HVP": "hvp"}
#: Colour (Okabe and Ito), marker and line of every way to corrupt IOI.
_WAY_LOOKS = {
    "ioi": ("#0072B2", "o", "-"),
    "ioi_random_token": ("#E69F00", "s", "--"),
    "ioi_resample": ("#009E73", "^", "-."),
    "ioi_zero": ("#D55E00", "D", "-"),
    CONTROL: ("#56B4E9", "o", ":"),
}
_MEASURE_LOOKS = {
    "median head": ("#0072B2", "o", "-"),
    "mean error": ("#009E73", "^", "-."),
    "top 5": ("#D55E00", "s", "--"),
}
_AXES = {
    "median head": ("median {}", "median of |error| / |effect|   [%]"),
    "top 5": ("five largest", "top-5 relative error   [%]"),
}


def _plain(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _dumbbells(ax: Axes, rows: pd.DataFrame) -> None:
    """Errors of AP and of HVP, a line for each row, with their intervals."""
    for y, row in enumerate(rows.itertuples(index=False)):
        ends = [row.AP.estimate, row.HVP.estimate]
        ax.plot(ends, [y, y], color="#999999", lw=1.2, zorder=1)
        for method, shift in zip(_METHODS, (-0.13, 0.13), strict=True):
            label, colour, marker, _ = plots.METHODS[_METHODS[method]]
            value, low, high = getattr(row, method)
            ax.errorbar(
                value,
                y + shift,
                xerr=[[max(value - low, 0)], [max(high - value, 0)]],
                color=colour,
                marker=marker,
                ms=6,
                lw=1.4,
                ls="none",
                label=None if y else label,
            )
    ax.set(xscale="log", ylim=(len(rows) - 0.5, -0.5))
    ax.xaxis.set_major_locator(FixedLocator([0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300]))
    _plain(ax.xaxis)
    ax.xaxis.minorticks_off()
    ax.grid(axis="y", visible=False)


def errors_figure(table: pd.DataFrame, title: str, column: str = "task") -> Figure:
    """The errors of both methods, a row of panels a model: the median beside the five largest.

    Args:
        table: What ``compare`` returns, by model, ``column`` and measure.
        title: What the figure says.
        column: What has a line of its own: tasks or kinds.
    """
    models, lines = list(table.model.unique()), list(table[column].unique())
    height = 0.32 * len(lines) + 0.75
    size = (9.0, height * len(models) + 1.0)
    fig, axes = plt.subplots(len(models), 2, figsize=size, sharex="col", sharey=True, squeeze=False)
    what = "head" if column == "task" else "component"
    for row, model in zip(axes, models, strict=True):
        for ax, (measure, (name, _)) in zip(row, _AXES.items(), strict=True):
            part = table[(table.model == model) & (table.measure == measure)]
            _dumbbells(ax, part)
            ax.set_yticks(range(len(part)), [NAMES.get(line, line) for line in part[column]])
            ax.set_title(f"{model}, {name.format(what)}", fontsize=11, weight="normal")
            families = [CORRUPTIONS.get(line, ("",))[0] for line in part[column]]
            for y in np.flatnonzero(np.array(families[1:]) != families[:-1]):
                ax.axhline(y + 0.5, color="#bbbbbb", lw=0.8)
    for ax, (_, label) in zip(axes[-1], _AXES.values(), strict=True):
        ax.set_xlabel(label)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def reductions_figure(
    table: pd.DataFrame, title: str, measures: Sequence[str] = ("median head", "top 5")
) -> Figure:
    """What HVP takes away from the error of AP, a panel a model; left of 0 it adds.

    Args:
        table: What ``compare`` returns, by model, task and measure.
        title: What the figure says.
        measures: A mark for each in every line.
    """
    models, tasks = list(table.model.unique()), list(table.task.unique())
    size = (2.3 + 3.35 * len(models), 0.36 * len(tasks) + 1.6)
    fig, axes = plt.subplots(1, len(models), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, model in zip(axes.flat, models, strict=True):
        for measure, shift in zip(measures, np.linspace(-0.14, 0.14, len(measures)), strict=True):
            part = table[(table.model == model) & (table.measure == measure)]
            colour, marker, _ = _MEASURE_LOOKS[measure]
            value, spread = bars(part.reduction)
            look = dict(color=colour, marker=marker, ls="none", ms=6, lw=1.4, label=measure)
            y = np.arange(len(part)) + shift
            ax.errorbar(value, y, xerr=spread, **look)
        ax.axvline(0, color="#333333", lw=1)
        ax.set_yticks(range(len(tasks)), [NAMES.get(task, task) for task in tasks])
        ax.set(ylim=(len(tasks) - 0.5, -0.5), xlabel="error taken away by HVP   [%]")
        ax.set_title(model, fontsize=11, weight="normal")
        ax.grid(axis="y", visible=False)
        families = [CORRUPTIONS.get(task, ("",))[0] for task in tasks]
        for y in np.flatnonzero(np.array(families[1:]) != families[:-1]):
            ax.axhline(y + 0.5, color="#bbbbbb", lw=0.8)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig


def curves_figure(curves: pd.DataFrame, title: str) -> Figure:
    """The largest head of every corruption, patched by degrees, with its tangent and parabola.

    Args:
        curves: What ``largest_curves`` returns.
        title: What the figure says.
    """
    names = {"truth": "activation_patching", **_METHODS}
    ways = list(curves.way.unique())
    columns = 2
    rows = -(-len(ways) // columns)
    fig, axes = plt.subplots(rows, columns, figsize=(8.0, 2.6 * rows + 0.7), squeeze=False)
    for ax, way in zip(axes.flat, ways, strict=False):
        part = curves[curves.way == way]
        for column, method in names.items():
            label, colour, marker, line = plots.METHODS[method]
            ax.plot(part.strength, part[column], color=colour, ls=line, lw=1.8, label=label)
            ax.plot(part.strength.iloc[-1], part[column].iloc[-1], color=colour, marker=marker)
        ax.set_title(f"{WAYS[way]}: {part.component.iloc[0]}", fontsize=11, weight="normal")
    for ax in axes.flat[len(ways) :]:
        ax.set_visible(False)
    for ax in axes[-1]:
        ax.set_xlabel("patch strength t   (1: fully patched)")
    for ax in axes[:, 0]:
        ax.set_ylabel("effect   [nats]")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig


def strength_figure(
    found: pd.DataFrame, title: str, banded: Sequence[str] = ("ioi", "ioi_zero")
) -> Figure:
    """Error of HVP over that of AP against the patch strength, a panel a model.

    Args:
        found: What ``ratios`` returns.
        title: What the figure says.
        banded: Ways whose 95 % intervals are drawn; more could not be told apart.
    """
    models = list(found.model.unique())
    fig, axes = plt.subplots(
        1, len(models), figsize=(2.2 + 3.5 * len(models), 4.4), sharey=True, squeeze=False
    )
    for ax, model in zip(axes.flat, models, strict=True):
        for way, part in found[found.model == model].groupby("way", sort=False):
            colour, marker, line = _WAY_LOOKS[way]
            value, low, high = np.array(part.ratio.tolist()).T
            ax.plot(
                part.strength, value, color=colour, marker=marker, ls=line, ms=5.5, label=WAYS[way]
            )
            if way in banded:
                ax.fill_between(part.strength, low, high, color=colour, alpha=0.15, lw=0)
        ax.axhline(1, color="#333333", lw=1)
        ax.set(xscale="log", yscale="log", xlabel="patch strength t   (1: fully patched)")
        ax.set_title(model, fontsize=11, weight="normal")
        ax.set_xticks([0.1, 0.2, 0.5, 1], ["0.1", "0.2", "0.5", "1"])
        ax.xaxis.minorticks_off()
        _plain(ax.yaxis)
    first = axes[0, 0]
    note = dict(color="#333333", fontsize=10, style="italic", va="bottom")
    first.text(0.1, 1.08, "above: HVP is worse", **note)
    first.set_ylabel("error of HVP / error of AP")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig


def settling_figure(
    found: pd.DataFrame, title: str, tasks: Sequence[str] = ("ioi", "factual")
) -> Figure:
    """The reduction against the number of prompts, a row a model, a column a task.

    Args:
        found: What ``running`` returns.
        title: What the figure says.
        tasks: Which of its tasks.
    """
    models = list(found.model.unique())
    fig, axes = plt.subplots(
        len(models),
        len(tasks),
        figsize=(4.4 * len(tasks), 2.8 * len(models) + 0.7),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for row, model in zip(axes, models, strict=True):
        for ax, task in zip(row, tasks, strict=True):
            part = found[(found.model == model) & (found.task == task)]
            for measure, (colour, marker, line) in _MEASURE_LOOKS.items():
                curve = part[part.measure == measure]
                value, low, high = np.array(curve.reduction.tolist()).T
                ax.plot(curve.n, value, color=colour, marker=marker, ls=line, ms=5, label=measure)
                ax.fill_between(curve.n, low, high, color=colour, alpha=0.15, lw=0)
            ax.axhline(0, color="#333333", lw=1)
            ax.set_title(f"{model}, {NAMES.get(task, task)}", fontsize=11, weight="normal")
    axes[0, 0].set_ylim(-75, 105)
    for ax in axes[-1]:
        ax.set_xlabel("number of prompts")
    for ax in axes[:, 0]:
        ax.set_ylabel("reduction by HVP   [%]")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig
