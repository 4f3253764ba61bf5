"""Copy the figure of the book, chapter 1's curve, to where the landing page and README show it."""

import base64
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
CHAPTER = ROOT / "notebooks" / "01_one_head.ipynb"
FIGURE = ROOT / "book" / "_static" / "main_figure.png"


def main_figure(chapter: Path = CHAPTER) -> bytes:
    """Return the image that ``plots.axis_curve`` drew in an executed notebook, as PNG."""
    for cell in nbformat.read(chapter, as_version=4).cells:
        for output in cell.get("outputs", []) if "axis_curve(" in cell.source else []:
            if "image/png" in output.get("data", {}):
                return base64.b64decode(output["data"]["image/png"])
    raise ValueError(f"{chapter.name} holds no curve; execute it with `make book`.")


if __name__ == "__main__":
    FIGURE.write_bytes(main_figure())
