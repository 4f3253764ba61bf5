"""The figures of chapter 6. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy import ndarray

from ..panels import headline
from .exact import Again
from .layers import Lengths, by_layer, laws

BLUE, ORANGE, GREEN, YELLOW, GREY = "#0072B2", "#D55E00", "#009E73", "#E69F00", "#333333"


def bound_figure(table: pd.DataFrame, title: str) -> Figure:
    """Remainder against bound of all records, a panel for each model.

    Args:
        table: What ``records`` returns.
        title: What the figure says.
    """
    models = list(dict.fromkeys(table.model))
    fig, axes = plt.subplots(1, len(models), figsize=(9.6, 4.9), sharey=True, squeeze=False)
    ends = np.array([1e-5, 1e7])
    for ax, model in zip(axes[0], models, strict=True):
        part = table[table.model == model]
        cells = ax.hexbin(
            np.clip(part.bound / part.floor, *ends),
            np.clip(part.R3 / part.floor, *ends),
            xscale="log",
            yscale="log",
            gridsize=55,
            bins="log",
            cmap="Blues",
            mincnt=1,
            vmin=0.7,
            vmax=60,
            extent=(-5, 7, -5, 7),
            linewidths=0.1,
        )
        ax.plot(ends, ends, color=ORANGE, lw=1.8, label="remainder = bound")
        look = dict(color="#999999", alpha=0.25, lw=0, label="float32 cannot tell")
        ax.fill_between([ends[0], 1], ends[0], 1, **look)
        fails = (~part.holds & part.counts).sum()
        ax.set_title(
            f"{model}: {fails} of {part.counts.sum():,} fail", fontsize=11, weight="normal"
        )
        ax.set(xlim=ends, ylim=ends, xlabel="bound L_H |δ|³ / 6   [thresholds]")
        ax.text(3e3, 3e5, "bound fails", color=ORANGE, ha="right", fontsize=10)
    axes[0, 0].set_ylabel("remainder |R3|   [thresholds]")
    fig.colorbar(cells, ax=axes, label="head-prompt pairs in a cell", shrink=0.85)
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def _curvature(ax, path: pd.DataFrame, title: str, unit: str) -> None:
    ax.plot(path.strength, path.curvature, color=BLUE, lw=2.2, label="curvature g''(t)")
    probes = path.iloc[[0, len(path) // 2, -1]]
    look = dict(color=ORANGE, ms=8, clip_on=False, label="where L_H is probed")
    ax.plot(probes.strength, probes.curvature, "o", **look)
    ax.axhline(0, color="#888888", lw=0.8)
    ax.margins(y=0.12)
    ax.set_title(title, fontsize=11, weight="normal")
    ax.set(xlabel="patch strength t", ylabel=f"curvature g''(t)   [{unit}]")


def path_figure(path: pd.DataFrame, component: str, title: str) -> Figure:
    """One head: how its curvature changes, and the band that the bound puts around HVP.

    Args:
        path: What ``path`` returns.
        component: The head.
        title: What the figure says.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.3))
    _curvature(left, path, f"{component}: the curvature on its path", "nats")
    left.legend(fontsize=9.5)
    missed, corrected = path.effect - path.AP, path.HVP - path.AP
    band = corrected - path.bound, corrected + path.bound
    look = dict(color=BLUE, alpha=0.15, lw=0, label="HVP ± bound")
    right.fill_between(path.strength, *band, **look)
    right.axhline(0, color=ORANGE, ls="--", lw=2, label="AP's tangent")
    right.plot(path.strength, corrected, color=BLUE, ls="-.", lw=2, label="HVP's correction")
    right.plot(path.strength, missed, color="#000000", lw=2, label="what AP misses")
    right.set_title("What AP misses, and the band around HVP", fontsize=11, weight="normal")
    right.set(xlabel="patch strength t", ylabel="effect − t f_AP   [nats]")
    right.legend(fontsize=9.5, loc="best")
    headline(fig, title)
    return fig


def closest_figure(runs: Mapping[str, Again], title: str) -> Figure:
    """Curvature along the path of the head that comes closest to its bound, by model.

    Args:
        runs: What ``again`` returns, by model.
        title: What the figure says.
    """
    fig, axes = plt.subplots(1, len(runs), figsize=(9.6, 4.2), squeeze=False)
    for ax, (model, run) in zip(axes[0], runs.items(), strict=True):
        label = f"{model}\n{run.closest}: {run.share:.2f} of its bound"
        _curvature(ax, run.path, label, "units of the metric")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def _quartiles(part: pd.DataFrame, column: str) -> ndarray:
    groups = part.groupby("layer")[column]
    return np.array([groups.quantile(q).to_numpy() for q in (0.25, 0.75)])


def layers_figure(
    table: pd.DataFrame,
    lengths: Lengths,
    task: str,
    title: str,
    rows: Sequence[str] = ("L_H", "delta", "bound"),
) -> Figure:
    """L_H, size of the patch, and bound with remainder, by layer: a column for each model.

    Args:
        table: What ``records`` returns.
        lengths: Lengths by layer, by model and name.
        task: Which task.
        title: What the figure says.
        rows: Which of the three.
    """
    looks = {
        "L_H": (BLUE, "L_H   [nats / length³]"),
        "delta": (GREEN, "size of the patch |δ|   [length]"),
        "bound": (ORANGE, "bound and |R3|   [nats]"),
    }
    models = list(dict.fromkeys(table.model))
    size = (9.6, 3.1 * len(rows) + 1)
    fig, axes = plt.subplots(len(rows), len(models), figsize=size, sharex="col", squeeze=False)
    handles = {}
    for column, model in zip(axes.T, models, strict=True):
        part = table[(table.model == model) & (table.task == task)]
        layers = np.unique(part.layer)
        for ax, key in zip(column, rows, strict=True):
            colour, label = looks[key]
            name = {"L_H": "L_H", "delta": "|δ|", "bound": "bound"}[key]
            ends = _quartiles(part, key)
            ax.fill_between(
                layers, *ends, color=colour, alpha=0.18, lw=0, label=f"{name}, quartiles"
            )
            ax.plot(
                layers, by_layer(part, key), color=colour, marker="o", ms=4, label=f"{name}, median"
            )
            ax.set_yscale("log")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            if key == "L_H":
                for (length, law), line in zip(
                    laws(part, lengths[model]).items(), ("--", ":"), strict=True
                ):
                    ax.plot(layers, law, color=GREY, ls=line, lw=1.6, label=f"1 / ({length})³")
            if key == "bound":
                look = dict(color=GREY, marker="s", ms=3.5, lw=1.3, label="|R3|, median")
                ax.plot(layers, by_layer(part, "R3"), **look)
            if model == models[0]:
                ax.set_ylabel(label)
            handles |= {
                text: line for line, text in zip(*ax.get_legend_handles_labels(), strict=True)
            }
        column[0].set_title(model, fontsize=11, weight="normal")
        column[-1].set_xlabel("layer of the head")
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=4, fontsize=9.5)
    headline(fig, title)
    return fig


def slack_figure(found: pd.DataFrame, angles: pd.DataFrame, title: str) -> Figure:
    """Cumulative: the cosines of patch and change, and three values over the remainder.

    Args:
        found: What ``ratios`` returns.
        angles: What ``cosines`` returns.
        title: What the figure says.
    """
    fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.8), sharey=True)
    models = list(dict.fromkeys(found.model))
    for model, line in zip(models, ("-", ":"), strict=False):
        part = angles[angles.model == model]
        cosine = np.sort(part.cosine)
        share = np.linspace(0, 100, len(cosine))
        axes[0].plot(cosine, share, color=BLUE, ls=line, lw=2.2, label=model)
        axes[0].axvline(part.random.iloc[0], color="#777777", ls=line, lw=1.3)
        of_model = found[found.model == model]
        colours = (BLUE, YELLOW, GREEN)
        for (value, rows), colour in zip(
            of_model.groupby("value", sort=False), colours, strict=True
        ):
            ratio, label = np.sort(rows.ratio), value if model == models[0] else None
            share = np.linspace(0, 100, len(ratio))
            axes[1].plot(ratio, share, color=colour, ls=line, lw=2.2, label=label)
    axes[0].set(
        xscale="log",
        xlim=(1e-3, 1),
        xlabel="|cosine| of δ and the change of Hδ",
        ylabel="share of heads up to here   [%]",
    )
    axes[1].set(xscale="log", xlim=(0.05, 200), xlabel="value / |R3|   (a bound: 1 or more)")
    axes[1].axvline(1, color="#777777", lw=1)
    axes[0].legend(
        fontsize=9.5, title="grey: a random direction", title_fontsize=9.5, loc="upper left"
    )
    axes[1].legend(fontsize=9.5, loc="upper left")
    headline(fig, title)
    return fig
