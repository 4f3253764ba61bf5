"""Checks of chapter 10."""

import torch

from . import check, same

__all__ = ["check_heads_needed", "check_interaction"]


@check
def check_heads_needed(heads_needed):
    """A screen of eleven runs, and of 4.5."""
    for screen, patches, percent, right in ((11, 10, 10, 210), (4.5, 10, 30, 49)):
        total = screen + patches
        same(
            heads_needed(screen, patches, percent),
            right,
            [
                (100 * screen / percent, "it forgets the patches, a run each."),
                (100 * patches / percent, "it forgets the screen."),
                (total / percent, "`percent` is in percent: 10 means a tenth."),
                (total * percent / 100, "it takes the share of the price, not of all heads."),
                (100 * total // percent, "it rounds down, which is one head too few."),
                (100 * total / percent, "heads are whole: round up."),
            ],
            f"a screen of {screen} runs, {patches} patches and {percent} %",
        )
    return "the screen costs the same for any number of heads, so its share falls as they grow."


class Small:
    """A metric of three components, two of which interact."""

    n = 3

    def __call__(self, alpha):
        a, b, c = torch.as_tensor(alpha, dtype=torch.float64)
        return 5 + a - 2 * b + 3 * a**2 + 4 * a * b + c


@check
def check_interaction(interaction):
    """Two components that interact, and two that do not."""
    same(
        interaction(Small(), 0, 1),
        4.0,
        [
            (6.0, "that is what the two do together. Take away what each does alone."),
            (11.0, "that is the metric with both patched. Take away what each does alone."),
            (-1.0, "add M(0) once at the end: each M(e) that you took away contains it."),
            (-6.0, "M(0) is to be added, not taken away."),
            (-4.0, "the sign is turned: what both do, less what each does."),
            (2.0, "there is no factor 1/2: it has no square to share."),
        ],
        "5 + a − 2b + 3a² + 4ab + c, components 0 and 1",
    )
    same(interaction(Small(), 1, 2), 0.0, [], "two components that do not interact")
    return "what bends by itself, 3a², drops out; only the term of both, 4ab, is left."
