"""What patching is, as a drawing: two runs, and one activation moved from one to the other."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch

__all__ = ["patching_picture"]

#: Okabe and Ito's blue for the clean run, orange for the corrupted one; a dark ink for the rest.
CLEAN, CORRUPTED, INK = "#0072B2", "#E69F00", "#222222"
LAYERS, HEADS, PATCHED = 4, 5, (1, 0)  # of the drawing; the layer and the head that is moved


def _box(ax: Axes, x: float, y: float, width: float, text: str, edge: str) -> None:
    shape = "round,pad=0.02,rounding_size=0.12"
    box = FancyBboxPatch(
        (x - width / 2, y - 0.28), width, 0.56, boxstyle=shape, fc="white", ec=edge
    )
    box.set_linewidth(1.8)
    ax.add_patch(box)
    ax.text(x, y, text, ha="center", va="center", fontsize=11, color=INK)


def _head(ax: Axes, x: float, y: float, colour: str, filled: bool, width: float = 1.2) -> None:
    face = colour if filled else "white"
    ax.add_patch(Circle((x, y), 0.2, fc=face, ec=colour, lw=width, zorder=3))


def _run(
    ax: Axes, middle: float, name: str, words: str, read: str, colour: str, patched: bool
) -> tuple[float, float]:
    """One run, from its prompt at the bottom to the metric at the top; where its one head stands."""
    low, high = 1.1, 1.1 + LAYERS
    ax.text(middle, -0.75, name, ha="center", fontsize=12.5, weight="bold", color=INK)
    _box(ax, middle, 0, 4.3, words, colour)
    _box(ax, middle, high + 0.75, 4.3, read, INK if patched else colour)
    for start, end in ((0.3, low - 0.2), (high + 0.05, high + 0.45)):
        ax.add_patch(
            FancyArrowPatch(
                (middle, start), (middle, end), arrowstyle="-|>", mutation_scale=13, color=INK
            )
        )
    layer, number = PATCHED
    if patched:  # whatever comes after the patch may answer to it
        band = (middle - 1.75, low + layer + 0.92), 3.5, LAYERS - layer - 1
        ax.add_patch(
            FancyBboxPatch(
                *band, boxstyle="round,pad=0.0,rounding_size=0.15", fc="#d7e8f5", ec="none"
            )
        )
    for row in range(LAYERS):
        for column in range(HEADS):
            x, y = middle + 0.6 * (column - (HEADS - 1) / 2), low + row + 0.42
            one = (row, column) == PATCHED
            own = CLEAN if patched and one else colour
            _head(ax, x, y, own, one, 2.4 if one else 1.2)
    return middle + 0.6 * (number - (HEADS - 1) / 2), low + layer + 0.42


def patching_picture(
    words: Sequence[str] = ("… John gave a drink to", "… Mary gave a drink to"),
    metrics: Sequence[str] = ("log p(Mary): high", "log p(Mary): how far up?"),
    head: str = "one head",
) -> Figure:
    """Draw two runs of a model, and the activation of one head that is moved between them.

    Args:
        words: The ends of the clean and the corrupted prompt.
        metrics: What to write in the box of the metric, for the clean and the patched run.
        head: What the moved head is called.
    """
    fig, ax = plt.subplots(figsize=(7.6, 4.2))
    left, right = 2.3, 9.2
    start = _run(ax, left, "clean run", words[0], metrics[0], CLEAN, patched=False)
    end = _run(ax, right, "corrupted run, patched", words[1], metrics[1], CORRUPTED, patched=True)
    middle = (left + right) / 2
    ax.add_patch(
        FancyArrowPatch(
            (start[0] + 0.26, start[1]),
            (end[0] - 0.26, end[1]),
            arrowstyle="-|>",
            mutation_scale=20,
            lw=2.6,
            color=CLEAN,
            zorder=2,  # behind the other heads
        )
    )
    text = f"put what {head}\ncomputed here …"
    ax.text(middle, start[1] + 0.22, text, ha="center", va="bottom", fontsize=10.5, color=INK)
    ax.text(
        middle, start[1] - 0.2, "… into this run", ha="center", va="top", fontsize=10.5, color=INK
    )
    ax.text(
        right + 1.95,
        end[1] + 1.5,
        "all that comes\nafter reacts",
        fontsize=10.5,
        va="center",
        color=INK,
    )
    ax.text(
        right + 1.95,
        end[1] - 0.5,
        "all else\nstays as it was",
        fontsize=10.5,
        va="center",
        color=INK,
    )
    ax.text(
        left - 2.0,
        start[1] + 0.5,
        "layers\nof heads",
        fontsize=10.5,
        va="center",
        ha="right",
        color=INK,
    )
    ax.set(xlim=(-1.35, 13.0), ylim=(-0.95, LAYERS + 2.2), aspect="equal")
    ax.set_axis_off()
    return fig
