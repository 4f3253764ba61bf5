"""A lesson is short: it keeps the limits of its kind. An evidence page has none."""

import re

import jupytext
import nbformat
import pytest
from lint_lessons import faults, lessons, measures

LESSONS = lessons()


@pytest.mark.parametrize("name", sorted(LESSONS))
def test_a_lesson_keeps_the_limits(name):
    nb = nbformat.read(LESSONS[name].with_suffix(".ipynb"), as_version=4)
    assert faults(LESSONS[name].read_text(encoding="utf-8"), nb) == []


# The measures themselves, on lessons of a few lines.

SHORT = """\
# %% [markdown]
# # A title
# Three [more words](a/long/path.md) and $x^2 + y^2$.
#
# | a | b |
# | --- | --- |
# | 1 | 2 |
#
# 1. A solution:
#    ```python
#    x = "no words"
#    ```

# %% tags=["hide-input"]
# Setup: fetches the book
import os
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
        "words": 10,
        "cell": 2,
        "lines": 25,
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
