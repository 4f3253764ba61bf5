"""The figures of chapter 11. Each takes what the tables' functions return, and returns a Figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from hvp_utils.stats import bootstrap_ci

from ..panels import bars, headline, panels
from .ranking import TASKS, Scores

#: Colour (Okabe and Ito), marker and line of every method, as in all chapters where they appear.
LOOKS = {
    "truth": ("#000000", "o", "-"),
    "AP": ("#D55E00", "s", "--"),
    "HVP": ("#0072B2", "^", "-."),
    "MS-HVP": ("#009E73", "D", "-"),
    "IG": ("#CC79A7", "v", ":"),
    "GIM": ("#B8860B", "X", ":"),
    "AtP*": ("#56B4E9", "P", "--"),
    "sketched HVP": ("#5B7FA6", "<", ":"),
    "|AP| + r": ("#888888", "h", ":"),
    "10 patches": ("#444444", "*", "-"),
}


def _look(method: str) -> dict:
    colour, marker, line = LOOKS[method]
    return dict(color=colour, marker=marker, linestyle=line, label=method, lw=1.6, ms=6)


def overlap_figure(found: pd.DataFrame, methods: Sequence[str], title: str) -> Figure:
    """Share of the true top k that each method finds, prompt by prompt, with 95 % intervals.

    Args:
        found: What ``per_prompt`` returns.
        methods: Which methods.
        title: What the figure says.
    """
    fig, axes, _ = panels(found, 3.9, TASKS)
    overlap = found[found.measure == "overlap"]
    for ax, (model, task) in axes.items():
        part = overlap[(overlap.model == model) & (overlap.task == task)]
        for shift, method in enumerate(methods):
            groups = part[part.method == method].groupby("k").value
            share, spread = bars(bootstrap_ci(100 * values) for _, values in groups)
            x = np.array(list(groups.groups)) + 0.35 * (shift - len(methods) / 2)
            ax.errorbar(x, share, spread, elinewidth=1, **_look(method))
        ax.set(xlabel="size k of the circuit", xticks=sorted(part.k.unique()))
    first = next(iter(axes))
    first.set_ylabel("true top k found   [%]")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    headline(fig, title)
    return fig


def case_figure(
    curves: Mapping[str, pd.DataFrame], attention: pd.DataFrame, component: str, title: str
) -> Figure:
    """Where a head looks, and how the metric moves as it is patched by degrees.

    Args:
        curves: What ``head_curve`` returns, by label of the head.
        attention: What ``attention_of`` returns for ``component``. The query shown is the one
            where the two runs differ most.
        component: The head.
        title: What the figure says.
    """
    fig, axes = plt.subplots(1, 1 + len(curves), figsize=(3.5 * (1 + len(curves)), 3.9))
    by_run = attention.pivot(index=["query", "key"], columns="run", values="weight")
    query = (by_run.clean - by_run.corrupted).abs().groupby("query").sum().idxmax()
    for run, shift, colour in (("clean", -0.2, "#0072B2"), ("corrupted", 0.2, "#E69F00")):
        part = attention[(attention["run"] == run) & (attention["query"] == query)]
        label = f"{run}, from “{part.query_token.iloc[0].strip()}”"
        axes[0].barh(part.key + shift, part.weight, 0.4, color=colour, label=label)
    part = attention[(attention["run"] == "clean") & (attention["query"] == query)]
    words = [word.strip() for word in part.key_token]
    other = attention[(attention["run"] == "corrupted") & (attention["query"] == query)]
    words[-1] += f" / {other.key_token.iloc[-1].strip()}" * (words[-1:] != other.key_token.iloc[-1])
    axes[0].set_yticks(part.key, words, fontsize=9)
    axes[0].invert_yaxis()
    axes[0].set(xlabel="attention weight")
    axes[0].set_title(f"{component}: where it looks", fontsize=10, weight="normal")
    axes[0].legend(fontsize=8, loc="best")
    for ax, (label, curve) in zip(axes[1:], curves.items(), strict=True):
        for method in ("truth", "AP", "HVP"):
            look = _look(method) | {"marker": ""}
            ax.plot(curve.strength, curve[method], **look)
            ax.plot(1, curve[method].iloc[-1], LOOKS[method][1], color=LOOKS[method][0], ms=7)
        ax.set(xlabel="patch strength t", ylabel="effect   [nats]")
        ax.set_title(f"{label}: what it does", fontsize=10, weight="normal")
        ax.legend(fontsize=9)
    headline(fig, title)
    return fig


def landscape_figure(scored: Sequence[Scores], marked: Mapping[str, str], title: str) -> Figure:
    """Mean effects of all heads, layer by head, as three methods see them.

    Args:
        scored: Scores, one row of panels each.
        marked: A head to frame in each row, by model.
        title: What the figure says.
    """
    methods = ("truth", "AP", "HVP")
    fig, axes = plt.subplots(
        len(scored), 3, figsize=(9.6, 4.3 * len(scored)), squeeze=False, sharey="row"
    )
    for row, one in zip(axes, scored, strict=True):
        heads = np.array([int(label.split("H")[1]) for label in one.labels])
        limit = np.abs(one.mean("truth")).max()
        for ax, method in zip(row, methods, strict=True):
            grid = np.full((one.layers.max() + 1, heads.max() + 1), np.nan)
            grid[one.layers, heads] = one.mean(method)
            image = ax.imshow(
                grid, cmap="PuOr", vmin=-limit, vmax=limit, aspect="auto", origin="lower"
            )
            if one.model in marked:
                layer, head = (int(part) for part in marked[one.model][1:].split("H"))
                frame = plt.Rectangle((head - 0.5, layer - 0.5), 1, 1, fill=False, lw=2, ec="black")
                ax.add_patch(frame)
            ax.set(xlabel="head", xticks=range(heads.max() + 1))
            ax.set_title(f"{method}, {one.model}", fontsize=10, weight="normal")
            ax.grid(False)
        row[0].set_ylabel("layer")
        fig.colorbar(image, ax=list(row), label="mean effect   [nats]", shrink=0.8)
    headline(fig, title)
    return fig


def roles_figure(roles: pd.DataFrame, title: str) -> Figure:
    """The largest heads grouped by where they look; area is the magnitude of the mean effect.

    Args:
        roles: What ``measured_roles`` returns.
        title: What the figure says.
    """
    methods = ("truth", "AP", "HVP")
    names = list(dict.fromkeys(roles.sort_values("role").role))
    fig, axes = plt.subplots(1, 3, figsize=(9.6, 0.75 * len(names) + 1.6), sharey=True)
    scale = 1500 / roles.truth.abs().max()
    for ax, method in zip(axes, methods, strict=True):
        for y, role in enumerate(names):
            part = roles[roles.role == role]
            x = np.arange(len(part))
            colours = np.where(part[method] >= 0, "#0072B2", "#E69F00")
            ax.scatter(x, [y] * len(part), s=scale * part[method].abs(), c=colours, alpha=0.8)
            for i, label in zip(x, part.component, strict=True):
                ax.annotate(label, (i, y + 0.42), fontsize=6.5, ha="center", annotation_clip=False)
        ax.set(
            xlim=(-1.1, roles.role.value_counts().max() - 0.3),
            xticks=[],
            xlabel="blue: positive, orange: negative",
        )
        ax.set_title(method, fontsize=10, weight="normal")
        ax.grid(False)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].set_ylim(-0.6, len(names) - 0.3)
    headline(fig, title)
    return fig


def attention_figure(patterns: Mapping[str, pd.DataFrame], title: str) -> Figure:
    """Attention patterns of some heads on the clean prompt, by a line for each head."""
    fig, axes = plt.subplots(1, len(patterns), figsize=(3.5 * len(patterns), 4.0), sharey=True)
    for ax, (name, table) in zip(np.atleast_1d(axes), patterns.items(), strict=True):
        clean = table[table["run"] == "clean"]
        grid = clean.pivot(index="query", columns="key", values="weight")
        words = clean.drop_duplicates("query").query_token.str.strip()
        image = ax.imshow(grid, cmap="cividis", vmin=0, vmax=1)
        ax.set_xticks(range(len(grid)), words, rotation=90, fontsize=7.5)
        ax.set_yticks(range(len(grid)), words, fontsize=7.5)
        ax.set_title(name, fontsize=10, weight="normal")
        ax.set_xlabel("looks at")
        ax.grid(False)
    np.atleast_1d(axes)[0].set_ylabel("position")
    fig.colorbar(image, ax=list(np.atleast_1d(axes)), label="attention weight", shrink=0.8)
    headline(fig, title)
    return fig


def faithfulness_figure(table: pd.DataFrame, methods: Sequence[str], title: str) -> Figure:
    """Faithfulness against the number of heads kept, a line for each method.

    Args:
        table: What ``faithfulness_table`` returns.
        methods: Which methods.
        title: What the figure says.
    """
    fig, axes, _ = panels(table, 4.1, TASKS)
    for ax, (model, task) in axes.items():
        part = table[(table.model == model) & (table.task == task)]
        for method in methods:
            rows = part[part.method == method].sort_values("k")
            values = np.array([interval.estimate for interval in rows.faithfulness])
            ax.plot(rows.k, values, **_look(method))
        ax.axhline(1, color="#888888", lw=0.8, zorder=0)
        ax.axhline(0, color="#888888", lw=0.8, zorder=0)
        ax.set(xlabel="heads kept", xticks=sorted(part.k.unique()))
    first = next(iter(axes))
    first.set_ylabel("faithfulness   (1: the whole model)")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=6)
    headline(fig, title)
    return fig
