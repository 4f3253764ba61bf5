"""What must not wait for torch: importing the package, and the help of its command line."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import hvp_utils
from hvp_utils import _names
from hvp_utils.__main__ import app
from hvp_utils.sweeps import MEASURES

ROOT = Path(__file__).parents[1]
SLOW = ("torch", "transformers", "transformer_lens", "xarray", "matplotlib", "scipy")


def python(*arguments, stream="stdout", **environment):
    """What a process of its own prints; environment variables that are None are not set."""
    settings = {k: v for k, v in (os.environ | environment).items() if v is not None}
    settings["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [sys.executable, *arguments], env=settings, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return getattr(done, stream)


# --- the package -----------------------------------------------------------------------------


@pytest.mark.parametrize("code", ("import hvp_utils", "import hvp_utils.__main__"))
def test_importing_waits_for_nothing_slow(code):
    loaded = python("-c", f"{code}, sys; print(*sys.modules)").split()
    assert "hvp_utils" in loaded and not set(SLOW) & set(loaded)


def test_everything_can_be_had_from_the_top():
    there = {}
    exec("from hvp_utils import *", there)
    for name in hvp_utils.__all__:
        assert there[name] is getattr(hvp_utils, name) and name in dir(hvp_utils)
    for module, names in hvp_utils._EXPORTS.items():
        for name in names.split():
            assert getattr(hvp_utils, name) is getattr(getattr(hvp_utils, module), name)
    package = Path(hvp_utils.__file__).parent
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    for module in {path.stem for path in package.glob("[!_]*.py")} | folders:
        assert getattr(hvp_utils, module) is sys.modules[f"hvp_utils.{module}"]


def test_type_checkers_see_the_same_as_python():
    tree = ast.parse(Path(hvp_utils.__file__).read_text(encoding="utf-8"))
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module.removeprefix("hvp_utils").removeprefix(".")
        for node in block.body
        for alias in node.names
    }
    assert seen == hvp_utils._HOMES | hvp_utils._OLD_HOMES | {"plots": ""}


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'hvp_utils' has no attribute 'hpv'"):
        _ = hvp_utils.hpv
    with pytest.raises(ImportError, match="cannot import name 'hpv'"):
        exec("from hvp_utils import hpv", {})


SETTINGS = """
import hvp_utils, os
print(os.environ["OMP_WAIT_POLICY"], os.environ["GOMP_SPINCOUNT"])
"""


def test_threads_do_not_spin_unless_the_user_says_so():
    nothing_set = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None}
    assert python("-c", SETTINGS, **nothing_set).split() == ["PASSIVE", "0"]
    set_by_user = {"OMP_WAIT_POLICY": "ACTIVE", "GOMP_SPINCOUNT": "1000"}
    assert python("-c", SETTINGS, **set_by_user).split() == ["ACTIVE", "1000"]
    assert os.environ["OMP_WAIT_POLICY"]  # of the tests themselves


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere OpenMP is another library's")
def test_openmp_hears_of_it():
    code = "import hvp_utils; hvp_utils.load_model"  # which imports torch
    settings = {"OMP_WAIT_POLICY": None, "GOMP_SPINCOUNT": None, "OMP_DISPLAY_ENV": "verbose"}
    told = python("-c", code, stream="stderr", **settings)
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in told and "GOMP_SPINCOUNT = '0'" in told


# --- the names that the help lists -------------------------------------------------------------


def test_the_lists_are_those_of_the_tables():
    for listed, table in (
        (_names.ESTIMATORS, hvp_utils.estimators.ESTIMATORS),
        (_names.MEASURES, MEASURES),
    ):
        assert {name: tuple(parameters) for name, (_, parameters) in table.items()} == listed
        for _, parameters in table.values():
            for parameter, allowed in parameters.items():
                words = None if allowed is int else tuple(allowed)
                assert _names.WORDS.get(parameter) == words, parameter
    assert tuple(hvp_utils.components.COMPONENT_KINDS) == _names.COMPONENTS
    assert tuple(hvp_utils.tasks.TASKS) == _names.TASKS
    assert hvp_utils.models.MODELS is _names.MODELS


def test_names_with_parameters():
    names = {"hvp": (), "ms_hvp": ("n_steps",), "sketched_hvp": ("n_matvecs", "seed")}
    assert _names.with_parameters(names) == "hvp, ms_hvp (n_steps), sketched_hvp (n_matvecs, seed)"


@pytest.mark.parametrize("columns", ("80", "200"))
@pytest.mark.parametrize("command", ("sweep", "plan"))
def test_the_help_lists_everything(command, columns):
    runner = CliRunner(env={"COLUMNS": columns, "NO_COLOR": "1", "TERM": "dumb"})
    text = " ".join(runner.invoke(app, [command, "--help"]).output.replace("│", " ").split())
    assert "…" not in text
    for name in (*_names.MODELS, *_names.COMPONENTS):
        assert name in text, name
    for table in (_names.ESTIMATORS, _names.MEASURES):
        assert _names.with_parameters(table) in text
    for parameter, words in _names.WORDS.items():
        assert f"for {parameter} {', '.join(words)}" in text
    if command == "sweep":
        assert ", ".join(_names.TASKS) in text


def test_the_help_of_the_real_command():
    assert "sweep" in python("-m", "hvp_utils", "--help", COLUMNS="200")
