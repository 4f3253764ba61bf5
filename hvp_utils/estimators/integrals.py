"""Integrals of g_c along its axis, by quadrature."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric

from .common import Components, along_path
from .taylor import activation_patching, attribution_patching

Quadrature = Literal["left", "right", "midpoint", "trapezoid", "gausslegendre"]
#: Quadrature rules on [0, 1], named as in captum.
QUADRATURES: tuple[str, ...] = get_args(Quadrature)

if TYPE_CHECKING:
    from typing import overload

    @overload
    def integrated_gradients(
        M: PatchedMetric,
        n_steps: int = ...,
        method: Quadrature = ...,
        components: Components = ...,
        return_convergence_delta: Literal[False] = ...,
    ) -> Float[Tensor, "*prompt m"]: ...
    @overload
    def integrated_gradients(
        M: PatchedMetric,
        n_steps: int = ...,
        method: Quadrature = ...,
        components: Components = ...,
        *,
        return_convergence_delta: Literal[True],
    ) -> tuple[Float[Tensor, "*prompt m"], Float[Tensor, "*prompt m"]]: ...
    @overload
    def integrated_gradients(
        M: PatchedMetric,
        n_steps: int = ...,
        method: Quadrature = ...,
        components: Components = ...,
        return_convergence_delta: bool = ...,
    ) -> (
        Float[Tensor, "*prompt m"] | tuple[Float[Tensor, "*prompt m"], Float[Tensor, "*prompt m"]]
    ): ...


@of_metric
def integrated_gradients(
    M: PatchedMetric,
    n_steps: int = 10,
    method: Quadrature = "midpoint",
    components: Components = None,
    return_convergence_delta: bool = False,
) -> Float[Tensor, "*prompt m"] | tuple[Float[Tensor, "*prompt m"], Float[Tensor, "*prompt m"]]:
    """Integral of g_c' over [0, 1] by a quadrature rule; exact in the limit.

    One component at a time moves, the others stay at the base run.

    Args:
        M: The metric.
        n_steps: Points at which the slope is taken.
        method: One of ``QUADRATURES``.
        components: Indices; all by default.
        return_convergence_delta: Also return the estimate minus the true effect, which costs one
            activation patching.

    Source:
        Sundararajan et al. (2017); per component as in Zhang & Wang (2026), section 4.1.

    Raises:
        ValueError: An unknown method, or fewer points than it needs.
    """
    _checks.truth("return_convergence_delta", return_convergence_delta)
    t, weights = quadrature(n_steps, method)
    slopes = along_path(M, t, 1, components).slope
    estimate = torch.tensordot(weights.to(slopes), slopes, 1)
    if not return_convergence_delta:
        return estimate
    return estimate, estimate - activation_patching(M, components)


@of_metric
def integrated_hessians(
    M: PatchedMetric,
    n_steps: int = 5,
    scheme: Literal["path", "grid"] = "path",
    part: Literal["pairwise", "complete"] = "pairwise",
    method: Quadrature = "midpoint",
    components: Components = None,
) -> Float[Tensor, "*prompt m"]:
    """Integrated Hessians of a component with itself, as an estimate of its effect.

    The pairwise part is the integral of ab g_c''(ab) over the unit square in (a, b). As the weight
    ab averages to 1/4, attribution patching plus this part corrects by half of what Taylor asks
    for. The complete sum has the integral of g_c'(ab) in the place of g_c'(0), and is exact.

    Args:
        M: The metric.
        n_steps: Points of the rule in each direction.
        scheme: ``"path"`` takes the same integral over s = ab alone, with density -ln s
            (``n_steps`` curvatures); ``"grid"`` the square itself (``n_steps`` squared).
        part: ``"pairwise"``, added to attribution patching as the paper does, or ``"complete"``.
        method: One of ``QUADRATURES``.
        components: Indices; all by default.

    Source:
        Janizek et al. (2021); the paper's IH-PI and IH-DR, Zhang & Wang (2026), appendix D.2.

    Raises:
        ValueError: An unknown scheme, part or method.
    """
    _checks.one_of("scheme", scheme, ("path", "grid"))
    _checks.one_of("part", part, ("pairwise", "complete"))
    t, weights = quadrature(n_steps, method)
    if scheme == "grid":
        s, weights = torch.outer(t, t).flatten(), torch.outer(weights, weights).flatten()
    else:
        # -ln s has a pole at 0, where s -ln s vanishes; the point there is left out.
        s, weights = t[t > 0], weights[t > 0]
        weights = weights * -s.log()
    # Rounded, since 1/3 of 3/5 and 1/5 need not agree to the last bit.
    s, place = s.round(decimals=14).unique(return_inverse=True)
    weights = torch.zeros_like(s).index_add(0, place, weights)
    g = along_path(M, s, 2, components)
    pairwise = torch.tensordot((weights * s).to(g.curvature), g.curvature, 1)
    if part == "pairwise":
        return attribution_patching(M, components) + pairwise
    return torch.tensordot(weights.to(g.slope), g.slope, 1) + pairwise


def quadrature(n: int, method: str) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Points and weights of a rule on [0, 1]; the weights add up to 1."""
    _checks.one_of("method", method, QUADRATURES)
    if _checks.steps("n_steps", n) < 2 and method == "trapezoid":
        raise ValueError("The trapezoidal rule needs n_steps of at least 2.")
    k = torch.arange(n, dtype=torch.float64)
    if method == "gausslegendre":
        x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
        return (x + 1) / 2, w / 2
    if method == "trapezoid":
        weights = torch.full_like(k, 1 / (n - 1))
        weights[[0, -1]] /= 2
        return k / (n - 1), weights
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[method]
    return (k + offset) / n, torch.full_like(k, 1 / n)
