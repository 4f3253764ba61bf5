"""Wrong answers to the exercises of chapter 9, and what the checks say to them."""


def fixed(f_ap, patch, heads, add=0):
    """Estimates, some of them replaced."""
    out = f_ap.clone()
    for c in heads:
        out[c] = patch(c) + add * f_ap[c]
    return out


def largest(f_ap, k):
    """The k largest estimates."""
    return f_ap.abs().topk(k).indices.tolist()


def patch_all(f_ap, patch, k):
    """Right numbers, from a patch of every head."""
    exact = [patch(c) for c in range(len(f_ap))]
    return fixed(f_ap, lambda c: exact[c], largest(f_ap, k))


def flagged(f_ap, heads):
    """True for some heads."""
    return [c in heads for c in range(len(f_ap))]


WRONG = {
    "check_fix_largest": [
        (lambda f, patch, k: fixed(f, patch, range(len(f))), "it patches every head"),
        (lambda f, patch, k: fixed(f, patch, f.topk(k).indices.tolist()), "it sorts with the sign"),
        (lambda f, patch, k: [patch(c) for c in sorted(largest(f, k))], "the patched heads alone"),
        (
            lambda f, patch, k: fixed(f, patch, largest(f, k), add=1),
            "it adds the patch to the estimate",
        ),
        (patch_all, "but it patches 4 times"),
    ],
    "check_either": [
        (lambda f, q, k, tau: flagged(f, largest(f, k)), "the score flags nothing"),
        (lambda f, q, k, tau: q.abs() > tau * f.abs(), "the size flags nothing"),
        (
            lambda f, q, k, tau: (q.abs() > tau * f.abs()) | (f >= f.sort().values[-k]),
            "it sorts with the sign",
        ),
        (
            lambda f, q, k, tau: (q / f.abs() > tau).logical_or(f.abs() > 0.5),
            "R has no sign",
        ),
        (lambda f, q, k, tau: [0, 1, 2, 3], "True or False for each head"),
    ],
}
