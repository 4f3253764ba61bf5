"""Chapter 12: edges, their scores, and the circuits cut from them.

``measure`` fills one file for each model and task; ``load`` reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import xarray as xr

from .explain import (
    at_fraction,
    better_estimates_better_circuits,
    by_size,
    estimates_and_circuits,
    missing_links,
    place,
    summary,
    without_jacobian,
    worst_without_jacobian,
)
from .figures import curves_figure, errors_figure, estimates_figure
from .judged import claims
from .measuring import BASIC, GRADIENTS, METHODS, SECOND_ORDER, able, measure, sample
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
    wide_curves,
    wide_strata,
    zero_gradients,
)

__all__ = [
    "BASIC",
    "GRADIENTS",
    "METHODS",
    "NAMES",
    "SECOND_ORDER",
    "TASKS",
    "able",
    "areas",
    "areas_against",
    "at_fraction",
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
    "missing_links",
    "overlaps",
    "place",
    "prices",
    "sample",
    "scattered",
    "summary",
    "wide_curves",
    "wide_strata",
    "without_jacobian",
    "worst_without_jacobian",
    "zero_gradients",
]


#: The models and tasks that circuits were searched for.
SEARCHED = (("gemma-3-270m", "ioi"),)


def load(
    models: Sequence[str], tasks: Sequence[str], device: str | None = None, **options
) -> dict[tuple[str, str], xr.Dataset]:
    """What was measured of each model and task, by (model, task); what is missing is computed.

    IOI has all methods, other tasks have ``BASIC``. A circuit of edge pruning is there where it was
    affordable (``SEARCHED``).

    Args:
        models: Names of models.
        tasks: Keys of ``hvp_utils.tasks.TASKS``.
        device: Where a model is loaded, if something has to be computed.
        options: Those of ``measure``.
    """
    return {
        (model, task): measure(
            model,
            task,
            METHODS if task == "ioi" else BASIC,
            pruned_share=0.02 if (model, task) in SEARCHED else 0.0,
            searches=("edge_pruning",),
            device=device,
            **options,
        )
        for model in models
        for task in tasks
    }
