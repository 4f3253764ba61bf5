"""The setup cell, run with a git and a pip that only note what they are asked, and versions."""

import stat
import subprocess
import sys
from pathlib import Path

import pytest
import setup_cell
import versions

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "tests" / "colab" / "constraints.txt"

# A clone makes what the cell needs of the book, or half of it, as one that is interrupted.
GIT = """#!/bin/sh
echo git "$@" >> "$CALLS"
for to; do :; done
mkdir -p "$to/tools" "$to/notebooks"
[ -n "$BREAKS" ] && exit 128
mkdir -p "$to/notebooks/studies"
echo 'import os; open(os.environ["CALLS"], "a").write("install\\\\n")' > "$to/tools/install_here.py"
"""


@pytest.fixture
def run(tmp_path):
    """Run the cell in an empty folder with a fake git; return its result and what was called."""
    programs, content, calls = (tmp_path / name for name in ("bin", "content", "calls"))
    programs.mkdir()
    content.mkdir()
    git = programs / "git"
    git.write_text(GIT)
    git.chmod(git.stat().st_mode | stat.S_IXUSR)

    def run(times=1, path=f"{programs}:/usr/bin:/bin", cwd=content, **more):
        calls.write_text("")
        code = "\n".join([setup_cell.setup_cell()] * times) + "\nprint(os.getcwd(), sys.path[0])"
        env = {"PATH": path, "CALLS": str(calls), **more}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=cwd, env=env, text=True, capture_output=True
        )
        return done, calls.read_text().splitlines()

    run.content = content
    run.book = content / f"{setup_cell.repository().rsplit('/', 1)[-1]}-v{setup_cell.version()}"
    return run


def test_an_empty_folder_gets_the_book_at_its_tag(run):
    done, calls = run()
    assert done.returncode == 0, done.stderr
    clone, install = calls
    assert f"--branch v{setup_cell.version()} {setup_cell.repository()} " in clone
    assert install == "install"
    notebooks = str(run.book / "notebooks")
    assert done.stdout.splitlines()[-1] == f"{notebooks} {notebooks}"


def test_a_second_run_in_the_session_does_nothing_more(run):
    done, calls = run(times=2)
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2


def test_after_a_restart_nothing_is_cloned_again(run):
    run()
    done, calls = run()
    assert done.returncode == 0, done.stderr
    assert calls == ["install"]  # which then finds everything there
    assert done.stdout.startswith(str(run.book / "notebooks"))


def test_half_a_clone_is_not_taken_for_the_book(run):
    done, _ = run(BREAKS="1")
    assert done.returncode and "this cell needs git, and the network once" in done.stderr
    assert not run.book.exists()
    done, calls = run()
    assert done.returncode == 0, done.stderr
    assert len(calls) == 2 and (run.book / "notebooks" / "studies").exists()


def test_without_git_the_cell_says_so(run, tmp_path):
    done, calls = run(path=str(tmp_path))
    assert done.returncode and "this cell needs git" in done.stderr
    assert not calls


def test_in_a_checkout_the_cell_does_nothing(run):
    done, calls = run(cwd=ROOT / "notebooks")
    assert done.returncode == 0, done.stderr
    assert not calls and done.stdout.startswith(str(ROOT / "notebooks"))


@pytest.fixture(scope="module")
def index():
    """Skip where the package index cannot be reached; any other failure to resolve counts."""
    try:
        versions.uv(
            *("pip", "compile", "--quiet", "--refresh-package", "typer", "-"),
            input="typer\n",
            stderr=subprocess.PIPE,
            timeout=30,
        )
    except subprocess.TimeoutExpired:
        pytest.skip("the package index does not answer")
    except subprocess.CalledProcessError as error:
        if any(word in error.stderr for word in ("Failed to fetch", "error sending request")):
            pytest.skip("the package index cannot be reached")
        raise


def resolved(*arguments):
    """What uv picks, by name."""
    lines = versions.resolve(*arguments).splitlines()
    return dict(line.split(" ;")[0].split("==") for line in lines if "==" in line)


@pytest.mark.usefixtures("index")
def test_the_package_fits_beside_what_colab_has():
    pins = dict(line.split("==") for line in PINS.read_text().splitlines() if line[0] != "#")
    found = resolved("3.13", "highest", "--constraint", str(PINS))
    there = {name.lower().replace("_", "-"): version for name, version in pins.items()}
    assert {"torch", "transformers", "numpy"} <= set(found) & set(there)
    assert {n: v for n, v in found.items() if v != there.get(n, v)} == {}


@pytest.mark.usefixtures("index")
@pytest.mark.parametrize("name", versions.ENVIRONMENTS)
def test_lowest_and_highest_versions_resolve(name):
    found = resolved(*versions.ENVIRONMENTS[name])
    assert {"torch", "transformers", "xarray"} <= set(found)


def test_requirements_repeat_the_ranges_of_the_package():
    if sys.version_info < (3, 11):
        pytest.skip("tomllib came with Python 3.11")
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    ranges = {line.split("  #")[0].strip() for line in lines}
    assert [want for want in project["dependencies"] if want not in ranges] == []


def test_what_runs_with_other_versions_exists():
    tests = Path(__file__).parent
    assert [stem for stem in versions.FAST if not (tests / f"test_{stem}.py").exists()] == []
