"""Wrong answers to the exercises of chapter 7, and what the checks say to them."""

import math


def steps(start, end, tolerance, power=0.5, factor=6, whole=math.ceil):
    """A plan of steps, to be spoiled."""
    return max(1, whole((abs(end - start) / factor / tolerance) ** power))


WRONG = {
    "check_harmed": [
        (lambda q, r: r.abs() < (q + r).abs(), "these are the heads that one step helps"),
        (lambda q, r: q * r < 0, "opposite signs are not enough"),
        (lambda q, r: r.abs() > q.abs() / 2, "a remainder of the same sign does no harm"),
        (lambda q, r: r > q + r, "compare the sizes of the errors"),
        (
            lambda q, r: (r.abs() > (q + r).abs()).nonzero().flatten(),
            "return True or False for each head",
        ),
    ],
    "check_steps_needed": [
        (lambda *a: steps(*a, whole=math.floor), "Round up"),
        (lambda *a: steps(*a, power=1), "K is a square root"),
        (lambda *a: steps(*a, factor=1), "the 6 of the formula is missing"),
        (
            lambda start, end, tolerance: math.ceil((abs(end - start) / 6 / tolerance) ** 0.5),
            "no step is no estimate",
        ),
        (
            lambda start, end, tolerance: (
                math.ceil(max(0, (end - start) / 6 / tolerance) ** 0.5) or 1
            ),
            "a negative change of curvature needs steps as well",
        ),
    ],
}
