"""The problem sets: solutions, stubs and wrong answers get the marks that they must; grading."""

import csv
import importlib
import json
import re
import socket
import subprocess
import sys
import zipfile

import jupytext
import nbformat
import pytest
import recorded_tables
import setup_cell
from coursework_worker import results

import coursework

SEED = 20
SETS = coursework.sources()
SOURCE = {n: jupytext.read(path) for n, path in SETS.items()}
QUESTIONS = {n: coursework.questions(nb) for n, nb in SOURCE.items()}
GRADED = [(n, q["name"]) for n in SETS for q in QUESTIONS[n] if not q.get("manual")]
WRONG = {n: importlib.import_module(f"coursework_answers.{SETS[n].stem}").WRONG for n in SETS}
each_set = pytest.mark.parametrize("number", SETS)
each_question = pytest.mark.parametrize("number, question", GRADED)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """A function that builds a set, once."""
    out, done = tmp_path_factory.mktemp("coursework"), {}

    def build(number):
        if number not in done:
            done[number] = coursework.build_set(number, SEED, out)
        return done[number]

    return build


@pytest.fixture(scope="session")
def material(built):
    """A function that gives the names that a set hands out, without any answer."""
    done = {}

    def names(number):
        if number not in done:
            code = coursework.code_by_question(SOURCE[number])
            code = [c for q, c in code if q is None and not c.startswith("# See it")]
            done[number] = coursework.run_code(code, built(number) / "student")
        return done[number]

    return names


@pytest.fixture(scope="session")
def marked(built, material):
    """A function that gives the marks and messages of one answer, on its own."""

    def mark(number, question, code):
        test = coursework.tests_of(archive(built, number))[question]
        names = coursework.run_code([code], built(number) / "student", dict(material(number)))
        found = results(names, test, question)
        return coursework.marks(test, found), [r["message"] for r in found if not r["passed"]]

    return mark


def archive(built, number):
    return built(number) / "autograder" / f"set{number}-autograder.zip"


def solution(number, question):
    code = coursework.code_by_question(SOURCE[number])
    return "\n\n".join(text for name, text in code if name == question)


def student_copy(built, number):
    return nbformat.read(built(number) / "student" / f"set{number}.ipynb", as_version=4)


def stub(built, number, question):
    """The cell that a student is given for a question: the last code before its check."""
    code = [cell.source for cell in student_copy(built, number).cells if cell.cell_type == "code"]
    return code[code.index(f'grader.check("{question}")') - 1]


def points(number, question):
    return next(q["points"] for q in QUESTIONS[number] if q["name"] == question)


# --- marks ---


@each_question
def test_the_solution_alone_gets_full_marks(marked, number, question):
    got, messages = marked(number, question, solution(number, question))
    assert got == points(number, question), messages


@each_question
def test_the_stub_gets_nothing(built, marked, number, question):
    assert marked(number, question, stub(built, number, question))[0] == 0


@each_question
def test_wrong_answers_get_the_marks_stated(marked, number, question):
    wrong = WRONG[number][question]
    assert len(wrong) >= 2
    for answer in wrong:
        got, messages = marked(number, question, answer.code)
        assert got == answer.marks < points(number, question), (answer.mistake, messages)
        assert answer.told in "\n".join(messages), (answer.mistake, messages)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2, 3, 4, 5])
@each_set
def test_solutions_pass_with_every_seed(tmp_path, number, seed):
    assert coursework.failures(number, coursework.build_set(number, seed, tmp_path)) == []


# --- what a set says of itself ---


@each_set
def test_points_and_times_add_up(number):
    text = "\n".join(cell.source for cell in SOURCE[number].cells if cell.cell_type == "markdown")
    stated = [
        float(x) for x in re.findall(r"^\*\*Difficulty\*\* .*\*\*Points\*\* (\d+)", text, re.M)
    ]
    assert stated == [q["points"] for q in QUESTIONS[number]]
    (total,) = re.findall(r"\*\*You need\*\*[^#]*?\*\*Points\*\*: (\d+)", text)
    assert float(total) == sum(stated)
    minutes = sum(map(int, re.findall(r"\*\*Time\*\* (\d+) minutes", text)))
    assert 120 <= minutes <= 240


@each_set
def test_tests_give_the_points_of_their_question(built, number):
    for question, text in coursework.tests_of(archive(built, number)).items():
        cases = coursework.cases(text)
        assert sum(case.points for case in cases) == points(number, question)
        assert {case.hidden for case in cases} == {True, False}


@each_set
def test_every_exercise_has_two_hints(number):
    for nb in [SOURCE[number]]:
        text = "\n".join(c.source for c in nb.cells if c.cell_type == "markdown")
        graded = [q for q in QUESTIONS[number] if not q.get("manual")]
        for hint in ("Hint", "Second hint"):
            assert text.count(f"<summary>{hint}</summary>\n\n") >= len(graded)


def test_the_books_table_has_every_set_with_its_numbers():
    markdown, _ = recorded_tables.problem_sets(coursework.ROOT)
    rows = [line.strip("| ").split(" | ") for line in markdown.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == list(SETS)
    for row in rows:
        asked = QUESTIONS[int(row[0])]
        assert row[3:5] == [str(len(asked)), f"{sum(q['points'] for q in asked):g}"]
        place = row[6].split("/blob/")[1].split("/", 1)[1].rstrip(")")
        assert (coursework.ROOT / place).is_file()
        assert setup_cell.repository() in row[6]


# --- what students receive ---


@each_set
def test_the_published_student_copy_is_what_is_built(built, number):
    student, published = built(number) / "student", coursework.RELEASE / f"set{number}"
    names = {p.relative_to(student) for p in student.rglob("*") if p.suffix in (".py", ".ipynb")}
    assert names == {p.relative_to(published) for p in published.rglob("*") if p.is_file()}
    for name in names:
        why = "run: python tools/coursework.py release"
        assert (published / name).read_bytes() == (student / name).read_bytes(), why


@each_set
def test_a_student_receives_no_answer_no_hidden_test_and_no_seed(built, number):
    student = built(number) / "student"
    assert coursework.leaks(student, coursework.solution_lines(SOURCE[number])) == []
    with zipfile.ZipFile(student / f"set{number}.zip") as handed_out:
        text = b"".join(handed_out.read(name) for name in handed_out.namelist())
    text += b"".join(p.read_bytes() for p in coursework.RELEASE.rglob("*") if p.is_file())
    assert b"canary" not in text and b"TEACHER_SEED" not in text


def test_a_leak_is_found(built, tmp_path):
    for text in ("# canary-answer-key", "x = 1  # SOLUTION", "def test_canary_hidden(): pass"):
        (tmp_path / "tests.py").write_text(text)
        assert coursework.leaks(tmp_path, set())
    (tmp_path / "tests.py").write_text("    the_answer = forty_two(1, 2, 3)\n")
    assert coursework.leaks(tmp_path, {"the_answer = forty_two(1, 2, 3)"})
    coursework.zip_folder(tmp_path, tmp_path / "x.zip")
    (tmp_path / "tests.py").unlink()
    assert coursework.leaks(tmp_path, {"the_answer = forty_two(1, 2, 3)"})


@pytest.mark.parametrize(
    "change, fault",
    [
        (("canary-answer-key", "key"), "canary-answer-key"),
        (("test_q1_canary_hidden", "test_q1_secret"), "hidden test"),
        (("def test_q1_toy", "def test_q1_canary_toy"), "where students can read it"),
        (("base, other = torch.tensor", "TEACHER_SEED; base, other = torch.tensor"), "outside"),
    ],
)
def test_faults_of_a_source_are_found(change, fault):
    nb = jupytext.read(SETS[1])
    assert coursework.source_faults(nb) == []
    for cell in nb.cells:
        cell.source = cell.source.replace(*change)
    assert any(fault in found for found in coursework.source_faults(nb))


# --- what graders get ---


@each_set
def test_the_archive_for_gradescope_is_complete(built, number):
    with zipfile.ZipFile(archive(built, number)) as files:
        names = set(files.namelist())
        text = {name: files.read(name).decode() for name in names}
    graded = [q["name"] for q in QUESTIONS[number] if not q.get("manual")]
    tests = {f"tests/{name}.py" for name in graded}
    rest = {"run_autograder", "run_otter.py", "setup.sh", "environment.yml", "otter_config.json"}
    assert names == tests | rest
    assert all("canary_hidden" in text[name] for name in tests)
    assert coursework.package_at_tag() in text["environment.yml"]
    assert "pip install --no-deps" in text["setup.sh"]
    assert json.loads(text["otter_config.json"])["show_hidden"] is False
    assert not any("TEACHER_SEED" in content for content in text.values())


def test_only_the_archive_and_the_answers_depend_on_the_seed(built, tmp_path):
    other = coursework.build_set(1, SEED + 1, tmp_path)
    student = built(1) / "student"
    for path in student.rglob("*"):
        if path.is_file() and path.name != ".OTTER_LOG":  # otter's, of the tests that ran there
            assert path.read_bytes() == (other / "student" / path.relative_to(student)).read_bytes()
    assert archive(built, 1).read_bytes() != (other / "autograder/set1-autograder.zip").read_bytes()


def test_the_same_seed_makes_the_same_bytes(built, tmp_path):
    again = coursework.build_set(1, SEED, tmp_path)
    assert archive(built, 1).read_bytes() == (again / "autograder/set1-autograder.zip").read_bytes()


def test_the_seed_is_kept(tmp_path, capsys):
    first = coursework.teacher_seed(None, tmp_path)
    assert coursework.teacher_seed(None, tmp_path) == first
    assert coursework.teacher_seed(5, tmp_path) == 5 == coursework.teacher_seed(None, tmp_path)
    assert "kept" in capsys.readouterr().out


@each_set
def test_the_answer_book_has_every_solution_and_explanation(built, number):
    folder = built(number) / "answers"
    nb = nbformat.read(folder / f"set{number}_answers.ipynb", as_version=4)
    text = "\n".join(cell.source for cell in nb.cells)
    assert "canary" not in text and "SOLUTION" not in text
    lines = {line.strip() for line in text.splitlines()}
    wanted = coursework.solution_lines(SOURCE[number])
    assert {line for line in wanted if "canary" not in line} <= lines
    assert (folder / f"set{number}_answers.html").stat().st_size > 10_000


# --- grading a folder ---


def notebook(path, *code):
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in code])
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, path)


def answered(built, number):
    """A student copy with all solutions, and something to read."""
    nb = student_copy(built, number)
    for _, question in (pair for pair in GRADED if pair[0] == number):
        given = stub(built, number, question)
        for cell in nb.cells:
            if cell.source == given:
                cell.source = solution(number, question)
            cell.source = cell.source.replace("_Type your answer here", "MY WORDS. _Type")
    return nb


def grade(folder, built, out, *options):
    command = [sys.executable, coursework.__file__, "grade", str(folder), "--set", "1"]
    command += ["--out", str(out), "--build", str(built(1).parent), *map(str, options)]
    return subprocess.run(command, capture_output=True, text=True)


def rows(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


NAME = 'import otter; grader = otter.Notebook("set1.ipynb")'
AUTOMATIC = sum(points(n, q) for n, q in GRADED if n == 1)


def test_a_folder_is_graded_whatever_is_in_it(built, tmp_path):
    folder, out = tmp_path / "in", tmp_path / "grades.csv"
    (folder / "Ada Lovelace_11_assignsubmission_file_").mkdir(parents=True)
    nbformat.write(
        answered(built, 1), folder / "Ada Lovelace_11_assignsubmission_file_" / "set1.ipynb"
    )
    nbformat.write(student_copy(built, 1), folder / "babbagecharles_LATE_77_555_set1.ipynb")
    notebook(folder / "loop.ipynb", NAME, "while True: pass", "after = 1")
    notebook(folder / "crash.ipynb", NAME, "import os; os._exit(3)")
    notebook(folder / "other.ipynb", NAME.replace("set1", "set2"))
    notebook(folder / "none.ipynb")
    (folder / "text.ipynb").write_text("this is no notebook")
    notebook(folder / ".ipynb_checkpoints" / "old.ipynb", NAME)

    done = grade(folder, built, out, "--limit", 240, "--jobs", 2)
    assert done.returncode == 0, done.stderr
    got = {row["student"]: row for row in rows(out)}
    assert len(got) == 7
    assert float(got["Ada Lovelace"]["total"]) == AUTOMATIC and not got["Ada Lovelace"]["errors"]
    assert got["Ada Lovelace"]["id"] == "Participant 11"
    assert float(got["babbagecharles"]["total"]) == 0 and got["babbagecharles"]["id"] == "77"
    assert "code cell 2: TimeUp" in got["loop"]["errors"] and got["loop"]["total"] == "0"
    assert "ended" in got["crash"]["errors"] and got["crash"]["total"] == ""
    assert "of set 2; this is set 1" in got["other"]["errors"]
    assert "no code cells" in got["none"]["errors"]
    assert "not a notebook" in got["text"]["errors"]

    # what a student may read, and what a teacher must
    texts = tmp_path / "grades_feedback"
    stub_text = (texts / "babbagecharles.txt").read_text()
    assert "q1: 0 of 5" in stub_text and "returns nothing yet" in stub_text
    assert not any("hidden" in path.read_text() for path in texts.iterdir())
    assert "MY WORDS" in (tmp_path / "grades_open_answers.md").read_text()

    # a person's marks are added, and nothing is run again
    table = tmp_path / "grades_open_marks.csv"
    table.write_text(table.read_text().replace("Ada Lovelace,,", "Ada Lovelace,6.5,good"))
    again = grade(folder, built, out, "--limit", 240)
    assert again.returncode == 0, again.stderr
    ada = next(row for row in rows(out) if row["student"] == "Ada Lovelace")
    assert float(ada["total"]) == AUTOMATIC + 6.5
    assert "good" in table.read_text()
    assert len(list((built(1).parent / "graded").iterdir())) == 4


def test_what_a_students_code_can_reach(built, tmp_path):
    if not coursework.sandbox():
        pytest.skip("this machine allows no namespaces")
    folder, outside = tmp_path / "in", tmp_path / "outside"
    (built(1).parent / "seed.txt").write_text("20\n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        tries = [
            f"open({str(outside)!r}, 'w')",
            f"open({str(built(1).parent / 'seed.txt')!r})",
            f"open({str(archive(built, 1))!r})",
            f"open({str(folder / 'other.ipynb')!r})",
            f"open({str(coursework.SOURCES / '1_the_question.py')!r})",
            f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=2)",
            f"bytearray({9 * 2**30})",
            "import glob; assert not any('canary' in open(p).read() for p in glob.glob('tests/*'))",
        ]
        notebook(folder / "eve.ipynb", NAME, *tries)
        notebook(folder / "other.ipynb", NAME)
        assert grade(folder, built, tmp_path / "grades.csv", "--limit", 60).returncode == 0
    eve = next(row for row in rows(tmp_path / "grades.csv") if row["student"] == "eve")
    failed = re.findall(r"code cell (\d+): (\w+)", eve["errors"])
    kinds = ["OSError", *["FileNotFoundError"] * 4, "OSError", "MemoryError"]
    assert [int(number) for number, _ in failed] == list(range(2, 9))
    got = [kind for _, kind in failed]
    assert got[1:5] == kinds[1:5] and got[6] == kinds[6]
    assert not outside.exists()


def test_what_is_left_running_is_killed_at_the_limit(built, tmp_path):
    notebook(
        tmp_path / "in" / "x.ipynb",
        NAME,
        "try:\n    while True: pass\nexcept BaseException: pass\nwhile True: pass",
    )
    done = grade(tmp_path / "in", built, tmp_path / "g.csv", "--limit", 12)
    assert done.returncode == 0, done.stderr
    assert "stopped after 12 seconds" in rows(tmp_path / "g.csv")[0]["errors"] or (
        rows(tmp_path / "g.csv")[0]["total"] == "0"
    )


def test_borrowed_names_are_reported(built, tmp_path):
    nb = student_copy(built, 1)
    given = coursework.from_package(nb)
    nb.cells.append(
        nbformat.v4.new_code_cell(
            "from hvp_utils import hvp\nimport hvp_utils\nhvp_utils.ms_hvp(1)"
        )
    )
    assert coursework.from_package(nb) - given == {"hvp_utils.hvp", "hvp_utils.ms_hvp"}


SEVERAL = [("Ada", "20"), ("Bea", "3"), ("Cy", "")]


@pytest.mark.parametrize("platform, known", [("canvas", "ID"), ("moodle", "Identifier")])
def test_tables_of_the_platforms(tmp_path, platform, known):
    row = {"student": "Ada", "id": "Participant 11", "total": "20", "possible": "34", "errors": ""}
    columns, made = coursework.table([row], platform, 1, 34, None)
    wanted = {
        "canvas": ["Student", "ID", "SIS User ID", "SIS Login ID", "Section", "Set 1"],
        "moodle": ["Identifier", "Full name", "Email address", "Grade"],
    }
    assert columns == wanted[platform]
    assert made[-1][known] == "Participant 11" and made[-1][columns[-1]] == "20"

    # Names that the platform did not give have no identifier: everyone keeps an own total.
    several = [row | {"student": name, "id": "", "total": total} for name, total in SEVERAL]
    columns, made = coursework.table(several, platform, 1, 34, None)
    named = {"canvas": "Student", "moodle": "Full name"}[platform]
    assert [(r[named], r[columns[-1]]) for r in made[-3:]] == SEVERAL

    title = {"canvas": "Set 1 (4711)", "moodle": "Grade"}[platform]
    roster = tmp_path / "export.csv"
    roster.write_text(f"{known},Other,{title}\nParticipant 11,x,\nParticipant 12,y,3\n")
    columns, made = coursework.table([row], platform, 1, 34, roster)
    assert columns == [known, "Other", title]
    assert [r[title] for r in made] == ["20", "3"] and made[0]["Other"] == "x"

    roster.write_text(f"{known},{title}\nParticipant 12,\n")
    with pytest.raises(coursework.CourseworkError, match="Ada"):
        coursework.table([row], platform, 1, 34, roster)
    # A row that is nobody's, as Canvas has one for the points possible, is left as it is.
    roster.write_text(f"{known},{title}\n,34\nParticipant 11,\n")
    assert [r[title] for r in coursework.table([row], platform, 1, 34, roster)[1]] == ["34", "20"]
    with pytest.raises(coursework.CourseworkError, match="Bea.* must keep the names"):
        coursework.table([row, several[1]], platform, 1, 34, roster)
    roster.write_text("Name\nx\n")
    with pytest.raises(coursework.CourseworkError, match=known):
        coursework.table([row], platform, 1, 34, roster)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--set", "9"], "no set 9"),
        (["--set", "1", "--format", "excel"], "--format"),
        (["--set", "1", "--build", "nowhere"], "not built"),
    ],
)
def test_commands_say_what_is_wrong(tmp_path, options, message):
    command = [sys.executable, coursework.__file__, "grade", str(tmp_path), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode != 0 and message in done.stderr and "Traceback" not in done.stderr
