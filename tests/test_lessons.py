"""A lesson is short: it keeps the limits of its kind. An evidence page has none."""

import ast
import re

import jupytext
import nbformat
import pytest
import run_notebooks

LINES, WORDS, FIGURES, TABLES, ROWS, CELL, HIDDEN = 350, 1500, 3, 3, 8, 15, 1 / 5
# Chapters written before there were limits. This list only gets shorter.
LONG = {
    "01_one_head",
    "02_taylor_decomposition",
    "03_hessian_vector_product",
    "04_curvature_gap",
    "05_reliability_score",
    "06_lipschitz_hessian",
    "07_ms_hvp_k_sweep",
    "08_baselines",
    "09_screen_flag_fix",
    "10_is_it_worth_it",
    "14_corruptions",
}
LESSONS = {s.stem: s for s in run_notebooks.pages() if s.parent.name != "evidence"}
HIDING = {"hide-input", "hide-cell", "remove-input", "remove-cell"}


def code_lines(source):
    """Lines of a cell, without those that import something and those of Colab's setup."""
    if "google.colab" in source:
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
    """How many words a reader reads: no tables, links' targets, tags or fences."""
    text = re.sub(r"^[ >]*\|.*$|^:{3,}.*$|^`{3,}.*$|^:\w+:.*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)|<[^>]*>", " ", text)
    return len(re.findall(r"\b[\w'’-]*\w", re.sub(r"\$[^$]*\$", "formula", text)))


def measures(source, nb):
    """What the limits are about."""
    shown = {"figures": 0, "tables": [], "words": 0, "cell": 0}
    code = hidden = 0
    for cell in nb.cells:
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
    return shown | {"lines": len(source.splitlines()), "hidden": hidden / max(code, 1)}


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


@pytest.mark.parametrize("name", sorted(set(LESSONS) - LONG))
def test_a_lesson_keeps_the_limits(name):
    nb = nbformat.read(LESSONS[name].with_suffix(".ipynb"), as_version=4)
    assert faults(LESSONS[name].read_text(encoding="utf-8"), nb) == []


def test_only_chapters_that_exist_are_excused():
    assert set(LESSONS) >= LONG


# The measures themselves, on lessons of a few lines.

SHORT = """\
# %% [markdown]
# # A title
# Three [more words](a/long/path.md) and $x^2 + y^2$.
#
# | a | b |
# | --- | --- |
# | 1 | 2 |

# %% tags=["hide-input"]
import os
if "google.colab" in os.environ:
    print(1)

# %%
from os import (
    path,
    sep,
)
x = 1

y = 2
# %% tags=["hide-input"]
z = 3
"""


def test_measures():
    found = measures(SHORT, jupytext.reads(SHORT, fmt="py:percent"))
    assert found == {
        "figures": 0,
        "tables": [1],
        "words": 7,
        "cell": 2,
        "lines": 23,
        "hidden": 1 / 3,
    }


PLAIN = SHORT.replace('%% tags=["hide-input"]\nz', "%%\nz")


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("\n" * 350, "lines of source"),
        ("# %% [markdown]\n# " + "word " * 1500, "words"),
        ("# %% [markdown]\n" + "# | a |\n# | - |\n# | 1 |\n#\n" * 3, "tables"),
        ("# %% [markdown]\n# | a |\n# | - |\n" + "# | 1 |\n" * 9, "rows in a table"),
        ("# %%\n" + "x = 1\n" * 16, "lines in a cell"),
        ('# %% tags=["hide-cell"]\nw = 1', "of the code hidden"),
    ],
)
def test_every_limit_can_be_broken(more, fault):
    assert faults(PLAIN, jupytext.reads(PLAIN, fmt="py:percent")) == []
    text = f"{PLAIN}\n{more}\n"
    (found,) = faults(text, jupytext.reads(text, fmt="py:percent"))
    assert re.fullmatch(rf"\S+ {fault}, at most \S+", found)


def test_figures_are_counted():
    nb = jupytext.reads(SHORT, fmt="py:percent")
    output = nbformat.v4.new_output("display_data", data={"image/png": "", "text/plain": ""})
    nb.cells[-1].outputs = [output] * 4
    assert "4 figures, at most 3" in faults(SHORT, nb)
