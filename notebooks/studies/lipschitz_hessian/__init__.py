"""Chapter 6: does a bound from the rate of change of the Hessian hold, and what is it good for?

``records`` makes one table of stored sweeps, which most functions take. ``reference`` holds what
is measured in float64 on the reference pair, and ``exact`` what is run again in float64.
"""

from .certify import calls, certificates, matched_calls, wrong_calls
from .exact import Again, again, path
from .figures import (
    bound_figure,
    closest_figure,
    layers_figure,
    path_figure,
    slack_figure,
)
from .judged import claims
from .layers import best_length, by_layer, laws, trends
from .line import (
    LENGTHS,
    VALUES,
    compared,
    cosines,
    lengths,
    lengths_by_model,
    ratios,
    reference,
    three_values,
    worst_head,
)
from .parts import gelu_closed_form, smooth_parts
from .remainders import (
    ESTIMATORS,
    NAMES,
    PAPER,
    TASKS,
    counted_failures,
    distributions,
    held,
    looseness,
    records,
    share,
    steps,
)

__all__ = [
    "ESTIMATORS",
    "LENGTHS",
    "NAMES",
    "PAPER",
    "TASKS",
    "VALUES",
    "Again",
    "again",
    "best_length",
    "bound_figure",
    "by_layer",
    "calls",
    "certificates",
    "claims",
    "closest_figure",
    "compared",
    "cosines",
    "counted_failures",
    "distributions",
    "gelu_closed_form",
    "held",
    "laws",
    "layers_figure",
    "lengths",
    "lengths_by_model",
    "looseness",
    "matched_calls",
    "path",
    "path_figure",
    "ratios",
    "records",
    "reference",
    "share",
    "slack_figure",
    "smooth_parts",
    "steps",
    "three_values",
    "trends",
    "worst_head",
    "wrong_calls",
]
