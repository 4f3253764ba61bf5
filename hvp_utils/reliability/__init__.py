"""When to trust attribution patching: scores, bounds, Screen-Flag-Fix, what was missed."""

from .bounds import (
    ErrorBounds,
    SelectiveBound,
    error_bounds,
    flag,
    hessian_lipschitz,
    reliability_score,
    selective_bound,
    slack,
)
from .missed import MissedBound, missed_bound, subsets_needed
from .screening import Screen, Screened, row_screen, screen, screen_flag_fix

__all__ = [
    "ErrorBounds",
    "MissedBound",
    "Screen",
    "Screened",
    "SelectiveBound",
    "error_bounds",
    "flag",
    "hessian_lipschitz",
    "missed_bound",
    "reliability_score",
    "row_screen",
    "screen",
    "screen_flag_fix",
    "selective_bound",
    "slack",
    "subsets_needed",
]
