"""Claims: what a chapter publishes, and that the published files are what the chapters show."""

import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import jupytext
import nbformat
import pytest
from markdown_it import MarkdownIt

from hvp_utils.claims import VERDICTS, Claim, claims_table, verdict, write_claims

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PUBLISHED = sorted((NOTEBOOKS / "results" / "claims").glob("*.json"))

HARD = Claim(
    claim="R below 0.1 for |δ| ≤ 1",
    paper="0.97",
    source="Figure 8, section 4.4",
    here="P(|f| > 0.1) = 3 to 19 %",
    verdict="holds partly",
    rule="all | half",
)
CLAIMS = [
    HARD,
    replace(HARD, claim="b\\c", here="$|f_\\mathrm{AP}|$", verdict="holds"),
    replace(HARD, claim="untested", verdict="cannot be tested here"),
]


def cells_of(markdown):
    """The cells of the Markdown tables in a text row by row, as another library reads them."""
    rows, inside = [], False
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open", "th_close", "td_close"):
            inside = token.type.endswith("open")
        elif token.type == "inline" and inside:
            rows[-1].append(token.content)
    return rows


HEAD = ["claim", "paper", "here", "verdict", "rule for *holds*"]


# --- a claim -------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ("holds here", "Holds", "", None, True))
def test_an_unknown_verdict_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be one of holds, .*, cannot be tested here, not"):
        replace(HARD, verdict=wrong)


def test_every_known_verdict_is_accepted():
    assert len(set(VERDICTS)) == 4
    for known in VERDICTS:
        assert replace(HARD, verdict=known).verdict == known


@pytest.mark.parametrize(
    ("holds", "partly", "expected"),
    [
        (True, False, "holds"),
        (True, True, "holds"),
        (False, True, "holds partly"),
        (False, False, "does not hold here"),
    ],
)
def test_verdicts_on_what_was_tested(holds, partly, expected):
    assert verdict(holds, partly) == expected
    assert expected in VERDICTS
    if not partly:
        assert verdict(holds) == expected


# --- the table -----------------------------------------------------------------------------------


def test_the_table_has_one_row_per_claim_and_its_bars_are_text():
    head, *rows = cells_of(claims_table(CLAIMS))
    assert head == HEAD
    assert rows == [
        [c.claim, f"{c.paper} ({c.source})", c.here, f"**{c.verdict}**", c.rule] for c in CLAIMS
    ]


def test_the_table_is_lines_that_join():
    for n in range(len(CLAIMS) + 1):
        lines = claims_table(CLAIMS[:n]).splitlines()
        assert len(lines) == 2 + n
        for line in lines:
            assert line.startswith("| ") and line.endswith(" |")
            assert len(re.findall(r"(?<!\\)\|", line)) == 6  # five cells, whatever they hold


# --- the file ------------------------------------------------------------------------------------


def test_written_claims_can_be_read_by_anything(tmp_path):
    folder = tmp_path / "not" / "there yet"
    path = write_claims("05_some_chapter", CLAIMS, folder)
    assert path == folder / "05_some_chapter.json"
    text = path.read_text(encoding="utf-8")
    records = json.loads(text)
    assert records == [{"chapter": "05_some_chapter", **asdict(claim)} for claim in CLAIMS]
    assert [Claim(**{k: v for k, v in r.items() if k != "chapter"}) for r in records] == CLAIMS
    assert text.endswith("]\n")
    assert "≤" in text  # readable in a diff, not \u2264


def test_writing_again_changes_nothing_but_what_changed(tmp_path):
    first = write_claims("05_x", CLAIMS, tmp_path).read_bytes()
    assert write_claims("05_x", CLAIMS, str(tmp_path)).read_bytes() == first
    other = [*CLAIMS[:2], replace(CLAIMS[2], here="nothing")]
    second = write_claims("05_x", other, tmp_path).read_text(encoding="utf-8").splitlines()
    before = first.decode().splitlines()
    assert len(second) == len(before)  # one field a line: a diff shows what a chapter changed
    changed = [i for i, (a, b) in enumerate(zip(before, second, strict=True)) if a != b]
    assert [second[i].strip() for i in changed] == ['"here": "nothing",']
    assert write_claims("05_x", [], tmp_path).read_text() == "[]\n"


# --- what is published ---------------------------------------------------------------------------

each_published = pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)


def pages(chapter):
    """The committed notebooks of a chapter: its lesson, and its evidence page if it has one."""
    return [p for f in (NOTEBOOKS, NOTEBOOKS / "evidence") for p in f.glob(f"{chapter}.ipynb")]


def shown(chapter):
    """The rows of the tables of claims that a chapter's committed notebooks show."""
    cells = [c for page in pages(chapter) for c in nbformat.read(page, as_version=4).cells]
    rows = []
    for output in (output for cell in cells for output in cell.get("outputs", [])):
        found = cells_of(output.get("data", {}).get("text/markdown", ""))
        rows += found[1:] if found[:1] == [HEAD] else []
    return rows


@each_published
def test_published_records_are_claims(path):
    records = json.loads(path.read_text(encoding="utf-8"))
    assert records
    known = {field.name for field in fields(Claim)} | {"chapter"}
    for record in records:
        assert set(record) == known
        assert all(isinstance(value, str) and value.strip() for value in record.values())
        assert record["verdict"] in VERDICTS
        assert record["chapter"] == path.stem
    assert len({record["claim"] for record in records}) == len(records)


@each_published
def test_published_claims_belong_to_a_chapter_that_shows_them(path):
    assert (NOTEBOOKS / f"{path.stem}.py").exists()
    rows = {row[0]: " | ".join(row) for row in shown(path.stem)}
    records = {r["claim"]: r for r in json.loads(path.read_text(encoding="utf-8"))}
    assert set(rows) == set(records)
    for claim, record in records.items():
        for field in ("paper", "source", "here", "verdict", "rule"):
            assert record[field] in rows[claim], f"{field} of {claim!r}"


def test_every_chapter_that_writes_claims_has_published_them():
    for notebook in pages("[0-9][0-9]_*"):
        code = "\n".join(c.source for c in jupytext.read(notebook).cells if c.cell_type == "code")
        for chapter in re.findall(r"(?:write|show)_claims\(\s*[\"']([^\"']*)[\"']", code):
            assert chapter == notebook.stem
            assert chapter in {path.stem for path in PUBLISHED}
