"""Screen-Flag-Fix: what is known of all components, which of them to distrust, and what to do then.

The bounds behind it are in ``hvp_utils.reliability.bounds``.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Literal, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.costs import Costs, measure_costs
from hvp_utils.curvature import diagonal, require_one_metric, row_norms
from hvp_utils.estimators import activation_patching, ms_hvp, quadratic_term
from hvp_utils.patched_metric import AxisDerivatives, PatchedMetric, of_metric

from .bounds import flag, reliability_score

__all__ = ["Screen", "Screened", "row_screen", "screen", "screen_flag_fix"]


class Screen(NamedTuple):
    """What is known of every component before any is patched.

    Attributes:
        first_order: Attribution patching, f_ap.
        quadratic: The quadratic term q, exact or sketched; of a ``row_screen`` an estimate of the
            bound r on its magnitude.
        error: Standard error of ``quadratic``; 0 where it is exact.
        passes: What was run, by kind; see ``Costs``.
    """

    first_order: Float[Tensor, " n"]
    quadratic: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    passes: dict[str, int]

    @property
    def score(self) -> Float[Tensor, " n"]:
        """The reliability score R; of a ``row_screen`` an estimate of a bound on it."""
        return reliability_score(self.first_order, self.quadratic)

    @property
    def size(self) -> Float[Tensor, " n"]:
        """How large an effect may be: both its terms in magnitude, as if they did not cancel."""
        return self.first_order.abs() + self.quadratic.abs()


@of_metric
def screen(M: PatchedMetric, n_matvecs: int | None = 48, seed: int = 0) -> Screen:
    """First-order effects and quadratic terms of all components together.

    Args:
        M: The metric.
        n_matvecs: Products with the Hessian, whatever the number of components, from which the
            quadratic terms are sketched; None for exact ones, at a product for each component.
        seed: Seed of the sketch.

    Raises:
        ValueError: A number of products that ``diagonal`` cannot use.
        TypeError: The model runs in half precision.
    """
    if n_matvecs is None:
        g = M.along_axes(0.0, order=2)
        passes = {"gradient": 1, "curvature": M.n}
        return Screen(g.slope, g.curvature / 2, torch.zeros_like(g.slope), passes)
    sketch = diagonal(M, "xdiag", n_matvecs, seed)
    passes = {"gradient": 1, "matvec": sketch.n_matvecs, "matvec_batch": 2}
    return Screen(sketch.slopes, sketch.values / 2, sketch.error / 2, passes)


@of_metric
def row_screen(M: PatchedMetric, n_probes: int = 2, seed: int = 0) -> Screen:
    """First-order effects of all components, and how large their quadratic terms may be.

    ``r_c = |H_c| / 2``, half the norm of row c of the Hessian, is no less than ``|q_c|``. To choose
    what to patch, an estimate of r does about as well as a sketched diagonal, and it takes one
    batch of gradients, no second derivatives. With few probes it may fall below ``|q_c|``.

    Args:
        M: The metric.
        n_probes: Gradients beside the one at 0, whatever the number of components.
        seed: Seed of the random directions.

    Raises:
        ValueError: Fewer than two probes.
        TypeError: The model runs in half precision.
    """
    rows = row_norms(M, n_probes, seed=seed)
    passes = {"gradient": 1, "gradient_row": n_probes}
    return Screen(rows.slopes, rows.values / 2, rows.error / 2, passes)


_SCREENS = {"exact": (screen, None), "sketch": (screen, 48), "rows": (row_screen, 2)}


class Screened(NamedTuple):
    """What Screen-Flag-Fix found.

    Attributes:
        estimates: One effect per component: attribution patching where trusted, the fix elsewhere.
        flagged: Which were fixed.
        score: The reliability score R, exact or sketched, or an estimate of a bound on it.
        cost: The price of it all, in forward equivalents.
        passes: What was run, by kind; see ``Costs``.
    """

    estimates: Float[Tensor, " n"]
    flagged: Bool[Tensor, " n"]
    score: Float[Tensor, " n"]
    cost: float
    passes: dict[str, int]


@of_metric
def screen_flag_fix(
    M: PatchedMetric,
    tau: float = 0.1,
    fix: Literal["hvp", "ms_hvp", "activation_patching"] = "hvp",
    n_steps: int = 5,
    costs: Costs | None = None,
    screen: Literal["exact", "sketch", "rows"] = "exact",
    n_matvecs: int | None = None,
    seed: int = 0,
    largest: int | float = 0,
) -> Screened:
    """Screen by the reliability score, flag what exceeds ``tau``, fix what is flagged.

    An exact screen needs the curvature of every component, so a fix by ``hvp`` costs nothing more;
    a sketched one needs ``n_matvecs`` products for all of them, and one by rows as many gradients.
    A small score does not exclude a large error of third order, which is why ``largest`` flags by
    size, whatever the score says.

    Args:
        M: The metric.
        tau: Threshold of the score; infinity to flag by ``largest`` alone.
        fix: What replaces the flagged estimates.
        n_steps: Steps of ``ms_hvp``.
        costs: Prices, from ``measure_costs``; measured here if not given.
        screen: Whether the quadratic terms are exact or sketched (``screen``), or bounded by the
            rows of the Hessian (``row_screen``): the cheapest way to choose by ``largest``. Its
            score is too large where there are interactions, and flags much that is right, so
            use it with ``tau=math.inf``.
        n_matvecs: Products with the Hessian of a sketched screen, 48 by default, or gradients of
            one by rows, 2 by default.
        seed: Seed of a screen that is not exact.
        largest: How many components are flagged for their size, those with the largest
            ``|f_ap| + |q|``: a number of them (an int), or their share, from 0.0 to 1.0.

    Source:
        Zhang & Wang (2026), sections 3.3 and 4.4. (There the screen is counted as free.) The
        other screens and ``largest`` are ours.

    Raises:
        ValueError: An unknown fix or screen, a negative ``tau``, a number or share of components
            that cannot be, a number of products that ``diagonal`` cannot use, or ``M.each``.
    """
    _checks.one_of("fix", fix, ("hvp", "ms_hvp", "activation_patching"))
    _checks.one_of("screen", screen, _SCREENS)
    whole = isinstance(largest, int)
    _checks.number("largest", largest)
    if not 0 <= largest <= (M.n if whole else 1):
        raise ValueError(
            f"largest must be a number of the {M.n} components (an int) or a share of them from "
            f"0.0 to 1.0, not {largest!r}."
        )
    require_one_metric(M)
    _checks.steps("n_steps", n_steps)
    _checks.seed(seed)
    if costs is not None:
        _checks.instance("costs", costs, Costs, "Costs, as measure_costs gives them")
    flag(M.delta_norm, tau)  # complains of a bad tau before anything is run
    how, default = _SCREENS[screen]
    found = how(M, default if n_matvecs is None or screen == "exact" else n_matvecs, seed)
    flagged = flag(found.score, tau)
    by_size = largest if whole else math.ceil(largest * M.n)
    flagged[found.size.topk(by_size).indices] = True
    flagged &= M.delta_norm > 0
    which = flagged.nonzero()[:, 0].cpu()
    passes = Counter(found.passes)
    estimates = found.first_order.clone()
    if len(which):
        if fix == "hvp" and screen != "rows":
            estimates[flagged] += found.quadratic[flagged]
        elif fix == "hvp":
            estimates[flagged] += quadratic_term(M, which)
            passes += Counter(gradient=1, curvature=len(which))
        elif fix == "ms_hvp":
            at_base = None
            if screen == "exact":
                value = torch.full_like(found.quadratic, cast("float", M.base))
                known = (value, found.first_order, 2 * found.quadratic)
                at_base = AxisDerivatives(*(d[flagged] for d in known))
            else:
                passes += Counter(gradient=1, curvature=len(which))
            estimates[flagged] = ms_hvp(M, n_steps, which, at_base)
            passes["curvature_on_path"] += (n_steps - 1) * len(which)
        else:
            estimates[flagged] = activation_patching(M, which)
            passes["forward"] += len(which)
    costs = costs or measure_costs(M)
    return Screened(estimates, flagged, found.score, costs.price(passes), dict(passes))
