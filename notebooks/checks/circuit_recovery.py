"""Checks of chapter 11."""

import numpy as np

from . import check, same

__all__ = ["check_place", "check_share_carried"]


@check
def check_share_carried(share_carried):
    """Three of five heads; the third and the fourth are nearly equal."""
    truth = np.array([4.0, -3.0, 1.0, -0.9, 0.1])
    estimate = np.array([2.0, -5.0, 0.3, -0.8, 0.2])
    same(
        share_carried(truth, estimate, 3),
        7.9 / 8,
        [
            (2 / 3, "that is the overlap. Weigh each head with its true size."),
            (7.8 / 8, "it adds up the estimates. They choose the heads; the truth weighs them."),
            (7.9 / 9, "divide by what the true top k carries, not by all heads."),
            (7.8 / 9, "it adds up the estimates, and divides by all heads."),
            (5.1 / 5.1, "it ranks with the sign. A circuit is cut by size."),
            (0.1 / 2, "effects of opposite sign cancel in its sums. Add up sizes."),
            (8 / 7.9, "it is upside down."),
        ],
        "five heads and k = 3",
    )
    return (
        "a swap of two heads that are all but equal costs a third of the overlap, and little else."
    )


@check
def check_place(place):
    """Three prompts, four heads; the effects of the first head nearly cancel."""
    values = np.array([[3.0, 1.0, 0.5, -1.5], [-3.0, 1.0, -0.5, -1.5], [0.3, 1.0, 0.5, -1.5]])
    same(
        place(values, 0),
        1,
        [
            (4, "it takes the size of the mean. Effects of both signs cancel there."),
            (0, "places start at 1."),
        ],
        "three prompts on which head 0 has effects 3, −3 and 0.3",
    )
    same(
        place(values, 3),
        2,
        [
            (1, "places start at 1."),
            (3, "it ranks from the smallest."),
            (4, "it ranks with the sign."),
        ],
        "a head with an effect of −1.5 on each of three prompts",
    )
    return "signs cannot cancel any more. A slow start stays slow, whatever the mean."
