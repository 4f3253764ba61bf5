"""Chapter 15: how large can an effect be among the components that nobody patched?

``load`` measures, or reads, bounds for all neurons and edges of some models on one prompt pair, and
``load_coverage`` those for heads on many prompts, where the truth is known; the others make tables,
a figure and claims of them.
"""

from .figures import bounds_figure
from .judged import claims
from .measuring import (
    CONFIDENCE,
    CONTROLS,
    EVERY,
    HEADS_SHOWN,
    HEADS_SUBSETS,
    KINDS,
    SHARES,
    SHOWN,
    SOME,
    SUBSETS,
    coverage,
    exact,
    left_out,
    measure,
)
from .tables import (
    NAMES,
    bounds,
    held,
    left_out_table,
    load,
    load_coverage,
    most_subsets,
    overview,
    runs,
    shrinkage,
    summary,
)

__all__ = [
    "CONFIDENCE",
    "CONTROLS",
    "EVERY",
    "HEADS_SHOWN",
    "HEADS_SUBSETS",
    "KINDS",
    "NAMES",
    "SHARES",
    "SHOWN",
    "SOME",
    "SUBSETS",
    "bounds",
    "bounds_figure",
    "claims",
    "coverage",
    "exact",
    "held",
    "left_out",
    "left_out_table",
    "load",
    "load_coverage",
    "measure",
    "most_subsets",
    "overview",
    "runs",
    "shrinkage",
    "summary",
]
