"""Where in the network the metric bends, measured on one pair of prompts.

These functions run the model: for each layer once for every group of kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    quadratic_term,
)
from hvp_utils.backward_rules import linearised
from hvp_utils.estimators import quadratic_without
from hvp_utils.stats import top_k_relative_error

from .kinds import KINDS

#: Kinds that are taken together.
GROUPS = {
    "norms": ["norms"],
    "attention": ["attention_pattern", "attention_mixing"],
    "MLP": ["mlp_activation", "mlp_gating"],
    "output": ["output"],
}

Models = Mapping[str, Any]


def _stands(group: str, at_the_end: bool) -> bool:
    """Whether there are such operations there: behind all layers, only a norm and the output."""
    return group == "norms" or (group == "output") == at_the_end


def by_layer(models: Models, pair: PromptPair, n_heads: int = 5) -> pd.DataFrame:
    """The heads with the largest quadratic terms, taken apart by group and layer.

    Layers before the first of these heads cannot contribute and are left out. The last norm and the
    output count as a layer behind all others.

    Returns:
        Columns model, component, head_layer, q, group, layer, end (whether behind all layers), part;
        and all_q, the sum of the sizes of q over all heads. In nats.
    """
    rows = []
    for name, model in models.items():
        M = PatchedMetric(model, pair)
        every = quadratic_term(M).cpu().double()
        top = every.abs().topk(min(n_heads, M.n)).indices
        total, end = float(every.abs().sum()), model.cfg.n_layers
        for layer in range(int(M.layers[top].min()), end + 1):
            for group, kinds in GROUPS.items():
                if not _stands(group, layer == end):
                    continue
                above = top[M.layers[top] <= layer]  # other heads cannot reach this layer
                left = quadratic_without(M, kinds, layers=[layer], components=above).cpu()
                found = dict(zip(above.tolist(), (every[above] - left).tolist(), strict=True))
                for c, part in ((c, found.get(c, 0.0)) for c in top.tolist()):
                    head = (name, M.labels[c], int(M.layers[c]), float(every[c]))
                    rows.append((*head, group, layer, layer == end, part, total))
    columns = ["model", "component", "head_layer", "q", "group", "layer", "end", "part", "all_q"]
    return pd.DataFrame(rows, columns=columns)


def cells(anatomy: pd.DataFrame) -> pd.DataFrame:
    """Signed shares of the followed heads' quadratic terms by group and layer.

    Returns:
        Columns model, group, layer, end, percent: all of a model add up to 100.
    """
    q = anatomy.drop_duplicates(["model", "component"]).groupby("model").q.apply(_sizes)
    toward = anatomy.part * np.sign(anatomy.q) / anatomy.model.map(q) * 100
    keys = ["model", "group", "layer", "end"]
    return anatomy.assign(percent=toward).groupby(keys, sort=False).percent.sum().reset_index()


def _sizes(values: pd.Series) -> float:
    return values.abs().sum()


def concentration(anatomy: pd.DataFrame) -> pd.DataFrame:
    """How few places bend how much; a row for each model.

    Returns:
        Columns model; heads; share, of the sizes of q of all heads that these hold, in percent;
        places, the fewest that hold half of the summed sizes, and of, how many there are; near, the
        percent of bending in the layer of a head and the next; gap, how far the parts' sum is from
        q at most, in nats.
    """
    rows = []
    shared = cells(anatomy)
    for model, part in anatomy.groupby("model", sort=False):
        q = part.groupby("component").q.first()
        sizes = shared[shared.model == model].percent.abs().sort_values(ascending=False)
        near = part[(part.layer - part.head_layer).isin((0, 1))]
        by_place = part.groupby(["component", "layer"]).part.apply(_sizes)
        rows.append(
            {
                "model": model,
                "heads": len(q),
                "share": 100 * q.abs().sum() / part.all_q.iloc[0],
                "places": int((sizes.cumsum() < sizes.sum() / 2).sum()) + 1,
                "of": len(sizes),
                "near": 100 * near.part.abs().sum() / by_place.sum(),
                "gap": (part.groupby("component").part.sum() - q).abs().max(),
            }
        )
    return pd.DataFrame(rows)


def largest_places(anatomy: pd.DataFrame, n: int = 4) -> pd.DataFrame:
    """The places with the largest signed shares: columns model, place, percent."""
    shared = cells(anatomy)
    where = np.where(shared.end, " at the end", " in layer " + shared.layer.astype(str))
    shared = shared.assign(place=shared.group + where, size=shared.percent.abs())
    chosen = shared.sort_values("size", ascending=False, kind="stable").groupby("model", sort=False)
    order = {model: i for i, model in enumerate(dict.fromkeys(anatomy.model))}
    top = chosen.head(n).sort_values("model", key=lambda m: m.map(order), kind="stable")
    return top[["model", "place", "percent"]].reset_index(drop=True)


def frozen(models: Models, pair: PromptPair, components: Mapping[str, Sequence[str]]) -> dict:
    """The largest quadratic term with everything linearised, by model: it has to be 0."""
    found = {}
    for name, model in models.items():
        M = PatchedMetric(model, pair)
        chosen = torch.tensor([M.labels.index(label) for label in components[name]])
        found[name] = float(quadratic_without(M, components=chosen).abs().max())
    return found


def error_along_path(
    curvature: Callable[[Float[np.ndarray, " points"]], Float[np.ndarray, "points n"]],
    n_points: int = 9,
) -> Float[np.ndarray, " n"]:
    """The whole error of attribution patching: the integral of (1 - t) g''(t) over [0, 1].

    Args:
        curvature: g'' of some components at some strengths.
        n_points: Gauss–Legendre points.
    """
    nodes, weights = np.polynomial.legendre.leggauss(n_points)
    t, weights = (1 + nodes) / 2, weights / 2
    return (weights * (1 - t)) @ curvature(t)


def _bending(M: PatchedMetric, components: torch.Tensor) -> Float[np.ndarray, " n"]:
    def curvature(t):
        points = torch.tensor(t).repeat_interleave(len(components))
        g = M.along_axes(points, components=components.repeat(len(t)))
        return g.curvature.cpu().numpy().reshape(len(t), -1)

    return error_along_path(curvature)


def whole_errors(models: Models, pair: PromptPair, n_heads: int = 5) -> pd.DataFrame:
    """The heads with the largest errors, and their whole errors taken apart by kind.

    Returns:
        Columns model, component; error, measured; integral, the same along the path; q; and a part
        of the integral for each kind. In nats.
    """
    tables = []
    for name, model in models.items():
        M = PatchedMetric(model, pair)
        error = (activation_patching(M) - attribution_patching(M)).cpu()
        worst = error.abs().topk(min(n_heads, M.n)).indices
        whole, parts = _bending(M, worst), {}
        for kind in KINDS:
            with linearised(model, kind):
                parts[kind] = whole - _bending(M, worst)
        columns = {"component": [M.labels[c] for c in worst], "error": error[worst].numpy()}
        columns |= {"integral": whole, "q": quadratic_term(M, worst).cpu().numpy(), **parts}
        tables.append(pd.DataFrame({"model": name, **columns}))
    return pd.concat(tables, ignore_index=True)


def whole_error_shares(whole: pd.DataFrame) -> pd.DataFrame:
    """Signed shares of the summed errors, in percent: a row a model, a column a kind."""
    rows = []
    for model, part in whole.groupby("model", sort=False):
        toward = part[[*KINDS]].mul(np.sign(part.error), axis=0).sum()
        rows.append({"model": model, "heads": len(part), **100 * toward / part.error.abs().sum()})
    return pd.DataFrame(rows)


def whole_error_gaps(whole: pd.DataFrame) -> pd.DataFrame:
    """How far the parts are from the integral, and the integral from the error, at most."""
    gaps = whole.assign(
        parts=(whole[[*KINDS]].sum(axis=1) - whole.integral).abs(),
        points=(whole.integral - whole.error).abs(),
    )
    return gaps.groupby("model", sort=False)[["parts", "points"]].max().reset_index()


def by_metric(
    models: Models, pair: PromptPair, metrics: Sequence[str] = ("log_prob", "logit_diff")
) -> pd.DataFrame:
    """One pair under several metrics.

    Returns:
        Columns model, metric; error, the top-5 relative error of attribution patching in percent;
        range, of the true effects; q and output: mean sizes of the five largest heads' quadratic
        terms, and of the output's part of them. In nats.
    """
    rows = []
    for name, model in models.items():
        for metric in metrics:
            M = PatchedMetric(model, replace(pair, metric=metric))
            truth, ap = activation_patching(M).cpu(), attribution_patching(M).cpu()
            top = truth.abs().topk(min(5, M.n)).indices
            q = quadratic_term(M, top).cpu()
            output = q - quadratic_without(M, "output", components=top).cpu()
            error = top_k_relative_error(ap, truth, len(top))
            sizes = (float(x.abs().mean()) for x in (q, output))
            rows.append((name, metric, error, float(np.ptp(truth.numpy())), *sizes))
    return pd.DataFrame(rows, columns=["model", "metric", "error", "range", "q", "output"])
