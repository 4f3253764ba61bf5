"""Checks of chapter 13."""

import torch

from . import check, same

__all__ = ["check_at_strength", "check_pieces"]


def encode(x):
    return torch.stack([x[0].relu(), (x[1] - 1).relu()])


@check
def check_pieces(pieces):
    """Two features in three dimensions."""
    W = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.5, 0.5]])
    x, y = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 5.0, 2.0])
    features = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.5, 1.5]])
    error = torch.tensor([[0.0, 1.5, -2.5]])
    whole = torch.cat([features, error])
    rest = (y - encode(y) @ W)[None]
    same(
        pieces(encode, W, x, y),
        whole,
        [
            (features, "the error component is missing: what the features leave of y − x, last."),
            (-whole, "the sign is turned: from x to y."),
            (
                torch.cat([features, rest]),
                "the last piece is the *difference* of both runs' errors.",
            ),
            (
                torch.cat([encode(y)[:, None] * W, error]),
                "a feature that is active in both runs changes only by the difference.",
            ),
            (
                torch.stack([whole[0], whole[1], (y - x)]),
                "take the features away from the last piece: the rows add up to y − x.",
            ),
            (features.sum(0), "keep the pieces apart: one row for each."),
        ],
        "two features",
    )
    return "the pieces add up to y − x, however little of it the features explain."


@check
def check_at_strength(at_strength):
    """Two features at full strength, and at a third of it."""
    ap, second, t = torch.tensor([3.0, -1.0]), torch.tensor([12.0, 8.0]), 1 / 3
    q = second - ap
    same(
        at_strength(ap, second, t),
        torch.stack([t * ap, t * ap + t**2 * q]),
        [
            (torch.stack([t * ap, t * second]), "HVP's second term shrinks with the square of t."),
            (
                torch.stack([t * ap, t * ap + t**2 * q / 2]),
                "the 1/2 is in HVP's correction already: that is second − ap.",
            ),
            (
                torch.stack([t * ap, t * ap + t**2 * second]),
                "HVP contains AP: square t for the rest only.",
            ),
            (
                torch.stack([t * ap, t**2 * second]),
                "AP's part of HVP shrinks with t, the rest with t².",
            ),
            (torch.stack([ap, ap + t**2 * q]), "AP's estimate shrinks with t."),
        ],
        "t = 1/3",
    )
    return "AP lacks the square from t² on, HVP the cube: so they err by different powers of t."
