"""Wrong answers to the exercises of chapter 10, and what the checks say to them."""

import math

import torch


def runs(M, *places):
    """The metric with some components patched."""
    alpha = torch.zeros(M.n)
    for place in places:
        alpha[place] = 1
    return M(alpha)


WRONG = {
    "check_heads_needed": [
        (lambda s, k, p: math.ceil(100 * s / p), "it forgets the patches"),
        (lambda s, k, p: 100 * k / p, "it forgets the screen"),
        (lambda s, k, p: (s + k) / p, "`percent` is in percent"),
        (lambda s, k, p: 100 * (s + k) // p, "it rounds down"),
        (lambda s, k, p: 100 * (s + k) / p, "heads are whole"),
    ],
    "check_interaction": [
        (lambda M, i, j: runs(M, i, j) - runs(M), "Take away what each does alone"),
        (lambda M, i, j: runs(M, i, j), "that is the metric with both patched"),
        (lambda M, i, j: runs(M, i, j) - runs(M, i) - runs(M, j), "add M(0) once at the end"),
        (
            lambda M, i, j: runs(M, i) + runs(M, j) - runs(M, i, j) - runs(M),
            "the sign is turned",
        ),
    ],
}
