"""Write the numbers that pages of prose give: notebooks/results/answer.json."""

import json
import os
import sys
from pathlib import Path

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

from studies import answer  # noqa: E402

TARGET = ROOT / "notebooks" / "results" / "answer.json"


def text() -> str:
    """The file."""
    found = answer.numbers(store=str(TARGET.parent))
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write it whole or not at all."""
    written = TARGET.with_suffix(".tmp")
    written.write_text(text(), encoding="utf-8")
    os.replace(written, TARGET)
    print(TARGET.relative_to(ROOT))


if __name__ == "__main__":
    typer.run(main)
