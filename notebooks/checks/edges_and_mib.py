"""Checks of chapter 12."""

import torch

from . import check, same

__all__ = ["check_missing", "check_through_norm"]


class Path:
    """Four edges: 0 and 1 make a path that carries 6, 2 carries 2, 3 works against with 1.

    As in the chapter, strength 1 cuts an edge.
    """

    n = 4

    def __call__(self, alpha):
        kept = 1 - torch.as_tensor(alpha, dtype=torch.float64)
        return 6 * kept[0] * kept[1] + 2 * kept[2] - kept[3]


@check
def check_missing(missing):
    """Which edge a circuit lacks."""
    same(
        missing(Path(), torch.tensor([True, False, False, False])),
        1,
        [
            (0, "it gives an edge that the circuit has already. Try those that it lacks."),
            (
                2,
                "it weighs each edge by itself. Try it together with the circuit: edge 1 makes a "
                "path.",
            ),
            (3, "the strength of an edge that is kept is 0, and 1 cuts it."),
        ],
        "a path of two edges, of which the circuit has the first",
    )
    same(
        missing(Path(), torch.tensor([False, False, False, False])),
        2,
        [
            (0, "without edge 1, edge 0 brings nothing. Patch strength 0 keeps, and 1 cuts."),
            (3, "it takes the lowest metric, or it cuts what should be kept."),
        ],
        "the empty circuit",
    )
    return "an edge is worth what it does in this circuit: half a path does nothing alone."


def rms(x):
    return x / x.square().mean().sqrt()


@check
def check_through_norm(through_norm):
    """An RMS norm of two numbers."""
    x, change = torch.tensor([3.0, 1.0]).double(), torch.tensor([0.5, 2.0]).double()
    gradient = torch.tensor([1.0, -2.0]).double()
    size = x.square().mean().sqrt()
    frozen = gradient @ change / size
    right = frozen - (gradient @ x) * (x @ change) / 2 / size**3
    same(
        through_norm(rms, x, change, gradient),
        right,
        [
            (
                gradient @ change,
                "it multiplies the change before the norm by the gradient behind it.",
            ),
            (gradient @ rms(change), "it normalises the change itself. The norm was taken at x."),
            (
                frozen,
                "it divides by the size of x and takes that as fixed. The change moves it too.",
            ),
            (
                gradient @ (rms(x + change) - rms(x)),
                "that is the exact step. A score is its slope.",
            ),
        ],
        "an RMS norm of two numbers",
    )
    return "a score passes through the Jacobian of what lies between writer and reader."
