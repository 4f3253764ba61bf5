"""Checks of chapter 6: what three probes can and cannot promise."""

import torch

from checks import Wrong, check, same


@check
def check_safety_factor(safety_factor):
    """The factor that makes an estimate hold for a share of all heads."""
    needed = torch.arange(1, 102, dtype=torch.float64)  # 1 to 101; 90 % of the way is 91
    order = torch.randperm(101, generator=torch.Generator().manual_seed(0))
    ratio = 1 / needed[order]
    same(
        safety_factor(ratio, 0.9),
        91,
        [
            (1 / 91, "this is the inverse of the factor."),
            (11, "this makes it hold for 10 % of the heads only. Which end did you take?"),
            (1 / 11, "this is a quantile of the ratio itself. A head needs a factor of 1 / ratio."),
            (101, "this factor is enough for all heads. 90 % need less."),
            (51, "this is the median: enough for half of the heads."),
        ],
        "101 heads that need the factors 1 to 101, and 90 % of them,",
    )
    return "90 % are covered at 91; the last tenth would need up to 101."


@check
def check_unseen(unseen):
    """A curvature that three probes take for constant."""

    def at(t):
        value = unseen(t)
        if not isinstance(value, torch.Tensor) or value.shape != t.shape:
            raise Wrong("for a tensor of many t it should return one curvature for each.")
        return value.detach()

    probes = at(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64))
    if (probes - probes[0]).abs().max() > 1e-6:
        seen = ", ".join(f"{p:.3g}" for p in probes.tolist())
        raise Wrong(
            f"at t = 0, ½ and 1 it is {seen}: the probes see that it changes, so L_H is not 0."
        )
    t = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    remainder = ((1 - t) * (at(t) - probes[0])).mean().item()
    if abs(remainder) < 1e-4:
        raise Wrong(
            "the probes see nothing, but HVP is exact on this curve: the remainder is 0, and the "
            "bound holds. Let the curvature stray between the probes."
        )
    return f"the three probes promise a remainder of 0, and it is {remainder:.2g}."
