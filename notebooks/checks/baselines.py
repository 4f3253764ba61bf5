"""Checks of chapter 8: better rules for the same curve."""

import numpy as np
import torch

from checks import check, same


@check
def check_extrapolated(extrapolated):
    """Two estimates, combined so that their leading errors cancel."""
    truth, constant = 2.0, 10.0
    f5, f10 = truth + constant / 5**2, truth + constant / 10**2
    same(
        extrapolated(torch.tensor(f5), torch.tensor(f10)),
        truth,
        [
            (
                2 * f10 - f5,
                "this cancels an error in 1/K. It is 1/K²: a quarter at twice the steps.",
            ),
            ((f5 + f10) / 2, "a mean keeps most of the error of the worse one."),
            ((4 * f5 - f10) / 3, "you swapped the two: the better one counts 4 times."),
            (4 * f10 - f5, "the weights must add up to 1: divide by 3."),
            ((4 * f10 + f5) / 5, "one of the weights must be negative, or nothing cancels."),
        ],
        "an effect of 2, and estimates that miss it by 10/K²,",
        1e-5,
    )
    return "the term in 1/K² is gone, without one more curvature."


@check
def check_repaired(repaired):
    """Attribution patching and the curvature with the weight that is needed."""
    points, weights = np.polynomial.legendre.leggauss(3)
    s, w = torch.tensor((points + 1) / 2), torch.tensor(weights / 2)
    slope, curvature = torch.tensor(4.0, dtype=torch.float64), 6 * s  # of 4t + t³

    def area(weight):
        return slope + (w * weight * curvature).sum()

    same(
        repaired(slope, curvature, s, w),
        5,
        [
            (1, "attribution patching, the slope, is missing."),
            (area(-s * s.log()), "this is the old weight, −s ln s."),
            (area(s), "the weight is 1 − s: what bends early has the longest way to act."),
            (area(1), "this is the slope at the end. The curvature needs its weight, 1 − s."),
            (area(1 - s) + area(1 - s) - 2 * slope, "the slope is missing, and a factor too much."),
            (slope + ((1 - s) * curvature).mean(), "use the weights of the rule, not a mean."),
            (slope + ((1 - s) * curvature).sum(), "the weights of the rule are missing."),
            (area(1 - s) - 2 * (area(1 - s) - slope), "the correction is added, not subtracted."),
        ],
        "g(t) = 4t + t³",
    )
    return "three curvatures and the right weight give the whole effect of a cubic."
