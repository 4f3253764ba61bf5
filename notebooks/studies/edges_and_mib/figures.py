"""The figures of chapter 12. Each takes a table, and returns a Figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..panels import headline, panels
from .tables import TASKS

__all__ = ["curves_figure", "errors_figure", "estimates_figure"]

#: Colour (Okabe and Ito), marker and line of every method.
LOOKS = {
    "EAP": ("#D55E00", "s", "--"),
    "EAP, corrupted run": ("#444444", "o", "--"),
    "EAP-IG": ("#CC79A7", "v", "-"),
    "EAP-IG, 20 steps": ("#CC79A7", "^", ":"),
    "EAP-GP": ("#56B4E9", "P", "-."),
    "GIM": ("#B8860B", "X", ":"),
    "RelP": ("#6B4E16", "D", ":"),
    "HVP, sketched": ("#0072B2", "^", "-."),
    "HVP, exact": ("#0072B2", "o", "-"),
    "local": ("#009E73", "<", ":"),
    "local + sketch": ("#009E73", ">", "-"),
    "random": ("#888888", "", ":"),
}


def curves_figure(
    table: pd.DataFrame, methods: Sequence[str], ranking: str, title: str, top: float = 2.0
) -> Figure:
    """Faithfulness against the size of the circuit, with 95 % intervals over prompts.

    Args:
        table: What ``curves`` returns.
        methods: Which methods.
        ranking: ``"signed"`` or ``"absolute"``.
        title: What the figure says.
        top: Upper end of the axis.
    """
    table = table[table.ranking == ranking]
    fig, axes, columns = panels(table, 3.0, TASKS, row_each=True)
    for ax, (model, task) in axes.items():
        part = table[(table.model == model) & (table.task == task)]
        for level in (0, 1):
            ax.axhline(level, color="#888888", lw=0.8, zorder=0)
        for method in methods:
            one = part[part.method == method]
            if one.empty:  # not measured on this task
                continue
            colour, marker, line = LOOKS[method]
            bars = np.array([tuple(f) for f in one.faithfulness])
            x = 100 * one.fraction
            ax.plot(
                x, bars[:, 0], color=colour, marker=marker, ls=line, ms=4.5, lw=1.6, label=method
            )
            ax.fill_between(x, bars[:, 1], bars[:, 2], color=colour, alpha=0.13, lw=0)
        ax.set(xscale="log", ylim=(-0.35, top))
        ax.set_xticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    for ax in [*axes][-columns:]:
        ax.set_xlabel("edges kept   [%]")
    for ax in [*axes][::columns]:
        ax.set_ylabel("faithfulness")
    fig.legend(*next(iter(axes)).get_legend_handles_labels(), loc="outside lower center", ncols=6)
    headline(fig, title)
    return fig


def errors_figure(table: pd.DataFrame, methods: Sequence[str], title: str) -> Figure:
    """Error of the scores on the sampled edges, one panel for each model and task.

    Args:
        table: What ``errors`` returns.
        methods: Which methods, from the top.
        title: What the figure says.
    """
    fig, axes, columns = panels(table, 2.6, TASKS, row_each=True)
    for ax, (model, task) in axes.items():
        part = table[(table.model == model) & (table.task == task)].set_index("method")
        for y, method in enumerate(reversed(methods)):
            if method not in part.index:
                continue
            estimate, low, high = part.loc[method, "error"]
            colour, marker, _ = LOOKS[method]
            ax.plot([low, high], [y, y], color=colour, lw=2)
            ax.plot(estimate, y, marker or "o", color=colour, ms=6)
        ax.axvline(100, color="#888888", lw=0.8, zorder=0)
        ax.set_yticks(range(len(methods)), reversed(methods))
        ax.set(xscale="log")
        ax.set_xticks([10, 30, 100, 300], ["10", "30", "100", "300"])
        ax.xaxis.minorticks_off()
    for ax in [*axes][-columns:]:
        ax.set_xlabel("error   [%]")
    headline(fig, title)
    return fig


def estimates_figure(table: pd.DataFrame, title: str, area: str = "CMD") -> Figure:
    """Each method by the error of its scores and by the area of its circuits.

    Args:
        table: What ``estimates_and_circuits`` returns.
        title: What the figure says.
        area: ``"CMD"`` or ``"CPR"``.
    """
    fig, axes, columns = panels(table, 2.7, TASKS, row_each=True)
    for ax, (model, task) in axes.items():
        part = table[(table.model == model) & (table.task == task)]
        for _, row in part.iterrows():
            colour, marker, _ = LOOKS[row.method]
            x, y = row.error.estimate, row[area].estimate
            ax.plot([x, x], row[area][1:], color=colour, lw=1.2)
            ax.plot(x, y, marker or "o", color=colour, ms=6.5, label=row.method, ls="")
        ax.set(xscale="log")
        if area == "CMD":
            ax.set(yscale="log")
            ax.set_yticks([0.01, 0.02, 0.05, 0.1], ["0.01", "0.02", "0.05", "0.1"])
            ax.yaxis.minorticks_off()
        ax.set_xticks([30, 100, 300], ["30", "100", "300"])
        ax.xaxis.minorticks_off()
    names = {"CMD": "CMD (less is better)", "CPR": "CPR (more is better)"}
    for ax in [*axes][-columns:]:
        ax.set_xlabel("error of the scores   [%]")
    for ax in [*axes][::columns]:
        ax.set_ylabel(names[area])
    handles: dict = {}
    for ax in axes:
        handles |= dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5)
    headline(fig, title)
    return fig
