r"""Execute the chapters: notebooks/NN_name.py (the source) becomes notebooks/NN_name.ipynb.

Evidence pages, notebooks/evidence/NN_name.py, are chapters too. Every page runs in notebooks/, so
that `results` and `import studies` mean the same on all of them.

A chapter runs only when it is out of date: its source, the studies or checks that it imports or the
hvp_utils package changed since the run that its .ipynb records. The new .ipynb replaces the old one
when the whole chapter has run without an error, so a failure leaves the old one as it was.

The .ipynb files beside the sources are the published ones and always hold a run with the defaults:
`make notebooks` writes them. Everything else gives another --out, as `make book` does, and leaves
the checkout as it was.

    \b
    python tools/run_notebooks.py                          # every chapter that is out of date
    python tools/run_notebooks.py notebooks/01_one_head.py --force
    python tools/run_notebooks.py --check                  # run nothing, list what is out of date
    python tools/run_notebooks.py --model gpt2 --out _build/runs/gpt2
"""

import ast
import functools
import hashlib
import importlib.metadata
import io
import json
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import tokenize
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated

import jupytext
import nbformat
import papermill
import psutil
import typer
from tqdm import tqdm

import hvp_utils  # noqa: F401 - kernels inherit the settings of threads that this makes

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_MODEL = "smollm2-135m"
PACKAGES = ("torch", "transformers", "transformer_lens", "hvp_utils")
app = typer.Typer(rich_markup_mode=None, add_completion=False)

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}

_HOMES = [re.escape(str(p)) for p in (ROOT, Path.home()) if p != p.parent]
LOCAL_PATH = re.compile(
    rf"(?<![\w.])(?:{'|'.join(_HOMES)}|/(?:home|root|Users|tmp|var/folders)\b|[A-Z]:\\Users)(?!\w)"
)
PROGRESS_BAR = re.compile(r"\d+%\||\d+it \[|(?:it/s|s/it)\b")


class NotebookError(Exception):
    """A chapter could not be executed, or its outputs cannot be published."""


def source_hash(source: Path) -> str:
    """Return the sha256 of a chapter's .py text (the same with any line ending)."""
    return hashlib.sha256(source.read_text(encoding="utf-8").encode()).hexdigest()


@functools.cache
def code_of(text: str) -> str:
    """Return the lines of a module that Python runs: no comments, docstrings or blank lines."""
    lines = text.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            first = node.body[0] if node.body else None
            if ast.get_docstring(node, clean=False) is not None:
                lines[first.lineno - 1 : first.end_lineno] = [""] * (
                    first.end_lineno - first.lineno + 1
                )
    return "\n".join(line.rstrip() for line in lines if line.strip())


def package_hash(package: Path = ROOT / "hvp_utils") -> str:
    """Return one sha256 over what the package's modules do, and not over how they explain it.

    The command line is left out: no chapter runs it.
    """
    files = sorted(set(package.rglob("*.py")) - {package / "__main__.py"})
    lines = [
        f"{f.relative_to(package).as_posix()}\n{code_of(f.read_text(encoding='utf-8'))}"
        for f in files
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def pages(notebooks: Path = ROOT / "notebooks") -> list[Path]:
    """Return the sources of all lessons, in their order, and then of all evidence pages."""
    return [
        source
        for folder in (notebooks, notebooks / "evidence")
        for source in sorted(folder.glob("[0-9][0-9]_*.py"))
    ]


def home(source: Path) -> Path:
    """Return the folder that a page runs in: notebooks/, for lessons and evidence alike."""
    folder = source.resolve().parent
    return folder.parent if folder.name == "evidence" else folder


def page_name(source: Path) -> str:
    """Return a page's name below notebooks/: "11_name" or "evidence/11_name"."""
    return source.resolve().relative_to(home(source)).with_suffix("").as_posix()


def studies_hash(source: Path) -> str:
    """Return one sha256 over the studies and checks that a page imports by name, "" without any."""
    text, names = source.read_text(encoding="utf-8"), {"studies": set(), "checks": set()}
    if not any(folder in text for folder in names):
        return ""
    # Lines that start with ! or % are for IPython; Python cannot parse them.
    for node in ast.walk(ast.parse(re.sub(r"^(\s*)[!%].*$", r"\1pass", text, flags=re.MULTILINE))):
        if isinstance(node, ast.ImportFrom):
            folder, *below = (node.module or "").split(".")
            if folder in names:
                names[folder] |= set(below[:1]) or {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts = [alias.name.split(".") for alias in node.names]
            for folder in names:
                names[folder] |= {p[1] for p in parts if p[0] == folder and len(p) > 1}
    lines = []
    for name, found in names.items():
        folder = home(source) / name
        files = [folder / f"{module}.py" for module in sorted(found - {"common"})]
        for module in sorted(found):  # a study may be a folder
            files += sorted((folder / module).glob("*.py"))
        lines += [f"{f.relative_to(folder)} {source_hash(f)}" for f in files if f.exists()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest() if lines else ""


def out_of_date(source: Path, target: Path) -> str:
    """Return why `target` does not show what `source` would give, or "" when it does."""
    if not target.exists():
        return "never executed"
    recorded = nbformat.read(target, as_version=4).metadata.get("hvp_book", {})
    if recorded.get("source_sha256") != source_hash(source):
        return "its source changed"
    if recorded.get("studies_sha256", "") != studies_hash(source):
        return "its study or its checks changed"
    if recorded.get("package_sha256") != package_hash():
        return "hvp_utils changed"
    return ""


def convert(source: Path) -> nbformat.NotebookNode:
    """Return the notebook that jupytext makes of a .py, with cell ids that do not vary."""
    nb = jupytext.read(source)
    nb.metadata = nbformat.from_dict({"kernelspec": KERNEL})
    for number, cell in enumerate(nb.cells):
        cell["id"] = f"cell-{number:02d}"
    nb.nbformat, nb.nbformat_minor = 4, 5
    return nb


def texts(output: dict) -> list[str]:
    """Return every text that a reader can see in an output (base64 images are not text)."""
    data = [v for k, v in output.get("data", {}).items() if k.startswith(("text/", "image/svg"))]
    return [output.get("text", ""), "\n".join(output.get("traceback", [])), *map(str, data)]


def is_noise(output: dict) -> bool:
    """Tell whether an output is a widget or a stream with nothing left in it."""
    if output.output_type == "stream":
        return not output.text.strip()
    return any("jupyter.widget" in kind for kind in output.get("data", {}))


def tidy(nb: nbformat.NotebookNode) -> None:
    """Remove what belongs to the run and not to the reader: progress bars, widgets, timings."""
    nb.metadata.pop("papermill", None)
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        for key in ("papermill", "execution"):
            cell.metadata.pop(key, None)
        if cell.metadata.get("tags") == []:  # papermill gives every cell a list of tags
            del cell.metadata["tags"]
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                lines = output.text.splitlines()
                kept = [line for line in lines if line.strip() and not PROGRESS_BAR.search(line)]
                output.text = "".join(line + "\n" for line in kept)
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not is_noise(output)]


def local_paths(nb: nbformat.NotebookNode) -> list[str]:
    """Return one line for every output that shows a path of the machine it ran on."""
    return [
        f"cell {number} shows the local path {match.group()!r}"
        for number, cell in enumerate(nb.cells, start=1)
        for output in cell.get("outputs", [])
        for text in texts(output)
        if (match := LOCAL_PATH.search(text))
    ]


def processor_name() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        match = re.search(r"^model name\s*: (.+)$", cpuinfo.read_text(), re.MULTILINE)
        if match:
            return match.group(1).strip()
    return platform.processor() or platform.machine()


def revision(source: Path) -> str:
    """Return the git commit, "+dirty" if the chapter or what it imports differs from it."""

    def git(*arguments: str) -> str:
        command = ["git", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip()

    try:
        changed = git(
            *("status", "--porcelain", "--", "hvp_utils", "notebooks/studies", "notebooks/checks"),
            str(source.resolve()),
        )
        commit = git("rev-parse", "--verify", "--quiet", "HEAD") or "uncommitted"
    except FileNotFoundError:  # no git on this machine
        return "unknown"
    return commit + "+dirty" * bool(changed)


def provenance(source: Path, model: str, device: str, seconds: float) -> dict:
    """Return what the status page tells about a run."""
    import torch  # slow to import, and not needed for --help or --check

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "source_sha256": source_hash(source),
        "studies_sha256": studies_hash(source),
        "package_sha256": package_hash(),
        "revision": revision(source),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "seconds": round(seconds, 1),
        "model": model,
        "device": ("cpu" if gpu == "none" else "cuda") if device == "auto" else device,
        "dtype": "float32",  # second derivatives need it, so load_model's default is never changed
        "hardware": {
            "cpu": processor_name(),
            "cores": os.cpu_count(),
            "memory_gb": round(psutil.virtual_memory().total / 1e9),
            "gpu": gpu,
        },
        "versions": versions,
    }


def failure(source: Path, nb: nbformat.NotebookNode, error: Exception) -> NotebookError:
    """Return an error that names the chapter, the cell that failed, its first lines and why.

    Args:
        source: the chapter's .py.
        nb: the notebook as far as papermill got with it.
        error: papermill's own (a cell raised), or a dead kernel or a timeout.
    """
    # On an error papermill inserts cells of its own that point to the place: leave those out.
    cells = [c for c in nb.cells if "papermill-error-cell-tag" not in c.metadata.get("tags", [])]
    begun = [n for n, c in enumerate(cells) if c.metadata.get("papermill", {}).get("start_time")]
    number = begun[-1] if begun else 0
    lines = "\n".join("    " + line for line in cells[number].source.splitlines()[:5])
    reason = f"{error.ename}: {error.evalue}" if hasattr(error, "ename") else repr(error)
    return NotebookError(
        f"{page_name(source)}: cell {number + 1} of {len(cells)} failed\n{lines}\n{reason}"
    )


def execute(
    source: Path,
    target: Path,
    model: str = DEFAULT_MODEL,
    device: str = "auto",
    bar: bool = True,
) -> None:
    """Run one chapter and write its .ipynb.

    Args:
        source: the chapter's .py, in jupytext's py:percent format.
        target: the .ipynb to write. It is replaced only when everything went well.
        model: what the chapter's `model_name` becomes.
        device: what the chapter's `device` becomes; "auto" leaves it None.
        bar: whether to show how far it is.

    Raises:
        NotebookError: if a cell fails, or an output shows a local path.
    """
    # No parameters when they are the defaults, so that nothing is injected into the notebook.
    parameters = {}
    if (model, device) != (DEFAULT_MODEL, "auto"):
        parameters = {"model_name": model, "device": None if device == "auto" else device}
    with tempfile.TemporaryDirectory() as folder:
        fresh, done = Path(folder, "fresh.ipynb"), Path(folder, "done.ipynb")
        nbformat.write(convert(source), fresh)
        second = papermill.inspect_notebook(str(fresh)).get("second_model", {})
        if second.get("default") == json.dumps(model):
            parameters["second_model"] = DEFAULT_MODEL  # a chapter compares two different ones
        # Only what is published may change the published claims; see studies.common.show_claims.
        publishes = target.resolve() == source.resolve().with_suffix(".ipynb")
        os.environ["HVP_BOOK_PUBLISH"] = "1" if publishes else ""
        start = time.perf_counter()
        try:
            papermill.execute_notebook(
                fresh,
                done,
                parameters,
                cwd=home(source),
                progress_bar=bar and {"desc": page_name(source), "leave": False},
                extra_arguments=["--IPKernelApp.log_level=40"],
            )
        except Exception as error:  # papermill's own, a dead kernel or a timeout
            nb = nbformat.read(done if done.exists() else fresh, as_version=4)
            raise failure(source, nb, error) from error
        finally:
            del os.environ["HVP_BOOK_PUBLISH"]
        seconds = time.perf_counter() - start
        nb = nbformat.read(done, as_version=4)
    tidy(nb)
    if found := local_paths(nb):
        raise NotebookError(f"{page_name(source)}: " + "; ".join(found))
    nb.metadata["hvp_book"] = provenance(source, model, device, seconds)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_suffix(".ipynb.tmp")
    nbformat.write(nb, temporary)
    temporary.replace(target)


def run_all(work: list[tuple[Path, Path, str, str]], jobs: int) -> Iterator[str]:
    """Execute chapters, some side by side, and name each when it is done.

    Args:
        work: The arguments of ``execute`` for each chapter.
        jobs: How many run side by side. More than one share the processor's cores.

    Raises:
        NotebookError: The first that a chapter raises; chapters that are running are finished.
    """
    if jobs == 1:
        for source, *others in work:
            execute(source, *others)
            yield page_name(source)
        return
    # Processes that share the cores are faster with a part of them each.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // jobs)))
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(execute, *one, bar=False): one[0] for one in work}
        try:
            for done in as_completed(running):
                done.result()
                yield page_name(running[done])
        finally:
            pool.shutdown(cancel_futures=True)


@app.command(help=__doc__.replace(r"\b", "\b"))
def main(
    notebooks: Annotated[
        list[Path] | None, typer.Argument(help="Sources (.py). [default: every chapter]")
    ] = None,
    model: Annotated[str, typer.Option(help="The model the chapters load.")] = DEFAULT_MODEL,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, mps ...")] = "auto",
    out: Annotated[
        Path | None, typer.Option(help="Folder for the .ipynb. [default: beside the sources]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Also run what is up to date.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Chapters that run side by side.")] = 1,
    check: Annotated[
        bool, typer.Option("--check", help="Run nothing; fail if out of date.")
    ] = False,
) -> None:
    """Run what the command line asks for."""
    sources = notebooks or pages()
    if (model, device) != (DEFAULT_MODEL, "auto") and out is None:
        raise typer.BadParameter("another model or device needs --out; see --help")
    targets = {source: (out or home(source)) / f"{page_name(source)}.ipynb" for source in sources}
    reasons = {source: out_of_date(source, target) for source, target in targets.items()}
    todo = [source for source in sources if force or reasons[source]]
    for source in todo:
        print(f"{page_name(source)}: {reasons[source] or 'forced'}")
    if check:
        raise typer.Exit(1 if todo else 0)
    work = [(source, targets[source], model, device) for source in todo]
    with tqdm(total=len(todo), desc="chapters", unit="chapter", disable=not todo) as bar:
        try:
            for name in run_all(work, jobs):
                bar.set_postfix_str(name)
                bar.update()
        except NotebookError as error:
            bar.close()
            print(f"\n{error}", file=sys.stderr)
            raise typer.Exit(1) from None
    print(f"chapters executed: {len(todo)}, already up to date: {len(sources) - len(todo)}")


if __name__ == "__main__":
    app()
