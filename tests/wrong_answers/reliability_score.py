"""Wrong answers to the exercises of chapter 5, and what the checks say to them."""

import torch


def share(bad):
    """The running share of bad heads."""
    return bad.cumsum(0) / torch.arange(1, len(bad) + 1)


def first_stop(R, bad, limit):
    """Stop at the first head that lifts the share above the limit."""
    above = (share(bad[R.argsort()]) > limit).nonzero()
    return int(above.min()) if len(above) else len(R)


def strict(R, bad, limit):
    """Less than the limit."""
    return int((share(bad[R.argsort()]) < limit).nonzero().max()) + 1


WRONG = {
    "check_safe_count": [
        (first_stop, "you stop at the first head that lifts the share above the limit"),
        (
            lambda R, bad, limit: int((share(bad[R.argsort()]) <= limit).sum()),
            "Return the last of them",
        ),
        (strict, "“at most” allows a share that equals the limit"),
    ],
    "check_blind_curve": [
        (lambda t: t + t**2, "Add something that leaves slope and curvature at 0 as they are"),
        (lambda t: t + t**2 / 2 - t**3 / 2, "it has R = ½"),
        (lambda t: t**2, "its slope at 0 is 0"),
        (lambda t: t + 3 * t**2, "it has R = 3"),
        (lambda t: 1.0, "computed with t itself"),
    ],
}
