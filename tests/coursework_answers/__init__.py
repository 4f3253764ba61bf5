"""Typical wrong answers to the problem sets, and the marks that each must get.

One module a set, named like its source, with a dictionary from each question to its wrong answers:

    WRONG = {"q1": [Wrong("forgot the half", 0, '''def curvature_term(g): ...'''), ...], ...}
"""

from typing import NamedTuple


class Wrong(NamedTuple):
    """One wrong answer: what the mistake is, the marks it gets, and the source of its cell.

    `told` is part of what its check must say, where the check might blame something else.
    """

    mistake: str
    marks: float
    code: str
    told: str = ""
