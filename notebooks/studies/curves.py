"""Paths of every head of a few prompts: g, its slope and its curvature at five patch strengths.

They are what the page "Explore" lets a reader walk along. Between the knots a path is the
polynomial of fifth degree that has the six values at both its ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from hvp_utils import PatchedMetric, PromptPair, load_model, make_prompts, reference_pair
from hvp_utils.sweeps import provenance

from . import common

__all__ = ["KNOTS", "between", "measure", "predictions", "prompts", "stored"]

KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0)
TASKS = {"ioi": 1, "greater_than_01": 2, "factual": 2}


def prompts(model) -> list[PromptPair]:
    """The reference pair, and the first prompts of each task."""
    pairs = [pair for task, n in TASKS.items() for pair in make_prompts(task, model, n)]
    return [reference_pair(), *pairs]


def measure(model, pairs: Sequence[PromptPair]) -> xr.Dataset:
    """Exact values and derivatives at the knots.

    Returns:
        ``g``, ``slope`` and ``curvature`` [prompt, component, knot], with the prompts and their
        answers as coordinates. g is relative to the base run: g(1) is the effect.
    """
    parts = []
    for pair in pairs:
        M = PatchedMetric(model, pair)
        at = [M.along_axes(t, order=2) for t in KNOTS]
        values = {
            "g": [d.value - M.base for d in at],
            "slope": [d.slope for d in at],
            "curvature": [d.curvature for d in at],
        }
        arrays = {
            name: np.stack([v.double().cpu().numpy() for v in column], -1)
            for name, column in values.items()
        }
        parts.append(xr.Dataset({name: (("component", "knot"), a) for name, a in arrays.items()}))
    data = xr.concat(parts, "prompt").assign_coords(
        label=("component", list(M.labels)),
        layer=("component", list(M.layers)),
        knot=("knot", list(KNOTS)),
        clean=("prompt", [str(pair.clean) for pair in pairs]),
        metric=("prompt", [str(pair.metric) for pair in pairs]),
        corrupted=("prompt", [str(pair.corrupted) for pair in pairs]),
        answer=(
            "prompt",
            [
                ", ".join([pair.answer] if isinstance(pair.answer, str) else map(str, pair.answer))
                for pair in pairs
            ],
        ),
    )
    return data


def stored(
    model: str, store: str | Path = "results/curves", device: str | None = None
) -> xr.Dataset:
    """What is stored of a model; measured, and stored, if nothing is."""

    def measured() -> xr.Dataset:
        loaded = load_model(model, device=device)
        found = measure(loaded, prompts(loaded)).astype("float32")
        return found.assign_attrs(provenance(loaded))

    path = Path(store) / f"{model}__heads.nc"
    return common.kept(path, {"model": model, "kind": "curves"}, measured)


def between(data: xr.Dataset, t: np.ndarray | float, order: int = 0) -> np.ndarray:
    """The paths, or a derivative of them, between their knots, ``[..., len(t)]``.

    Args:
        data: With ``g``, ``slope``, ``curvature`` [..., knot], and coordinate ``knot``.
        t: Patch strengths from 0 to 1.
        order: 0 for the path, 1 for its slope, 2 for its curvature.
    """
    knots, t = data.knot.values.astype(float), np.atleast_1d(np.asarray(t, float))
    i = np.clip(np.searchsorted(knots, t, side="right") - 1, 0, len(knots) - 2)
    h = knots[i + 1] - knots[i]
    u = (t - knots[i]) / h
    start, end = (
        [data[name].values[..., j] * h**d for d, name in enumerate(("g", "slope", "curvature"))]
        for j in (i, i + 1)
    )
    a0, a1, a2 = start[0], start[1], start[2] / 2
    # What is left at the end of the interval decides the three higher terms.
    r0, r1, r2 = end[0] - a0 - a1 - a2, end[1] - a1 - 2 * a2, end[2] - 2 * a2
    a3, a4, a5 = 10 * r0 - 4 * r1 + r2 / 2, -15 * r0 + 7 * r1 - r2, 6 * r0 - 3 * r1 + r2 / 2
    p = [a0, a1, a2, a3, a4, a5]
    if order == 0:
        return sum(a * u**k for k, a in enumerate(p))
    if order == 1:
        return sum(k * a * u ** (k - 1) for k, a in enumerate(p) if k) / h
    return sum(k * (k - 1) * a * u ** (k - 2) for k, a in enumerate(p) if k > 1) / h**2


def predictions(data: xr.Dataset, t: float = 0.0, n_steps: int = 4) -> dict[str, np.ndarray]:
    """What five rules that stand at t say of the end of the paths; at 0 they are the estimators.

    Args:
        data: As for ``between``.
        t: Where they stand, below 1.
        n_steps: Parabolas of the broken one.
    """
    g, slope, curvature = (between(data, t, order)[..., 0] for order in range(3))
    left = 1 - t
    at = t + left * np.arange(n_steps) / n_steps
    step = left / n_steps
    nodes, weights = np.polynomial.legendre.leggauss(5)
    return {
        "truth": data.g.values[..., -1],
        "AP": g + slope * left,
        "HVP": g + slope * left + curvature * left**2 / 2,
        "MS-HVP": g + (between(data, at, 1) * step + between(data, at, 2) * step**2 / 2).sum(-1),
        "5 slopes": g + left * (between(data, t + left * (nodes + 1) / 2, 1) * weights / 2).sum(-1),
    }
