"""The true effect, its Taylor series, and other ways to the second term."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from fractions import Fraction

import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.curvature import diagonal
from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric, of_metric

from .common import Components, along_path, only


@of_metric
def activation_patching(
    M: PatchedMetric, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """The true effect of patching each component: g_c(1) - g_c(0), one run per component.

    Source:
        Vig et al. (2020), Meng et al. (2022); the ground truth of Zhang & Wang (2026), section 3.1.
    """
    return M.effects(M.along_axes(1.0, order=0, components=components).value)


@of_metric
def attribution_patching(
    M: PatchedMetric, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """First-order estimate g_c'(0): all components from one gradient.

    Source:
        Nanda (2023); Zhang & Wang (2026), equation 1.
    """
    return only(M.gradient(), components)


@of_metric
def hvp(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """Second-order estimate g_c'(0) + g_c''(0) / 2.

    g_c''(0) is the quadratic form delta^T H delta: one Hessian-vector product per component.

    Source:
        Zhang & Wang (2026), definition 2.

    Raises:
        TypeError: The model runs in half precision.
    """
    return ms_hvp(M, n_steps=1, components=components)


@of_metric
def ms_hvp(
    M: PatchedMetric,
    n_steps: int = 5,
    components: Components = None,
    at_base: AxisDerivatives | None = None,
) -> Float[Tensor, "*prompt m"]:
    """Multi-step second-order estimate: ``n_steps`` parabolas laid end to end along each axis.

    Sum over k of g_c'(k/K)/K + g_c''(k/K)/(2 K^2). One step is ``hvp``; the error falls as 1/K^2.

    Args:
        M: The metric.
        n_steps: K.
        components: Indices; all by default.
        at_base: Derivatives of these components at 0, where they are known already.

    Source:
        Zhang & Wang (2026), algorithm 1 and equation 5.

    Raises:
        ValueError: ``n_steps`` is not a positive whole number, or ``at_base`` has no curvature or
            other components.
        TypeError: The model runs in half precision.
    """
    t = torch.arange(1, _checks.steps("n_steps", n_steps), dtype=torch.float64) / n_steps
    if at_base is not None:
        _checks.instance("at_base", at_base, AxisDerivatives, "AxisDerivatives, or None")
        if at_base.curvature is None:
            raise ValueError("at_base has no curvature: ask along_axes for order=2.")
    start = at_base or M.along_axes(0.0, order=2, components=components)
    further = along_path(M, t, 2, components)
    if start.slope.shape != further.slope.shape[1:]:
        raise ValueError(
            f"at_base has derivatives of shape {tuple(start.slope.shape)}, and those of these "
            f"components have {tuple(further.slope.shape[1:])}."
        )
    slope = start.slope + further.slope.sum(0)
    curvature = start.curvature + further.curvature.sum(0)
    return slope / n_steps + curvature / (2 * n_steps**2)


@of_metric
def ms_hvp_median(
    M: PatchedMetric, n_steps: Sequence[int] = (5, 10, 20), components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """For each component the median of ``ms_hvp`` over several numbers of steps.

    Points that they share are run once.

    Source:
        Zhang & Wang (2026), appendix D.1.
    """
    n_steps = _checks.items("n_steps", n_steps, "a list of numbers of steps")
    starts = {k: [Fraction(i, k) for i in range(_checks.steps("n_steps", k))] for k in n_steps}
    if not starts:
        raise ValueError("n_steps is empty: give at least one number of steps.")
    points = sorted(set().union(*starts.values()))
    t = torch.tensor([float(point) for point in points], dtype=torch.float64)
    g = along_path(M, t, 2, components)
    estimates = []
    for k, its in starts.items():
        rows = torch.tensor([points.index(t) for t in its])
        slope, curvature = (d[rows].sum(0) for d in (g.slope, g.curvature))
        estimates.append(slope / k + curvature / (2 * k**2))
    return torch.stack(estimates).median(0).values


@of_metric
def quadratic_term(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """What ``hvp`` adds to attribution patching: g_c''(0) / 2.

    Source:
        Zhang & Wang (2026), equation 2.
    """
    return M.along_axes(0.0, order=2, components=components).curvature / 2


@of_metric
def sketched_hvp(
    M: PatchedMetric, n_matvecs: int = 32, seed: int = 0, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """``hvp`` with all curvatures together from a few Hessian-vector products.

    The products are with random directions over all components, so that their number need not grow
    with the number of components; see ``diagonal`` for how far the result can be off.

    Args:
        M: The metric.
        n_matvecs: Products with the Hessian; an even number of at least 4.
        seed: Seed of the directions.
        components: Indices; all by default, at the same cost.

    Source:
        XDiag is Epperly, Tropp & Webber (2024); to use it on the patch strengths is ours.

    Raises:
        ValueError: An odd or too small number of products.
        TypeError: The model runs in half precision.
    """
    sketch = diagonal(M, "xdiag", n_matvecs, seed)
    return only(sketch.slopes + sketch.values / 2, components)


@of_metric
def quadratic_without(
    M: PatchedMetric,
    kinds: str | Collection[str] = NONLINEARITIES,
    layers: Collection[int] | None = None,
    components: Components = None,
) -> Float[Tensor, "*prompt m"]:
    """``quadratic_term`` of a network in which some operations are linearised.

    What it lacks is what these operations contribute; the contributions of all kinds in all layers
    add up to the quadratic term. See ``linearised`` for kinds, layers and errors.
    """
    with linearised(M.model, kinds, layers):
        return quadratic_term(M, components)


@of_metric
def third_order(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """Third-order Taylor estimate, with g_c(t)'s third derivative at 0 over 6 on top of ``hvp``.

    Source:
        Named in Zhang & Wang (2026), section 4.2.
    """
    g = M.along_axes(0.0, order=3, components=components)
    return g.slope + g.curvature / 2 + g.third / 6


@of_metric
def finite_difference_hvp(
    M: PatchedMetric, step: float = 0.01, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """``hvp`` with the curvature from two slopes: g_c'(0) + (g_c'(step) - g_c'(0)) / (2 step).

    With ``step=1`` it is the trapezoidal rule for integrated gradients.

    Source:
        Named in Zhang & Wang (2026), section 4.2.

    Raises:
        ValueError: ``step`` is outside (0, 1].
    """
    step = _checks.number("step", step, above=0, most=1)
    g = along_path(M, torch.tensor([0.0, step], dtype=torch.float64), 1, components)
    return g.slope[0] + (g.slope[1] - g.slope[0]) / (2 * step)


@of_metric
def gauss_newton(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """``hvp`` with the curvature of the metric in the logits alone; the network counts as linear.

    Source:
        Named in Zhang & Wang (2026), section 4.2; Schraudolph (2002) for the matrix.
    """
    network = [kind for kind in NONLINEARITIES if kind != "output"]
    with linearised(M.model, network):
        return hvp(M, components)
