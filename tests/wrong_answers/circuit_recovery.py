"""Wrong answers to the exercises of chapter 11, and what the checks say to them."""

import numpy as np


def top(values, k):
    """The places of the k largest."""
    return np.argsort(-values)[:k]


WRONG = {
    "check_share_carried": [
        (
            lambda f, est, k: len({*top(abs(f), k)} & {*top(abs(est), k)}) / k,
            "that is the overlap",
        ),
        (
            lambda f, est, k: abs(f)[top(abs(est), k)].sum() / abs(f).sum(),
            "divide by what the true top k carries",
        ),
        (
            lambda f, est, k: abs(f)[top(est, k)].sum() / abs(f)[top(f, k)].sum(),
            "it ranks with the sign",
        ),
        (
            lambda f, est, k: f[top(abs(est), k)].sum() / f[top(abs(f), k)].sum(),
            "Add up sizes",
        ),
    ],
    "check_place": [
        (
            lambda values, head: 1 + (abs(values.mean(0)) > abs(values.mean(0)[head])).sum(),
            "it takes the size of the mean",
        ),
        (
            lambda values, head: (abs(values).mean(0) > abs(values).mean(0)[head]).sum(),
            "places start at 1",
        ),
        (lambda values, head: 1 + (values.mean(0) > values.mean(0)[head]).sum(), "it "),
    ],
}
