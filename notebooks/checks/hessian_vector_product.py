"""Checks of chapter 3: derivatives of gradients."""

import torch

from checks import Wrong, check, same

_H = torch.tensor([[2.0, 1.0, 0.0], [1.0, -1.0, 3.0], [0.0, 3.0, 4.0]], dtype=torch.float64)
_SLOPES = torch.tensor([3.0, -1.0, 0.5], dtype=torch.float64)


@check
def check_one_sided(one_sided):
    """A Hessian-vector product from two gradients, one of them at 0."""
    v, step = torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64), 0.25

    def gradient(alpha):
        alpha = alpha.to(torch.float64)
        return _SLOPES + _H @ alpha + alpha**2

    product, bend = _H @ v, step * v**2
    central = "this is the central difference. Take the gradients at step × v and at 0."
    same(
        one_sided(gradient, v, step),
        product + bend,
        [
            (
                (product + bend) / 2,
                "you divide by 2 × step, but the two points are one step apart.",
            ),
            (product, central),
            (-product - bend, "the sign is wrong: the gradient at step × v less the one at 0."),
            (product - bend, "you step backwards: take the gradient at + step × v."),
            (step * (product + bend), "divide the difference by the step."),
            (_SLOPES / step + product + bend, "subtract the gradient at 0."),
            (v @ (product + bend), "this is one number, vᵀHv. Return the whole vector Hv."),
        ],
        "a 3 × 3 Hessian",
    )
    return (
        "here it misses Hv by step × v², an error of first order. "
        "The central difference would be exact."
    )


@check
def check_row_sums(row_sums):
    """The sums of the rows of a Hessian, with one product."""
    calls = []

    def product(v):
        calls.append(v)
        return _H.to(v.dtype) @ v

    off_diagonal = _H.sum(1) - _H.diagonal()
    same(
        row_sums(product, 3),
        _H.sum(1),
        [
            (
                _H.diagonal(),
                "this is the diagonal, each head's own curvature, without interactions.",
            ),
            (
                off_diagonal,
                "the interactions are there. The head's own curvature belongs to the row.",
            ),
            (_H.sum(), "this is the sum of all entries. Return one number for each row."),
            (_H.sum(1) / 3, "these are means. Which v gives the sums?"),
        ],
        "a 3 × 3 Hessian",
    )
    if len(calls) > 1:
        raise Wrong(f"the sums are right, but took {len(calls)} products. One v does it.")
    return "one product gives, for every head, its curvature and all its interactions, added up."


@check
def check_third_derivative(third_derivative):
    """A third derivative at 0."""
    same(
        third_derivative(lambda t: 3 * t**3 + t**2 + 5 * t),
        18,
        [
            (2, "this is the second derivative. Differentiate once more."),
            (5, "this is the first derivative. Differentiate twice more."),
            (3, "this is a sixth of it, the term of Taylor's series. The derivative is wanted."),
        ],
        "g(t) = 3t³ + t² + 5t",
        1e-5,
    )
    at_one = 8 * torch.tensor(2.0).exp()
    same(
        third_derivative(lambda t: torch.exp(2 * t)),
        8,
        [(at_one, "this is the third derivative at t = 1. Take it at 0.")],
        "g(t) = exp(2t)",
        1e-5,
    )
    return "each backward pass through the last one adds an order."
