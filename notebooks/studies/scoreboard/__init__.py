"""Chapter 16: every claim of the sources, its verdict, and where it was tested.

``collect`` reads what evidence pages publish; ``others`` adds what no chapter has; ``items`` knows
the paper's tables and figures; ``page`` and ``figures`` show it.
"""

from .collect import ORIGINS, collect, counts, origin_of
from .figures import COLOURS, counts_figure, title
from .items import ITEMS, by_item, items_of
from .others import claims, load, recommended, recovery_tests
from .page import cards, chapter_link, item_list

__all__ = [
    "COLOURS",
    "ITEMS",
    "ORIGINS",
    "by_item",
    "cards",
    "chapter_link",
    "claims",
    "collect",
    "counts",
    "counts_figure",
    "item_list",
    "items_of",
    "load",
    "origin_of",
    "recommended",
    "recovery_tests",
    "title",
]
