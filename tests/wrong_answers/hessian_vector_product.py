"""Wrong answers to the exercises of chapter 3, and what the checks say to them."""

import torch


def each_row(product, n):
    """The sums of the rows, with a product for each column."""
    return sum(product(v) for v in torch.eye(n))


def derivative(order, at=0.0):
    """A function that takes a derivative of a curve."""

    def take(g):
        value = g(t := torch.tensor(at, requires_grad=True))
        for _ in range(order):
            (value,) = torch.autograd.grad(value, t, create_graph=True)
        return value

    return take


WRONG = {
    "check_one_sided": [
        (lambda g, v, h: (g(h * v) - g(0 * v)) / (2 * h), "the two points are one step apart"),
        (lambda g, v, h: (g(h * v) - g(-h * v)) / (2 * h), "this is the central difference"),
        (lambda g, v, h: (g(0 * v) - g(h * v)) / h, "the sign is wrong"),
        (lambda g, v, h: g(h * v) - g(0 * v), "divide the difference by the step"),
        (lambda g, v, h: v @ (g(h * v) - g(0 * v)) / h, "Return the whole vector Hv"),
    ],
    "check_row_sums": [
        (lambda p, n: torch.stack([p(e)[i] for i, e in enumerate(torch.eye(n))]), "the diagonal"),
        (lambda p, n: p(torch.ones(n)).sum(), "the sum of all entries"),
        (lambda p, n: p(torch.ones(n)) / n, "these are means"),
        (each_row, "the sums are right, but took 3 products"),
    ],
    "check_third_derivative": [
        (derivative(2), "this is the second derivative"),
        (derivative(1), "this is the first derivative"),
        (lambda g: derivative(3)(g) / 6, "this is a sixth of it"),
        (derivative(3, at=1.0), "this is the third derivative at t = 1"),
    ],
}
