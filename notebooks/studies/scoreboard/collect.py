"""All claims of the book, from the files that the evidence pages publish."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from hvp_utils.claims import VERDICTS

from .items import items_of
from .others import ARTICLE, REVIEW, TUTORIAL

__all__ = ["ORIGINS", "collect", "counts", "origin_of"]

ORIGINS = ("paper", "article", "review", "tutorial")
_NAMED = {ARTICLE: "article", REVIEW: "review", TUTORIAL: "tutorial"}


def origin_of(source: str) -> str:
    """Which of the sources a claim comes from."""
    return next((name for text, name in _NAMED.items() if text in source), "paper")


def collect(folder: str | Path = "results/claims") -> pd.DataFrame:
    """One row for each published claim.

    Returns:
        Columns chapter, number (of the chapter), claim, paper, source, here, verdict, rule, origin,
        items (tables and figures of the paper).

    Raises:
        ValueError: A verdict that is none of ``VERDICTS``, or no claims at all.
    """
    records = [
        record
        for file in sorted(Path(folder).glob("[0-9][0-9]_*.json"))
        for record in json.loads(file.read_text(encoding="utf-8"))
    ]
    if not records:
        raise ValueError(f"{folder} holds no claims: execute the evidence pages first.")
    table = pd.DataFrame(records)
    if unknown := set(table.verdict) - set(VERDICTS):
        raise ValueError(f"Unknown verdicts {sorted(unknown)}.")
    return table.assign(
        number=table.chapter.str[:2].astype(int),
        origin=table.source.map(origin_of),
        items=table.source.map(items_of),
    )


def counts(claims: pd.DataFrame, by: str) -> pd.DataFrame:
    """How many claims have each verdict, a row for each value of a column."""
    table = pd.crosstab(claims[by], claims.verdict).reindex(columns=VERDICTS, fill_value=0)
    return table.assign(all=table.sum(axis=1)).reset_index()
