"""Chapter 2: the error of attribution patching as a quadratic term and a remainder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure

from hvp_utils import PatchedMetric, plots
from hvp_utils.stats import bootstrap_ci

from ..common import tidy
from ..panels import bars, headline, panels
from .one_head import TASKS

__all__ = [
    "BINS",
    "by_layer",
    "by_size",
    "curvature_of_three_runs",
    "density_figure",
    "head_by_head",
    "layers_figure",
    "of_the_largest",
    "parts",
    "power",
    "removed",
    "scaled",
    "scaling_figure",
    "scaling_summary",
    "size_figure",
    "three_runs_against",
]

#: Sizes of effects, as shares of the largest of their prompt: name, from, up to.
BINS = (
    ("below 0.1 %", 0.0, 0.001),
    ("0.1 to 1 %", 0.001, 0.01),
    ("1 to 10 %", 0.01, 0.1),
    ("10 % and more", 0.1, np.inf),
)
#: Differences below this, in nats, are rounding of float32.
ROUNDING = 1e-5


def parts(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """The error of attribution patching and its two parts, of every head on every prompt.

    Returns:
        Columns model, task, prompt, component, layer, truth, AP, E = truth − AP, q (the quadratic
        term) and R3 = E − q, in units of the metric; size: |truth| over the largest of its prompt.
    """
    names = {"activation_patching": "truth", "attribution_patching": "AP", "hvp": "HVP"}
    table = tidy(sweeps, [*names]).rename(columns=names)
    table["E"], table["q"] = table.truth - table.AP, table.HVP - table.AP
    table["R3"] = table.truth - table.HVP
    most = (
        table.truth.abs().groupby([table[c] for c in ("model", "task", "prompt")]).transform("max")
    )
    return table.assign(size=table.truth.abs() / most).drop(columns="HVP")


def _sums(table: pd.DataFrame) -> pd.DataFrame:
    """Summed |E| and |R3| of each prompt."""
    sizes = table[["E", "R3"]].abs().astype(float)
    return sizes.groupby([table[c] for c in ("model", "task", "prompt")], sort=False).sum()


def removed(table: pd.DataFrame) -> pd.DataFrame:
    """The share of the summed absolute error that the quadratic term removes.

    Returns:
        Columns model, task; each prompt: the mean of the prompts' shares; together: the share of
        the sum over all prompts; both in percent. Negative where the correction does harm.
    """
    rows = []
    for (model, task), sums in _sums(table).groupby(["model", "task"], sort=False):
        total, left = sums.E.to_numpy(), sums.R3.to_numpy()
        shares = 100 * (1 - left[total > 0] / total[total > 0])

        def pooled(drawn, total=total, left=left):
            drawn = np.asarray(drawn, dtype=int)
            return 100 * (1 - left[drawn].sum() / total[drawn].sum())

        together = bootstrap_ci(np.arange(len(total)), pooled)
        rows.append((model, task, bootstrap_ci(shares), together))
    return pd.DataFrame(rows, columns=["model", "task", "each prompt", "together"])


def by_size(table: pd.DataFrame) -> pd.DataFrame:
    """What ``removed`` says, for effects of each size of ``BINS``.

    A class that fewer than two prompts of a model and task have an effect in is left out.

    Returns:
        The columns of ``removed``, with size, and of E (the share of all |E|, in percent).
    """
    found, keys = [], ["model", "task"]
    total = table.E.abs().groupby([table.model, table.task], sort=False).sum()
    for name, low, high in BINS:
        part = table[(table["size"] >= low) & (table["size"] < high)]
        part = part[part.groupby(keys).prompt.transform("nunique") >= 2]
        if part.empty:
            continue
        one = removed(part)
        own = part.E.abs().groupby([part.model, part.task]).sum()
        share = [100 * own[key] / total[key] for key in zip(one.model, one.task, strict=True)]
        found.append(one.assign(**{"size": name, "of E": share}))
    columns = ["model", "task", "size", "of E", "each prompt", "together"]
    found, settings = pd.concat(found)[columns], [*total.index]
    place = [settings.index(key) for key in zip(found.model, found.task, strict=True)]
    return found.iloc[np.argsort(place, kind="stable")]


def head_by_head(table: pd.DataFrame) -> pd.DataFrame:
    """The same with every head counted once, however small its error.

    Returns:
        Columns model, task; closer: % of head-prompt pairs that the quadratic term brings closer to
        the truth; left: the median of |R3| / |E|, in percent; top five: the share of a prompt's
        summed error that lies on its five largest errors, in percent, mean over prompts.
    """
    rows = []
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        seen = part[part.E.abs() > ROUNDING]
        left = seen.R3.abs() / seen.E.abs()
        errors = part.E.abs().groupby(part.prompt)
        top = errors.apply(lambda e: e.nlargest(5).sum() / e.sum())
        rows.append((model, task, 100 * (left < 1).mean(), 100 * left.median(), 100 * top.mean()))
    return pd.DataFrame(rows, columns=["model", "task", "closer", "left", "top five"])


def by_layer(table: pd.DataFrame) -> pd.DataFrame:
    """|q| and |R3| summed over the heads of a layer: columns model, task, layer, q, R3 (Intervals)."""
    keys = ["model", "task", "layer", "prompt"]
    sums = table[["q", "R3"]].abs().groupby([table[c] for c in keys], sort=False).sum()
    rows = [
        (*key, bootstrap_ci(part.q), bootstrap_ci(part.R3))
        for key, part in sums.groupby(keys[:3], sort=False)
    ]
    return pd.DataFrame(rows, columns=[*keys[:3], "q", "R3"])


def of_the_largest(M: PatchedMetric, k: int = 5) -> pd.DataFrame:
    """The parts of the k largest effects of one prompt: component, truth, AP, E, q, R3."""
    truth = M.along_axes(1.0, order=0).value - M.base
    top = truth.abs().topk(k).indices.cpu()
    start = M.along_axes(0.0, components=top)
    truth, slope, q = (
        x.double().cpu().numpy() for x in (truth[top], start.slope, start.curvature / 2)
    )
    columns = {"truth": truth, "AP": slope, "E": truth - slope, "q": q, "R3": truth - slope - q}
    return pd.DataFrame({"component": [M.labels[c] for c in top.tolist()], **columns})


def scaled(M: PatchedMetric, scales: Sequence[float], k: int = 5) -> pd.DataFrame:
    """Mean error on the k largest effects when the patch is shrunk: to stop at t = s.

    Returns:
        Columns scale, without (the quadratic term) and with it, in units of the metric.
    """
    scales = np.asarray(scales, dtype=float)
    top = (M.along_axes(1.0, order=0).value - M.base).abs().topk(k).indices.cpu()
    start = M.along_axes(0.0, components=top)
    s = torch.tensor(scales).repeat_interleave(k)
    values = M.along_axes(s, order=0, components=top.repeat(len(scales))).value
    gained = (values - M.base).reshape(len(scales), -1).cpu().double().numpy()
    slope, curvature = (x.cpu().double().numpy() for x in (start.slope, start.curvature))
    tangent = scales[:, None] * slope
    parabola = tangent + scales[:, None] ** 2 * curvature / 2
    errors = {
        name: np.abs(gained - e).mean(1) for name, e in (("without", tangent), ("with", parabola))
    }
    return pd.DataFrame({"scale": scales, **errors})


def power(table: pd.DataFrame, column: str, below: float = 1 / 16) -> float:
    """With which power of the scale an error falls: the slope of a line through the logarithms."""
    small = table[(table.scale <= below) & (table[column] > 0)]
    return float(np.polyfit(np.log(small.scale), np.log(small[column]), 1)[0])


def scaling_summary(double: pd.DataFrame, single: pd.DataFrame) -> dict[str, float]:
    """What the scaling of a patch shows, from ``scaled`` in float64 and in float32.

    Returns:
        without and with: the fitted powers for small patches; at the end: the power of the
        corrected error between half the patch and the whole of it; removed: by the quadratic term
        at the whole patch, in percent; floor: the smallest corrected error that float32 can show.
    """
    at = double.set_index("scale")
    return {
        "without": power(double, "without"),
        "with": power(double, "with"),
        "at the end": float(np.log2(at["with"][1.0] / at["with"][0.5])),
        "removed": float(100 * (1 - at["with"][1.0] / at["without"][1.0])),
        "floor": float(single["with"].min()),
    }


def three_runs_against(M: PatchedMetric, h: float = 1e-3) -> pd.DataFrame:
    """Slope and curvature of every component from values of g alone, against the package's.

    Returns:
        Columns quantity, largest (magnitude) and largest difference.
    """
    low, high = (M.along_axes(t, order=0).value for t in (-h, h))
    start = M.along_axes(0.0)
    pairs = {
        "slope g′(0)": ((high - low) / (2 * h), start.slope),
        "curvature g″(0)": (curvature_of_three_runs(M, h), start.curvature),
    }
    rows = [
        (name, package.abs().max().item(), (hand - package).abs().max().item())
        for name, (hand, package) in pairs.items()
    ]
    return pd.DataFrame(rows, columns=["quantity", "largest", "largest difference"])


def curvature_of_three_runs(M: PatchedMetric, h: float = 1e-3) -> torch.Tensor:
    """g''(0) of every component from three values of g, with an error of order h²; for float64."""
    low, high = (M.along_axes(t, order=0).value for t in (-h, h))
    return (high - 2 * M.base + low) / h**2


# --- figures -------------------------------------------------------------------------------------


def scaling_figure(double: pd.DataFrame, single: pd.DataFrame, title: str) -> Figure:
    """Error against the scale of the patch, in float64 and, with the quadratic term, in float32."""
    curves = {
        "attribution patching (float64)": double["without"],
        "with the quadratic term (float64)": double["with"],
        "with the quadratic term (float32)": single["with"],
    }
    least = double.scale.min()
    names = [*curves]
    ax = plots.scaling(
        double.scale,
        curves,
        {names[0]: (2, least), names[1]: (3, least)},
        xlabel="scale of the patch s   (1: the whole patch)",
        ylabel="mean error on five heads   [nats]",
        title=title,
    )
    return ax.figure


def density_figure(table: pd.DataFrame, title: str) -> Figure:
    """|q| against |E| of every head on every prompt, as a density on logarithmic axes."""
    fig, axes, _ = panels(table, 3.9, TASKS)
    fig.set_size_inches(max(7.2, 3.1 * len(axes)), 4.2)
    ends = [1e-6, 20]
    for ax, (model, task) in axes.items():
        part = table[(table.model == model) & (table.task == task)]
        e, q = part.E.abs().to_numpy(), part.q.abs().to_numpy()
        shown = (e > ends[0]) & (q > ends[0])  # below this, float32 rounding
        style = dict(xscale="log", yscale="log", gridsize=40, bins="log", cmap="Blues", mincnt=1)
        ax.hexbin(e[shown], q[shown], **style)
        ax.plot(ends, ends, color="#D55E00", lw=1.5, label="quadratic term = error")
        ax.set(xlim=ends, ylim=ends, xlabel="error of AP |E|   [nats]")
    first = next(iter(axes))
    first.set_ylabel("quadratic term |q|   [nats]")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center")
    headline(fig, title)
    return fig


def size_figure(sized: pd.DataFrame, title: str) -> Figure:
    """What the quadratic term removes, by the size of the effect; a line for each model.

    Args:
        sized: What ``by_size`` returns, of one task.
        title: What the figure says.
    """
    fig, ax = plt.subplots(figsize=(7.0, 4.0))
    looks = [("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "D", "-.")]
    names = [name for name, *_ in BINS]
    models = [*dict.fromkeys(sized.model)]
    for shift, (model, (colour, marker, line)) in enumerate(zip(models, looks, strict=False)):
        part = sized[sized.model == model].set_index("size").reindex(names).dropna()
        middle, spread = bars(part.together)
        x = np.array([names.index(name) for name in part.index]) + 0.08 * (shift - 0.5)
        ax.errorbar(
            x,
            middle,
            spread,
            color=colour,
            marker=marker,
            linestyle=line,
            ms=7,
            capsize=3,
            label=model,
        )
    ax.axhline(0, color="#888888", lw=1)
    ax.set_xticks(range(len(names)), names)
    ax.set(
        xlabel="size of the true effect, in % of the largest of its prompt",
        ylabel="error removed by the quadratic term   [%]",
        title=title,
    )
    ax.legend(loc="lower left")
    return fig


def layers_figure(layers: pd.DataFrame, title: str) -> Figure:
    """Summed |q| and |R3| of each layer, with intervals; a panel for each model and task."""
    fig, axes, _ = panels(layers, 3.8, TASKS)
    fig.set_size_inches(max(7.4, 3.6 * len(axes)), 4.0)
    for ax, (model, task) in axes.items():
        part = layers[(layers.model == model) & (layers.task == task)]
        for shift, name, label, colour in (
            (-0.2, "q", "quadratic term q", "#0072B2"),
            (0.2, "R3", "remainder R₃", "#D55E00"),
        ):
            middle, spread = bars(part[name])
            hatch = "" if name == "q" else "////"
            ax.bar(
                part.layer + shift,
                middle,
                0.4,
                color=colour,
                hatch=hatch,
                edgecolor="white",
                lw=0,
                label=label,
            )
            ax.errorbar(part.layer + shift, middle, spread, fmt="none", ecolor="#444444", lw=0.8)
        ax.set(xlabel="layer of the patched head")
        ax.grid(axis="x", visible=False)
    first = next(iter(axes))
    first.set_ylabel("sum over heads   [nats a prompt]")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig
