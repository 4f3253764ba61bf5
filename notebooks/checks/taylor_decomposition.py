"""Checks of chapter 2: an error, split."""

import torch

from checks import check, parts, same

_ERROR = torch.tensor([0.2, -0.2, 0.2, -0.3, -4.0], dtype=torch.float64)
_REMAINDER = torch.tensor([0.1, -0.1, 0.05, -0.1, -4.2], dtype=torch.float64)


@check
def check_two_views(two_views):
    """The share of heads that come nearer, and the share of the summed error that goes away."""
    nearer, removed = parts(two_views(_ERROR, _REMAINDER), ("nearer, %", "removed, %"))
    left = 100 * (_REMAINDER.abs().sum() / _ERROR.abs().sum())
    each = 100 * (1 - _REMAINDER.abs() / _ERROR.abs()).mean()
    signed = 100 * (1 - _REMAINDER.sum() / _ERROR.sum())
    case = "five heads, the last with nearly all of the error,"
    same(
        nearer,
        80,
        [
            (
                60,
                "the first share compares signed numbers. An error is near when its size is small.",
            ),
            (20, "the first share counts the heads that do not come nearer."),
            (4, "the first number is a count of heads. Divide by all of them, times 100."),
            (0.8, "the shares are in percent: times 100."),
        ],
        f"{case} the first share",
    )
    same(
        removed,
        100 - left,
        [
            (left, "the second share is what is left. Subtract it from 100 %."),
            (
                each,
                "the second share is a mean of the heads' shares, which weighs all heads alike.",
            ),
            (signed, "in the second share errors of opposite sign cancel. Add up their sizes."),
            (1 - left / 100, "the shares are in percent: times 100."),
        ],
        f"{case} the second share",
    )
    return (
        "80 % of these five heads come nearer, and 7 % of their error goes away: one head decides."
    )


@check
def check_leading_remainder(leading_remainder):
    """A sixth of the third derivative, from two curvatures."""
    step = 0.1

    def curvature(t):
        return 2 + 6 * t + t**2  # of a curve with third derivative 6 at 0

    same(
        leading_remainder(curvature, step),
        1,
        [
            (6, "this is the third derivative. Taylor's third term is a sixth of it."),
            (2, "the two curvatures are 2h apart, not h."),
            (12, "the curvatures are 2h apart, and Taylor's third term has a sixth."),
            (-1, "the sign is wrong: the curvature at h less the one at −h."),
            (3, "Taylor's third term is a sixth of the third derivative, not a half of it."),
            ((6 + step) / 6, "this is a one-sided difference. Take h and −h: it is more precise."),
            (2 * step, "this is a difference only. Divide by the distance of the two points."),
        ],
        "a curve with g'''(0) = 6",
    )
    return "two curvatures close to 0 give the leading term of the remainder."
