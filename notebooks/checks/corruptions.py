"""Checks of chapter 14."""

import numpy as np

from . import check, same

__all__ = ["check_closer_by_place", "check_typical_reduction"]


@check
def check_typical_reduction(typical_reduction):
    """Errors on three prompts."""
    ap, hvp = np.array([10.0, 2.0, 40.0]), np.array([4.0, 3.0, 30.0])
    each = 100 * (1 - hvp / ap)
    same(
        typical_reduction(ap, hvp),
        25.0,
        [
            (0.25, "it is a fraction. Give percent."),
            (-25.0, "the sign is turned: positive where HVP's error is smaller."),
            (75.0, "that is what HVP leaves. Say what it takes away."),
            (100 * (1 - hvp.mean() / ap.mean()), "that is the chapter's ratio of means."),
            (
                100 * (1 - np.median(hvp) / np.median(ap)),
                "that is a ratio of medians. Divide first.",
            ),
            (each.mean(), "that is the mean over prompts. Take the median."),
            (each, "it gives each prompt. Take their median."),
        ],
        "three prompts",
    )
    return "the prompt with the largest errors no longer decides, nor does the one that got worse."


@check
def check_closer_by_place(closer_by_place):
    """Two prompts with three heads each."""
    f = np.array([[0.1, -4.0, 1.0], [2.0, 0.3, -0.5]])
    ap = f + np.array([[0.05, 1.0, 0.4], [0.3, 0.2, 0.1]])
    hvp = f + np.array([[0.01, -2.0, 0.1], [-0.1, 0.1, 0.3]])
    same(
        closer_by_place(f, ap, hvp),
        [0.5, 0.5, 1.0],
        [
            ([1.0, 0.5, 0.5], "it sorts the smallest first, or by head. Place 1 is the largest."),
            ([0.5, 0.5, 0.0], "it counts where AP is closer."),
            ([1.0, 1.0, 0.0], "it sorts with the sign. A head of −4 is the largest here."),
            ([50, 50, 100], "give shares between 0 and 1."),
            (2 / 3, "it averages over all places. Keep them apart."),
            ([1.0, 0.0, 1.0], "it compares estimates with the sign. Compare the sizes of errors."),
        ],
        "two prompts of three heads",
    )
    return "each prompt is sorted by itself: place 1 is another head on another prompt."
