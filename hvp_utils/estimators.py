"""Estimators of what patching one component does: each a short rule on M(alpha).

All take a ``PatchedMetric`` and return one number per component, in the order of its ``labels``:
the estimated change of the metric when that component alone is patched, g_c(1) - g_c(0). Given
``components`` (indices), they work only on those and return one number for each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils.patched_metric import PatchedMetric

__all__ = [
    "ESTIMATORS",
    "activation_patching",
    "attribution_patching",
    "find_estimator",
    "hvp",
    "ms_hvp",
]

Components = Int[Tensor, " m"] | None


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
    return M.gradient() if components is None else M.gradient()[components]


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
    M: PatchedMetric, n_steps: int = 5, components: Components = None
) -> Float[Tensor, " m"]:
    """Multi-step second-order estimate: ``n_steps`` parabolas laid end to end along each axis.

    Sum over k of g_c'(k/K)/K + g_c''(k/K)/(2 K^2). One step is ``hvp``; the error falls as 1/K^2.

    Source:
        Zhang & Wang (2026), algorithm 1 and equation 5.

    Raises:
        ValueError: ``n_steps`` is not a positive whole number.
        TypeError: The model runs in half precision.
    """
    if not isinstance(n_steps, int) or n_steps < 1:
        raise ValueError(f"n_steps must be a whole number of at least 1, not {n_steps!r}.")
    which = torch.arange(M.n) if components is None else torch.as_tensor(components)
    t = torch.arange(n_steps, dtype=torch.float64).repeat_interleave(len(which)) / n_steps
    g = M.along_axes(t, order=2, components=which.repeat(n_steps))
    steps = g.slope / n_steps + g.curvature / (2 * n_steps**2)
    return steps.reshape(n_steps, len(which)).sum(0)


#: Estimators by name, and the parameter that a number after the name sets, as in ``"ms_hvp:5"``.
ESTIMATORS: dict[str, tuple[Callable[..., Tensor], str | None]] = {
    "activation_patching": (activation_patching, None),
    "attribution_patching": (attribution_patching, None),
    "hvp": (hvp, None),
    "ms_hvp": (ms_hvp, "n_steps"),
}


def find_estimator(name: str) -> Callable[..., Tensor]:
    """The estimator that a name such as ``"hvp"`` or ``"ms_hvp:5"`` stands for.

    Raises:
        ValueError: No estimator is called that, or the number after the colon does not fit.
    """
    stem, colon, number = name.partition(":")
    if stem not in ESTIMATORS:
        raise ValueError(f"Unknown estimator {name!r}. Known: {', '.join(ESTIMATORS)}.")
    function, parameter = ESTIMATORS[stem]
    if not colon:
        return function
    if parameter is None or not number.isdigit() or int(number) < 1:
        takes = f"takes a whole number of {parameter}" if parameter else "takes no number"
        raise ValueError(f"Estimator {name!r} cannot be read: {stem!r} {takes}.")
    return functools.partial(function, **{parameter: int(number)})
