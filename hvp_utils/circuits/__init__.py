"""Circuits: sets of edges, what they keep of a behaviour, and how they are found."""

from .circuit import Circuit, importance
from .compare import Overlap, auroc, overlap
from .faithfulness import FRACTIONS, Curve, Kept, cmd, cpr, curve, faithfulness
from .search import Found, acdc, edge_pruning, hap, with_kl

__all__ = [
    "FRACTIONS",
    "Circuit",
    "Curve",
    "Found",
    "Kept",
    "Overlap",
    "acdc",
    "auroc",
    "cmd",
    "cpr",
    "curve",
    "edge_pruning",
    "faithfulness",
    "hap",
    "importance",
    "overlap",
    "with_kl",
]
