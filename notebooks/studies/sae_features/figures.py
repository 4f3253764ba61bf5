"""The figures of chapter 13. Each takes what a table's function returns, and returns a Figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from hvp_utils import plots
from hvp_utils.stats import bootstrap_ci

from ..panels import bars, headline

__all__ = [
    "control_figure",
    "error_figure",
    "rank_figure",
    "scatter_figure",
    "size_figure",
    "sketch_figure",
]

_METHODS = {"AP": "attribution_patching", "HVP": "hvp"}
_LAYERS = ("#0072B2", "o", "-"), ("#E69F00", "s", "--"), ("#009E73", "^", "-.")


def _plain(axis) -> None:
    axis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axis.set_minor_formatter(NullFormatter())


def _error_panels(
    table: pd.DataFrame,
    title: str,
    ylabel: str,
    column: str,
    x: Callable[[pd.DataFrame], Sequence[float]],
    finish: Callable[[Axes, pd.DataFrame], object],
) -> Figure:
    """Errors of both methods, a panel for each layer.

    Args:
        table: A row for each layer and place on the x-axis.
        title: What the figure says.
        ylabel: Of the first panel.
        column: Where a method's intervals are, such as ``"{} median"``.
        x: Where the rows of a panel are.
        finish: Sets up the x-axis of a panel.
    """
    layers = list(table.layer.unique())
    size = (0.6 + 3.7 * len(layers), 3.7)
    fig, axes = plt.subplots(1, len(layers), figsize=size, sharey=True, squeeze=False)
    for ax, layer in zip(axes.flat, layers, strict=True):
        part = table[table.layer == layer]
        for method, name in _METHODS.items():
            label, colour, marker, line = plots.METHODS[name]
            value, spread = bars(part[column.format(method)])
            look = dict(color=colour, marker=marker, ls=line, ms=6, lw=1.6, capsize=2, label=label)
            ax.errorbar(x(part), value, yerr=spread, **look)
        ax.set_yscale("log")
        finish(ax, part)
        ax.set_title(f"entering layer {layer}", fontsize=11, weight="normal")
        _plain(ax.yaxis)
    axes[0, 0].set_ylabel(ylabel)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def size_figure(table: pd.DataFrame, title: str) -> Figure:
    """Relative error against the size of the effect, a panel for each layer.

    Args:
        table: What ``by_size`` returns.
        title: What the figure says.
    """

    def finish(ax: Axes, part: pd.DataFrame) -> None:
        ax.set(xscale="log", xlabel="size of the effect   [nats]")

    return _error_panels(
        table, title, "error / effect   [%]", "{}", lambda part: part["size"], finish
    )


def rank_figure(table: pd.DataFrame, title: str, median: bool = False) -> Figure:
    """Relative error by a feature's place among those of its prompt, a panel for each layer.

    Args:
        table: What ``by_rank`` returns.
        title: What the figure says.
        median: Whether medians are drawn, or sums of errors over sums of effects.
    """

    def finish(ax: Axes, part: pd.DataFrame) -> None:
        ax.set_xticks(range(len(part)), [p.replace(" to ", "–") for p in part.places])
        ax.set_xlabel("place of the feature by true effect")

    return _error_panels(
        table,
        title,
        f"{'median' if median else 'summed'} error   [% of effect]",
        "{} median" if median else "{}",
        lambda part: np.arange(len(part)),
        finish,
    )


def scatter_figure(rows: pd.DataFrame, title: str) -> Figure:
    """Estimates against true effects on logarithmic axes, features and the error component.

    Args:
        rows: What ``rows_of`` returns.
        title: What the figure says.
    """
    layers = list(rows.layer.unique())
    size = (0.6 + 3.7 * len(layers), 4.0)
    fig, axes = plt.subplots(1, len(layers), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, layer in zip(axes.flat, layers, strict=True):
        part = rows[rows.layer == layer]
        for error, marker, ms in ((False, "o", 7), (True, "D", 26)):
            some = part[part.error == error]
            for method, name in _METHODS.items():
                label, colour, *_ = plots.METHODS[name]
                what = "error component" if error else "features"
                look = dict(marker=marker, s=ms, lw=0, alpha=0.7 if error else 0.35)
                ax.scatter(some.truth, some[method], color=colour, label=f"{label}, {what}", **look)
        ends = np.array([rows.truth.min(), rows.truth.max()]) * 1.05
        ax.plot(ends, ends, color="#333333", lw=1, zorder=0)
        for axis in ("x", "y"):
            getattr(ax, f"set_{axis}scale")("symlog", linthresh=1e-2, linscale=0.4)
            getattr(ax, f"set_{axis}ticks")((-1, -0.1, 0, 0.1, 1), ("−1", "−0.1", "0", "0.1", "1"))
        ax.set_xlabel("true effect   [nats]")
        ax.set_title(f"entering layer {layer}", fontsize=11, weight="normal")
    axes[0, 0].set_ylabel("estimate   [nats]")
    found = axes[0, 0].get_legend_handles_labels()
    fig.legend(*found, loc="outside lower center", ncols=2, markerscale=1.6)
    headline(fig, title)
    return fig


def error_figure(shares: pd.DataFrame, title: str) -> Figure:
    """The error component beside the features, and how much estimates miss of it.

    Bars are means over prompts of sizes (without signs, so that prompts do not cancel).

    Args:
        shares: What ``shares.by_prompt`` returns.
        title: What the figure says.
    """
    layers = list(shares.layer.unique())
    table = pd.DataFrame(
        {
            "whole change": shares.total,
            "all features, no error": shares.features,
            "largest feature": shares.largest,
            "error component": shares.error,
            "AP misses of it": shares.AP - shares.error,
            "HVP misses of it": shares.HVP - shares.error,
        }
    ).abs()
    colours = ["#bbbbbb"] * 3 + ["#777777"] + [plots.METHODS[m][1] for m in _METHODS.values()]
    size = (1.6 + 3.3 * len(layers), 3.2)
    fig, axes = plt.subplots(1, len(layers), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, layer in zip(axes.flat, layers, strict=True):
        part = table[shares.layer == layer]
        value, spread = bars(bootstrap_ci(part[name].to_numpy()) for name in table)
        ink = plt.rcParams["text.color"]  # seen on every bar, also in the dark style
        ax.barh(range(len(colours)), value, xerr=spread, color=colours, ecolor=ink, height=0.7)
        ax.set_yticks(range(len(colours)), table.columns)
        ax.set(ylim=(len(colours) - 0.4, -0.6), xlabel="size of the change   [nats]")
        ax.set_title(f"entering layer {layer}", fontsize=11, weight="normal")
        ax.grid(axis="y", visible=False)
    headline(fig, title)
    return fig


def control_figure(table: pd.DataFrame, title: str) -> Figure:
    """Reduction of the error by HVP: learned directions and random ones.

    Args:
        table: Columns layer, dictionary, measure and reduction (``Interval``).
        title: What the figure says.
    """
    layers = list(table.layer.unique())
    size = (0.8 + 3.6 * len(layers), 2.9)
    fig, axes = plt.subplots(1, len(layers), figsize=size, sharex=True, sharey=True, squeeze=False)
    for ax, layer in zip(axes.flat, layers, strict=True):
        part = table[table.layer == layer]
        measures = list(part.measure.unique())
        for (colour, marker, _), (name, some) in zip(
            _LAYERS, part.groupby("dictionary", sort=False), strict=False
        ):
            value, spread = bars(some.reduction)
            shift = 0.12 if name == part.dictionary.iloc[0] else -0.12
            look = dict(color=colour, marker=marker, ls="none", ms=6, lw=1.4, label=name)
            ax.errorbar(value, np.arange(len(some)) - shift, xerr=spread, **look)
        ax.set_yticks(range(len(measures)), measures)
        ax.set(ylim=(len(measures) - 0.5, -0.5), xlabel="error taken away by HVP   [%]")
        ax.axvline(0, color="#333333", lw=0.8)
        ax.set_title(f"entering layer {layer}", fontsize=11, weight="normal")
        ax.grid(axis="y", visible=False)
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def sketch_figure(wide: pd.DataFrame, narrow: pd.DataFrame, title: str) -> Figure:
    """Error of a sketched curvature against the number of products.

    Args:
        wide: What ``wide_table`` returns.
        narrow: What ``sketched`` returns.
        title: What the figure says.
    """
    fig, ax = plt.subplots(figsize=(6.4, 4.6))
    lines = []
    for layer, part in narrow[narrow.products != "exact"].groupby("layer", sort=False):
        value = [i.estimate for i in part.off]
        label = f"SAE, layer {layer}: {part.n.iloc[0]:.0f} active"
        lines.append((label, part.products.astype(int), value))
    for (n, active), part in wide.groupby(["features", "active"], sort=False):
        label = f"{active:,} of {n:,} random directions"
        lines.append((label, part.products, part.off))
    looks = (*_LAYERS, ("#D55E00", "D", "-"), ("#CC79A7", "v", ":"))
    for (label, x, y), (colour, marker, line) in zip(lines, looks, strict=False):
        ax.plot(x, y, color=colour, marker=marker, ls=line, ms=6, label=label)
    ax.axhline(100, color="#333333", lw=1)
    ax.set(xscale="log", yscale="log", xlabel="products with the Hessian")
    ax.set_ylabel("error / curvature   [%]")
    ticks = sorted({int(x) for _, xs, _ in lines for x in xs})
    ax.set_xticks(ticks, [str(t) for t in ticks])
    ax.xaxis.minorticks_off()
    _plain(ax.yaxis)
    ax.annotate("as large as the curvature itself", (ticks[0], 100), (0, 3),
                textcoords="offset points", fontsize=9, style="italic")  # fmt: skip
    fig.legend(loc="outside lower center", ncols=1)
    headline(fig, title)
    return fig
