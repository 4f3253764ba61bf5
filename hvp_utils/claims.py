"""What a source claims, beside what was found here: the table that ends each chapter.

A chapter publishes its claims as data, so that they can be counted over the whole book.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from hvp_utils import _checks

__all__ = ["VERDICTS", "Claim", "claims_table", "verdict", "write_claims"]

HOLDS, PARTLY, DOES_NOT, UNTESTED = VERDICTS = (
    "holds",
    "holds partly",
    "does not hold here",
    "cannot be tested here",
)


@dataclass(frozen=True)
class Claim:
    """One claim.

    Attributes:
        claim: What is claimed, in a sentence.
        paper: What the paper reports for it, on its models.
        source: Section, table or figure of the paper.
        here: What was measured here.
        verdict: One of ``VERDICTS``.
        rule: What had to be measured for the verdict "holds".

    Raises:
        ValueError: The verdict is none of ``VERDICTS``.
    """

    claim: str
    paper: str
    source: str
    here: str
    verdict: str
    rule: str

    def __post_init__(self) -> None:
        _checks.one_of("verdict", self.verdict, VERDICTS)
        for name, value in vars(self).items():
            _checks.instance(name, value, str, "a text")


def verdict(holds: bool, partly: bool = False) -> str:
    """The verdict on a claim that was tested."""
    holds, partly = _checks.truth("holds", holds), _checks.truth("partly", partly)
    return HOLDS if holds else PARTLY if partly else DOES_NOT


def claims_table(claims: Sequence[Claim]) -> str:
    """The claims as a Markdown table."""
    claims = _claims(claims)
    rows = [
        (c.claim, f"{c.paper} ({c.source})", c.here, f"**{c.verdict}**", c.rule) for c in claims
    ]
    lines = ["| " + " | ".join(_one_line(cell) for cell in row) + " |" for row in rows]
    head = "| claim | paper | here | verdict | rule for *holds* |\n| --- | --- | --- | --- | --- |"
    return "\n".join([head, *lines])


def _claims(claims: Sequence[Claim]) -> list[Claim]:
    claims = _checks.items("claims", claims, "a list of Claim")
    for claim in claims:
        _checks.instance("each of claims", claim, Claim, "a Claim")
    return claims


def _one_line(cell: str) -> str:
    return " ".join(cell.split()).replace("|", "\\|")


def write_claims(
    chapter: str, claims: Sequence[Claim], folder: str | Path = "results/claims"
) -> Path:
    """Write the claims of a chapter, such as ``"05_reliability_score"``, as JSON."""
    _checks.instance("chapter", chapter, str, "the name of a chapter")
    _checks.instance("folder", folder, str | Path, "a folder")
    claims = _claims(claims)
    path = Path(folder) / f"{chapter}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    records = [{"chapter": chapter} | asdict(claim) for claim in claims]
    text = json.dumps(records, indent=1, sort_keys=True, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return path
