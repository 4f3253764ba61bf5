"""Wrong answers to the exercises of chapter 1, and what the checks say to them."""

import torch


def slope(g, t):
    """The slope of a curve."""
    t = torch.tensor(float(t), requires_grad=True)
    return torch.autograd.grad(g(t), t)[0]


WRONG = {
    "check_other_direction": [
        (lambda g: (g(1.0) - g(0.0), -slope(g, 1)), "the effect has the wrong sign"),
        (lambda g: (g(0.0) - g(1.0), slope(g, 1)), "the estimate has the wrong sign"),
        (lambda g: (g(0.0) - g(1.0), -slope(g, 0)), "this is the tangent at t = 0"),
        (lambda g: -slope(g, 1), "it returns 1 value(s), and 2 are wanted"),
    ],
    "check_both_ends": [
        (lambda g: slope(g, 0) + slope(g, 1), "the sum of the two slopes"),
        (lambda g: slope(g, 0), "attribution patching"),
        (lambda g: g(1.0) - g(0.0), "this is the true effect"),
        (lambda g: 4.5, "for a straight line"),
    ],
}
