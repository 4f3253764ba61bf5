"""The scoreboard as a page: a card for each claim, and fields to filter them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import pandas as pd

from hvp_utils.claims import VERDICTS

from .collect import ORIGINS
from .items import ITEMS

__all__ = ["cards", "chapter_link", "item_list"]

_MARKS = dict(zip(VERDICTS, ("holds", "partly", "fails", "untested"), strict=True))


def chapter_link(chapter: str, evidence: bool = True) -> str:
    """Where a chapter is, seen from an evidence page of the site."""
    if chapter.startswith("book/"):
        return f"../../{chapter}.html"
    return f"{chapter}.html" if evidence else f"../{chapter}.html"


def _options(name: str, values: Sequence[str], label: str) -> str:
    options = "".join(f"<option>{escape(str(v))}</option>" for v in values)
    return (
        f'<label>{label} <select data-field="{name}"><option value="">all</option>{options}'
        "</select></label>"
    )


def cards(claims: pd.DataFrame) -> str:
    """All claims as HTML. Without scripts all of them are shown and the fields are hidden."""
    fields = (
        '<label>Words <input type="search" data-field="words"></label>'
        + _options("verdict", VERDICTS, "Verdict")
        + _options("origin", ORIGINS, "Source")
        + _options("item", list(ITEMS), "Table or figure")
        + _options("chapter", sorted(claims.number.unique()), "Chapter")
    )
    body = "".join(_card(i, row) for i, row in enumerate(claims.itertuples(), start=1))
    return (
        f'<div class="scoreboard"><form class="scoreboard-fields" hidden>{fields}'
        f'<output aria-live="polite"></output></form>{body}</div>'
    )


def _card(number: int, row) -> str:
    said = row.source if not row.paper else f"{row.paper} ({row.source})"
    command = f"make claims CHAPTER={row.number:02d} MODEL=gpt2"
    facts = (
        ("they", said),
        ("here", row.here),
        ("rule for “holds”", row.rule),
    )
    listed = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts)
    link = chapter_link(row.chapter)
    return (
        f'<article id="claim-{number}" data-verdict="{escape(row.verdict)}" data-origin="{row.origin}" '
        f'data-item="{"|".join(row.items)}" data-chapter="{row.number}">'
        f'<h4><span class="verdict {_MARKS[row.verdict]}">{escape(row.verdict)}</span> {escape(row.claim)}</h4>'
        f"<dl>{listed}</dl>"
        f'<p><a href="{link}">Evidence {row.number}</a> · on a model of the paper: <code>{command}</code></p>'
        "</article>"
    )


def item_list(table: pd.DataFrame) -> pd.DataFrame:
    """``by_item`` for a reader: a count of each verdict, and where it is dealt with."""
    shown = table.copy()
    shown["chapter"] = [
        name.removeprefix("book/").replace("_", " ") for name in shown.pop("chapter")
    ]
    shown.loc[shown.pop("only describes"), "shows"] += " (claims nothing)"
    return shown.rename(columns={"item": "paper", "chapter": "where"})
