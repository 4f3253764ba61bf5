"""Estimators by name, for sweeps and for the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from torch import Tensor

from hvp_utils import _checks
from hvp_utils.backward_rules import NONLINEARITIES

from .edges import eap_gp, eap_ig
from .integrals import QUADRATURES, integrated_gradients, integrated_hessians
from .local import local_curvature, local_sketched_hvp
from .other_gradients import atp_star, gim, relp
from .taylor import (
    activation_patching,
    attribution_patching,
    finite_difference_hvp,
    gauss_newton,
    hvp,
    ms_hvp,
    ms_hvp_median,
    quadratic_without,
    sketched_hvp,
    third_order,
)

#: Functions by name, and the parameters that may follow the name.
Named = Mapping[str, tuple[Callable[..., Tensor], Mapping[str, type | Sequence[str]]]]

#: Estimators by name, and the parameters that follow the name after colons, as in ``"ms_hvp:5"``
#: or ``"integrated_gradients:10:gausslegendre"``: whole numbers, or one of some words.
ESTIMATORS: Named = {
    "activation_patching": (activation_patching, {}),
    "attribution_patching": (attribution_patching, {}),
    "hvp": (hvp, {}),
    "sketched_hvp": (sketched_hvp, {"n_matvecs": int, "seed": int}),
    "ms_hvp": (ms_hvp, {"n_steps": int}),
    "ms_hvp_median": (ms_hvp_median, {}),
    "third_order": (third_order, {}),
    "finite_difference_hvp": (finite_difference_hvp, {}),
    "gauss_newton": (gauss_newton, {}),
    "quadratic_without": (quadratic_without, {"kinds": NONLINEARITIES}),
    "local_curvature": (local_curvature, {}),
    "local_sketched_hvp": (local_sketched_hvp, {"n_matvecs": int, "seed": int}),
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
    "eap_ig": (
        eap_ig,
        {"n_steps": int, "method": QUADRATURES, "where": ("inputs", "activations")},
    ),
    "eap_gp": (eap_gp, {"n_steps": int}),
}


def find_estimator(name: str) -> Callable[..., Tensor]:
    """The estimator that a name such as ``"hvp"`` or ``"ms_hvp:5"`` stands for.

    Raises:
        ValueError: No estimator is called that, or what follows the colon does not fit.
    """
    return find(name, ESTIMATORS)


def find(name: str, table: Named) -> Callable[..., Tensor]:
    """What a name stands for in a table such as ``ESTIMATORS``, parameters and all."""
    _checks.instance("name", name, str, 'the name of an estimator, such as "hvp"')
    stem, *given = name.split(":")
    if stem not in table:
        raise ValueError(f"Unknown estimator {name!r}. Known: {', '.join(table)}.")
    function, parameters = table[stem]
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
        elif text in cast("Sequence[str]", allowed):
            chosen[parameter] = text
        else:
            raise ValueError(
                f"Estimator {name!r} cannot be read: {parameter} must be one of "
                f"{', '.join(cast('Sequence[str]', allowed))}."
            )
    return functools.partial(function, **chosen) if chosen else function
