"""Checks of chapter 15."""

import torch

from . import check, same

__all__ = ["check_flip", "check_mean_slope"]


@check
def check_flip(flip):
    """The toy of the chapter, and one whose total is negative."""
    for direct, indirect in ((5.0, -4.8), (3.0, -4.0)):
        total = direct + indirect
        same(
            flip(direct, indirect),
            -total / indirect,
            [
                (
                    total / indirect,
                    "the sign is turned: put ε back into direct + indirect · (1 + ε).",
                ),
                (total / direct, "the error is that of the *indirect* effect: divide by it."),
                (-total, "that is the error in nats. Divide by the indirect effect."),
                (-direct / indirect, "that is 1 + ε."),
                (-100 * total / indirect, "give a fraction, not percent."),
                (direct / total, "divide the total by the indirect effect, with the sign turned."),
            ],
            f"direct {direct:g}, indirect {indirect:g}",
        )
    return "where two effects nearly cancel, an error of a few percent in one turns the sum's sign."


@check
def check_mean_slope(mean_slope):
    """A cube, on which midpoints and ends differ."""

    def cube(t):
        return t**3

    n = 4
    points = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    slopes = 3 * points**2
    left, right = (3 * ((torch.arange(n) + e) / n) ** 2 for e in (0, 1))
    ends = 3 * torch.linspace(0, 1, n) ** 2
    same(
        mean_slope(cube, n),
        slopes.mean(),
        [
            (slopes.sum(), "it adds the slopes up. Take their mean."),
            (left.mean(), "it takes the beginnings of the pieces. Take their middles."),
            (right.mean(), "it takes the ends of the pieces. Take their middles."),
            (
                ends.mean(),
                "its points go from 0 to 1, both included. Take middles of n equal pieces.",
            ),
            (1.0, "that is the exact effect. What do n slopes say?"),
            ((points**3).mean(), "it averages values of the path. Average its slopes."),
            (slopes, "it gives every slope. Take their mean."),
        ],
        "t³ and n = 4",
        1e-4,
    )
    return "no slope is taken where nothing moves, at the start alone; a step may still be missed."
