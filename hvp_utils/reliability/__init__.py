"""When to trust attribution patching: scores, bounds, and the Screen-Flag-Fix workflow."""

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
from .screening import Screen, Screened, row_screen, screen, screen_flag_fix

__all__ = [
    "ErrorBounds",
    "Screen",
    "Screened",
    "SelectiveBound",
    "error_bounds",
    "flag",
    "hessian_lipschitz",
    "reliability_score",
    "row_screen",
    "screen",
    "screen_flag_fix",
    "selective_bound",
    "slack",
]
