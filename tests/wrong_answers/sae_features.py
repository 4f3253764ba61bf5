"""Wrong answers to the exercises of chapter 13, and what the checks say to them."""

import torch


def features(encode, W, x, y):
    """What each feature changes."""
    return (encode(y) - encode(x))[:, None] * W


WRONG = {
    "check_pieces": [
        (features, "the error component is missing"),
        (
            lambda encode, W, x, y: torch.cat(
                [features(encode, W, y, x), (x - y - features(encode, W, y, x).sum(0))[None]]
            ),
            "the sign is turned",
        ),
        (
            lambda encode, W, x, y: torch.cat(
                [features(encode, W, x, y), (y - encode(y) @ W)[None]]
            ),
            "the last piece is the *difference*",
        ),
        (
            lambda encode, W, x, y: torch.cat([features(encode, W, x, y), (y - x)[None]]),
            "take the features away from the last piece",
        ),
    ],
    "check_at_strength": [
        (
            lambda ap, second, t: torch.stack([t * ap, t * second]),
            "shrinks with the square of t",
        ),
        (
            lambda ap, second, t: torch.stack([t * ap, t * ap + t**2 * (second - ap) / 2]),
            "the 1/2 is in HVP's correction already",
        ),
        (
            lambda ap, second, t: torch.stack([t * ap, t * ap + t**2 * second]),
            "HVP contains AP",
        ),
    ],
}
