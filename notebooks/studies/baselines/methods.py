"""The methods of chapter 8: what each is called, what kind it is, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import pandas as pd

from hvp_utils import model_sizes

from .. import prices

__all__ = ["AP", "METHODS", "OTHER_GRADIENTS", "SWEPT", "TASKS", "Method", "label", "priced"]

TASKS = {"ioi": "IOI", "greater_than_01": "Greater-Than", "factual": "Factual"}
AP = "attribution_patching"


class Method(NamedTuple):
    """A method as the reader meets it.

    Attributes:
        label: Its name.
        family: What it takes its numbers from.
        paper: What the paper counts for it, in backward passes.
    """

    label: str
    family: str
    paper: str = "–"


def _ig(points: int, rule: str) -> Method:
    return Method(f"IG, {rule}, {points} points", "slopes along the way", f"{points}")


def _ih(name: str, paper: str) -> Method:
    return Method(f"IH, {name}", "Integrated Hessians", paper)


#: By the names that ``sweep`` takes, and ``"two_ends"``, which is made from two stored sums.
METHODS = {
    AP: Method("attribution patching", "one gradient", "1"),
    "gim": Method("GIM", "another gradient", "1"),
    "relp": Method("RelP", "another gradient"),
    "atp_star": Method("AtP*", "another gradient"),
    "hvp": Method("HVP", "Taylor", "2"),
    "finite_difference_hvp": Method("finite differences, ε = 0.01", "Taylor"),
    "two_ends": Method("slopes at both ends", "slopes along the way"),
    "third_order": Method("third order", "Taylor"),
    "gauss_newton": Method("Gauss–Newton", "Taylor"),
    **{f"ms_hvp:{k}": Method(f"MS-HVP, K = {k}", "MS-HVP", f"{2 * k}") for k in (2, 5, 10)},
    "ms_hvp_median": Method("MS-HVP, median of K = 5, 10, 20", "MS-HVP", "40"),
    "integrated_gradients:5:midpoint": _ig(5, "midpoint"),
    "integrated_gradients:5:gausslegendre": _ig(5, "Gauss–Legendre"),
    "integrated_gradients:10:left": _ig(10, "left"),
    "integrated_gradients:10:right": _ig(10, "right"),
    "integrated_gradients:10:trapezoid": _ig(10, "trapezoid"),
    "integrated_gradients:10:midpoint": _ig(10, "midpoint"),
    "integrated_gradients:10:gausslegendre": _ig(10, "Gauss–Legendre"),
    "integrated_gradients:35:right": _ig(35, "right"),
    "integrated_hessians:5": _ih("pairwise, path of 5", "10"),
    "integrated_hessians:3:grid:pairwise:right": _ih("pairwise, 3×3 grid", "18"),
    "integrated_hessians:5:grid:pairwise:right": _ih("pairwise, 5×5 grid", "50"),
    "integrated_hessians:5:grid:complete:gausslegendre": _ih("complete, 5×5 Gauss–Legendre", "–"),
}

#: Those that change the backward pass; they rank all heads.
OTHER_GRADIENTS = ("gim", "relp", "atp_star")
#: Those that follow one head along its axis, as ``sweep`` calls them.
SWEPT = tuple(m for m in METHODS if m not in (AP, *OTHER_GRADIENTS, "two_ends"))


def label(method: str) -> str:
    """The name of a method for the reader."""
    return METHODS[method].label


def priced(models: Sequence[str]) -> pd.DataFrame:
    """Operations of every method for all heads, counted by the package.

    Returns:
        Columns model, method, runs (exact patches of one head, for one head) and percent (of
        patching every head exactly). Slopes at both ends cost what a finite difference costs,
        whatever its step.
    """
    parts = []
    for model in models:
        names = {m: "finite_difference_hvp" if m == "two_ends" else m for m in METHODS}
        counts = prices.counted(model_sizes(model), tuple(dict.fromkeys(names.values())))
        percent = counts.set_index("method").percent
        rows = [(model, m, percent[name] / 100, percent[name]) for m, name in names.items()]
        parts.append(pd.DataFrame(rows, columns=["model", "method", "runs", "percent"]))
    return pd.concat(parts, ignore_index=True)
