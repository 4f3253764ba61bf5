"""Chapter 12: edges, their scores, and the circuits cut from them."""

from .measure import GRADIENTS, METHODS, SECOND_ORDER, measure, sample

__all__ = ["GRADIENTS", "METHODS", "SECOND_ORDER", "measure", "sample"]
