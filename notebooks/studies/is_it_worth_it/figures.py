"""The figures of chapter 10. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hvp_utils.stats import bootstrap_ci

from ..panels import headline, panels
from .rules import BOTH, FIRST, ROWS, TASKS
from .together import PREDICTIONS

#: Colour (Okabe and Ito), marker and line of every series. What patches has a solid line.
LOOKS = {
    "AP": ("#D55E00", "s", ""),
    "AP, then patch the largest |f_AP|": ("#D55E00", "o", "-"),
    "4 products, then patch the largest |f_AP| + |q|": ("#56B4E9", "d", "-"),
    "8 products, then patch the largest |f_AP| + |q|": ("#56B4E9", "d", "-"),
    "2 differences, then patch the largest |f_AP| + r": ("#000000", "X", "-"),
    "AP + curvature of the neuron alone, then patch the largest": ("#CC79A7", "<", "-"),
    "AP + sketched q": ("#56B4E9", "v", ":"),
    "AP + sketched q, 8 to 48 products": ("#56B4E9", "v", ":"),
    "AP + curvature of the neuron alone": ("#CC79A7", ">", ""),
    "HVP": ("#0072B2", "^", ""),
    "MS-HVP": ("#009E73", "D", "--"),
    "IG, midpoint": ("#E69F00", "h", "--"),
    "IG, Gauss–Legendre": ("#777777", "p", ":"),
}
RULE_LOOKS = {
    "R, exact": ("#777777", "X", ":"),
    FIRST: ("#D55E00", "s", "--"),
    "size at both ends": ("#CC79A7", "P", "-."),
    BOTH: ("#56B4E9", "v", "-"),
    ROWS: ("#0072B2", "o", "-"),
    "|f_AP| + |q|, exact": ("#000000", "D", ":"),
}
_PLACE_LOOKS = (
    ("#0072B2", "o", "-"),
    ("#0072B2", "^", ":"),
    ("#D55E00", "s", "-"),
    ("#009E73", "D", "-"),
    ("#CC79A7", "v", "--"),
    ("#000000", "X", "--"),
)
_PREDICTION_LOOKS = (
    ("#D55E00", "s", "--"),
    ("#56B4E9", "v", "-"),
    ("#000000", "o", ":"),
    ("#0072B2", "D", "-"),
    ("#009E73", "^", "-."),
)
_POWERS = tuple(10.0**i for i in range(-4, 7))


def _look(look: tuple[str, str, str], size: float = 6) -> dict:
    colour, marker, line = look
    return dict(color=colour, marker=marker, ls=line or "none", ms=size, lw=1.6)


def _ticks(ax: Axes, x: Sequence | None = None, y: Sequence | None = None, floor: float = 0):
    """Plain numbers on logarithmic axes; the floor is where zero is drawn."""
    if x is not None:
        ax.set_xticks(x, [f"{value:,g}" for value in x])
    if y is not None:
        ax.set_yticks(y, ["0" if value == floor else f"{value:,g}" for value in y])
    ax.minorticks_off()


def _legend(fig: Figure, ax: Axes, columns: int = 3) -> None:
    handles, labels = ax.get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9.5)


def front_figure(
    points: pd.DataFrame,
    title: str,
    what: str = "heads",
    series: Sequence[str] | None = None,
    pool_tasks: bool = False,
    floor: float = 0.01,
    whiskers: bool = True,
) -> Figure:
    """Mean error against the price for all components; what patching all costs, and what it leaves.

    Args:
        points: What ``front`` or ``neurons.front`` returns.
        title: What the figure says.
        what: Name of the components.
        series: Which series; all by default.
        pool_tasks: Whether the tasks of a model share a panel.
        floor: Where errors of zero are drawn.
        whiskers: Whether to draw 95 % intervals.
    """
    points = points.assign(task="") if pool_tasks else points
    series = [s for s in LOOKS if s in set(points.series) and (series is None or s in series)]
    fig, axes, columns = panels(points, 3.5 if whiskers else 4.6, TASKS, points.task.nunique() > 1)
    fig.set_size_inches(9.8, fig.get_size_inches()[1] + 1.2)
    low, high = points.percent.min(), points.percent.max()
    top = 2 * points.groupby(["model", "task", "series", "point"]).error.mean().max()
    above = [value for value in _POWERS if floor < value < top]
    for ax, (model, task) in axes.items():
        part = points[(points.model == model) & (points.task == task)]
        ax.axvspan(100, 10 * high, color="#ececec", zorder=0, lw=0)
        for name in series:
            groups = part[part.series == name].groupby("point", sort=False)
            x = groups.percent.mean().to_numpy()
            bars = np.array([bootstrap_ci(errors) for _, errors in groups.error])
            bars = np.maximum(bars, floor)
            ax.plot(x, bars[:, 0], **_look(LOOKS[name]), label=name)
            if whiskers:
                ax.vlines(x, bars[:, 1], bars[:, 2], color=LOOKS[name][0], lw=0.9)
        star = dict(color="black", ms=15, clip_on=False, zorder=5, ls="none")
        ax.plot(100, floor, "*", label=f"patch every {what.rstrip('s')}: no error", **star)
        ax.set(xscale="log", yscale="log", xlim=(low / 1.6, high * 1.6), ylim=(floor, top))
        _ticks(ax, [x for x in _POWERS if low / 1.6 < x < 1.6 * high], [floor, *above], floor)
        if ax in list(axes)[-columns:]:
            ax.set_xlabel("price   [% of patching all]")
        if pool_tasks:
            ax.set_title(model, fontsize=10, weight="normal")
    for ax in list(axes)[::columns]:
        ax.set_ylabel("mean error   [%]" if columns > 2 else "error on the largest, mean   [%]")
    if columns < 3:
        for ax in axes:
            ax.text(
                0.99,
                0.98,
                "dearer than\npatching all",
                transform=ax.transAxes,
                fontsize=9,
                ha="right",
                va="top",
            )
    _legend(fig, next(iter(axes)), 3 if columns > 2 else 2)
    headline(fig, title)
    return fig


def choice_figure(
    table: pd.DataFrame, curve: pd.DataFrame, component: str, title: str, n_patched: int = 10
) -> Figure:
    """Who is chosen on one prompt by one term and by two, and the path of one who is missed by one.

    Args:
        table: What ``one_prompt`` returns.
        curve: What ``circuit_recovery.head_curve`` returns for the component.
        component: Its label.
        title: What the figure says.
        n_patched: How many are patched.
    """
    fig, (left, right) = plt.subplots(1, 2, figsize=(9.6, 4.5), width_ratios=[1.25, 1])
    x, y = table.f_ap.abs(), table.r
    by_first, by_both = (size.nlargest(n_patched).min() for size in (x, x + y))
    top = table.effect.abs().nlargest(5).index
    rest = table.index.difference(top)
    left.scatter(x[rest], y[rest], s=22, color="#999999", label="other heads")
    left.scatter(x[top], y[top], s=75, marker="*", color="#D55E00", label="five largest effects")
    for i in top:
        shift = dict(xytext=(6, 4), textcoords="offset points", fontsize=9)
        left.annotate(table.component[i], (x[i], y[i]), **shift)
    left.axvline(by_first, color="#D55E00", ls="--", label=f"right of it: {n_patched} by |f_AP|")
    ends = np.array([0, by_both])
    label = f"beyond it: {n_patched} by |f_AP| + r"
    left.plot(ends, by_both - ends, color="#0072B2", label=label)
    left.set(xlabel="|f_AP|   [nats]", ylabel="r, half the length of the row   [nats]")
    left.set(xlim=(-0.02 * x.max(), 1.15 * x.max()), ylim=(-0.02 * y.max(), 1.08 * y.max()))
    left.set_title("What is chosen", fontsize=10, weight="normal")
    left.legend(fontsize=9)
    for name, colour, marker, line in (
        ("truth", "#000000", "o", "-"),
        ("AP", "#D55E00", "s", "--"),
        ("HVP", "#0072B2", "^", "-."),
    ):
        right.plot(curve.strength, curve[name], color=colour, ls=line, label=name)
        right.plot(1, curve[name].iloc[-1], marker, color=colour, ms=7)
    right.set(xlabel="patch strength t", ylabel="effect   [nats]")
    right.set_title(f"{component}, patched by degrees", fontsize=10, weight="normal")
    right.legend(fontsize=9)
    headline(fig, title)
    return fig


def rules_figure(after: pd.DataFrame, title: str, floor: float = 0.01) -> Figure:
    """Mean error against the number of heads patched, a line for each rule; tasks are pooled."""
    pooled = after.assign(task=f"{after.task.nunique()} tasks")
    fig, axes, _ = panels(pooled, 4.9, {})
    fig.set_size_inches(9.6, 4.9)
    for ax, (model, _task) in axes.items():
        part = pooled[pooled.model == model]
        for rule, look in RULE_LOOKS.items():
            mean = part[part.rule == rule].groupby("patches").error.mean()
            if len(mean):
                ax.plot(mean.index, np.maximum(mean, floor), **_look(look, 5), label=rule)
        ax.set(xscale="log", yscale="log", ylim=(floor / 1.3, 30), xlabel="heads patched exactly")
        _ticks(ax, [5, 10, 20, 40, 60], [floor, 0.1, 1, 10], floor)
    first = next(iter(axes))
    first.set_ylabel("error on the five largest, mean   [%]")
    _legend(fig, first)
    headline(fig, title)
    return fig


def spectra_figure(found: pd.DataFrame, title: str) -> Figure:
    """Squared size of H outside its largest eigenvalues, medians over prompts."""
    fig, axes, _ = panels(found.assign(task=""), 4.9, {})
    fig.set_size_inches(9.6, 4.9)
    places = list(dict.fromkeys(found.place))
    for ax, (model, _task) in axes.items():
        part = found[found.model == model]
        for place, look in zip(places, _PLACE_LOOKS, strict=False):
            left = 100 - part[part.place == place].groupby("k").held.median()
            style = _look(look, 4) | {"markevery": [0, 1, 3, 7, 15]}
            if len(left) < 16:
                style |= {"markevery": None}
            ax.plot(left.index, left, **style, label=place)
        ax.set(xscale="log", yscale="log", ylim=(1e-3, 100))
        ax.set_xlabel("eigenvalues taken, the largest first")
        _ticks(ax, [1, 2, 4, 8, 16, 32], [0.001, 0.01, 0.1, 1, 10, 100], -1)
        ax.set_title(model, fontsize=10, weight="normal")
    first = next(iter(axes))
    first.set_ylabel("squared size left out, median   [%]")
    _legend(fig, first)
    headline(fig, title)
    return fig


def sketches_figure(found: pd.DataFrame, title: str) -> Figure:
    """Error of sketched quadratic terms against products: medians over seeds, and their range."""
    fig, axes, _ = panels(found.assign(task=""), 4.2, {})
    fig.set_size_inches(9.6, 4.2)
    looks = {"hutchinson": ("#E69F00", "s", "--"), "xdiag": ("#0072B2", "o", "-")}
    ks = sorted(found.k.unique())
    for ax, (model, _task) in axes.items():
        for method, look in looks.items():
            part = found[(found.model == model) & (found.method == method)].groupby("k").error
            ax.plot(ks, part.median(), **_look(look), label=method)
            ax.fill_between(ks, part.min(), part.max(), color=look[0], alpha=0.15, lw=0)
        ax.set(xscale="log", yscale="log", xlabel="products with the Hessian")
        _ticks(ax, ks, [1, 3, 10, 30, 100])
        ax.set_title(model, fontsize=10, weight="normal")
    first = next(iter(axes))
    first.set_ylabel("error of the quadratic terms, 2-norm   [%]")
    first.legend()
    headline(fig, title)
    return fig


def pairs_figure(pairs: pd.DataFrame, title: str, first: int = 10) -> Figure:
    """Measured interactions of the largest heads against the entries of the Hessian."""
    few = pairs[(pairs.i < first) & (pairs.j < first)]
    models = list(dict.fromkeys(few.model))
    fig, axes = plt.subplots(1, len(models), figsize=(9.6, 4.6), squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        part = few[few.model == model]
        reach = 1.1 * part[["measured", "predicted"]].abs().max().max()
        ends = [-reach, reach]
        ax.plot(ends, ends, color="#888888", lw=1.2, label="prediction = measurement")
        ax.scatter(part.predicted, part.measured, s=30, color="#0072B2", lw=0, alpha=0.8)
        ax.axhline(0, color="#bbbbbb", lw=0.8)
        r = np.corrcoef(part.predicted, part.measured)[0, 1]
        ax.set_title(f"{model}: correlation {r:.2f}", fontsize=10, weight="normal")
        ax.set(xlim=ends, ylim=ends, xlabel="predicted, $H_{ij}$   [nats]")
    axes[0, 0].set_ylabel("measured interaction   [nats]")
    axes[0, 0].legend(loc="upper left", fontsize=9.5)
    headline(fig, title)
    return fig


def joint_figure(errors: pd.DataFrame, title: str) -> Figure:
    """Error of five predictions of a joint patch against the number of heads patched together."""
    fig, axes, _ = panels(errors.assign(task=""), 4.9, {})
    fig.set_size_inches(9.6, 4.9)
    sizes = sorted(errors.heads.unique())
    for ax, (model, _task) in axes.items():
        for prediction, look in zip(PREDICTIONS, _PREDICTION_LOOKS, strict=True):
            part = errors[(errors.model == model) & (errors.prediction == prediction)]
            ax.plot(part.heads, part.error, **_look(look), label=prediction)
        ax.axhline(100, color="#888888", lw=1)
        ax.set(xscale="log", yscale="log", ylim=(2, 200), xlabel="heads patched together")
        _ticks(ax, sizes, [3, 10, 30, 100])
        ax.set_title(model, fontsize=10, weight="normal")
    first = next(iter(axes))
    first.set_ylabel("error of the joint effect   [% of its size]")
    _legend(fig, first)
    headline(fig, title)
    return fig
