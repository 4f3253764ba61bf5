"""Checks of chapter 5: a warning sign, and how to mislead it."""

import torch

from checks import Wrong, check, same


@check
def check_safe_count(safe_count):
    """How many heads may be called safe."""
    R = torch.tensor([0.6, 0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64)
    bad = torch.tensor([True, False, True, False, False, False])
    same(
        safe_count(R, bad, 0.25),
        5,
        [
            (1, "you stop at the first head that lifts the share above the limit. It falls again."),
            (0, "sort the heads by their score first."),
            (4, "sort by rising score: the smallest first."),
            (3, "you count the places where the share is low. Return the last of them."),
        ],
        "six heads, two of them bad, at most a quarter",
    )
    same(
        safe_count(torch.arange(4) / 10, torch.tensor([False, False, False, True]), 0.25),
        4,
        [(3, "“at most” allows a share that equals the limit.")],
        "four heads, the last one bad, at most a quarter",
    )
    return "one early miss does not end the list."


@check
def check_blind_curve(blind_curve):
    """A curve with R = 1 on which attribution patching is exact."""
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    start, end = blind_curve(t), blind_curve(torch.ones_like(t))
    if not (isinstance(start, torch.Tensor) and start.ndim == 0 and start.requires_grad):
        raise Wrong("it has to be a function of t, computed with t itself, that gives one number.")
    (slope,) = torch.autograd.grad(start, t, create_graph=True)
    curvature = torch.zeros(())
    if slope.requires_grad:
        (curvature,) = torch.autograd.grad(slope, t, allow_unused=True, materialize_grads=True)
    slope, effect = slope.item(), (end - start).item()
    if abs(slope) < 1e-9:
        raise Wrong("its slope at 0 is 0, and R divides by it.")
    R = abs(curvature.item() / 2 / slope)
    if abs(R - 0.5) < 1e-6:
        raise Wrong("it has R = ½. The quadratic term is half the second derivative.")
    if abs(R - 1) > 1e-6:
        raise Wrong(f"it has R = {R:.3g}: half its curvature at 0 should be as large as its slope.")
    if abs(effect - slope) > 1e-6:
        raise Wrong(
            f"it has R = 1, but gains {effect:.3g} where attribution patching says {slope:.3g}. "
            "Add something that leaves slope and curvature at 0 as they are."
        )
    return "R says that the estimate is off by 100 %, and it is exact."
