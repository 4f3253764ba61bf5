"""Each failure as a function M(t) of one line, where it is extreme and known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils import diagnosis as d
from hvp_utils.estimators.integrals import quadrature

__all__ = ["FLIP", "TOYS", "closed_forms", "derivatives", "estimates", "rules"]

Path = Callable[[Float[Tensor, "*k"]], Float[Tensor, "*k"]]

#: The tutorial's worked numbers: direct effect, indirect effect, and its estimate.
DIRECT, INDIRECT, INDIRECT_ESTIMATE = 5.0, -4.8, -5.1
#: The relative error of the indirect effect at which the estimated total changes its sign.
FLIP = (DIRECT + INDIRECT) / -INDIRECT


def saturated(t: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """A head with two keys, one of them worth 1: the patch moves its score from -6 to +6."""
    return torch.sigmoid(12 * t - 6)


def cancelling(t: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """A direct effect of +5, and an indirect one of -4.8 that leaves with slope -5.1."""
    indirect = INDIRECT_ESTIMATE * t + (INDIRECT - INDIRECT_ESTIMATE) * t**2
    return DIRECT * t + indirect


def flat(t: Float[Tensor, "*k"]) -> Float[Tensor, "*k"]:
    """A step: nothing happens at either end of the path."""
    return torch.sigmoid(20 * t - 10)


TOYS: dict[str, Path] = {
    d.SATURATION: saturated,
    d.CANCELLATION: cancelling,
    d.ZERO_GRADIENT: flat,
}


def closed_forms() -> pd.DataFrame:
    """True effect, slope and curvature at 0 of each toy, by hand: columns toy, truth, AP, HVP."""
    rows = []
    for toy, k in ((d.SATURATION, 12), (d.ZERO_GRADIENT, 20)):
        p = 1 / (1 + math.exp(k / 2))  # at t = 0; 1 - p at t = 1
        slope, curvature = k * p * (1 - p), k**2 * p * (1 - p) * (1 - 2 * p)
        rows.append((toy, 1 - 2 * p, slope, slope + curvature / 2))
    total, estimate = DIRECT + INDIRECT, DIRECT + INDIRECT_ESTIMATE
    rows.insert(1, (d.CANCELLATION, total, estimate, total))
    return pd.DataFrame(rows, columns=["toy", "truth", "AP", "HVP"])


def derivatives(path: Path, t: Float[Tensor, " k"]) -> tuple[Tensor, Tensor]:
    """Slopes and curvatures of a path at some points."""
    t = t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(path(t).sum(), t, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), t)
    return slope.detach(), curvature


def rules(path: Path, n: int = 5) -> dict[str, float]:
    """What each estimator of this book makes of a path, the true effect first."""
    ends = torch.tensor([0.0, 1.0], dtype=torch.float64)
    start = path(ends)
    slope, curvature = (v[0].item() for v in derivatives(path, ends[:1]))
    slopes, curvatures = derivatives(path, torch.arange(n, dtype=torch.float64) / n)
    points, weights = quadrature(n, "gausslegendre")
    return {
        "truth": (start[1] - start[0]).item(),
        "AP": slope,
        "HVP": slope + curvature / 2,
        f"MS-HVP, K = {n}": (slopes.mean() + curvatures.sum() / (2 * n**2)).item(),
        f"{n} slopes": (weights @ derivatives(path, points)[0]).item(),
    }


def estimates() -> pd.DataFrame:
    """``rules`` of every toy, and the remedy made for its failure.

    The Q and K fix recomputes the softmax, and in the toy nothing is bent behind it: it is exact.
    GradDrop averages sizes over dropped layers; with two layers, the second of which carries the
    indirect effect, what is left is the direct one, and the first gives nothing.
    """
    made_for = {
        d.SATURATION: rules(saturated)["truth"],
        d.CANCELLATION: DIRECT,
        d.ZERO_GRADIENT: rules(flat)["5 slopes"],
    }
    rows = [
        {"failure": name, **rules(path), "remedy made for it": made_for[name]}
        for name, path in TOYS.items()
    ]
    return pd.DataFrame(rows)
