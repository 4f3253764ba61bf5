"""Three values for the remainder, and the lengths of activations, on the reference pair.

The remainder lives on a line. On it only g''(t) = delta^T H(t) delta matters, and how fast that
changes: Lambda. L_H takes the whole vector H delta. What lies between the two is the cosine of
delta and the change of H delta. All of this is measured in float64, and stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import spearmanr
from torch import Tensor

from hvp_utils import PatchedMetric, activation_patching, load_model, reference_pair
from hvp_utils.sweeps import provenance

from .. import common
from .remainders import threshold

#: Lengths by layer: behind the attention block, and of all its heads' outputs together.
LENGTHS = {"residual stream": "hook_resid_mid", "head outputs": "attn.hook_z"}

#: What may be said of the remainder, and under which name it is stored.
VALUES = {"L_H |δ|³ / 6": "cubic", "Λ / 6": "along", "|g‴(0)| / 6": "third"}

_TWO_POINTS = ((0, 1, 0.5), (1, 2, 0.5), (0, 2, 1.0))  # which two of 0, 1/2, 1; how far apart


def patches(M: PatchedMetric) -> Float[Tensor, "n size"]:
    """The delta of every component, as ``hessian_delta`` lays it out."""
    rows = []
    for site, delta in zip(M.sites, M.deltas, strict=True):
        one_each = torch.eye(len(site.labels), dtype=delta.dtype, device=delta.device)
        rows.append((site.spread(one_each) * delta).flatten(1))
    return torch.cat(rows)


def lengths(M: PatchedMetric) -> dict[str, ndarray]:
    """Mean length over the positions of the base run, by layer, for each of ``LENGTHS``."""
    found = {}
    for name, hook in LENGTHS.items():
        hooks = [f"blocks.{layer}.{hook}" for layer in range(M.model.cfg.n_layers)]
        _, activations = M.run.unpatched(hooks)
        rows = [activations[hook][0].flatten(1).norm(dim=-1).mean().item() for hook in hooks]
        found[name] = np.array(rows)
    return found


def three_values(M: PatchedMetric, heads: Tensor) -> xr.Dataset:
    """The remainder of some heads, three values for it, and the cosines between two of them.

    Returns:
        Variables remainder, cubic, along, third [head] and cosine [pair, head]; attributes base
        (the metric of the base run) and moving (entries of a patch that are not 0, at most).
    """
    here = heads.to(M.delta_norm.device)
    delta, size = patches(M)[here], M.delta_norm[here]
    products = torch.stack([M.hessian_delta(t, components=heads) for t in (0.0, 0.5, 1.0)])
    changes = torch.stack([(products[i] - products[j]) / gap for i, j, gap in _TWO_POINTS])
    along, length = (changes * delta).sum(-1).abs(), changes.norm(dim=-1)
    start = M.along_axes(0.0, order=3, components=heads)
    left = activation_patching(M, components=heads) - start.slope - start.curvature / 2
    by_head = {
        "remainder": left.abs(),
        "cubic": length.amax(0) * size / 6,
        "along": along.amax(0) / 6,
        "third": start.third.abs() / 6,
    }
    data = {name: ("head", value.cpu().numpy()) for name, value in by_head.items()}
    data["cosine"] = (("pair", "head"), (along / (length * size)).cpu().numpy())
    moving = int((delta != 0).sum(1).max())
    labels = [M.labels[c] for c in heads.tolist()]
    return xr.Dataset(data, {"label": ("head", labels)}, {"base": float(M.base), "moving": moving})


def reference(
    models: Sequence[str],
    n_heads: int = 36,
    store: str | Path | None = "results/lipschitz",
    device: str | None = None,
) -> dict[str, xr.Dataset]:
    """Three values for heads spread over all layers, and lengths by layer, by model.

    Args:
        models: Names of models.
        n_heads: How many heads.
        store: Folder of what was measured before; None to store nothing.
        device: Where to load a model of which nothing is stored.
    """

    def measured(name: str) -> xr.Dataset:
        # Ratios near 1 are what matters here, and float32 would blur them.
        model = load_model(name, device=device, dtype=torch.float64)
        M = PatchedMetric(model, reference_pair())
        heads = torch.linspace(0, M.n - 1, n_heads).long().unique()
        data = three_values(M, heads)
        data["length"] = (("kind", "layer"), np.array([*lengths(M).values()]))
        return data.assign_coords(kind=list(LENGTHS)).assign_attrs(provenance(model))

    found = {}
    for name in models:
        path = store and Path(store) / f"{name.replace('/', '--')}__reference__{n_heads}.nc"
        found[name] = common.kept(path or None, {"name": name}, partial(measured, name))
    return found


def worst_head(data: xr.Dataset) -> str:
    """The head with the largest remainder, of one model of what ``reference`` returns."""
    return str(data.label.values[data.remainder.values.argmax()])


def lengths_by_model(measured: Mapping[str, xr.Dataset]) -> dict[str, dict[str, ndarray]]:
    """Lengths by layer, by model and name, of what ``reference`` returns."""
    return {
        model: dict(zip(data.kind.values.tolist(), data.length.values, strict=True))
        for model, data in measured.items()
    }


def _counting(data: xr.Dataset) -> ndarray:
    return np.maximum(data.remainder, data.cubic).values > threshold(data.attrs["base"])


def ratios(measured: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Each value over the remainder, of the heads that count.

    Returns:
        Columns model, value, component, estimate, remainder and ratio.
    """
    parts = []
    for model, data in measured.items():
        kept = _counting(data)
        for value, name in VALUES.items():
            part = {"model": model, "value": value, "component": data.label.values[kept]}
            part |= {"estimate": data[name].values[kept], "remainder": data.remainder.values[kept]}
            parts.append(pd.DataFrame(part))
    table = pd.concat(parts, ignore_index=True)
    return table.assign(ratio=table.estimate / table.remainder)


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """How good each value is, of what ``ratios`` returns.

    Returns:
        Columns model, value, heads, bounds (share that is no less than the remainder), median (of
        the ratio), within (share within a factor of 2) and rank (correlation with the remainder).
    """
    rows = []
    for (model, value), part in table.groupby(["model", "value"], sort=False):
        ratio, near = part.ratio, (part.ratio > 0.5) & (part.ratio < 2)
        rank = spearmanr(part.estimate, part.remainder).statistic
        row = (len(part), (ratio >= 1).mean(), ratio.median(), near.mean(), rank)
        rows.append((model, value, *row))
    columns = ["model", "value", "heads", "bounds", "median", "within", "rank"]
    return pd.DataFrame(rows, columns=columns)


def cosines(measured: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Columns model, cosine (one a head that counts and pair of points) and random.

    The last is what a random direction has on average in as many dimensions.
    """
    parts = []
    for model, data in measured.items():
        random = (2 / np.pi / data.attrs["moving"]) ** 0.5
        values = data.cosine.values[:, _counting(data)].ravel()
        parts.append(pd.DataFrame({"model": model, "cosine": values, "random": random}))
    return pd.concat(parts, ignore_index=True)
