"""How many claims hold, as a picture."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hvp_utils.claims import VERDICTS

from ..panels import headline

__all__ = ["COLOURS", "counts_figure", "title"]

#: Verdicts by colour and hatching, so that nothing is told by colour alone.
COLOURS = dict(
    zip(
        VERDICTS,
        (("#0072B2", ""), ("#56B4E9", "//"), ("#D55E00", "xx"), ("#bbbbbb", "..")),
        strict=True,
    )
)


def title(claims: pd.DataFrame) -> str:
    """The finding: how many of the claims that were tested hold."""
    tested = claims[claims.verdict != VERDICTS[3]]
    n = [(tested.verdict == verdict).sum() for verdict in VERDICTS[:3]]
    return (
        f"Of {len(tested)} claims that were tested, {n[0]} hold, {n[1]} hold partly, {n[2]} do not"
    )


def counts_figure(table: pd.DataFrame, by: str, says: str) -> Figure:
    """Stacked bars: claims of each group by verdict.

    Args:
        table: What ``counts`` gives.
        by: The column that names the groups.
        says: What the figure says.
    """
    fig, ax = plt.subplots(figsize=(8, 0.42 * len(table) + 1.7))
    left = pd.Series(0, index=table.index)
    for verdict, (colour, hatch) in COLOURS.items():
        bars = ax.barh(
            table[by].astype(str),
            table[verdict],
            left=left,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=verdict,
        )
        labels = [str(n) if n else "" for n in table[verdict]]
        ax.bar_label(
            bars,
            labels,
            label_type="center",
            fontsize=9,
            bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.85},
        ) if any(labels) else None
        left += table[verdict]
    for text in ax.texts:
        if not text.get_text():
            text.set_bbox(None)
    ax.invert_yaxis()
    ax.set_xlabel("claims")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", visible=False)
    fig.legend(loc="outside lower center", ncols=4, fontsize=9)
    headline(fig, says)
    return fig
