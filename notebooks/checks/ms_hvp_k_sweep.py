"""Checks of chapter 7: how many steps, and when one is too few."""

import torch

from checks import check, same


@check
def check_harmed(harmed):
    """Where one step is worse than none."""
    q = torch.tensor([1.0, 1.0, 1.0, 1.0, -2.0, -2.0, -2.0])
    remainder = torch.tensor([-0.6, -0.4, 1.0, -2.0, 1.2, -3.0, 0.5])
    want = remainder.abs() > (q + remainder).abs()
    opposite = q * remainder < 0
    same(
        harmed(q, remainder),
        want,
        [
            (~want, "these are the heads that one step helps."),
            (opposite, "opposite signs are not enough: the remainder must be more than half of q."),
            (
                remainder.abs() > q.abs(),
                "more than half of q is enough, if the signs are opposite.",
            ),
            (remainder.abs() > q.abs() / 2, "a remainder of the same sign does no harm."),
            (opposite & (remainder.abs() > q.abs()), "more than *half* of q is enough."),
            (remainder > q + remainder, "compare the sizes of the errors, without their signs."),
            (want.nonzero().flatten(), "return True or False for each head, not their numbers."),
        ],
        "seven heads",
    )
    return "HVP is worse when the remainder is opposite to q, and more than half as large."


@check
def check_steps_needed(steps_needed):
    """The number of steps for a tolerance."""
    for start, end in ((-28.0, 2.0), (2.0, -28.0)):
        same(
            steps_needed(start, end, 0.06),
            10,
            [
                (9, "rounded down, the error is above the tolerance. Round up."),
                (84, "the error falls with K², so K is a square root."),
                (83, "the error falls with K², so K is a square root."),
                (23, "the 6 of the formula is missing."),
                ((500 / 6) ** 0.5, "a number of steps is whole. Round up."),
                (1, "a negative change of curvature needs steps as well: take its size."),
            ],
            f"curvatures {start:g} and {end:g}, and a tolerance of 0.06",
        )
    same(
        steps_needed(3.0, 3.0, 0.06),
        1,
        [(0, "no step is no estimate: at least 1.")],
        "a curvature that does not change",
    )
    return "a tenth of the tolerance takes about three times the steps."
