"""The figures of chapter 15."""

from __future__ import annotations

import textwrap

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from hvp_utils import diagnosis as d
from hvp_utils import plots
from hvp_utils.backward_rules import NONLINEARITIES

from ..panels import headline
from .tables import OPERATIONS
from .toys import TOYS, derivatives

__all__ = ["census_figure", "flow_figure", "toys_figure"]

#: Colour and hatch of each verdict (Okabe and Ito).
_LOOKS = {
    d.SATURATION: ("#D55E00", ""),
    d.CANCELLATION: ("#CC79A7", "///"),
    d.ZERO_GRADIENT: ("#0072B2", "..."),
    d.OTHER: ("#BBBBBB", ""),
}


def toys_figure(title: str) -> Figure:
    """The path of each toy, with its tangent and its parabola at the base run."""
    t = torch.linspace(0, 1, 201, dtype=torch.float64)
    fig, axes = plt.subplots(1, len(TOYS), figsize=(8.25, 2.7))
    for ax, (name, path) in zip(axes, TOYS.items(), strict=True):
        slope, curvature = (v[0].item() for v in derivatives(path, t[:1]))
        lines = {
            "activation_patching": path(t) - path(t[:1]),
            "attribution_patching": slope * t,
            "hvp": slope * t + curvature * t**2 / 2,
        }
        for method, values in lines.items():
            label, colour, _, style = plots.METHODS[method]
            width = 3 if method == "activation_patching" else 1.8
            ax.plot(
                t, values, style, color=colour, lw=width, label=label if ax is axes[0] else None
            )
        ax.set_title(name, fontsize=10, weight="normal")
        ax.set_xlabel("patch strength t")
    axes[0].set_ylabel("effect")
    headline(fig, title)
    fig.legend(loc="outside lower center", ncols=3, fontsize=9)
    return fig


def census_figure(table: pd.DataFrame, title: str) -> Figure:
    """Misjudged components by verdict and setting, and where all their errors come from."""
    bad = table[table.bad]
    settings = list(dict.fromkeys(bad.setting))
    fig, (left, right) = plt.subplots(1, 2, figsize=(8.25, 3.6), width_ratios=[1.35, 1])
    start = np.zeros(len(settings))
    for verdict, (colour, hatch) in _LOOKS.items():
        number = bad[bad.verdict == verdict].groupby("setting").size()
        number = number.reindex(settings, fill_value=0).to_numpy()
        left.barh(
            settings,
            number,
            left=start,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=verdict,
        )
        start += number
    left.invert_yaxis()
    left.set(xlabel="badly misjudged components")
    fig.legend(loc="outside lower center", ncols=4, fontsize=9)
    left.grid(axis="y", visible=False)
    left.set_title("which failure", fontsize=10, weight="normal")
    number = bad.groupby("main").size().reindex(NONLINEARITIES, fill_value=0)
    number = number.sort_values(ascending=False)
    right.barh([OPERATIONS[kind] for kind in number.index], number, color="#009E73")
    right.invert_yaxis()
    right.grid(axis="y", visible=False)
    right.set(xlabel="badly misjudged")
    right.set_title("largest part of the error", fontsize=10, weight="normal")
    headline(fig, title)
    return fig


def _box(ax: Axes, x: float, y: float, text: str, colour: str, width: float, height: float) -> None:
    ax.add_patch(
        FancyBboxPatch(
            (x - width / 2, y - height / 2),
            width,
            height,
            boxstyle="round,pad=0.02,rounding_size=0.12",
            facecolor=colour,
            edgecolor="#333333",
            lw=1,
        )
    )
    ax.text(x, y, text, ha="center", va="center", fontsize=8.8, color="#111111", linespacing=1.25)


def _arrow(ax: Axes, start: tuple, end: tuple, text: str, shift: tuple) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "#333333", "lw": 1.3})
    ax.text(start[0] + shift[0], start[1] + shift[1], text, fontsize=9, color="#333333")


def flow_figure(title: str) -> Figure:
    """Which symptom, which check, which remedy: the order in which ``diagnose`` asks.

    It is one narrow column of questions with an answer to the right of each, on a ground of its
    own, so that it can be read on a phone, in the dark and in print.
    """
    steps = (
        (
            f"At least {100 * d.MAIN_PART:g} % of the error\nfrom attention patterns, and\n"
            f"{100 * d.MAIN_PART:g} % of that from rows that\nleave p > {d.SATURATED:g}?",
            "attention saturation",
            "queries, keys: Q and K fix;\nothers: the exact patch",
        ),
        (
            f"Direct and indirect effect\nof opposite sign, together\n{d.AMPLIFIED:g} times the total, and\n"
            "each well judged?",
            "effect cancellation",
            "the exact patch\nmeasures it",
        ),
        (
            f"Slope at the base below\n{d.FLAT:g} of the mean slope\nalong the path?",
            "zero gradient",
            "slopes along the path,\nor a metric that is\nnot flat",
        ),
    )
    fig, ax = plt.subplots(figsize=(5.2, 6.6))
    ax.set(xlim=(0, 5.2), ylim=(0, 6.6))
    ax.axis("off")
    fig.patch.set_facecolor("white")
    _box(ax, 1.35, 6.0, "AP is far from\nan exact patch", "#EEEEEE", 2.1, 0.6)
    y, above = 4.85, 5.68
    for question, name, remedy in steps:
        _box(ax, 1.35, y, question, "#DCEBF7", 2.3, 0.95)
        colour = {"#D55E00": "#FBE0D0", "#CC79A7": "#F5E1EC", "#0072B2": "#D5E8F5"}
        _box(ax, 4.0, y, "", colour[_LOOKS[name][0]], 2.1, 0.95)
        ax.text(4.0, y + 0.27, name, ha="center", va="center", fontsize=9.2, weight="bold")
        ax.text(4.0, y - 0.15, remedy, ha="center", va="center", fontsize=8.6, linespacing=1.2)
        _arrow(ax, (1.35, above), (1.35, y + 0.5), "" if y == 4.85 else "no", (0.08, -0.17))
        _arrow(ax, (2.52, y), (2.93, y), "yes", (0.05, 0.07))
        above, y = y - 0.5, y - 1.5
    _box(ax, 1.35, 0.5, "", "#EEEEEE", 2.5, 0.82)
    ax.text(
        1.35, 0.74, "curvature elsewhere", ha="center", va="center", fontsize=9.2, weight="bold"
    )
    ax.text(
        1.35,
        0.37,
        "queries, keys: Q and K fix;\nothers: keep the exact patch",
        ha="center",
        va="center",
        fontsize=8.6,
        linespacing=1.2,
    )
    _arrow(ax, (1.35, above), (1.35, 0.93), "no", (0.08, -0.17))
    ax.set_title(textwrap.fill(title, 52), loc="left", fontsize=11, weight="bold")
    return fig
