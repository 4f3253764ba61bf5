"""What README.md says can be done is done as it stands there."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import answer
import pytest
import torch
from typer.testing import CliRunner

import hvp_utils
from hvp_utils.__main__ import app

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def commands(program):
    """The arguments of every command in a block or in backticks that begins like this."""
    written = [*blocks("bash"), *re.findall(r"`([^`\n]+)`", README)]
    lines = [line for text in written for line in text.splitlines()]
    return [
        shlex.split(line, comments=True)[len(program.split()) :]
        for line in lines
        if line.startswith(program + " ")
    ]


def test_the_ten_lines(capsys, monkeypatch, real_model):
    first, code = blocks("python")
    assert max(len(block.splitlines()) for block in (first, code)) <= 12
    asked = []
    monkeypatch.setattr(hvp_utils, "load_model", lambda name: asked.append(name) or real_model)
    there = {}
    exec(compile(first, "README.md", "exec"), there)
    assert asked == ["smollm2-135m"]  # which is installed
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[:4] == ["component", "layer", "effect", "value"] and len(shown) == 6
    exec(compile(code, "README.md", "exec"), there)
    header, *rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert header == ["component", "patching", "AP", "HVP", "MS-HVP"]
    assert len(rows) == 10 and {len(row) for row in rows} == {5}
    effects = torch.tensor([[float(cell) for cell in row[1:]] for row in rows])
    assert effects[:, 0].abs().diff().max() <= 0
    M = there["M"]
    places = [M.labels.index(row[0]) for row in rows]
    truth = hvp_utils.activation_patching(M)
    assert effects[0, 0].abs() == pytest.approx(truth.abs().max().item(), abs=6e-4)
    expected = [truth[places], hvp_utils.attribution_patching(M)[places]]
    torch.testing.assert_close(effects[:, :2], torch.stack(expected, 1), rtol=0, atol=6e-4)
    error = (effects - effects[:, :1]).abs().sum(0)
    assert error[3] < error[2] < error[1]  # as the README's figure leads one to expect


@pytest.mark.parametrize("arguments", commands("make"), ids=" ".join)
def test_make_knows_its_targets(arguments):
    done = subprocess.run(
        ["make", "--dry-run", "--always-make", *arguments], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_the_sweep_is_one_that_the_command_line_takes(monkeypatch):
    ((_, *options),) = [c for c in commands("python -m hvp_utils") if c[0] == "sweep"]
    asked = []

    def sweep(*arguments):
        asked.extend(arguments)
        raise ValueError("that is enough")

    monkeypatch.setattr(hvp_utils, "sweep", sweep)
    done = CliRunner().invoke(app, ["sweep", *options])
    assert "that is enough" in done.stderr
    model, task, estimators, n_prompts, *_ = asked
    assert model in hvp_utils.models.MODELS and task in hvp_utils.tasks.TASKS and n_prompts == 20
    assert all(hvp_utils.estimators.find_estimator(name) for name in estimators)


def test_what_is_installed_and_linked_is_there():
    for arguments in commands("pip install"):
        for name in arguments:
            if not name.startswith("-") and name != ".":
                assert hvp_utils.models.importlib.metadata.version(name)
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", README):
        page, _, heading = link.partition("#")
        assert (ROOT / page).exists(), link
        titles = re.findall(r"(?m)^#+ (.+)$", (ROOT / page).read_text()) if heading else []
        assert not heading or heading in [t.lower().replace(" ", "-") for t in titles], link
    for folder in re.findall(r"^\| `([a-z_]+/)`", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder


# --- the page "The answer" -------------------------------------------------------------------


def test_what_the_answer_says_to_copy_runs(monkeypatch, real_model, capsys):
    """The cells run in their order, as a reader would copy them."""
    text = (ROOT / "book" / "answer.md").read_text(encoding="utf-8")
    cells = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert len(cells) >= 5
    monkeypatch.setattr(hvp_utils, "load_model", lambda name: real_model)
    there = {}
    for code in cells:
        exec(
            compile(code.replace('"ioi", model, 20', '"ioi", model, 2'), "answer.md", "exec"), there
        )
    printed = capsys.readouterr().out
    assert "L23H3" in printed and "% of patching all; in doubt: []" in printed


def test_numbers_of_prose_are_those_that_are_stored():
    stored = (ROOT / "notebooks" / "results" / "answer.json").read_text(encoding="utf-8")
    assert answer.text() == stored
    used = {
        name
        for page in (ROOT / "book").glob("*.md")
        for name in re.findall(r"{number}`(\w+)`", page.read_text(encoding="utf-8"))
    }
    assert used <= set(json.loads(stored)) and len(used) > 10


def test_the_readme_gives_stored_numbers():
    """Where README.md has a number of the short answer, it is the one that the book gives."""
    known = json.loads((ROOT / "notebooks/results/answer.json").read_text(encoding="utf-8"))
    (short,) = re.findall(r"^## The short answer\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    found = re.findall(r"\d[\d,.]* %", short)
    assert len(found) >= 4 and set(found) <= set(known.values())
