"""The scoreboard: no table, figure or claim is lost, and its own claims can come out either way."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hvp_utils.claims import VERDICTS
from hvp_utils.stats import Interval
from studies import is_it_worth_it as worth
from studies import scoreboard
from studies.scoreboard.others import KINDS, TASKS

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PUBLISHED = NOTEBOOKS / "results" / "claims"
MODELS = ("smollm2-135m", "gemma-3-270m")


@pytest.mark.parametrize(
    ("source", "items"),
    [
        ("Tables 2, 3, 8, 9 and 10", ["Table 2", "Table 3", "Table 8", "Table 9", "Table 10"]),
        ("Figures 6b and 7, Table 14", ["Figure 6", "Figure 7", "Table 14"]),
        ("Tables 11 to 13", ["Table 11", "Table 12", "Table 13"]),
        ("section 3.3, Figure 2", ["Figure 2"]),
        ("appendix B.2, Table 7", ["Table 7"]),
        ("appendix B.2", ["Table 6", "Table 7"]),
        ("Table 99", []),
        ("abstract", []),
    ],
)
def test_tables_and_figures_are_read_from_a_source(source, items):
    assert scoreboard.items_of(source) == items


def test_every_table_and_figure_of_the_paper_is_there():
    kinds = [name.split()[0] for name in scoreboard.ITEMS]
    assert kinds.count("Table") == 17 and kinds.count("Figure") == 12
    for item in scoreboard.ITEMS.values():
        page = item.chapter.removeprefix("book/")
        assert any(
            (NOTEBOOKS.parent / folder / f"{page}{end}").exists()
            for folder, end in (("book", ".md"), ("notebooks", ".py"))
        ), item


def test_no_table_or_figure_is_without_a_claim():
    table = scoreboard.by_item(scoreboard.collect(PUBLISHED), VERDICTS)
    bare = table[(table[list(VERDICTS)].sum(axis=1) == 0) & ~table["only describes"]]
    assert bare.item.tolist() == []


def test_every_published_claim_is_collected_and_shown():
    claims = scoreboard.collect(PUBLISHED)
    records = [r for f in sorted(PUBLISHED.glob("*.json")) for r in json.loads(f.read_text())]
    assert claims.claim.tolist() == [r["claim"] for r in records]
    counted = scoreboard.counts(claims, "number")
    assert counted["all"].sum() == len(records)
    assert (counted[list(VERDICTS)].sum(axis=1) == counted["all"]).all()

    class Cards(HTMLParser):
        def __init__(self):
            super().__init__()
            self.cards, self.links = [], []

        def handle_starttag(self, tag, attrs):
            if tag == "article":
                self.cards.append(dict(attrs))
            if tag == "a":
                self.links.append(dict(attrs)["href"])

    page = Cards()
    page.feed(scoreboard.cards(claims))
    assert [card["data-verdict"] for card in page.cards] == claims.verdict.tolist()
    for link in set(page.links):
        assert (NOTEBOOKS / "evidence" / link).with_suffix(".py").exists(), link


def test_a_claim_of_an_unknown_verdict_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no claims"):
        scoreboard.collect(tmp_path)
    record = {
        "chapter": "01_a",
        "claim": "c",
        "paper": "p",
        "source": "s",
        "here": "h",
        "rule": "r",
    }
    (tmp_path / "01_a.json").write_text(json.dumps([record | {"verdict": "perhaps"}]))
    with pytest.raises(ValueError, match=r"Unknown verdicts \['perhaps'\]"):
        scoreboard.collect(tmp_path)


def test_the_title_counts():
    claims = pd.DataFrame({"verdict": [VERDICTS[i] for i in (0, 0, 1, 2, 2, 2, 3)]})
    assert re.findall(r"\d+", scoreboard.title(claims)) == ["6", "2", "1", "3"]


# --- its own claims, on made-up sweeps -----------------------------------------------------------


def a_sweep(ap_error, hvp_error, n=40, n_prompts=4, seed=0):
    """Effects, and estimates that are off by these shares of them."""
    rng = np.random.default_rng(seed)
    f = rng.standard_normal((n_prompts, n)) + 3
    values = {
        "activation_patching": f,
        "attribution_patching": f * (1 + ap_error),
        "hvp": f * (1 + hvp_error),
        "delta_norm": np.abs(f) ** (1 if ap_error > 0.3 else 0),
    }
    return xr.Dataset({k: (("prompt", "component"), v) for k, v in values.items()})


def verdicts(ap=0.5, hvp=0.01, resid=0.9, holm=0.01, left=0.2):
    heads = {(m, t): a_sweep(ap, hvp) for m in MODELS for t in TASKS}
    kinds = {(m, k): a_sweep(ap if k == "heads" else resid, hvp) for m in MODELS for k in KINDS}
    errors = pd.DataFrame(
        {worth.AP: [10.0, 20.0], worth.ROWS: [left, left]},
        index=pd.MultiIndex.from_tuples([(m, "ioi") for m in MODELS], names=["model", "task"]),
    )
    tests = pd.DataFrame(
        {"method": "HVP", "holm": [holm, 0.01], "difference": [Interval(0.1, 0, 0.2)] * 2}
    )
    price = dict.fromkeys(MODELS, 20.0)
    return {c.claim: c.verdict for c in scoreboard.claims(heads, kinds, errors, price, tests)}


@pytest.mark.parametrize(
    ("words", "change", "before", "after"),
    [
        ("reduces the mean absolute error", {"hvp": 0.9}, "holds", "does not hold here"),
        ("One product removes", {"hvp": 0.4}, "holds", "does not hold here"),
        ("poorly on the residual stream", {"resid": 0.1}, "holds", "does not hold here"),
        ("survive a correction", {"holm": 0.5}, "holds", "holds partly"),
        ("Use gradients to screen", {"left": 5.0}, "holds", "holds partly"),
        ("Use gradients to screen", {"left": 50.0}, "holds", "does not hold here"),
        ("gives false confidence", {"ap": 0.2, "hvp": 0.19}, "does not hold here", "holds"),
    ],
)
def test_claims_can_come_out_either_way(words, change, before, after):
    (claim,) = [claim for claim in verdicts() if words in claim]
    quiet = {"ap": 0.05, "hvp": 0.045} if words == "gives false confidence" else {}
    assert verdicts(**quiet)[claim] == before
    assert verdicts(**change)[claim] == after


def test_what_could_not_be_tested_says_so():
    found = verdicts()
    untested = {claim for claim, verdict in found.items() if verdict == VERDICTS[3]}
    assert untested == {
        "Behaviour beyond 9 billion parameters is not known",
        "The diagnosis carries over to larger models and other gradient methods",
    }
    assert set(found.values()) <= set(VERDICTS)
