"""Wrong answers to the exercises of chapter 4, and what the checks say to them."""

import torch


def derivatives(function, z):
    """First and second derivative of a function of each number."""
    z = z.clone().requires_grad_()
    (first,) = torch.autograd.grad(function(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    return first.detach(), second


WRONG = {
    "check_own_part": [
        (lambda g, z, d, f: (g * derivatives(f, z)[1] * d**2).sum(), "the factor ½ is missing"),
        (lambda g, z, d, f: (derivatives(f, z)[1] * d**2).sum() / 2, "you left out the gradient"),
        (lambda g, z, d, f: (g * derivatives(f, z)[1] * d).sum() / 2, "the patch enters squared"),
        (lambda g, z, d, f: (g * derivatives(f, z)[0] * d).sum(), "this is the neuron's slope"),
        (lambda g, z, d, f: g * derivatives(f, z)[1] * d**2 / 2, "add the positions up"),
    ],
    "check_cancelling": [
        (lambda parts: parts.sum(1).abs() / parts.abs().sum(1), "this is the inverse"),
        (lambda parts: parts.abs().sum(1) / parts.sum(1), "some are negative"),
        (lambda parts: parts.abs().sum(1) - parts.sum(1).abs(), "this is a difference"),
        (lambda parts: parts.abs().sum(1), "Divide by the size of their sum"),
    ],
}
