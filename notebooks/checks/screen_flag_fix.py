"""Checks of chapter 9."""

import torch

from . import Wrong, check, same

__all__ = ["check_either", "check_fix_largest"]


@check
def check_fix_largest(fix_largest):
    """Four heads, of which two may be patched."""
    f_ap, truth = torch.tensor([0.5, -3.0, 1.0, -0.1]), torch.tensor([0.6, -2.0, 4.0, -0.2])
    asked = []

    def patch(c):
        asked.append(int(c))
        return truth[c]

    got = fix_largest(f_ap, patch, 2)
    same(
        got,
        [0.5, -2.0, 4.0, -0.1],
        [
            (truth, "it patches every head. Only the k largest estimates may cost a run."),
            (
                [0.6, -3.0, 4.0, -0.1],
                "it sorts with the sign. A head of −3 is larger than one of 1.",
            ),
            ([-2.0, 4.0], "it returns the patched heads alone. The others keep their estimates."),
            ([0.5, -5.0, 5.0, -0.1], "it adds the patch to the estimate. It takes its place."),
            ([0.6, -3.0, 1.0, -0.2], "it patches the k smallest estimates."),
        ],
        "estimates 0.5, −3, 1, −0.1 and k = 2",
    )
    if sorted(asked) != [1, 2]:
        raise Wrong(f"its numbers are right, but it patches {len(asked)} times. k = 2 runs do.")
    return "two runs mend the two largest estimates, and no score was needed to choose them."


@check
def check_either(either):
    """Five heads, of which one is large and two have a high score."""
    f_ap, q = torch.tensor([2.0, -1.0, 0.2, 0.0, 0.1]), torch.tensor([0.1, 0.2, -0.3, 0.4, 0.04])
    right = torch.tensor([True, True, True, True, False])
    same(
        either(f_ap, q, 2, 0.5),
        right,
        [
            ([0, 0, 0, 0, 0], "no head is flagged: *or*, not *and*."),
            ([1, 1, 0, 0, 0], "the score flags nothing. R is |q| / |f_AP|, without signs."),
            ([0, 0, 1, 1, 0], "the size flags nothing. The k largest belong to it whatever R is."),
            ([1, 0, 1, 1, 0], "it sorts with the sign. A head of −1 is larger than one of 0.2."),
            ([1, 1, 0, 1, 0], "R has no sign: take |q| / |f_AP|."),
            ([1, 1, 0, 0, 1], "R is upside down: |q| / |f_AP|, not |f_AP| / |q|."),
            ([1, 1, 1, 0, 0], "where f_AP is 0 and q is not, R is infinite, which is above any τ."),
            ([0, 1, 2, 3], "it returns places. Return True or False for each head."),
        ],
        "five heads, k = 2 and τ = 0.5",
    )
    return "size finds the large head with a low score, the score the head whose slope is 0."
