"""Estimators of what patching one component does: each a short rule on M(alpha).

All take a ``PatchedMetric`` and return one number per component, in the order of its ``labels``:
the estimated change of the metric when that component alone is patched, g_c(1) - g_c(0). Given
``components`` (indices), they work only on those and return one number for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils.backward_rules import (
    NONLINEARITIES,
    changed_backward,
    drop_layer,
    gim_rules,
    linearised,
    relp_rules,
)
from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric

__all__ = [
    "ESTIMATORS",
    "QUADRATURES",
    "activation_patching",
    "atp_star",
    "attribution_patching",
    "find_estimator",
    "finite_difference_hvp",
    "gauss_newton",
    "gim",
    "hvp",
    "integrated_gradients",
    "integrated_hessians",
    "local_curvature",
    "local_quadratic_term",
    "ms_hvp",
    "ms_hvp_median",
    "quadratic_term",
    "quadratic_without",
    "relp",
    "third_order",
]

Components = Int[Tensor, " m"] | None
Quadrature = Literal["left", "right", "midpoint", "trapezoid", "gausslegendre"]


def activation_patching(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """The true effect of patching each component: g_c(1) - g_c(0), one run per component.

    Source:
        Vig et al. (2020), Meng et al. (2022); the ground truth of Zhang & Wang (2026), section 3.1.
    """
    return M.along_axes(1.0, order=0, components=components).value - M.base


def attribution_patching(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """First-order estimate g_c'(0): all components from one gradient.

    Source:
        Nanda (2023); Zhang & Wang (2026), equation 1.
    """
    return _only(M.gradient(), components)


def hvp(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Second-order estimate g_c'(0) + g_c''(0) / 2.

    g_c''(0) is the quadratic form delta^T H delta: one Hessian-vector product per component.

    Source:
        Zhang & Wang (2026), definition 2.

    Raises:
        TypeError: The model runs in half precision.
    """
    return ms_hvp(M, n_steps=1, components=components)


def ms_hvp(
    M: PatchedMetric,
    n_steps: int = 5,
    components: Components = None,
    at_base: AxisDerivatives | None = None,
) -> Float[Tensor, " m"]:
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
        ValueError: ``n_steps`` is not a positive whole number.
        TypeError: The model runs in half precision.
    """
    t = torch.arange(1, require_whole(n_steps), dtype=torch.float64) / n_steps
    start = at_base or M.along_axes(0.0, order=2, components=components)
    further = _along_path(M, t, 2, components)
    slope = start.slope + further.slope.sum(0)
    curvature = start.curvature + further.curvature.sum(0)
    return slope / n_steps + curvature / (2 * n_steps**2)


def ms_hvp_median(
    M: PatchedMetric, n_steps: Sequence[int] = (5, 10, 20), components: Components = None
) -> Float[Tensor, " m"]:
    """For each component the median of ``ms_hvp`` over several numbers of steps.

    Source:
        Zhang & Wang (2026), appendix D.1.
    """
    return torch.stack([ms_hvp(M, k, components) for k in n_steps]).median(0).values


def quadratic_term(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """What ``hvp`` adds to attribution patching: g_c''(0) / 2.

    Source:
        Zhang & Wang (2026), equation 2.
    """
    return M.along_axes(0.0, order=2, components=components).curvature / 2


def quadratic_without(
    M: PatchedMetric,
    kinds: str | Collection[str] = NONLINEARITIES,
    layers: Collection[int] | None = None,
    components: Components = None,
) -> Float[Tensor, " m"]:
    """``quadratic_term`` of a network in which some operations are linearised.

    What it lacks is what these operations contribute; the contributions of all kinds in all layers
    add up to the quadratic term. See ``linearised`` for kinds, layers and errors.
    """
    with linearised(M.model, kinds, layers):
        return quadratic_term(M, components)


# --- the rest of the Taylor series, and other ways to its second term --------------------------


def third_order(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Third-order Taylor estimate, with g_c(t)'s third derivative at 0 over 6 on top of ``hvp``.

    Source:
        Named in Zhang & Wang (2026), section 4.2.
    """
    g = M.along_axes(0.0, order=3, components=components)
    return g.slope + g.curvature / 2 + g.third / 6


def finite_difference_hvp(
    M: PatchedMetric, step: float = 0.01, components: Components = None
) -> Float[Tensor, " m"]:
    """``hvp`` with the curvature from two slopes: g_c'(0) + (g_c'(step) - g_c'(0)) / (2 step).

    With ``step=1`` it is the trapezoidal rule for integrated gradients.

    Source:
        Named in Zhang & Wang (2026), section 4.2.

    Raises:
        ValueError: ``step`` is outside (0, 1].
    """
    if not 0 < step <= 1:
        raise ValueError(f"step must be above 0 and at most 1, not {step!r}.")
    g = _along_path(M, torch.tensor([0.0, step], dtype=torch.float64), 1, components)
    return g.slope[0] + (g.slope[1] - g.slope[0]) / (2 * step)


def gauss_newton(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """``hvp`` with the curvature of the metric in the logits alone; the network counts as linear.

    Source:
        Named in Zhang & Wang (2026), section 4.2; Schraudolph (2002) for the matrix.
    """
    network = [kind for kind in NONLINEARITIES if kind != "output"]
    with linearised(M.model, network):
        return hvp(M, components)


def local_curvature(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Attribution patching plus the curvature of the patched neuron's own activation function.

    The correction that stops at the neuron itself; the paper's counter-example.

    Source:
        Zhang & Wang (2026), section 3.3 and figure 2.

    Raises:
        ValueError: The components are not pre-activation neurons.
    """
    return attribution_patching(M, components) + local_quadratic_term(M, components)


def local_quadratic_term(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Half of act''(z) delta^2 times the gradient at the neuron's output, over all positions.

    Source:
        Zhang & Wang (2026), section 3.3.

    Raises:
        ValueError: The components are not pre-activation neurons.
    """
    if not M.components.startswith("neurons_pre"):
        raise ValueError(
            "The local curvature is that of an activation function, so it needs components "
            f'"neurons_pre" (or "neurons_pre:256"), not {M.components!r}.'
        )
    outputs = [site.hook.replace("hook_pre", "hook_post") for site in M.sites]
    strengths, value, seen = M.traced(hooks=outputs)
    posts = [seen[hook] for hook in outputs]
    gradients = torch.autograd.grad(value, posts, retain_graph=True)
    terms = []
    for strength, post, gradient in zip(strengths, posts, gradients, strict=True):
        # A neuron's output depends on no strength of its layer but its own: one pass serves all.
        (first,) = torch.autograd.grad((gradient * post).sum(), strength, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), strength, retain_graph=True)
        terms.append(second[0] / 2)
    return _only(torch.cat(terms), components)


# --- integrals along the path ------------------------------------------------------------------


def integrated_gradients(
    M: PatchedMetric,
    n_steps: int = 10,
    method: Quadrature = "midpoint",
    components: Components = None,
    return_convergence_delta: bool = False,
) -> Float[Tensor, " m"] | tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
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
    t, weights = _quadrature(n_steps, method)
    slopes = _along_path(M, t, 1, components).slope
    estimate = weights.to(slopes) @ slopes
    if not return_convergence_delta:
        return estimate
    return estimate, estimate - activation_patching(M, components)


def integrated_hessians(
    M: PatchedMetric,
    n_steps: int = 5,
    scheme: Literal["path", "grid"] = "path",
    part: Literal["pairwise", "complete"] = "pairwise",
    method: Quadrature = "midpoint",
    components: Components = None,
) -> Float[Tensor, " m"]:
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
    if scheme not in ("path", "grid") or part not in ("pairwise", "complete"):
        raise ValueError(
            f'scheme must be "path" or "grid" and part "pairwise" or "complete", not {scheme!r} '
            f"and {part!r}."
        )
    t, weights = _quadrature(n_steps, method)
    if scheme == "grid":
        s, weights = torch.outer(t, t).flatten(), torch.outer(weights, weights).flatten()
    else:
        # -ln s has a pole at 0, where s -ln s vanishes; the point there is left out.
        s, weights = t[t > 0], weights[t > 0]
        weights = weights * -s.log()
    s, place = s.unique(return_inverse=True)
    weights = torch.zeros_like(s).index_add(0, place, weights)
    g = _along_path(M, s, 2, components)
    pairwise = (weights * s).to(g.curvature) @ g.curvature
    if part == "pairwise":
        return attribution_patching(M, components) + pairwise
    return weights.to(g.slope) @ g.slope + pairwise


# --- attribution patching with another backward pass -------------------------------------------


def gim(M: PatchedMetric, components: Components = None) -> Float[Tensor, " m"]:
    """Attribution patching with the backward pass of GIM; see ``gim_rules``.

    Source:
        Edin et al. (2025).
    """
    with changed_backward(M.model, *gim_rules()):
        return attribution_patching(M, components)


def relp(
    M: PatchedMetric, freeze_patterns: bool = False, components: Components = None
) -> Float[Tensor, " m"]:
    """Attribution patching with the backward pass of RelP; see ``relp_rules``.

    Source:
        Jafari et al. (2025).
    """
    with changed_backward(M.model, *relp_rules(freeze_patterns)):
        return attribution_patching(M, components)


def atp_star(
    M: PatchedMetric,
    qk_fix: bool = True,
    grad_drop: bool = True,
    components: Components = None,
) -> Float[Tensor, " m"]:
    """AtP*: exact attention patterns for queries and keys, and gradients with layers dropped.

    ``qk_fix`` recomputes the softmax under the patched query or key and is linear only after it;
    it concerns the component kinds ``"queries"`` and ``"keys"`` and leaves others as they are.
    ``grad_drop`` averages over the layers l the size of the estimate when no gradient flows
    through layer l, so that effects which cancel do not hide; the result then has no sign. It is
    made for components that some layer writes, whose own layer gives nothing when it is dropped;
    a residual stream belongs to no layer, and its average is a little too large.

    Source:
        Kramar et al. (2024), AtP*. (Zhang & Wang describe GradDrop differently, as dropping
        components whose activation region changes; this follows the original.)

    Raises:
        ValueError: GradDrop on a model of one layer.
    """
    fixed = qk_fix and M.components in ("queries", "keys")
    estimate = _pattern_fix(M) if fixed else M.gradient
    if not grad_drop:
        return _only(estimate(), components)
    n_layers = M.model.cfg.n_layers
    if n_layers < 2:
        raise ValueError("GradDrop averages over the layers but one; this model has only one.")
    total = torch.zeros_like(M.delta_norm)
    for layer in range(n_layers):
        with changed_backward(M.model, drop_layer(layer)):
            total += estimate().abs()
    return _only(total / (n_layers - 1), components)


def _pattern_fix(M: PatchedMetric) -> Callable[[], Float[Tensor, " n"]]:
    """Estimates for queries or keys that are linear from the attention pattern on.

    The patterns under the patches take one run, with all components patched at once: a query
    changes its own row of the pattern only, a key its own column of the scores. The gradient at
    the patterns is taken anew at each call of the result.
    """
    attention = [site.hook.rpartition(".")[0] for site in M.sites]
    patterns = [f"{name}.hook_pattern" for name in attention]
    scores = [f"{name}.hook_attn_scores" for name in attention]
    _, base = M.run.unpatched([*patterns, *scores])
    patched: dict[str, Tensor] = {}

    def keep(hook: str) -> Callable[[Tensor], Tensor]:
        def record(live: Tensor) -> Tensor:
            patched[hook] = live[0]
            # Handing on the base pattern keeps every later layer's input as it was.
            return base[hook][None] if hook in patterns else live

        return record

    moves = {
        site.hook: lambda live, delta=delta: live + delta
        for site, delta in zip(M.sites, M.deltas, strict=True)
    }
    with torch.no_grad():
        M.run.logits(moves | {hook: keep(hook) for hook in [*patterns, *scores]}, {})

    def estimates() -> Float[Tensor, " n"]:
        _, value, seen = M.traced(hooks=patterns)
        at = [seen[hook] for hook in patterns]
        # A pattern that nothing reads, as when its layer is dropped, has gradient 0.
        gradients = torch.autograd.grad(value, at, materialize_grads=True)
        parts = []
        for G, pattern, score, site in zip(gradients, patterns, scores, M.sites, strict=True):
            if M.components == "queries":
                effects = ((patched[pattern] - base[pattern]) * G[0]).sum(-1)
            else:
                effects = _key_effects(base[pattern], patched[score] - base[score], G[0])
                effects = effects[:, -M.n_run :]  # earlier keys are the same in both runs
                effects = effects.unflatten(0, (site.shape[1], -1)).sum(1)  # heads that share it
            parts.append(effects.T.flatten())  # position by position, as the labels go
        return torch.cat(parts)

    return estimates


def _key_effects(
    p: Float[Tensor, "head query key"],
    change: Float[Tensor, "head query key"],
    G: Float[Tensor, "head query key"],
) -> Float[Tensor, "head key"]:
    """Effect of patching one key at a time, given the change of its scores.

    With one score of a row changed by s, its probability p becomes p e^s / (1 + p (e^s - 1)), and
    the others share what it gains or loses in proportion (Kramar et al. 2024).
    """
    change = torch.where(p > 0, change, torch.zeros_like(change))  # masked: no number, no change
    # (p' - p)/(1 - p) = p (e^s - 1)/(1 + p (e^s - 1)), times e^-s above and below where s > 0.
    m = torch.expm1(-change.abs())
    gain = torch.where(change > 0, -p * m / (1 + m - p * m), p * m / (1 + p * m))
    others = (p * G).sum(-1, keepdim=True)
    return (gain * (G - others)).sum(1)


# --- the machinery -----------------------------------------------------------------------------

#: Quadrature rules on [0, 1], named as in captum.
QUADRATURES: tuple[str, ...] = ("left", "right", "midpoint", "trapezoid", "gausslegendre")


def _quadrature(n: int, method: str) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Nodes and weights on [0, 1]."""
    if method not in QUADRATURES:
        raise ValueError(f"Unknown method {method!r}. Known: {', '.join(QUADRATURES)}.")
    if method == "trapezoid" and require_whole(n) < 2:
        raise ValueError("The trapezoidal rule needs n_steps of at least 2.")
    k = torch.arange(require_whole(n), dtype=torch.float64)
    if method == "gausslegendre":
        x, w = (torch.from_numpy(a) for a in np.polynomial.legendre.leggauss(n))
        return (x + 1) / 2, w / 2
    if method == "trapezoid":
        weights = torch.full_like(k, 1 / (n - 1))
        weights[[0, -1]] /= 2
        return k / (n - 1), weights
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[method]
    return (k + offset) / n, torch.full_like(k, 1 / n)


def require_whole(n_steps: int) -> int:
    """A number of steps, checked."""
    if not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a whole number of at least 1, not {n_steps!r}.")
    return n_steps


def _along_path(
    M: PatchedMetric, t: Float[Tensor, " k"], order: Literal[1, 2], components: Components
) -> AxisDerivatives:
    """Derivatives of every component's g_c at the same points: each field is ``[k, m]``."""
    which = torch.arange(M.n) if components is None else torch.as_tensor(components)
    g = M.along_axes(t.repeat_interleave(len(which)), order, which.repeat(len(t)))
    return AxisDerivatives(*(d if d is None else d.reshape(len(t), len(which)) for d in g))


def _only(values: Float[Tensor, " n"], components: Components) -> Float[Tensor, " m"]:
    return values if components is None else values[torch.as_tensor(components)]


#: Estimators by name, and the parameters that follow the name after colons, as in ``"ms_hvp:5"``
#: or ``"integrated_gradients:10:gausslegendre"``: whole numbers, or one of some words.
ESTIMATORS: dict[str, tuple[Callable[..., Tensor], Mapping[str, type | Sequence[str]]]] = {
    "activation_patching": (activation_patching, {}),
    "attribution_patching": (attribution_patching, {}),
    "hvp": (hvp, {}),
    "ms_hvp": (ms_hvp, {"n_steps": int}),
    "ms_hvp_median": (ms_hvp_median, {}),
    "third_order": (third_order, {}),
    "finite_difference_hvp": (finite_difference_hvp, {}),
    "gauss_newton": (gauss_newton, {}),
    "quadratic_without": (quadratic_without, {"kinds": NONLINEARITIES}),
    "local_curvature": (local_curvature, {}),
    "integrated_gradients": (integrated_gradients, {"n_steps": int, "method": QUADRATURES}),
    "integrated_hessians": (
        integrated_hessians,
        {
            "n_steps": int,
            "scheme": ("path", "grid"),
            "part": ("pairwise", "complete"),
            "method": QUADRATURES,
        },
    ),
    "gim": (gim, {}),
    "relp": (relp, {}),
    "atp_star": (atp_star, {}),
}


def find_estimator(name: str) -> Callable[..., Tensor]:
    """The estimator that a name such as ``"hvp"`` or ``"ms_hvp:5"`` stands for.

    Raises:
        ValueError: No estimator is called that, or what follows the colon does not fit.
    """
    stem, *given = name.split(":")
    if stem not in ESTIMATORS:
        raise ValueError(f"Unknown estimator {name!r}. Known: {', '.join(ESTIMATORS)}.")
    function, parameters = ESTIMATORS[stem]
    if len(given) > len(parameters):
        takes = f"takes only {' and '.join(parameters)}" if parameters else "takes no number"
        raise ValueError(f"Estimator {name!r} cannot be read: {stem!r} {takes}.")
    chosen = {}
    for text, (parameter, allowed) in zip(given, parameters.items(), strict=False):
        if allowed is int:
            if not text.isdigit() or int(text) < 1:
                raise ValueError(
                    f"Estimator {name!r} cannot be read: {stem!r} takes a whole number of "
                    f"{parameter}."
                )
            chosen[parameter] = int(text)
        elif text in allowed:
            chosen[parameter] = text
        else:
            raise ValueError(
                f"Estimator {name!r} cannot be read: {parameter} must be one of "
                f"{', '.join(allowed)}."
            )
    return functools.partial(function, **chosen) if chosen else function
