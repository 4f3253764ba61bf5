"""Wrong answers to the exercises of chapter 2, and what the checks say to them."""


def shares(nearer, removed):
    """An answer of two shares."""
    return lambda error, rest: (nearer(error, rest), removed(error, rest))


def nearer(error, rest):
    """The first share, right."""
    return 100 * (rest.abs() < error.abs()).double().mean()


def removed(error, rest):
    """The second share, right."""
    return 100 * (1 - rest.abs().sum() / error.abs().sum())


WRONG = {
    "check_two_views": [
        (
            shares(lambda e, r: 100 * (r.abs() > e.abs()).double().mean(), removed),
            "counts the heads that do not come nearer",
        ),
        (shares(lambda e, r: nearer(e, r) / 100, removed), "the shares are in percent"),
        (
            shares(nearer, lambda e, r: 100 * r.abs().sum() / e.abs().sum()),
            "the second share is what is left",
        ),
        (
            shares(nearer, lambda e, r: 100 * (1 - r.abs() / e.abs()).mean()),
            "weighs all heads alike",
        ),
        (
            shares(nearer, lambda e, r: 100 * (1 - r.sum() / e.sum())),
            "errors of opposite sign cancel",
        ),
        (lambda error, rest: nearer(error, rest), "2 are wanted: nearer, %, removed, %"),
    ],
    "check_leading_remainder": [
        (lambda c, h: (c(h) - c(-h)) / (2 * h), "this is the third derivative"),
        (lambda c, h: (c(h) - c(-h)) / h / 6, "the two curvatures are 2h apart, not h"),
        (lambda c, h: (c(-h) - c(h)) / (2 * h) / 6, "the sign is wrong"),
        (lambda c, h: (c(h) - c(0)) / h / 6, "this is a one-sided difference"),
    ],
}
