"""Checks of chapter 4: whose curvature it is."""

import torch

from checks import check, same


@check
def check_own_part(own_part):
    """A neuron's local curvature term."""
    gradient, z, delta = torch.tensor(
        [[1.0, -2.0, 0.5], [1.0, 0.5, 2.0], [2.0, 1.0, -1.0]], dtype=torch.float64
    )
    first, second = 3 * z**2, 6 * z  # of z³
    each = gradient * second * delta**2 / 2
    same(
        own_part(gradient, z, delta, lambda z: z**3),
        each.sum(),
        [
            (2 * each.sum(), "the factor ½ is missing."),
            ((second * delta**2).sum() / 2, "you left out the gradient at the neuron's output."),
            ((gradient * second * delta).sum() / 2, "the patch enters squared."),
            ((gradient * first * delta**2).sum() / 2, "this has σ′ where σ″ should be."),
            ((gradient * first * delta).sum(), "this is the neuron's slope, not its curvature."),
            (each, "add the positions up."),
            (each.mean(), "positions are added, not averaged."),
        ],
        "σ(z) = z³ at three positions",
    )
    same(own_part(gradient, z, delta, lambda z: 2 * z + z**2 - z**2), 0, (), "a straight σ")
    return "a straight activation function contributes nothing, whatever lies behind it."


@check
def check_cancelling(cancelling):
    """How often larger the parts are than their sum."""
    parts = torch.tensor([[1.0, 1.0], [3.0, -1.0], [1.0, -3.0], [-2.0, -1.0], [4.0, -3.0]])
    sizes, total = parts.abs().sum(1), parts.sum(1)
    same(
        cancelling(parts),
        sizes / total.abs(),
        [
            (total.abs() / sizes, "this is the inverse: divide by the size of the sum."),
            (sizes / total, "some are negative: take the size of the sum, too."),
            (torch.ones(5), "size of the sum, and sum of the sizes: these are two things."),
            (sizes - total.abs(), "this is a difference. How many *times* larger are the parts?"),
            (sizes, "these are the sizes of the parts. Divide by the size of their sum."),
        ],
        "two parts of five heads",
    )
    return "1 is no cancelling. The last head's parts add up to 7 times their sum."
