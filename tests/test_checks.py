"""The checks of the lessons' exercises: they know what is right, and name what is wrong.

The right answers are the solutions that the lessons show. The wrong ones are in wrong_answers/, a
module for each lesson, each with a part of what the check must say to it.
"""

import ast
import importlib
import inspect
import re
import textwrap
from typing import NamedTuple

import jupytext
import lint_lessons
import pytest
import setup_cell
import torch

import checks

LESSONS = lint_lessons.lessons()


class Exercise(NamedTuple):
    """An exercise cell of a lesson, its check, and the solution that the lesson shows."""

    lesson: str
    check: str
    name: str
    stub: str
    solution: str


def cells(lesson, kind):
    nb = jupytext.read(LESSONS[lesson])
    return [c.source for c in nb.cells if c.cell_type == kind]


def exercises(lesson):
    fences = [
        textwrap.dedent(text)
        for cell in cells(lesson, "markdown")
        for text in re.findall(r"^ *```python\n(.*?)^ *```$", cell, re.MULTILINE | re.DOTALL)
    ]
    for cell in cells(lesson, "code"):
        for check, name in re.findall(r"^(check_\w+)\((\w+)\)$", cell, re.MULTILINE):
            first = re.search(rf"^def {name}\(.*\):$", cell, re.MULTILINE).group()
            (solution,) = [text for text in fences if first in text]
            yield Exercise(lesson, check, name, cell, solution)


EXERCISES = [exercise for lesson in sorted(LESSONS) for exercise in exercises(lesson)]
each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.check)


def module_of(lesson):
    return importlib.import_module(f"checks.{lesson[3:]}")


def imports(lesson):
    """What a lesson imports, as a namespace."""
    names = {}
    for cell in cells(lesson, "code"):
        if not cell.startswith(setup_cell.FIRST_LINE):
            nodes = [n for n in ast.parse(cell).body if isinstance(n, (ast.Import, ast.ImportFrom))]
            exec(compile(ast.Module(nodes, []), lesson, "exec"), names)
    return names


def run(exercise, *sources):
    names = imports(exercise.lesson)
    for source in sources:
        exec(compile(source, "exercise", "exec"), names)
    return names[exercise.name]


def says(capsys, check, function):
    """What a check prints, without its line breaks."""
    capsys.readouterr()
    assert check(function) is None
    out, err = capsys.readouterr()
    assert err == "" and "Traceback" not in out
    assert max(map(len, out.splitlines())) <= 88
    return " ".join(out.split())


@pytest.mark.parametrize("lesson", sorted(LESSONS))
def test_a_lesson_has_two_or_three_checks(lesson):
    found = [exercise.check for exercise in EXERCISES if exercise.lesson == lesson]
    assert 2 <= len(found) <= 3
    assert sorted(found) == sorted(n for n in vars(module_of(lesson)) if n.startswith("check_"))


@each_exercise
def test_the_stub_is_greeted(exercise, capsys):
    run(exercise, exercise.stub)  # the cell as it is published
    out = capsys.readouterr().out
    assert out.startswith(f"○ Not written yet: `{exercise.name}` returns nothing.")
    assert out.count("\n") == 2


@each_exercise
def test_the_solution_is_right(exercise, capsys):
    stub, solution = run(exercise, exercise.stub), run(exercise, exercise.solution)
    assert inspect.signature(stub) == inspect.signature(solution)
    said = says(capsys, getattr(module_of(exercise.lesson), exercise.check), solution)
    assert said.startswith("✓ Right: ") and said.endswith(".")


@each_exercise
def test_wrong_answers_are_named(exercise, capsys):
    answers = importlib.import_module(f"wrong_answers.{exercise.lesson[3:]}").WRONG[exercise.check]
    assert len(answers) >= 2
    for function, words in answers:
        said = says(capsys, getattr(module_of(exercise.lesson), exercise.check), function)
        assert said.startswith("✗ Not yet: ") and words in said


@each_exercise
def test_an_error_in_the_function_is_told(exercise, capsys):
    def broken(*_):
        raise KeyError("a name that is not there")

    said = says(capsys, getattr(module_of(exercise.lesson), exercise.check), broken)
    assert said == (
        '✗ Not yet: `broken` stopped with KeyError at `raise KeyError("a name that is not '
        "there\")`: 'a name that is not there'"
    )


# The helpers, on a check of two lines.


@checks.check
def check_half(half):
    """Half of 3, and of a tensor."""
    checks.same(half(torch.tensor(3.0)), 1.5, [(6.0, "that is double.")], "3", 1e-4)
    return "a half is a half."


def sixth(x):
    """Stops two frames below the reader's function, in a library."""
    return torch.stack([x, torch.zeros(6)])


@pytest.mark.parametrize(
    ("function", "verdict"),
    [
        (lambda x: x / 2, "✓ Right: a half is a half."),
        (lambda x: x.numpy() / 2, "✓ Right: a half is a half."),
        (lambda x: 1.5 * (1 + 1e-5), "✓ Right: "),
        (lambda x: 2 * x, "✗ Not yet: that is double."),
        (lambda x: 5, "✗ Not yet: for 3 it returns 5, and 1.5 is right."),
        (lambda x: [1.5, 1.5], "✗ Not yet: it returns numbers of shape [2] where [] is wanted"),
        (lambda x: "1.5", "✗ Not yet: it returns a str where a number should be."),
        (lambda x: {}, "✗ Not yet: it returns a dict where a number should be."),
        (lambda x: x / 0, "✗ Not yet: for 3 it returns inf: is something divided by 0, or a root"),
        (lambda x: x.div_(2), "✗ Not yet: `<lambda>` changes a tensor that it was given."),
        (lambda x, y: x, "✗ Not yet: `<lambda>` is called with 1 argument(s), which does not fit"),
        (
            lambda x: torch.autograd.grad(x, x),
            "✗ Not yet: `<lambda>` stopped with RuntimeError at "
            "`lambda x: torch.autograd.grad(x, x),`: element 0 of tensors does not "
            "require grad and does not have a grad_fn (PyTorch",
        ),
        (sixth, "✗ Not yet: `sixth` stopped with RuntimeError at `return torch.stack([x, torch."),
        (lambda x: None, "○ Not written yet: `<lambda>` returns nothing."),
        (lambda x: ..., "○ Not written yet: `<lambda>` returns nothing."),
        (None, "✗ Not yet: give it your function itself, as in `check_half(name)`."),
        (torch.tensor(1.5), "✗ Not yet: give it your function itself"),
    ],
)
def test_verdicts(function, verdict, capsys):
    assert says(capsys, check_half, function).startswith(verdict)


def test_a_stub_that_raises_is_greeted(capsys):
    def half(x):
        raise NotImplementedError

    assert says(capsys, check_half, half).startswith("○ Not written yet: `half` returns nothing.")


def test_a_check_hides_no_error_of_its_own():
    @checks.check
    def check_broken(function):
        function()
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        check_broken(lambda: 1)


@pytest.mark.parametrize(("got", "count"), [(1.0, 1), ([1], 1), ((1, 2, 3), 3)])
def test_parts(got, count):
    assert checks.parts((1, 2), ["one", "two"]) == (1, 2)
    with pytest.raises(checks.Wrong, match=rf"^it returns {count} value.* 2 are wanted: one, two"):
        checks.parts(got, ["one", "two"])


@pytest.mark.parametrize(
    ("got", "told"),
    [
        ({"a", "b"}, None),
        (["b", "a"], None),
        (["a"], "forgot b."),
        ({"c"}, "for the case it returns {c}, and {a, b} is right."),
        (3, "it returns a int where a set or a list should be."),
    ],
)
def test_sets(got, told):
    if told is None:
        checks.same_set(got, ["a", "b"])
    else:
        with pytest.raises(checks.Wrong, match=re.escape(told)):
            checks.same_set(got, ["a", "b"], [({"a"}, "forgot b.")])
