"""The figures of chapter 9. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from hvp_utils.stats import bootstrap_ci

from ..panels import headline
from .effects import FIXES, ORACLE, ROWS, TASKS, TAU
from .operating import errors_of
from .price import N_PATCHED

#: Colour (Okabe and Ito), line and marker of every rule.
LOOKS = {
    "R": dict(color="#0072B2", ls="-", marker="P"),
    "|f_AP|": dict(color="#D55E00", ls="--", marker="s"),
    "|q|": dict(color="#56B4E9", ls="-.", marker="v"),
    ROWS: dict(color="#009E73", ls="-", marker="D"),
    ORACLE: dict(color="#000000", ls="-", marker=""),
    "random": dict(color="#777777", ls=":", marker=""),
}
_POINTS = {  # method of ``of_methods``: what it leaves by, name, marker, colour
    "attribution_patching": ("none", "attribution patching", "s", "#D55E00"),
    "hvp": ("hvp", "HVP of every head", "^", "#0072B2"),
    "ms_hvp:5": ("ms_hvp", "MS-HVP of every head", "D", "#CC79A7"),
    "activation_patching": ("exact", "exact patching of every head", "*", "#000000"),
}


def _plain(ax: Axes, ticks: Sequence[float] = ()) -> None:
    """A logarithmic axis with plain numbers."""
    ax.set_xscale("log")
    if len(ticks):
        ax.set_xticks(ticks)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.minorticks_off()


def one_pair_figure(heads: pd.DataFrame, title: str, unit: str = "nats") -> Figure:
    """The size of each estimate and its error, with what the score flags and the largest effects.

    Heads with an estimate or an error below 0.0001 lie outside the frame.

    Args:
        heads: What ``heads_of`` returns.
        title: What the figure says.
        unit: Unit of the effects.
    """
    fig, ax = plt.subplots(figsize=(7.0, 4.9))
    low, high = 1e-4, 2.5 * heads.f_ap.abs().max()
    looks = {False: ("o", "#888888", "trusted"), True: ("^", "#0072B2", f"flagged by R > {TAU:g}")}
    for flagged, (marker, colour, name) in looks.items():
        part = heads[heads.flagged == flagged]
        look = dict(s=28, marker=marker, color=colour, alpha=0.75, lw=0, label=name)
        ax.scatter(part.f_ap.abs(), part.error, **look)
    top = heads[heads.place_f <= 5].sort_values("f_ap", key=abs)
    ring = dict(s=130, facecolors="none", edgecolors="#D55E00", lw=1.8)
    ax.scatter(top.f_ap.abs(), top.error, label="five largest true effects", **ring)
    for i, head in enumerate(top.itertuples()):  # by turns above and below
        at, to = (abs(head.f_ap), head.error), (0, 10 if i % 2 == 0 else -18)
        text = dict(xytext=to, textcoords="offset points", ha="center", fontsize=9)
        ax.annotate(head.component, at, **text)
    edge = np.array([low, high])
    ax.plot(edge, TAU * edge, color="#000000", lw=1, ls="--", label=f"off by {TAU:.0%}")
    ax.set(xscale="log", yscale="log", xlim=edge, ylim=(low, 3 * heads.error.max()))
    ax.set(xlabel=f"size of the estimate |f_AP|   [{unit}]", ylabel=f"its error   [{unit}]")
    ax.legend(loc="upper left", fontsize=9)
    headline(fig, title)
    return fig


def _curve(ax: Axes, x, values, rule: str, band: bool) -> None:
    look = LOOKS[rule] | {"lw": 1.2 if rule == ORACLE else 2.0, "ms": 4.5, "markevery": 3}
    if band:
        cis = [bootstrap_ci(row) for row in values]
        ax.fill_between(
            x, [c.low for c in cis], [c.high for c in cis], color=look["color"], alpha=0.13, lw=0
        )
    ax.plot(x, values.mean(1), label=rule, **look)


def curves_figure(
    panels: Sequence[tuple[pd.DataFrame, str, str]],
    rows: int,
    labels: Sequence[str],
    title: str,
    points: pd.DataFrame | None = None,
) -> Figure:
    """Operating curves in panels: what is left against the share of heads fixed.

    Args:
        panels: For each panel the curves (``operating``), a model and a fix.
        rows: Rows of panels.
        labels: Labels of the y axes in a row. With one for all, the panels of a row share it.
        title: What the figure says.
        points: What ``at_thresholds`` returns, to mark on the curves of R for exact patching.
    """
    columns = len(panels) // rows
    width, height = {3: 3.4}.get(columns, 4.5), 3.0 if rows > 1 else 4.2
    fig, axes = plt.subplots(
        rows,
        columns,
        figsize=(width * columns, height * rows + 0.5),
        sharey="row" if len(labels) == 1 else False,
        squeeze=False,
    )
    for i, (ax, (curves, model, fix)) in enumerate(zip(axes.flat, panels, strict=True)):
        for rule in curves.rule.unique():
            _, shares, errors = errors_of(curves, model, rule, fix)
            _curve(ax, shares[1:], errors[1:], rule, band=rule in ("R", "|f_AP|"))
        x = np.geomspace(shares[1], 100, 60)
        none, whole = errors[[0, -1]].mean(1)
        ax.plot(x, none + (whole - none) * x / 100, label="random", lw=1.8, **LOOKS["random"])
        _plain(ax, [t for t in (0.5, 1, 2, 5, 10, 20, 50, 100) if t > shares[1]])
        ax.set(xlim=(shares[1], 100))
        if i // columns == rows - 1:
            ax.set_xlabel("heads fixed   [% of all]")
        ax.set_ylim(bottom=0)
        ax.set_title(f"{model}, {FIXES[fix]}", fontsize=10, weight="normal")
        if i % columns < len(labels):
            ax.set_ylabel(labels[i % columns])
        if points is not None and fix == "exact":
            _thresholds(ax, points[points.model == model])
    fig.legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=6,
        fontsize=9.5,
        title="fixed first: the heads with the largest",
    )
    headline(fig, title)
    return fig


def _thresholds(ax: Axes, points: pd.DataFrame) -> None:
    colour = LOOKS["R"]["color"]
    for row in points.itertuples():
        ax.plot(row.share, row.left, "o", ms=6, color=colour, mec="white", zorder=5)
        low = row.left < 0.15 * ax.get_ylim()[1]
        at = {"xytext": (4, 7), "ha": "left"} if low else {"xytext": (-5, -12), "ha": "right"}
        text = dict(textcoords="offset points", fontsize=9, color=colour) | at
        ax.annotate(f"τ = {row.tau:g}", (row.share, row.left), **text)


_FIX_LINES = {"exact": "-", "ms_hvp": "--", "hvp": ":"}


def price_figure(
    priced: pd.DataFrame, left: pd.DataFrame, costs: pd.DataFrame, title: str
) -> Figure:
    """Top-5 error against the whole price, in percent of patching every head.

    Args:
        priced: What ``price.priced`` returns.
        left: What ``what_fixes_leave`` returns.
        costs: What ``price.of_methods`` returns.
        title: What the figure says.
    """
    models = list(priced.model.unique())
    fig, axes = plt.subplots(
        1, len(models), figsize=(4.7 * len(models), 4.9), sharey=True, squeeze=False
    )
    for ax, model in zip(axes.flat, models, strict=True):
        ax.axvspan(100, 4000, color="#eeeeee", zorder=0, lw=0)
        for name, part in priced[priced.model == model].groupby("strategy", sort=False):
            rule, fix = part.iloc[0][["rule", "fix"]]
            y = [one.estimate for one in part.left]
            look = {"color": LOOKS[rule]["color"], "ls": _FIX_LINES[fix], "lw": 2}
            ax.plot(
                part.percent, y, label=name, marker=LOOKS[rule]["marker"], ms=4, markevery=3, **look
            )
            chosen = part[part.fixed == N_PATCHED]
            if rule == ROWS and len(chosen):
                ring = dict(ls="none", ms=13, mfc="none", mec="#000000", zorder=7)
                at = chosen.percent.iloc[0], chosen.left.iloc[0].estimate
                ax.plot(*at, "o", label=f"its {N_PATCHED} patches", clip_on=False, **ring)
            if np.ptp(part.percent):
                low, high = [i.low for i in part.left], [i.high for i in part.left]
                ax.fill_between(part.percent, low, high, color=look["color"], alpha=0.1, lw=0)
        row = left[left.model == model].set_index("fix")
        errors = {fix: row["all"][fix].estimate for fix in row.index}
        errors["none"] = row.none.iloc[0].estimate
        for method, (fix, name, marker, colour) in _POINTS.items():
            x = costs[(costs.model == model) & (costs.method == method)].percent.iloc[0]
            size = 14 if marker == "*" else 8
            look = dict(ls="none", mec="white", zorder=6, clip_on=False, label=name)
            ax.plot(x, errors[fix], marker, color=colour, ms=size, **look)
        _plain(ax, (1, 10, 100, 1000))
        ax.set(xlim=(0.9, 4000), xlabel="whole price   [% of patching every head]")
        ax.set_ylim(0, 1.2 * max(one.estimate for one in left.none))
        ax.set_title(model, fontsize=10, weight="normal")
        place = dict(transform=ax.get_xaxis_transform(), va="top", fontsize=9, color="#444444")
        ax.text(115, 0.98, "dearer than\npatching all", **place)
    axes[0, 0].set_ylabel("top-5 relative error left   [%]")
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=3, fontsize=9, handlelength=3.2)
    headline(fig, title)
    return fig


_BOUND_LINES = {
    "bound": ("bound of Proposition 2", dict(color="#000000", ls="-", lw=2.2)),
    "cubic": ("its cubic term", dict(color="#CC79A7", ls="--", lw=2)),
    "first": ("its term with τ", dict(color="#0072B2", ls="-.", lw=2)),
    "error": ("measured error of the sum", dict(color="#D55E00", ls=":", lw=2.6)),
}


def guarantee_figure(bounds: pd.DataFrame, task: str, title: str) -> Figure:
    """The bound of Proposition 2 and its two terms against the threshold, with the error.

    Args:
        bounds: What ``guarantee`` returns.
        task: Which task.
        title: What the figure says.
    """
    part = bounds[bounds.task == task].assign(first=lambda t: t.bound - t.cubic)
    models = list(part.model.unique())
    fig, axes = plt.subplots(
        1, len(models), figsize=(4.6 * len(models), 4.4), sharey=True, squeeze=False
    )
    for ax, model in zip(axes.flat, models, strict=True):
        for column, (name, look) in _BOUND_LINES.items():
            groups = part[part.model == model].groupby("tau")[column]
            cis = {tau: bootstrap_ci(values) for tau, values in groups}
            low, high = [c.low for c in cis.values()], [c.high for c in cis.values()]
            ax.fill_between(list(cis), low, high, color=look["color"], alpha=0.13, lw=0)
            ax.plot(list(cis), [c.estimate for c in cis.values()], label=name, **look)
        ax.set(xscale="log", yscale="log", xlabel="threshold τ   [no unit]")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        ax.set_title(f"{model}, {TASKS.get(task, task)}", fontsize=10, weight="normal")
    axes[0, 0].set_ylabel("error of the summed estimates   [nats]")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig
