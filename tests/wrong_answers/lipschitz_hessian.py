"""Wrong answers to the exercises of chapter 6, and what the checks say to them."""

import torch

WRONG = {
    "check_safety_factor": [
        (lambda ratio, share: (1 / ratio).quantile(1 - share), "10 % of the heads only"),
        (lambda ratio, share: ratio.quantile(1 - share), "this is the inverse of the factor"),
        (lambda ratio, share: (1 / ratio).max(), "this factor is enough for all heads"),
        (lambda ratio, share: (1 / ratio).median(), "this is the median"),
    ],
    "check_unseen": [
        (lambda t: t, "the probes see that it changes"),
        (lambda t: torch.ones_like(t), "HVP is exact on this curve"),
        (lambda t: 1.0, "it should return one curvature for each"),
    ],
}
