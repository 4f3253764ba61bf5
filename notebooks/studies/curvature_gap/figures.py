"""The figures of chapter 4. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..panels import bars, headline, panels
from .kinds import KINDS
from .places import GROUPS, cells

TASKS = {"ioi": "IOI"}

#: Colour (Okabe and Ito) and hatch of the models, in order, and of the groups of kinds.
OF_MODELS = (("#0072B2", ""), ("#E69F00", "///"), ("#009E73", "..."))
OF_GROUPS = {
    "norms": ("#0072B2", ""),
    "attention": ("#E69F00", "///"),
    "MLP": ("#009E73", "..."),
    "output": ("#CC79A7", "xxx"),
}


def scatter(
    gap: pd.DataFrame, title: str, notes: Mapping[str, str] | None = None, limit: float = 1.0
) -> Figure:
    """The local quadratic term of each neuron that counts against the network's, with signs.

    Axes are linear within 1e-5 of zero, and logarithmic beyond.

    Args:
        gap: What ``neurons`` returns.
        title: What the figure says.
        notes: A line to stand in each panel, by model.
        limit: Where the axes end, in nats; what is larger is drawn at the edge.
    """
    fig, axes, _ = panels(gap, 4.0, TASKS)
    fig.set_size_inches(4.1 * len(axes), 5.1)
    ticks = [-1, -1e-2, 0, 1e-2, 1]
    labels = ["−1", "−0.01", "0", "0.01", "1"]
    for ax, (model, task) in axes.items():
        kept = gap[(gap.model == model) & (gap.task == task) & gap.counts]
        x, y = (kept[column].clip(-limit, limit) for column in ("q", "local"))
        ax.plot([-limit, limit], [-limit, limit], color="#888888", lw=1.2, label="all local")
        ax.axhline(0, color="#888888", lw=1, ls=":", label="all downstream")
        ax.scatter(x, y, s=13, color="#0072B2", alpha=0.4, lw=0, rasterized=True, label="a neuron")
        ax.set_xscale("symlog", linthresh=1e-5, linscale=0.6)
        ax.set_yscale("symlog", linthresh=1e-5, linscale=0.6)
        ax.set_xticks(ticks, labels)
        ax.set_yticks(ticks, labels)
        ax.minorticks_off()
        ax.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
        ax.set_xlabel("whole quadratic term q   [nats]")
        if notes:
            ax.text(0.96, 0.05, notes[model], transform=ax.transAxes, ha="right", fontsize=10)
    first = next(iter(axes))
    first.set_ylabel("local part   [nats]")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    headline(fig, title)
    return fig


_AXES = {
    "signed": "signed share of the quadratic term   [%]",
    "sizes": "share of all bending   [%]",
}


def kinds_figure(
    shared: pd.DataFrame, title: str, values: tuple[str, ...] = ("signed", "sizes")
) -> Figure:
    """Shares of the six kinds as bars with intervals, models side by side.

    Args:
        shared: What ``shares`` returns, of one task.
        title: What the figure says.
        values: Which shares, a panel each.
    """
    models = list(dict.fromkeys(shared.model))
    width = 0.76 / len(models)
    size = (9.2 if len(values) > 1 else 7.6, 4.3)
    fig, axes = plt.subplots(1, len(values), figsize=size, sharey=True, squeeze=False)
    for ax, value in zip(axes[0], values, strict=True):
        for j, model in enumerate(models):
            part = shared[shared.model == model].set_index("kind")[value].loc[[*KINDS]]
            middle, spread = bars(part)
            colour, hatch = OF_MODELS[j % len(OF_MODELS)]
            ax.barh(
                np.arange(len(KINDS)) + width * (j - (len(models) - 1) / 2),
                middle,
                0.95 * width,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                xerr=spread,
                error_kw={"ecolor": "#333333", "lw": 1.1},
                label=model,
            )
        ax.axvline(0, color="#555555", lw=0.9)
        ax.set_xlabel(_AXES[value])
        ax.grid(axis="y", visible=False)
    axes[0, 0].set_yticks(range(len(KINDS)), list(KINDS.values()))
    axes[0, 0].invert_yaxis()
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside lower center", ncols=len(models))
    headline(fig, title)
    return fig


def _grid(shared: pd.DataFrame) -> pd.DataFrame:
    """Signed shares [group, layer] of one model; NaN where there is no such operation."""
    return shared.pivot(index="group", columns="layer", values="percent").loc[[*GROUPS]]


def layers_figure(anatomy: pd.DataFrame, title: str) -> Figure:
    """Which groups bend in which layers, as a map, and the sum of each layer below.

    Args:
        anatomy: What ``by_layer`` returns.
        title: What the figure says.
    """
    shared = cells(anatomy)
    models = list(dict.fromkeys(shared.model))
    fig, axes = plt.subplots(
        *(2, len(models)),
        figsize=(4.6 * len(models), 5.2),
        sharex="col",
        sharey="row",
        height_ratios=(1.15, 1),
        squeeze=False,
    )
    limit = shared.percent.abs().max()
    for (above, below), model in zip(axes.T, models, strict=True):
        grid = _grid(shared[shared.model == model])
        start, end = grid.columns.min(), grid.columns.max()
        image = above.imshow(
            grid.fillna(0),
            cmap="PuOr_r",
            vmin=-limit,
            vmax=limit,
            aspect="auto",
            interpolation="nearest",
            extent=(start - 0.5, end + 0.5, len(GROUPS) - 0.5, -0.5),
        )
        above.set_yticks(range(len(GROUPS)), list(GROUPS))
        above.grid(visible=False)
        n_heads = anatomy[anatomy.model == model].component.nunique()
        above.set_title(f"{model}: {n_heads} heads", fontsize=10, weight="normal")
        below.bar(grid.columns, grid.sum(), 0.8, color="#666666")
        below.axhline(0, color="#555555", lw=0.9)
        below.set_xlabel("layer   (last: norm and output)")
        below.xaxis.set_major_locator(MaxNLocator(integer=True))
        below.grid(axis="x", visible=False)
    axes[1, 0].set_ylabel("all groups   [%]")
    fig.colorbar(image, ax=axes[0], label="share of the\nquadratic terms   [%]", shrink=0.95)
    headline(fig, title)
    return fig


def head_figure(anatomy: pd.DataFrame, title: str) -> Figure:
    """The head with the largest quadratic term of each model, as stacked bars by layer.

    Args:
        anatomy: What ``by_layer`` returns; its first head of each model is drawn.
        title: What the figure says.
    """
    models = list(dict.fromkeys(anatomy.model))
    fig, axes = plt.subplots(1, len(models), figsize=(4.4 * len(models), 4.1), squeeze=False)
    for ax, model in zip(axes[0], models, strict=True):
        part = anatomy[anatomy.model == model]
        part = part[part.component == part.component.iloc[0]]
        part = part[part.layer >= part.head_layer]
        up, down = (pd.Series(0.0, index=sorted(part.layer.unique())) for _ in range(2))
        for group, (colour, hatch) in OF_GROUPS.items():
            height = part[part.group == group].set_index("layer").part
            height = height.reindex(up.index, fill_value=0.0)
            bottom = np.where(height >= 0, up, down)
            look = dict(color=colour, hatch=hatch, edgecolor="white", label=group)
            ax.bar(up.index, height, 0.8, bottom, **look)
            up, down = up + height.clip(lower=0), down + height.clip(upper=0)
        first = part.iloc[0]
        q = f"{first.q:+.2f}".replace("-", "−")
        ax.set_title(f"{model}, {first.component}: q = {q} nats", fontsize=10, weight="normal")
        ax.axhline(0, color="#555555", lw=0.9)
        ax.set_xlabel("layer   (last bar: final norm and output)")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.grid(axis="x", visible=False)
        ax.use_sticky_edges = False  # or bars would end on the frame
        ax.margins(y=0.08)
    axes[0, 0].set_ylabel("contribution to q   [nats]")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig
