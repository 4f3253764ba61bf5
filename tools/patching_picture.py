"""Draw what patching is, as in chapter 1, to where the introduction shows it."""

import sys
from pathlib import Path

import matplotlib

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "book" / "_static" / "patching.png"


def draw(target: Path = FIGURE) -> None:
    """Write the picture as PNG; the same picture gives the same file."""
    matplotlib.use("agg")
    sys.path.insert(0, str(ROOT / "notebooks"))
    from hvp_utils import plots
    from studies.first_steps import patching_picture

    plots.use_style()
    patching_picture().savefig(target, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    draw()
