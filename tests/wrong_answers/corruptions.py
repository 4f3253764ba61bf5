"""Wrong answers to the exercises of chapter 14, and what the checks say to them."""

import numpy as np


def by_place(f, values, key=lambda f: -np.abs(f)):
    """The mean of values at each place."""
    return np.take_along_axis(values, np.argsort(key(f), axis=1), 1).mean(0)


WRONG = {
    "check_typical_reduction": [
        (lambda ap, hvp: np.median(1 - hvp / ap), "it is a fraction"),
        (lambda ap, hvp: np.median(100 * (hvp / ap - 1)), "the sign is turned"),
        (lambda ap, hvp: 100 * (1 - hvp.mean() / ap.mean()), "that is the chapter's ratio"),
        (lambda ap, hvp: (100 * (1 - hvp / ap)).mean(), "that is the mean over prompts"),
    ],
    "check_closer_by_place": [
        (
            lambda f, ap, hvp: by_place(f, abs(f - hvp) < abs(f - ap), np.abs),
            "it sorts the smallest first",
        ),
        (
            lambda f, ap, hvp: by_place(f, abs(f - hvp) > abs(f - ap)),
            "it counts where AP is closer",
        ),
        (
            lambda f, ap, hvp: 100 * by_place(f, abs(f - hvp) < abs(f - ap)),
            "shares between 0 and 1",
        ),
        (lambda f, ap, hvp: (abs(f - hvp) < abs(f - ap)).mean(), "it averages over all places"),
    ],
}
