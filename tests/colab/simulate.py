r"""Run two chapters and a problem set as someone on Colab would (`make colab`).

What is simulated: Python 3.13 with Colab's versions of everything that the package needs
(constraints.txt), an empty folder, a module `google.colab`, notebooks without the files beside
them, and one kernel after another, as when a runtime is restarted. The book is cloned from this
working tree, which stands for the repository at its tag; packages come from the real index. What is
not: Colab's own machine, its other 500 packages, and its page in the browser.

It fails if a cell fails, if a package that was there before has moved, or if an answer of the
problem set does not pass its checks. What it found goes to tests/colab/report.json.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import nbformat
import typer
from nbclient import NotebookClient
from tqdm import tqdm

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path[:0] = [str(ROOT / "tools")]

import run_notebooks  # noqa: E402
import setup_cell  # noqa: E402
import versions  # noqa: E402

PINS = HERE / "constraints.txt"
CHAPTERS = ("01_one_head", "13_sae_features")
# What a notebook on Colab finds beside the packages that ours needs.
ALSO_THERE = (
    *("ipykernel", "ipython", "ipywidgets", "pip", "setuptools", "nbconvert", "nbformat"),
    *(
        "pandas",
        "dill",
        "requests",
        "wrapt",
        "pyyaml",
        "click",
        "jinja2",
        "gspread",
        "scikit-learn",
    ),
    *("google-api-python-client", "google-auth-oauthlib", "six", "jupytext"),
)


def pins() -> dict[str, str]:
    """Colab's versions by name."""
    lines = PINS.read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def normal(name: str) -> str:
    """A distribution's name in the spelling that all have in common."""
    return name.lower().replace("_", "-").replace(".", "-")


def make_runtime(folder: Path) -> Path:
    """Make an environment of what Colab has and our package, or a notebook, would use of it."""
    there = {normal(name): f"{name}=={version}" for name, version in pins().items()}
    also = [there[name] for name in ALSO_THERE if name in there]
    wanted = folder.with_suffix(".in")
    wanted.parent.mkdir(parents=True, exist_ok=True)
    wanted.write_text("\n".join(also) + "\n", encoding="utf-8")
    found = versions.resolve("3.13", "highest", "--constraint", str(PINS), str(wanted))
    names = [normal(line.split("==")[0]) for line in found.splitlines() if "==" in line]
    exact = [there[name] for name in names if name in there]
    cuda = [line for line in found.splitlines() if line.startswith(("nvidia-", "cuda-", "triton"))]
    versions.uv("venv", "--quiet", "--clear", "--python", versions.interpreter("3.13"), str(folder))
    install = ["pip", "install", "--quiet", "--no-deps", "--python", str(folder)]
    versions.uv(*install, *exact, *cuda)
    return folder / "bin" / "python"


def fake_colab(python: Path) -> None:
    """Give an environment a module google.colab, with a spec like any other."""
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(subprocess.check_output([str(python), "-c", where], text=True).strip())
    (site / "google" / "colab").mkdir(parents=True, exist_ok=True)
    (site / "google" / "colab" / "__init__.py").write_text('"""Not the real one."""\n')


def publish(folder: Path) -> None:
    """Make a repository of the working tree as it is, with the tag that the setup cell asks for."""
    index = {**os.environ, "GIT_INDEX_FILE": str(folder.with_suffix(".index"))}

    def git(*arguments, at=ROOT):
        command = ["git", *arguments]
        return subprocess.check_output(command, cwd=at, text=True, env=index).strip()

    git("read-tree", "HEAD")
    git("add", "--all")
    commit = git("commit-tree", git("write-tree"), "-p", "HEAD", "-m", "As it would be published")
    git("init", "--quiet", "--bare", str(folder))
    git("push", "--quiet", str(folder), f"{commit}:refs/tags/v{setup_cell.version()}")


def write_kernel(python: Path, home: Path, repository: Path) -> None:
    """Describe the runtime to Jupyter: its Python, an empty home, clones that come from here."""
    gitconfig = home / "gitconfig"
    gitconfig.write_text(
        f'[url "file://{repository}"]\n\tinsteadOf = {setup_cell.repository()}\n', encoding="utf-8"
    )
    spec = {
        "argv": [
            *(str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"),
            "--IPKernelApp.exec_lines=import google.colab",
        ],
        "display_name": "Colab",
        "language": "python",
        "env": {
            "HOME": str(home),
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "GIT_CONFIG_GLOBAL": str(gitconfig),
            "PYTHONNOUSERSITE": "1",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        },
    }
    folder = home / "jupyter" / "kernels" / "colab"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    os.environ["JUPYTER_PATH"] = str(home / "jupyter")


def chapter(name: str) -> nbformat.NotebookNode:
    """A chapter as it is downloaded, and its setup cell run a second time at the end."""
    nb = run_notebooks.convert(ROOT / "notebooks" / f"{name}.py")
    again = "import os; before = os.getcwd()\n" + setup_cell.setup_cell() + "\n"
    again += "assert os.getcwd() == before, os.getcwd()"
    nb.cells.append(nbformat.v4.new_code_cell(again))
    return nb


def answered(source: Path) -> nbformat.NotebookNode:
    """A problem set with its solutions in it, and the visible checks run."""
    import coursework

    nb = coursework.read_source(source, seed=1)
    cells, checked, name, inside = [], [], "", False
    for cell in nb.cells:
        mark = cell.source.splitlines()[0] if cell.cell_type == "raw" else ""
        if mark == "# BEGIN QUESTION":
            name = next(
                q["name"] for q in coursework.questions(nbformat.v4.new_notebook(cells=[cell]))
            )
        inside = mark == "# BEGIN TESTS" or (inside and mark != "# END TESTS")
        if mark == "# END TESTS":
            cells.append(nbformat.v4.new_code_cell(f"grader.check({name!r})"))
            checked.append(name)
        if cell.cell_type != "raw" and not inside:
            cells.append(cell)
    right = f"right = [grader.check(name) for name in {checked}]\n"
    right += "assert all('passed' in str(r) and 'failed' not in str(r) for r in right), right"
    nb.cells = [*cells, nbformat.v4.new_code_cell(right)]
    return nb


def run(nb: nbformat.NotebookNode, folder: Path) -> dict[str, float]:
    """Execute a notebook in a new kernel that starts in a folder; how long it and setup took."""
    resources = {"metadata": {"path": str(folder)}}
    client = NotebookClient(nb, kernel_name="colab", timeout=1800, resources=resources)
    start = time.time()
    client.execute()
    took = {"all": round(time.time() - start, 1)}
    for cell in nb.cells:
        if cell.source.startswith(setup_cell.FIRST_LINE):
            times = cell.metadata["execution"]
            begin, end = (
                time.mktime(time.strptime(times[key][:19], "%Y-%m-%dT%H:%M:%S"))
                for key in ("iopub.execute_input", "shell.execute_reply")
            )
            took["setup"] = end - begin
    return took


def main(
    sets: Annotated[int, typer.Option(help="The problem set to run.")] = 1,
    keep: Annotated[bool, typer.Option(help="Keep the environment and the folder.")] = False,
) -> None:
    """Simulate Colab: two chapters, then, after a restart each, the other and a problem set."""
    work = ROOT / "_build" / "colab"
    shutil.rmtree(work, ignore_errors=True)
    content, home = work / "content", work / "home"
    for folder in (content, home):
        folder.mkdir(parents=True)
    python = make_runtime(work / "runtime")
    fake_colab(python)
    publish(work / "repository.git")
    write_kernel(python, home, work / "repository.git")
    before = versions.versions_of(python)

    (source,) = (ROOT / "coursework").glob(f"{sets}_*.py")
    pages = {name: chapter(name) for name in CHAPTERS} | {f"set {sets}": answered(source)}
    report = {"python": "3.13", "pages": {}}
    for name, nb in tqdm(pages.items(), desc="pages"):
        report["pages"][name] = run(nb, content)
        nbformat.write(nb, work / f"{name}.ipynb")

    after = versions.versions_of(python)
    report["versions"] = {name: after[name] for name in versions.SHOWN if name in after}
    report["added"] = sorted(f"{name}=={after[name]}" for name in set(after) - set(before))
    report["moved"] = sorted(n for n in before if after.get(n) != before[n])
    (HERE / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    if report["moved"]:
        raise SystemExit(f"Packages that Colab brings were moved: {', '.join(report['moved'])}")
    outcome = f"chapters {', '.join(c[:2].lstrip('0') for c in CHAPTERS)} and problem set {sets}"
    versions.record("Colab's (simulated)", "3.13", after, outcome)
    if not keep:
        shutil.rmtree(work)


if __name__ == "__main__":
    typer.run(main)
