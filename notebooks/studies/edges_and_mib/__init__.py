"""Chapter 12: edges, their scores, and the circuits cut from them.

``measure`` fills one file for each model and task; ``load`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from .explain import (
    better_estimates_better_circuits,
    by_size,
    estimates_and_circuits,
    without_jacobian,
)
from .figures import curves_figure, errors_figure, estimates_figure
from .judged import claims
from .measure import GRADIENTS, METHODS, SECOND_ORDER, measure, sample
from .tables import (
    NAMES,
    TASKS,
    areas,
    areas_against,
    curves,
    error_tests,
    errors,
    found,
    overlaps,
    prices,
    scattered,
    zero_gradients,
)

__all__ = [
    "GRADIENTS",
    "METHODS",
    "NAMES",
    "SECOND_ORDER",
    "TASKS",
    "areas",
    "areas_against",
    "better_estimates_better_circuits",
    "by_size",
    "claims",
    "curves",
    "curves_figure",
    "error_tests",
    "errors",
    "errors_figure",
    "estimates_and_circuits",
    "estimates_figure",
    "found",
    "load",
    "measure",
    "overlaps",
    "prices",
    "sample",
    "scattered",
    "without_jacobian",
    "zero_gradients",
]


def load(
    models: Sequence[str], tasks: Sequence[str], methods: Sequence[str] = METHODS, **options
) -> dict[tuple[str, str], xr.Dataset]:
    """What was measured of each model and task, by (model, task); what is missing is computed.

    ``options`` are those of ``measure``.
    """
    return {
        (model, task): measure(model, task, methods, **options)
        for model in models
        for task in tasks
    }
