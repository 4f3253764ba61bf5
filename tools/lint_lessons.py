"""What a lesson may be: short. Reports every one that is longer (`make lint` runs this).

A lesson is notebooks/NN_name: one question, for someone who wants to understand. Its evidence page
has no limits.
"""

import ast
import re
from pathlib import Path

import jupytext
import nbformat
import run_notebooks
import setup_cell
import typer

LINES, WORDS, FIGURES, TABLES, ROWS, CELL, HIDDEN = 350, 1500, 3, 3, 8, 15, 1 / 5
HIDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def code_lines(source):
    """Lines of a cell, without those that import something and those of the setup."""
    if source.startswith(setup_cell.FIRST_LINE):
        return []
    text = re.sub(r"^(\s*)[!%].*$", r"\1pass", source, flags=re.MULTILINE)
    imports = {
        number
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for number in range(node.lineno, node.end_lineno + 1)
    }
    lines = enumerate(source.splitlines(), start=1)
    return [line for number, line in lines if number not in imports and line.strip()]


def tables_of(text):
    """Numbers of rows of the Markdown tables in a text."""
    return [
        match.group().count("\n") - 2
        for match in re.finditer(r"(?:^[ >]*\|.*\n?){3,}", text + "\n", re.MULTILINE)
    ]


def words_of(text):
    """How many words a reader reads: no tables, links' targets, tags, fences or fenced Python."""
    text = re.sub(r"^ *```python\n.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^[ >]*\|.*$|^:{3,}.*$|^`{3,}.*$|^:\w+:.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text)
    return len(re.findall(r"\b[\w'’-]*\w", re.sub(r"\$[^$]*\$", "formula", text)))


def measures(source, nb):
    """What the limits are about."""
    shown = {"figures": 0, "tables": [], "words": 0, "cell": 0}
    code = hidden = setup = 0
    for cell in nb.cells:
        if cell.source.startswith(setup_cell.FIRST_LINE):  # the same in all lessons
            setup = len(cell.source.splitlines())
            continue
        if cell.cell_type == "markdown":
            shown["words"] += words_of(cell.source)
            shown["tables"] += tables_of(cell.source)
            continue
        lines = len(code_lines(cell.source))
        shown["cell"] = max(shown["cell"], lines)
        code += lines
        hidden += lines * bool(HIDING & set(cell.metadata.get("tags", [])))
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            markdown = data.get("text/markdown", "")
            shown["words"] += words_of(markdown)
            shown["tables"] += tables_of(markdown)
            if "<table" in data.get("text/html", ""):
                shown["tables"].append(data["text/html"].count("<tr") - 1)
            shown["figures"] += any(kind.startswith("image/") for kind in data)
    lines = len(source.splitlines()) - setup
    return shown | {"lines": lines, "hidden": hidden / max(code, 1)}


def faults(source, nb):
    """Which limits a lesson breaks."""
    found = measures(source, nb)
    rows = max(found["tables"], default=0)
    checks = [
        (found["lines"], LINES, "lines of source"),
        (found["words"], WORDS, "words"),
        (found["figures"], FIGURES, "figures"),
        (len(found["tables"]), TABLES, "tables"),
        (rows, ROWS, "rows in a table"),
        (found["cell"], CELL, "lines in a cell"),
        (round(found["hidden"], 2), HIDDEN, "of the code hidden"),
    ]
    return [f"{value} {what}, at most {limit}" for value, limit, what in checks if value > limit]


def lessons() -> dict[str, Path]:
    """The sources of all lessons, by name."""
    return {s.stem: s for s in run_notebooks.pages() if s.parent.name != "evidence"}


def main() -> None:
    """Print the limits that lessons break, and fail if there are any."""
    broken = 0
    for name, source in lessons().items():
        executed = source.with_suffix(".ipynb")
        nb = nbformat.read(executed, as_version=4) if executed.exists() else jupytext.read(source)
        for fault in faults(source.read_text(encoding="utf-8"), nb):
            print(f"notebooks/{name}.py: {fault}")
            broken += 1
    raise typer.Exit(1 if broken else 0)


if __name__ == "__main__":
    typer.run(main)
