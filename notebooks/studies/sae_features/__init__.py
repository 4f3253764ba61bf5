"""Chapter 13: can attribution patching rank the features of a sparse autoencoder?

``dictionaries`` has the SAEs; ``measure`` and its kin run a model and keep files; ``rows_of`` makes
a table of these, from which all others follow.
"""

from ..corruptions import compare, estimates
from .dictionaries import (
    contexts,
    digest,
    find,
    folder,
    frame,
    layers_of,
    quality,
    random_directions,
    read,
    report,
    stand_in,
)
from .figures import (
    control_figure,
    error_figure,
    rank_figure,
    scatter_figure,
    size_figure,
    sketch_figure,
)
from .judged import NEARLY_PERFECT, claims, controls
from .measuring import measure, measure_positions, measure_wide, of_heads
from .precision import rounding
from .shares import by_prompt, of_error, on_path
from .shown import (
    against_random,
    cut_by_place,
    listing,
    out_of,
    repaired,
    share_of_largest,
    side_by_side,
    snippet,
    standing_out,
    summary,
    without_largest,
)
from .sketches import price_table, screened, sketched, wide_table
from .tables import (
    NONTRIVIAL,
    WITH_ERROR,
    agreement,
    by_rank,
    by_size,
    errors,
    most_used,
    positions,
    rows_of,
    thresholds,
)

__all__ = [
    "NEARLY_PERFECT",
    "NONTRIVIAL",
    "WITH_ERROR",
    "against_random",
    "agreement",
    "by_prompt",
    "by_rank",
    "by_size",
    "claims",
    "compare",
    "contexts",
    "control_figure",
    "controls",
    "cut_by_place",
    "digest",
    "error_figure",
    "errors",
    "estimates",
    "find",
    "folder",
    "frame",
    "layers_of",
    "listing",
    "measure",
    "measure_positions",
    "measure_wide",
    "most_used",
    "of_error",
    "of_heads",
    "on_path",
    "out_of",
    "positions",
    "price_table",
    "quality",
    "random_directions",
    "rank_figure",
    "read",
    "repaired",
    "report",
    "rounding",
    "rows_of",
    "scatter_figure",
    "screened",
    "share_of_largest",
    "side_by_side",
    "size_figure",
    "sketch_figure",
    "sketched",
    "snippet",
    "stand_in",
    "standing_out",
    "summary",
    "thresholds",
    "wide_table",
    "without_largest",
]
