"""Chapter 15: which failure it is, in toys, in two models, and with every remedy."""

from .census import BADLY, REMEDIES, SETTINGS, Setting, cases, diagnoses, measure, stored

__all__ = ["BADLY", "REMEDIES", "SETTINGS", "Setting", "cases", "diagnoses", "measure", "stored"]
