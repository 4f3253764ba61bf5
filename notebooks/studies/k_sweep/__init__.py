"""Chapter 7: how many steps does the second-order correction need?

``load`` reads stored sweeps; everything else takes what it returns, or a model.
"""

from .explain import Harm, bent_back, harm, leftovers, precisions
from .judged import claims
from .measuring import (
    N_STEPS,
    TASKS,
    at_steps,
    enough,
    errors,
    load,
    median_of_several,
    one_step,
    overview,
    worst_prompts,
)
from .showing import error_figure, harm_figure, prices_of_steps

__all__ = [
    "N_STEPS",
    "TASKS",
    "Harm",
    "at_steps",
    "bent_back",
    "claims",
    "enough",
    "error_figure",
    "errors",
    "harm",
    "harm_figure",
    "leftovers",
    "load",
    "median_of_several",
    "one_step",
    "overview",
    "precisions",
    "prices_of_steps",
    "worst_prompts",
]
