"""Wrong answers to the exercises of chapter 12, and what the checks say to them."""

import torch


def strengths(kept, extra):
    """Patch strengths of a circuit with one more edge."""
    alpha = (~kept).double()
    alpha[extra] = 0
    return alpha


def lacking(kept):
    """Edges that a circuit lacks."""
    return [edge for edge in range(len(kept)) if not kept[edge]]


def by_itself(M, kept):
    """The best edge on its own."""
    nothing = torch.zeros(M.n, dtype=torch.bool)
    return max(lacking(kept), key=lambda edge: float(M(strengths(nothing, edge))))


def turned(M, kept):
    """Strength 1 taken for an edge that is kept."""
    return max(lacking(kept), key=lambda edge: float(M(1 - strengths(kept, edge))))


WRONG = {
    "check_missing": [
        (by_itself, "it weighs each edge by itself"),
        (lambda M, kept: 0, "it gives an edge that the circuit has already"),
        (turned, "the strength of an edge that is kept is 0"),
    ],
    "check_through_norm": [
        (lambda norm, x, change, g: g @ change, "it multiplies the change before the norm"),
        (lambda norm, x, change, g: g @ norm(change), "it normalises the change itself"),
        (
            lambda norm, x, change, g: g @ change / x.square().mean().sqrt(),
            "it divides by the size of x",
        ),
        (lambda norm, x, change, g: g @ (norm(x + change) - norm(x)), "that is the exact step"),
    ],
}
