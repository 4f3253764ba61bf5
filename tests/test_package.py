"""The package as others get it: its wheel, its sdist, what they say, and the files around them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest
import setup_cell
import yaml
from uv import find_uv_bin

import hvp_utils

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
TEN_LINES = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel and the sdist, built once, and the wheel from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    made = subprocess.run(
        [find_uv_bin(), "build", "--quiet", "--out-dir", out, "--python", sys.executable],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("METADATA")]
        return Parser().parsestr(archive.read(name).decode())


def test_the_wheel_holds_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[0]) as archive:
        names = set(archive.namelist())
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "hvp_utils").rglob("*.py")}
    rest = {n for n in names - modules if ".dist-info/" not in n}
    assert modules <= names and rest == {"hvp_utils/py.typed"}
    assert any(n.endswith("licenses/LICENSE") for n in names)
    assert built[0].stat().st_size < 2**20


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    with tarfile.open(built[1]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "hvp_utils/py.typed"} <= names
    folders = {n.split("/")[0] for n in names if "/" in n}
    assert folders == {"hvp_utils", "hvp_utils.egg-info"}


def test_what_the_package_says_of_itself(built):
    said = metadata(built[0])
    assert said["Name"] == "hvp-utils" and said["Version"] == hvp_utils.__version__
    assert said["License-Expression"] == "MIT"
    assert said["Description-Content-Type"] == "text/markdown"
    urls = dict(url.split(", ") for url in said.get_all("Project-URL"))
    assert urls["Repository"] == setup_cell.repository()
    assert all(url.startswith(setup_cell.repository()) for url in urls.values())


def test_the_wheel_alone_runs_the_ten_lines(built, tmp_path):
    """From an empty folder; its dependencies are those here (`make test-package` fetches them)."""
    with zipfile.ZipFile(built[0]) as archive:
        archive.extractall(tmp_path / "site")
    code = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})\n" + TEN_LINES
    code += "\nimport hvp_utils; print(hvp_utils.__file__)"
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "empty", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    *table, where = done.stdout.strip().splitlines()
    assert Path(where).is_relative_to(tmp_path / "site")
    assert table[0].split()[:2] == ["component", "layer"] and len(table) >= 6


def test_one_version_everywhere():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == hvp_utils.__version__ == setup_cell.version()
    assert citation["repository-code"] == setup_cell.repository()
    assert f"\n## {hvp_utils.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_links_of_the_readme_work_away_from_the_repository():
    """As on PyPI: they are whole addresses, and those of the repository lead to what is in it."""
    links = re.findall(r"\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    own = [link for link in links if link.startswith(setup_cell.repository())]
    assert len(own) >= 4 and all(link.startswith("https://") for link in links)
    for link in own:
        path = re.fullmatch(
            r"/(?:raw|blob)/main/([^#]+)(#.*)?", link[len(setup_cell.repository()) :]
        )
        assert (ROOT / path[1]).is_file(), link


WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_call_what_there_is(path):
    workflow = yaml.safe_load(path.read_text())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    made = re.findall(r"\bmake ([a-z-]+)", "\n".join(step.get("run", "") for step in steps))
    assert set(made) <= targets
    assert all(
        re.fullmatch(r"[\w/-]+@(v\d+|release/v\d+)", s["uses"]) for s in steps if "uses" in s
    )
    assert workflow["permissions"] == {"contents": "read"}  # jobs add what they need


def test_all_that_is_asked_for_is_pinned():
    """constraints.txt is the lock: every requirement has one exact version there."""

    def names(file, pattern):
        found = re.findall(pattern, (ROOT / file).read_text(), re.MULTILINE)
        return {re.sub(r"[-_.]+", "-", name).lower() for name in found}

    pinned = names("constraints.txt", r"^([\w.-]+)(?:\[.*\])?==[\w.+!]+")
    asked = set()
    for file in ("requirements.txt", "requirements-nodeps.txt", "requirements-models.txt"):
        asked |= names(file, r"^([A-Za-z][\w.-]*)")
    asked |= {re.match(r"[\w.-]+", d)[0].replace("_", "-").lower() for d in PROJECT["dependencies"]}
    assert len(asked) > 40 and asked <= pinned, asked - pinned
