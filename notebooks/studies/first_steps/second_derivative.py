"""Chapter 3: ways to a Hessian-vector product, their precision, and their price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from hvp_utils import PatchedMetric, model_sizes, plots
from hvp_utils.models import MODELS

from ..common import intervals
from ..panels import headline
from ..prices import counted
from .one_head import top_5_errors

__all__ = [
    "PRICED",
    "agreement",
    "axis_vector",
    "by_step",
    "by_steps",
    "errors_and_prices",
    "finite_difference",
    "price_figure",
    "price_table",
    "prices_of_prompts",
    "relative",
    "span",
    "step_figure",
    "ways",
]

#: What is priced: names for the reader of what ``hvp_utils.plan`` knows.
PRICED = {
    "attribution_patching": "attribution patching",
    "activation_patching": "exact patching",
    "hvp": "HVP",
    "ms_hvp:2": "MS-HVP, K = 2",
    "ms_hvp:5": "MS-HVP, K = 5",
}


def axis_vector(M: PatchedMetric, component: str) -> Tensor:
    """The vector that is 1 at one component and 0 elsewhere."""
    v = torch.zeros(M.n, dtype=M.delta_norm.dtype, device=M.delta_norm.device)
    v[M.labels.index(component)] = 1.0
    return v


def finite_difference(M: PatchedMetric, v: Tensor, step: float) -> Tensor:
    """Hv as a central difference of two gradients."""
    return (M.gradient(step * v) - M.gradient(-step * v)) / (2 * step)


def relative(found: Tensor, exact: Tensor) -> float:
    """The norm of a difference over that of the exact vector."""
    found, exact = found.double().cpu(), exact.double().cpu()
    return ((found - exact).norm() / exact.norm()).item()


def ways(M: PatchedMetric, v: Tensor, step: float = 0.01) -> dict[str, Tensor]:
    """Hv by double backward, forward over reverse, finite differences, and the package's own way."""
    alpha = torch.zeros_like(v, requires_grad=True)
    (gradient,) = torch.autograd.grad(M(alpha), alpha, create_graph=True)
    (double_backward,) = torch.autograd.grad(gradient @ v, alpha)
    _, forward_over_reverse = torch.func.jvp(torch.func.grad(M), (torch.zeros_like(v),), (v,))
    return {
        "double backward": double_backward,
        "forward over reverse": forward_over_reverse,
        f"finite differences, step {step:g}": finite_difference(M, v, step),
        "hvp_utils: M.hvp(v)": M.hvp(v),
    }


def agreement(found: Mapping[str, Tensor], v: Tensor) -> pd.DataFrame:
    """Hv by several ways: v·Hv, and how far each Hv is from the first one, relative to its norm."""
    first = next(iter(found.values()))
    rows = [(name, (v @ Hv).item(), relative(Hv, first)) for name, Hv in found.items()]
    return pd.DataFrame(rows, columns=["way", "vᵀHv", "relative difference"])


def by_steps(metrics: Sequence[PatchedMetric], v: Tensor, steps: Sequence[float]) -> pd.DataFrame:
    """``by_step`` of the same metric in several precisions; the last one is the most exact."""
    exact = metrics[-1].hvp(v.to(metrics[-1].delta_norm))
    return pd.concat([by_step(M, v, steps, exact) for M in metrics], ignore_index=True)


def span(low: float, high: float, digits: str = ",.3g") -> str:
    """Two numbers as "1.37 to 1.4", or one where both read the same."""
    texts = [format(x, digits) if abs(x) < 1000 else f"{x:,.0f}" for x in (low, high)]
    return " to ".join(dict.fromkeys(texts))


def by_step(M: PatchedMetric, v: Tensor, steps: Sequence[float], exact: Tensor) -> pd.DataFrame:
    """Relative error of finite differences against their step.

    Args:
        M: The metric, in the precision to be tried.
        v: The direction.
        steps: Steps of the finite difference, as shares of the whole patch.
        exact: Hv in float64.

    Returns:
        Columns step, dtype, finite differences and double backward (the same in every row).
    """
    v = v.to(M.delta_norm)
    backward = relative(M.hvp(v), exact)
    dtype = str(M.delta_norm.dtype).removeprefix("torch.")
    rows = [
        (step, dtype, relative(finite_difference(M, v, step), exact), backward) for step in steps
    ]
    return pd.DataFrame(rows, columns=["step", "dtype", "finite differences", "double backward"])


def step_figure(table: pd.DataFrame, title: str) -> Figure:
    """Relative error of Hv against the step of the finite difference, in both precisions."""
    single, double = (table[table.dtype == d] for d in ("float32", "float64"))
    curves = {
        "finite differences (float32)": single["finite differences"],
        "finite differences (float64)": double["finite differences"],
        "double backward (float32)": single["double backward"],
    }
    ax = plots.scaling(
        single.step,
        curves,
        {"finite differences (float64)": (2, 1e-2)},
        xlabel="step of the finite difference   (1: the whole patch)",
        ylabel="relative error of Hv",
        title=title,
    )
    return ax.figure


def price_table(models: Sequence[str] = tuple(MODELS), **options) -> pd.DataFrame:
    """Counted prices of ``PRICED`` for all heads of a prompt.

    Args:
        models: Names of models; their weights are not needed.
        options: Those of ``prices.counted``; the reference pair's tokens by default.

    Returns:
        Columns model, method, n (heads), runs, percent (of patching every head), each: runs a head.
    """
    found = []
    for model in dict.fromkeys(models):
        table = counted(model_sizes(model), [*PRICED], **options)
        found.append(table.assign(model=model, each=table.runs / table.n))
    table = pd.concat(found, ignore_index=True).replace({"method": PRICED})
    return table[["model", "method", "n", "runs", "percent", "each"]]


def prices_of_prompts(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """Prices of stored prompts, each counted at its own length.

    Returns:
        Columns model, task, method, tokens and run (least to most, of the prompts and from the first
        difference on), least and most: percent of patching every head.
    """
    rows = []
    for (model, task), data in sweeps.items():
        shapes = sorted(
            {*zip(data.n_tokens.values.tolist(), data.n_run.values.tolist(), strict=True)}
        )
        found = [price_table([model], n_tokens=n, n_run=run) for n, run in shapes]
        tokens, run = ((min(x), max(x)) for x in zip(*shapes, strict=True))
        for method, prices in pd.concat(found).groupby("method", sort=False).percent:
            spans = [span(*ends) for ends in (tokens, run)]
            rows.append((model, task, method, *spans, prices.min(), prices.max()))
    return pd.DataFrame(rows, columns=["model", "task", "method", "tokens", "run", "least", "most"])


def errors_and_prices(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """What a price buys: top-5 relative error and price of AP, HVP and exact patching.

    Returns:
        Columns model, task, method, error (an ``Interval``, percent), percent (of patching every
        head, on the reference pair).
    """
    errors = intervals(top_5_errors(sweeps), ["model", "task", "method"], "error")
    names = {"AP": "attribution patching", "HVP": "HVP"}
    errors["method"] = errors.method.map(names)
    prices = price_table([*dict.fromkeys(errors.model)])[["model", "method", "percent"]]
    return errors.merge(prices, on=["model", "method"])


def price_figure(table: pd.DataFrame, title: str) -> Figure:
    """Prices of all heads in percent of patching each of them exactly; a row for each model.

    Args:
        table: What ``price_table`` returns.
        title: What the figure says.
    """
    models = [*dict.fromkeys(table.model)]
    fig, ax = plt.subplots(figsize=(7.2, 1.5 + 0.32 * len(models)))
    looks = {
        "attribution patching": plots.METHODS["attribution_patching"][1:3],
        "exact patching": plots.METHODS["activation_patching"][1:3],
        "HVP": plots.METHODS["hvp"][1:3],
        "MS-HVP, K = 5": plots.METHODS["ms_hvp"][1:3],
    }
    for method, (colour, marker) in looks.items():
        part = table[table.method == method].set_index("model").percent.reindex(models)
        ax.plot(part, np.arange(len(models)), marker, color=colour, ms=8, label=method)
    ax.axvline(100, color="#000000", lw=1, zorder=0)
    counts = table.groupby("model").n.first()
    ax.set_yticks(range(len(models)), [f"{m}  ({counts[m]:,} heads)" for m in models])
    ax.invert_yaxis()
    ax.set(xscale="log", xlabel="operations for all heads   [% of patching each exactly]")
    ax.set_xticks([0.3, 1, 10, 100, 1000], ["0.3", "1", "10", "100", "1,000"])
    ax.xaxis.minorticks_off()
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(fig, title)
    return fig
