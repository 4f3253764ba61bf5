"""Scores and bounds on the error of attribution patching.

In the paper's notation, for one component: f is the true effect, f_ap = g_c'(0) its first-order
estimate, q = g_c''(0) / 2 the quadratic term, ``|delta|`` the size of the patch and L_H a Lipschitz
constant of the Hessian along it. Then f - f_ap = q + R3 with ``|R3| <= L_H |delta|^3 / 6``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.estimators.common import only
from hvp_utils.patched_metric import PatchedMetric, of_metric

__all__ = [
    "ErrorBounds",
    "SelectiveBound",
    "error_bounds",
    "flag",
    "hessian_lipschitz",
    "reliability_score",
    "selective_bound",
    "slack",
]

Components = Int[Tensor, " m"] | None


def reliability_score(
    first_order: Float[Tensor, "*m"], quadratic: Float[Tensor, "*m"]
) -> Float[Tensor, "*m"]:
    """``R = |q| / |f_ap|``, the relative error of attribution patching up to the cubic remainder.

    Args:
        first_order: Attribution patching, f_ap.
        quadratic: The quadratic term, q = g_c''(0) / 2.

    Returns:
        0 where both are 0 (nothing moves and nothing is missed), infinite where f_ap alone is 0:
        there the score says nothing, and the absolute bounds are to be used.

    Source:
        Zhang & Wang (2026), definition 1.
    """
    first_order = _checks.tensor("first_order", first_order)
    quadratic = _checks.tensor("quadratic", quadratic)
    _checks.together(first_order=first_order, quadratic=quadratic)
    score = quadratic.abs() / first_order.abs()
    return torch.where(quadratic == 0, torch.zeros_like(score), score)


@of_metric
def hessian_lipschitz(
    M: PatchedMetric, points: Sequence[float] = (0.0, 0.5, 1.0), components: Components = None
) -> Float[Tensor, " m"]:
    """Largest observed rate at which the Hessian changes along each component's patch.

    Over pairs of points, ``|H(t_i) delta - H(t_j) delta| / (|t_i - t_j| |delta|^2)``. One direction
    is probed, so this is a lower bound on L_H: bounds computed with it can fail.

    Returns:
        One number per component, 0 where nothing moves.

    Source:
        Zhang & Wang (2026), appendix B.2.

    Raises:
        ValueError: Fewer than two different points.
    """
    points = _checks.items("points", points, "a list of numbers")
    points = sorted({_checks.number("each of points", point) for point in points})
    if len(points) < 2:
        raise ValueError(
            f"The Hessian must be taken at two different points or more, not {points}."
        )
    norm = only(M.delta_norm, components)
    products = torch.stack([M.hessian_delta(t, components) for t in points])
    t = torch.tensor(points, dtype=products.dtype, device=products.device)
    i, j = torch.triu_indices(len(points), len(points), offset=1)
    apart = (t[i] - t[j]).abs().reshape(-1, *[1] * norm.ndim)
    rates = (products[i] - products[j]).norm(dim=-1) / apart
    return torch.where(norm > 0, rates.amax(0) / norm.square(), torch.zeros_like(norm))


def slack(
    quadratic: Float[Tensor, "*m"], delta_norm: Float[Tensor, "*m"], L_H: Float[Tensor, "*m"]
) -> Float[Tensor, "*m"]:
    """``Eta = L_H |delta|^3 / (6 |q|)``: the cubic bound over the quadratic term.

    Infinite where the quadratic term is 0 and the cubic bound is not; 0 where both are.

    Source:
        Zhang & Wang (2026), proposition 1 (there with delta^T H delta = 2 q).
    """
    cubic, quadratic = _cubic_bound(delta_norm, L_H), _checks.tensor("quadratic", quadratic)
    _checks.together(quadratic=quadratic, delta_norm=cubic)
    return torch.where(cubic == 0, torch.zeros_like(cubic), cubic / quadratic.abs())


class ErrorBounds(NamedTuple):
    """Bounds on errors, one number per component.

    Attributes:
        relative_upper: On ``|f - f_ap| / |f_ap|``: (1 + eta) R.
        relative_lower: Below it, (1 - eta) R, or 0 where eta is 1 or more.
        attribution_patching: On ``|f - f_ap|``.
        hvp: On the error left after the correction; divide by K^2 for ``ms_hvp`` with K steps.
        slack: eta.
    """

    relative_upper: Float[Tensor, " m"]
    relative_lower: Float[Tensor, " m"]
    attribution_patching: Float[Tensor, " m"]
    hvp: Float[Tensor, " m"]
    slack: Float[Tensor, " m"]


def error_bounds(
    first_order: Float[Tensor, "*m"],
    quadratic: Float[Tensor, "*m"],
    delta_norm: Float[Tensor, "*m"],
    L_H: Float[Tensor, "*m"],
) -> ErrorBounds:
    """The bounds of Proposition 1 and Corollary 1. They are as good as ``L_H`` is.

    Source:
        Zhang & Wang (2026), proposition 1 and corollary 1.
    """
    cubic = _cubic_bound(delta_norm, L_H)
    q = _checks.tensor("quadratic", quadratic).abs()
    size = _checks.tensor("first_order", first_order).abs()
    _checks.together(first_order=size, quadratic=q, delta_norm=cubic)
    # Written without R and eta, which may be infinite where the bounds are not.
    return ErrorBounds(
        relative_upper=torch.where(q + cubic == 0, torch.zeros_like(q), (q + cubic) / size),
        relative_lower=torch.where(q <= cubic, torch.zeros_like(q), (q - cubic) / size),
        attribution_patching=q + cubic,
        hvp=cubic,
        slack=slack(quadratic, delta_norm, L_H),
    )


def flag(score: Float[Tensor, "*m"], tau: float) -> Bool[Tensor, "*m"]:
    """The components whose first-order estimate is not to be trusted: R > tau.

    Raises:
        ValueError: ``tau`` is negative or not a number.
    """
    tau = _checks.number("tau", tau, least=0, infinite=True)
    return _checks.tensor("score", score) > tau


class SelectiveBound(NamedTuple):
    """How far the summed estimates of the selective workflow can be off.

    Attributes:
        total: Bound on the error of the sum over components: the trusted ones contribute at most
            tau times their summed ``|f_ap|``, and every component its cubic remainder.
        cubic: The part of ``total`` that is cubic remainders, which no threshold changes.
        gap: Exactly what correcting all components would have added: the sum of q over those
            that were trusted.
        gap_bound: Its bound, cancellation * tau * the trusted ``|f_ap|``.
        cancellation: ``|sum of q| / sum of |q|`` over the trusted components; 1 where none cancel.
    """

    total: float
    cubic: float
    gap: float
    gap_bound: float
    cancellation: float


def selective_bound(
    first_order: Float[Tensor, " m"],
    quadratic: Float[Tensor, " m"],
    delta_norm: Float[Tensor, " m"],
    L_H: Float[Tensor, " m"],
    tau: float,
) -> SelectiveBound:
    """The bounds of Proposition 2 and Corollary 2, for a fix by ``hvp``.

    Source:
        Zhang & Wang (2026), proposition 2 and corollary 2.
    """
    first_order = _checks.tensor("first_order", first_order)
    quadratic = _checks.tensor("quadratic", quadratic)
    remainders = _cubic_bound(delta_norm, L_H)
    if not first_order.shape == quadratic.shape == remainders.shape:
        raise ValueError(
            "first_order, quadratic, delta_norm and L_H must have one shape, one number per "
            f"component: {tuple(first_order.shape)}, {tuple(quadratic.shape)} and "
            f"{tuple(remainders.shape)} given."
        )
    tau = _checks.number("tau", tau, least=0, infinite=True)
    trusted = ~flag(reliability_score(first_order, quadratic), tau)
    q = quadratic[trusted]
    left = tau * first_order[trusted].abs().sum() if trusted.any() else q.sum()
    sizes = q.abs().sum()
    cancellation = (q.sum().abs() / sizes).item() if sizes > 0 else 1.0
    cubic = remainders.sum()
    return SelectiveBound(
        total=(left + cubic).item(),
        cubic=cubic.item(),
        gap=q.sum().item(),
        gap_bound=(cancellation * left).item(),
        cancellation=cancellation,
    )


def _cubic_bound(delta_norm: Tensor, L_H: Tensor) -> Tensor:
    """The largest that the remainder R3 can be."""
    delta_norm, L_H = _checks.tensor("delta_norm", delta_norm), _checks.tensor("L_H", L_H)
    _checks.together(delta_norm=delta_norm, L_H=L_H)
    if (delta_norm < 0).any() or (L_H < 0).any():
        raise ValueError("delta_norm and L_H are sizes, and must not be negative.")
    return L_H * delta_norm**3 / 6
