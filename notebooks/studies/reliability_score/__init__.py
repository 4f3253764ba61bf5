"""Chapter 5: does the reliability score say beforehand where attribution patching is wrong?

``judged`` reads stored sweeps; everything else takes what it returns, or a model.
"""

from .blind import Blind, Rounding, blind_curve, blind_spot, one_prompt, rounding
from .claiming import claims
from .detecting import detector, falls, lowest_quarter, misses, quarters, rivals_beaten
from .figures import blind_figure, cloud_figure, layers_figure, quarters_figure
from .layers import by_layer, tracks
from .measuring import (
    ESTIMATORS,
    LIMIT,
    N_RESAMPLES,
    TASKS,
    Judged,
    judged,
    load,
    overview,
    ratios,
    within,
)

__all__ = [
    "ESTIMATORS",
    "LIMIT",
    "N_RESAMPLES",
    "TASKS",
    "Blind",
    "Judged",
    "Rounding",
    "blind_curve",
    "blind_figure",
    "blind_spot",
    "by_layer",
    "claims",
    "cloud_figure",
    "detector",
    "falls",
    "judged",
    "layers_figure",
    "load",
    "lowest_quarter",
    "misses",
    "one_prompt",
    "overview",
    "quarters",
    "quarters_figure",
    "ratios",
    "rivals_beaten",
    "rounding",
    "tracks",
    "within",
]
