"""How alike two circuits are, and how well scores find a known one."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.stats import Auroc

from .circuit import Circuit, _scores, graph_of

__all__ = ["Overlap", "auroc", "overlap"]


class Overlap(NamedTuple):
    """How much of a circuit was found.

    Attributes:
        precision: Share of what was found that belongs to it; NaN if nothing was found.
        recall: Share of it that was found; NaN if it is empty.
        jaccard: Share of both together that is in both; NaN if both are empty.
    """

    precision: float
    recall: float
    jaccard: float


def overlap(found: Circuit, known: Circuit) -> Overlap:
    """How much of a known circuit was found.

    High overlap is not faithfulness: one edge that is missing may break all others.
    """
    _checks.instance("found", found, Circuit, "a Circuit")
    _checks.instance("known", known, Circuit, "a Circuit")
    both = len(found & known)

    def share(n: int) -> float:
        return both / n if n else float("nan")

    return Overlap(share(len(found)), share(len(known)), share(len(found | known)))


@of_metric
def auroc(
    M: PatchedMetric, effects: Float[Tensor, " n"], known: Circuit, signed: bool = False
) -> float:
    """The chance that an edge of a known circuit scores higher than another; ties count half.

    Args:
        M: The metric that the effects belong to, over edges.
        effects: One number per edge.
        known: The circuit. NaN if it is empty or holds every edge.
        signed: Whether edges are scored by what they do for the clean behaviour or by magnitude.
    """
    _checks.instance("known", known, Circuit, "a Circuit")
    score = _scores(M, effects, signed)
    if known.graph != graph_of(M):
        raise ValueError("known is a circuit of another graph than M's edges.")
    return Auroc(score[None].numpy(), known.mask()[None].numpy())()
