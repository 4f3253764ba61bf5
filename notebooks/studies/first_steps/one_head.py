"""Chapter 1: what a wrong attribution looks like, on one head and over many prompts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from matplotlib.figure import Figure
from torch import Tensor

from hvp_utils import PatchedMetric, PromptPair, plots
from hvp_utils.stats import bootstrap_ci, top_k_relative_error
from hvp_utils.suffix_run import full_precision

from ..common import tidy
from ..panels import headline, panels

__all__ = [
    "ESTIMATORS",
    "METHODS",
    "TASKS",
    "against_by_hand",
    "by_hand",
    "factor",
    "largest",
    "missed",
    "missed_figure",
    "on_one_prompt",
    "top_5_errors",
    "worst_head",
    "worst_of_prompts",
]

#: Tasks with 50 stored prompts of both models, with their names for the reader.
TASKS = {"ioi": "IOI", "greater_than_01": "Greater-Than", "factual": "factual recall"}
#: Names of the variables of a sweep, for the reader.
METHODS = {"attribution_patching": "AP", "hvp": "HVP"}
ESTIMATORS = ("activation_patching", *METHODS)


def factor(estimate: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """By what factor an estimate is off: 1 if right, 2 if half or double, infinity if a sign is wrong."""
    estimate, truth = np.asarray(estimate, float), np.asarray(truth, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = estimate / truth
        return np.where(ratio > 0, np.maximum(ratio, 1 / ratio), np.inf)


def worst_head(truth: Tensor, estimate: Tensor, labels: Sequence[str], k: int = 10) -> str:
    """Of the k largest true effects, the one whose estimate is off by the largest factor.

    A wrong sign counts by its size only, so that the head shown is one whose curve can be drawn.
    """
    top = truth.abs().topk(k).indices
    ratio = (truth / estimate).abs()[top]
    return labels[top[torch.maximum(ratio, 1 / ratio).argmax()].item()]


def on_one_prompt(estimates: Mapping[str, Tensor], head: int) -> pd.DataFrame:
    """One head's effect by several methods, the first of them exact: in nats and in % of the truth."""
    effects = {name: values[head].item() for name, values in estimates.items()}
    truth = next(iter(effects.values()))
    rows = [(name, effect, 100 * effect / truth) for name, effect in effects.items()]
    return pd.DataFrame(rows, columns=["method", "effect, nats", "% of the truth"])


def by_hand(model, pair: PromptPair, head: str) -> Callable[[Tensor], Tensor]:
    """g(t) of one head, from the model and a hook alone: nothing is cached, every run is whole."""
    tokens = pair.resolve(model)
    clean, corrupted = tokens.clean[None], tokens.corrupted[None]
    layer, number = (int(part) for part in head[1:].split("H"))
    hook_name = f"blocks.{layer}.attn.hook_z"
    with torch.no_grad():
        z = [
            model.run_with_cache(ids, names_filter=hook_name)[1][hook_name]
            for ids in (clean, corrupted)
        ]
    difference = (z[0] - z[1])[:, :, number]

    def g(t: Tensor) -> Tensor:
        def patch(z, hook):
            z = z.clone()
            z[:, :, number] += t * difference
            return z

        logits = model.run_with_hooks(corrupted, fwd_hooks=[(hook_name, patch)])
        return logits[0, -1].log_softmax(-1)[tokens.answer_ids[0]]

    return g


def against_by_hand(M: PatchedMetric, k: int = 5) -> pd.DataFrame:
    """The package against ``by_hand``, for the k largest effects of one prompt.

    The metric must be the log probability of one answer, and the direction denoising.

    Returns:
        One row a quantity (effect, slope, curvature): its largest magnitude, and the largest
        difference between the two ways.
    """
    end = M.along_axes(1.0, order=0).value - M.base
    top = end.abs().topk(min(k, M.n)).indices
    start = M.along_axes(0.0, components=top.cpu())
    package = torch.stack([end[top], start.slope, start.curvature]).double().cpu()
    found = []
    for c in top.tolist():
        t = torch.zeros((), dtype=end.dtype, device=end.device, requires_grad=True)
        with full_precision(end.dtype):  # norms of a float64 model would go through float32
            g = by_hand(M.model, M.pair, M.labels[c])
            base = g(t)
            (slope,) = torch.autograd.grad(base, t, create_graph=True)
            (curvature,) = torch.autograd.grad(slope, t)
            with torch.no_grad():
                found.append(torch.stack([g(torch.ones_like(t)) - base, slope, curvature]))
    hand = torch.stack(found, dim=1).double().cpu()
    names = ("effect g(1) − g(0)", "slope g′(0)", "curvature g″(0)")
    rows = zip(
        names, hand.abs().amax(1).tolist(), (hand - package).abs().amax(1).tolist(), strict=True
    )
    return pd.DataFrame(rows, columns=["quantity", "largest", "largest difference"])


def largest(sweeps: Mapping[tuple[str, str], xr.Dataset], k: int = 10) -> pd.DataFrame:
    """The k largest true effects of every prompt, with their estimates.

    Returns:
        Columns model, task, prompt, component, truth, the ``METHODS`` (all in units of the metric),
        and "factor of M" for each method M.
    """
    names = {"activation_patching": "truth"} | METHODS
    table = tidy(sweeps, [*names]).rename(columns=names)
    table = table.assign(size=table.truth.abs()).sort_values("size", ascending=False, kind="stable")
    table = table.groupby(["model", "task", "prompt"], sort=False).head(k).sort_index()
    for method in METHODS.values():
        table[f"factor of {method}"] = factor(table[method], table.truth)
    return table.drop(columns=["size", "layer"]).reset_index(drop=True)


def worst_of_prompts(top: pd.DataFrame) -> pd.DataFrame:
    """The largest factor among a prompt's largest effects: columns model, task, prompt, AP, HVP."""
    factors = {f"factor of {method}": method for method in METHODS.values()}
    worst = top.groupby(["model", "task", "prompt"], sort=False)[[*factors]].max()
    return worst.rename(columns=factors).reset_index()


def missed(top: pd.DataFrame, limit: float = 2.0) -> pd.DataFrame:
    """How often an important head is off by ``limit`` or more, or has the wrong sign.

    Args:
        top: What ``largest`` returns.
        limit: A factor.

    Returns:
        Columns model, task, method, n (prompts); "prompts" and "wrong sign": the share of prompts,
        in percent, in which this is so of at least one head; "heads": the share of heads.
    """
    rows, worst = [], worst_of_prompts(top)
    for (model, task), part in worst.groupby(["model", "task"], sort=False):
        heads = top[(top.model == model) & (top.task == task)]
        for method in METHODS.values():
            off = 100.0 * (heads[f"factor of {method}"] >= limit).groupby(heads.prompt).mean()
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "method": method,
                    "n": len(part),
                    "prompts": bootstrap_ci(100.0 * (part[method] >= limit)),
                    "wrong sign": bootstrap_ci(100.0 * np.isinf(part[method])),
                    "heads": bootstrap_ci(off),
                }
            )
    return pd.DataFrame(rows)


def missed_figure(top: pd.DataFrame, title: str, limit: float = 2.0) -> Figure:
    """Estimate against truth of the largest effects; those that are badly off stand out.

    Args:
        top: What ``largest`` returns.
        title: What the figure says.
        limit: The factor from which on an estimate counts as badly off.
    """
    fig, axes, _ = panels(top, 4.1, TASKS)
    fig.set_size_inches(max(7.2, 3.6 * len(axes)), 5.2)
    reach = 1.05 * top[["truth", "AP"]].abs().to_numpy().max()
    colour, marker = plots.METHODS["attribution_patching"][1:3]
    for ax, (model, task) in axes.items():
        part = top[(top.model == model) & (top.task == task)]
        off = part["factor of AP"] >= limit
        line = np.array([-reach, reach])
        ax.fill_between(
            line,
            line / limit,
            line * limit,
            color="#e3e3e3",
            lw=0,
            zorder=0,
            label=f"within a factor of {limit:g}",
        )
        ax.plot(line, line, color="#888888", lw=1, label="estimate = truth")
        ax.scatter(
            part.truth[~off],
            part.AP[~off],
            s=14,
            color="#56B4E9",
            marker="o",
            lw=0,
            label="one of a prompt's ten largest effects",
        )
        ax.scatter(
            part.truth[off],
            part.AP[off],
            s=26,
            color=colour,
            marker=marker,
            lw=0,
            label="one of them, and not within",
        )
        ax.set(
            xlim=line,
            ylim=line,
            aspect="equal",
            xlabel="true effect   [nats]" if task != "greater_than_01" else "true effect",
        )
    first = next(iter(axes))
    first.set_ylabel("attribution patching")
    fig.legend(*first.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    headline(fig, title)
    return fig


def top_5_errors(sweeps: Mapping[tuple[str, str], xr.Dataset], k: int = 5) -> pd.DataFrame:
    """Top-5 relative error of every prompt: columns model, task, prompt, method, error (percent)."""
    rows = []
    for (model, task), data in sweeps.items():
        for name, method in METHODS.items():
            errors = top_k_relative_error(data[name], data.activation_patching, k)
            rows += [(model, task, p, method, e) for p, e in enumerate(np.atleast_1d(errors))]
    return pd.DataFrame(rows, columns=["model", "task", "prompt", "method", "error"])
