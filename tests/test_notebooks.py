"""The committed chapters are what their sources say, and are fit to be published."""

import ast
import importlib
import re
import shutil
import sys

import jupytext
import nbformat
import pytest
import recorded_tables
import run_notebooks
from typer.testing import CliRunner

import hvp_utils

ROOT = run_notebooks.ROOT
SOURCES = run_notebooks.pages()
MAX_SECONDS = 180
LIBRARIES = {
    *sys.stdlib_module_names,
    *("captum", "curvlinops", "einops", "jaxtyping", "matplotlib", "numpy", "pandas", "scipy"),
    *("seaborn", "torch", "tqdm", "transformer_lens", "transformers", "xarray", "IPython"),
    *("checks", "studies"),  # beside the chapters, which run in their folder
}

each_chapter = pytest.mark.parametrize("source", SOURCES, ids=run_notebooks.page_name)


def executed(source):
    target = source.with_suffix(".ipynb")
    assert target.exists(), f"{source.name} was never executed: run `make notebooks`"
    return nbformat.read(target, as_version=4)


def outputs(nb):
    return [
        (number, cell, output)
        for number, cell in enumerate(nb.cells, start=1)
        for output in cell.get("outputs", [])
    ]


def is_figure(output):
    return any(kind.startswith("image/") for kind in output.get("data", {}))


def test_every_notebook_has_a_source():
    assert SOURCES
    folders = (ROOT / "notebooks", ROOT / "notebooks" / "evidence")
    notebooks = {path for folder in folders for path in folder.glob("*.ipynb")}
    assert notebooks == {source.with_suffix(".ipynb") for source in SOURCES}


def test_every_evidence_page_belongs_to_a_lesson():
    stems = [source.stem for source in SOURCES]
    for source in SOURCES:
        if source.parent.name == "evidence":
            assert stems.count(source.stem) == 2


def test_every_page_is_in_the_table_of_contents():
    listed = re.findall(r"- file: notebooks/(\S+)", (ROOT / "_toc.yml").read_text())
    assert sorted(listed) == sorted(map(run_notebooks.page_name, SOURCES))


@each_chapter
def test_is_not_stale(source):
    reason = run_notebooks.out_of_date(source, source.with_suffix(".ipynb"))
    assert not reason, f"{reason} since it was executed: run `make notebooks`"


@each_chapter
def test_cells_equal_the_source(source):
    def content(nb):
        return [(cell.cell_type, cell.source, cell.metadata) for cell in nb.cells]

    assert content(executed(source)) == content(jupytext.read(source))


@each_chapter
def test_every_cell_ran(source):
    nb = executed(source)
    counts = [c.execution_count for c in nb.cells if c.cell_type == "code" and c.source.strip()]
    assert counts == list(range(1, len(counts) + 1))
    assert [n for n, _, output in outputs(nb) if output.output_type == "error"] == []


@each_chapter
def test_ran_with_the_default_model_in_time(source):
    run = executed(source).metadata["hvp_book"]
    assert run["seconds"] <= MAX_SECONDS
    assert run["model"] == run_notebooks.DEFAULT_MODEL


@each_chapter
def test_parameters_cell(source):
    tagged = [c for c in executed(source).cells if "parameters" in c.metadata.get("tags", [])]
    assert len(tagged) == 1, "papermill needs exactly one cell tagged `parameters`"
    values = {}
    exec(tagged[0].source, values)
    assert values["model_name"] == run_notebooks.DEFAULT_MODEL
    assert values["device"] is None


@each_chapter
def test_outputs_show_no_noise(source):
    nb = executed(source)
    assert run_notebooks.local_paths(nb) == []
    for number, _, output in outputs(nb):
        for text in run_notebooks.texts(output):
            assert "Traceback (most recent call last)" not in text, f"cell {number}"
            assert not re.search(r" at 0x[0-9a-f]{6,}", text), f"cell {number} shows an address"


@each_chapter
def test_figures_have_alt_text(source):
    for number, cell, output in outputs(executed(source)):
        if is_figure(output):
            alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
            assert len(alt.split()) >= 3, f"cell {number}: say in mystnb.image.alt what it shows"


@each_chapter
def test_imports_only_public_names(source):
    # Lines that start with ! or % are for IPython; Python cannot parse them.
    text = re.sub(r"^(\s*)[!%].*$", r"\1pass", source.read_text(), flags=re.MULTILINE)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules, names = [alias.name for alias in node.names], []
        elif isinstance(node, ast.ImportFrom):
            modules, names = [node.module or "."], [alias.name for alias in node.names]
        else:
            continue
        for module in modules:
            if module.startswith("hvp_utils."):  # what is not exported at the top
                assert set(names) <= set(importlib.import_module(module).__all__), module
            else:
                assert module == "hvp_utils" or module.split(".")[0] in LIBRARIES, module
        if "hvp_utils" in modules:
            assert set(names) <= set(hvp_utils.__all__)


@each_chapter
def test_links_point_to_the_configured_repository(source):
    config = (ROOT / "_config.yml").read_text()
    url = re.search(r"^repository:\n  url: (\S+)$", config, re.MULTILINE).group(1)
    owner, name = url.split("/")[-2:]
    for found in re.findall(rf"github\.com/([\w-]+)/{name}", source.read_text()):
        assert found == owner


# The tool that executes them, on notebooks of a few lines.

PASSING = """\
# %% [markdown]
# # A title

# %% tags=["parameters"]
model_name = "smollm2-135m"
device = None

# %%
import sys
from tqdm import tqdm

for _ in tqdm(range(3)):
    pass
print("a warning", file=sys.stderr)
model_name, device
"""
FAILING = PASSING + "\n# %%\n# the reason\nprint(1 / 0)\n"


def run_tool(*arguments):
    return CliRunner().invoke(run_notebooks.app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def passing(tmp_path_factory):
    source = tmp_path_factory.mktemp("passing") / "01_passing.py"
    source.write_text(PASSING)
    result = run_tool(source)
    assert result.exit_code == 0, result.output
    return source


@pytest.fixture
def copied(passing, tmp_path):
    for file in passing.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / passing.name


def test_tool_writes_the_source_with_outputs(passing):
    test_cells_equal_the_source(passing)
    test_every_cell_ran(passing)
    nb = executed(passing)
    assert run_notebooks.page_name(passing) == "01_passing"
    assert [(o.get("text"), o.get("data")) for _, _, o in outputs(nb)] == [
        ("a warning\n", None),
        (None, {"text/plain": "('smollm2-135m', None)"}),
    ]
    run = nb.metadata["hvp_book"]
    assert set(run) >= {"date", "seconds", "revision", "dtype", "versions", "hardware"}
    assert {path.name for path in passing.parent.iterdir()} == {"01_passing.py", "01_passing.ipynb"}


def test_tool_passes_parameters_on(passing, tmp_path):
    assert run_tool(passing, "--model", "gpt2").exit_code == 2  # it would replace the default run
    result = run_tool(passing, "--model", "gpt2", "--device", "cpu", "--out", tmp_path)
    assert result.exit_code == 0, result.output
    nb = nbformat.read(tmp_path / "01_passing.ipynb", as_version=4)
    assert nb.cells[-1].outputs[-1].data["text/plain"] == "('gpt2', 'cpu')"
    assert nb.metadata["hvp_book"]["model"] == "gpt2"


def test_tool_gives_a_comparison_two_different_models(tmp_path):
    source = tmp_path / "01_two.py"
    source.write_text(PASSING.replace("device = None", 'second_model = "gpt2"\ndevice = None'))
    source.write_text(source.read_text().replace("model_name, device\n", "second_model\n"))
    for model, second in (("gpt2", "smollm2-135m"), ("other", "gpt2")):
        result = run_tool(source, "--model", model, "--out", tmp_path / model)
        assert result.exit_code == 0, result.output
        nb = nbformat.read(tmp_path / model / "01_two.ipynb", as_version=4)
        assert nb.cells[-1].outputs[-1].data["text/plain"] == repr(second)


def test_changed_source_is_stale(copied):
    test_is_not_stale(copied)
    assert run_tool(copied, "--check").exit_code == 0
    copied.write_text(PASSING.replace("A title", "Another title"))
    with pytest.raises(AssertionError, match="its source changed"):
        test_is_not_stale(copied)
    result = run_tool(copied, "--check")
    assert result.exit_code == 1
    assert "01_passing: its source changed" in result.output


def test_changed_package_is_out_of_date(copied, monkeypatch):
    monkeypatch.setattr(run_notebooks, "package_hash", lambda: "another")
    assert run_notebooks.out_of_date(copied, copied.with_suffix(".ipynb")) == "hvp_utils changed"
    with pytest.raises(AssertionError, match="hvp_utils changed since it was executed"):
        test_is_not_stale(copied)


def test_what_a_module_does_is_told_from_what_it_says(tmp_path):
    text = '''"""Says this."""
import os  # why


class A:
    """And this,
    over two lines."""

    def f(self):
        "short"
        return "# no comment"
'''
    code = ["import os", "class A:", "    def f(self):", '        return "# no comment"']
    assert run_notebooks.code_of(text).splitlines() == code
    module = tmp_path / "module.py"
    module.write_text(text)
    before = run_notebooks.package_hash(tmp_path)
    module.write_text(text.replace("Says this", "Says that").replace("# why", "# because"))
    assert run_notebooks.package_hash(tmp_path) == before
    module.write_text(text.replace('"# no', '"# not'))
    assert run_notebooks.package_hash(tmp_path) != before


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FAILING, "cell 4 of 4 failed\n    # the reason\n    print(1 / 0)\nZeroDivisionError: "),
        ("# %%\nimport os\nos._exit(1)\n", "cell 1 of 1 failed\n    import os\n"),
        ("# %%\nprint('in /home/someone/book')\n", "cell 1 shows the local path '/home'"),
    ],
    ids=["error", "dead kernel", "local path"],
)
def test_failing_notebook_leaves_the_old_one(copied, text, message):
    target = copied.with_suffix(".ipynb")
    before = target.read_bytes()
    copied.write_text(text)
    result = run_tool(copied)
    assert result.exit_code == 1
    assert f"01_passing: {message}" in result.output
    assert target.read_bytes() == before
    assert sorted(copied.parent.iterdir()) == [target, copied]


# A lesson and its evidence page, and the study that both call.

STUDY = "def answer():\n    return 42\n"
LESSON = PASSING.replace("import sys\n", "import sys\nimport os\nfrom studies import numbers\n")
LESSON = LESSON.replace("model_name, device\n", "numbers.answer(), os.path.exists('studies')\n")


@pytest.fixture
def book(tmp_path):
    notebooks = tmp_path / "notebooks"
    for folder in ("studies", "evidence"):
        (notebooks / folder).mkdir(parents=True)
    (notebooks / "studies" / "__init__.py").write_text("")
    (notebooks / "studies" / "numbers.py").write_text(STUDY)
    (notebooks / "01_passing.py").write_text(LESSON)
    (notebooks / "evidence" / "01_passing.py").write_text(LESSON.replace("A title", "Evidence"))
    return notebooks


def test_lesson_and_evidence_run_in_one_folder_and_do_not_collide(book, tmp_path, monkeypatch):
    monkeypatch.setattr(run_notebooks, "ROOT", tmp_path)
    sources = run_notebooks.pages(book)
    assert [run_notebooks.page_name(s) for s in sources] == ["01_passing", "evidence/01_passing"]
    assert {run_notebooks.home(source) for source in sources} == {book}
    for arguments in (sources, [*sources, "--out", tmp_path / "out", "--jobs", 2]):
        result = run_tool(*arguments)
        assert result.exit_code == 0, result.output
    for folder in (book, tmp_path / "out"):
        for name, title in (("01_passing", "A title"), ("evidence/01_passing", "Evidence")):
            nb = nbformat.read(folder / f"{name}.ipynb", as_version=4)
            assert title in nb.cells[0].source
            assert nb.cells[-1].outputs[-1].data["text/plain"] == "(42, True)"
    markdown, files = recorded_tables.notebook_status(tmp_path)
    assert [file.relative_to(book).as_posix() for file in files] == [
        "01_passing.ipynb",
        "evidence/01_passing.ipynb",
    ]
    assert "[](/notebooks/01_passing)" in markdown
    assert "[](/notebooks/evidence/01_passing)" in markdown


def test_a_failure_beside_other_chapters_is_told(book, tmp_path):
    (book / "01_passing.py").write_text(FAILING)
    out = tmp_path / "out"
    result = run_tool(*run_notebooks.pages(book), "--out", out, "--jobs", 2)
    assert result.exit_code == 1 and "01_passing: cell 4 of 4 failed" in result.output
    assert not (out / "01_passing.ipynb").exists()


def test_changed_study_is_stale(book):
    source = book / "01_passing.py"
    before = run_notebooks.studies_hash(source)
    (book / "studies" / "another.py").write_text(STUDY)
    (book / "studies" / "common.py").write_text(STUDY)
    assert run_notebooks.studies_hash(source) == before != ""
    for line in ("import studies.numbers", "from studies.numbers import answer"):
        other = source.with_name("02_other.py")
        other.write_text(f"# %%\n%time\n{line}\n")
        assert run_notebooks.studies_hash(other) == before
    (book / "studies" / "numbers").mkdir()  # a study that grew into a folder
    (book / "studies" / "numbers" / "tables.py").write_text(STUDY)
    assert run_notebooks.studies_hash(source) != before
    (book / "studies" / "numbers" / "tables.py").unlink()
    (book / "studies" / "numbers.py").write_text(STUDY.replace("42", "43"))
    assert run_notebooks.studies_hash(source) != before
    source.write_text(PASSING)
    assert run_notebooks.studies_hash(source) == ""


@pytest.mark.parametrize("line", ["from checks.passing import check_it", "import checks.passing"])
def test_changed_check_is_stale(book, line):
    source = book / "01_passing.py"
    source.write_text(PASSING + f"# %%\n{line}\n")
    (book / "checks").mkdir()
    (book / "checks" / "passing.py").write_text("1")
    (book / "checks" / "other.py").write_text("1")
    before = run_notebooks.studies_hash(source)
    (book / "checks" / "other.py").write_text("2")
    assert run_notebooks.studies_hash(source) == before != ""
    (book / "checks" / "passing.py").write_text("2")
    assert run_notebooks.studies_hash(source) != before


# The tables of the status and benchmark pages.


def test_status_table(copied, tmp_path):
    folder = tmp_path / "book" / "notebooks"
    folder.mkdir(parents=True)
    shutil.copy(copied.with_suffix(".ipynb"), folder)
    markdown, files = recorded_tables.notebook_status(tmp_path / "book")
    assert files == [folder / "01_passing.ipynb"]
    assert re.search(r"\| \[\]\(/notebooks/01_passing\) \| \d+ s \| \d{4}-\d\d-\d\d ", markdown)
    assert "| smollm2-135m |" in markdown
    assert "| torch | " in markdown


def test_benchmark_table(tmp_path):
    assert "No benchmark has been recorded" in recorded_tables.benchmark_results(tmp_path)[0]
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "results.json").write_text(
        '{"machine": {"cores": 2}, "rows": [{"name": "a", "what": "b", "seconds": 1.5,'
        ' "ratio": 2.5, "target": "at least 2", "note": null}]}'
    )
    markdown, _ = recorded_tables.benchmark_results(tmp_path)
    assert "| a | b | 1.5 s | 2.5× | at least 2 |  |" in markdown
    assert "cores: 2" in markdown
