"""Wrong answers to the exercises of chapter 15, and what the checks say to them."""

import torch


def slopes(curve, points):
    """The slopes of a curve at points."""
    points = points.clone().requires_grad_()
    return torch.autograd.grad(curve(points).sum(), points)[0]


def middles(n):
    """The middles of n equal pieces of 0 to 1."""
    return (torch.arange(n) + 0.5) / n


WRONG = {
    "check_flip": [
        (lambda direct, indirect: (direct + indirect) / indirect, "the sign is turned"),
        (lambda direct, indirect: (direct + indirect) / direct, "divide by it"),
        (lambda direct, indirect: -direct / indirect, "that is 1 + ε"),
        (lambda direct, indirect: -100 * (direct + indirect) / indirect, "not percent"),
    ],
    "check_mean_slope": [
        (lambda curve, n: slopes(curve, middles(n)).sum(), "it adds the slopes up"),
        (lambda curve, n: slopes(curve, torch.arange(n) / n).mean(), "the beginnings"),
        (lambda curve, n: slopes(curve, torch.linspace(0, 1, n)).mean(), "from 0 to 1"),
        (lambda curve, n: curve(middles(n)).mean(), "it averages values of the path"),
        (lambda curve, n: slopes(curve, middles(n)), "it gives every slope"),
    ],
}
