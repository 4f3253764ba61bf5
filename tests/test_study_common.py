"""What all studies share."""

import html
import math
import re

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hvp_utils.claims import VERDICTS, Claim
from hvp_utils.stats import Interval, bootstrap_ci, holm, paired_bootstrap
from studies import common, panels


def a_sweep(n_prompts=3, n=4, seed=0):
    values = np.random.default_rng(seed).standard_normal((2, n_prompts, n))
    return xr.Dataset(
        {
            "hvp": (("prompt", "component"), values[0]),
            "ms_hvp:5": (("prompt", "component"), values[1]),
        },
        coords={
            "label": ("component", [f"L{c // 2}H{c % 2}" for c in range(n)]),
            "layer": ("component", np.arange(n) // 2),
        },
    )


def test_tidy_has_a_row_for_each_prompt_and_component():
    sweeps = {("a", "ioi"): a_sweep(), ("b", "ioi"): a_sweep(2, 6, 1)}
    table = common.tidy(sweeps, ["hvp", "ms_hvp:5"])
    assert len(table) == 3 * 4 + 2 * 6
    for row in table.sample(8, random_state=0).itertuples(index=False):
        data = sweeps[row.model, row.task]
        place = data.label.values.tolist().index(row.component)
        assert row.hvp == data.hvp.values[row.prompt, place]
        assert row[-1] == data["ms_hvp:5"].values[row.prompt, place]
        assert row.layer == data.layer.values[place]


def test_load_asks_for_one_sweep_each(monkeypatch):
    monkeypatch.setattr(common, "sweep", lambda *args, **options: (args, options))
    found = common.load(("a", "b"), ("ioi",), ("hvp",), 5, device="cpu")
    options = {"n_prompts": 5, "store": "results", "device": "cpu"}
    assert found == {(m, "ioi"): ((m, "ioi", ("hvp",)), options) for m in "ab"}


def test_intervals_are_those_of_each_group():
    values = np.random.default_rng(0).standard_normal(20)
    table = pd.DataFrame({"model": ["a"] * 12 + ["b"] * 8, "error": values})
    found = common.intervals(table, ["model"], "error", np.median, n_resamples=200)
    assert found.model.tolist() == ["a", "b"]
    for interval, part in zip(found.error, (values[:12], values[12:]), strict=True):
        assert interval == bootstrap_ci(part, np.median, n_resamples=200)


def test_shown_tables():
    table = pd.DataFrame(
        {
            "name": ["a|b", "<c>"],
            "n": [1, 20],
            "error": [Interval(0.5, -1, 2), 3.0],
            "ok": [True, False],
        }
    )
    shown = common.show(table, {"error": ".1f"}, "Errors.").to_html()
    cells = [html.unescape(c) for c in re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", shown)]
    assert cells == [
        *("name", "n", "error", "ok"),
        *("a|b", "1", "0.5 (−1.0 to 2.0)", "yes"),
        *("<c>", "20", "3.0", "no"),
    ]
    assert "<caption>Errors.</caption>" in shown
    assert set(re.findall(r"\.col(\d)[^{}]*{\s*text-align: right", shown)) == {"1", "2"}
    assert common.show(table, {"error": ".1f"}, "Errors.").to_html() == shown


def test_what_is_not_known_is_a_dash():
    shown = common.show(pd.DataFrame({"a": [1.0, math.nan]})).to_html()
    assert ">–<" in shown and "nan" not in shown


def test_as_text_a_table_says_what_it_holds():
    """And no address in memory, which would be another in every run."""
    text = repr(common.show(pd.DataFrame({"error": [0.123456], "name": ["a"]})))
    assert "0.12" in text and "name" in text and "0x" not in text


def test_headers_and_captions_are_text():
    shown = common.show(pd.DataFrame({"R < 0.1": [1]}), caption="a < b").to_html()
    assert "R &lt; 0.1" in shown and "<caption>a &lt; b</caption>" in shown


@pytest.mark.parametrize("model", ["smollm2-135m", "other"])
@pytest.mark.parametrize("publish", ["1", ""])
def test_claims_are_published_only_of_the_books_model(model, publish, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HVP_BOOK_PUBLISH", publish)
    claim = Claim("c", "p", "Table 1", "h", "holds", "r")
    assert "**holds**" in common.show_claims("11_x", [claim], model).data
    published = (tmp_path / "results" / "claims" / "11_x.json").exists()
    assert published == (model == "smollm2-135m" and publish == "1")


def test_paired_tests_are_those_of_the_package():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 12))
    parts = [
        pd.DataFrame(
            {"model": "x", "task": "ioi", "prompt": np.arange(12), "method": name, "error": values}
        )
        for name, values in (("AP", a), ("HVP", b), ("GIM", b - 9))
    ]
    table = pd.concat(parts)
    found = common.paired(table, ("model", "task"), "error", "AP", n_resamples=500)
    assert found.method.tolist() == ["HVP", "GIM"]
    test = paired_bootstrap(b, a, n_resamples=500)
    assert tuple(found.difference[0]) == (test.difference, test.low, test.high)
    assert found.p[0] == test.p_value
    assert found.holm.tolist() == holm(found.p).tolist() != found.p.tolist()
    with pytest.raises(ValueError, match=r"HVP or AP has no error for some prompts of .*'x'"):
        common.paired(table.iloc[1:], ("model", "task"), "error", "AP", methods=["HVP"])


def test_values_of_models_as_text():
    values = {"a": Interval(41.2, 30, 50), "b": 7.0}
    assert common.listed(values, ".0f", " %") == "41 (30 to 50) % (a) and 7 % (b)"
    assert common.listed({"a": "none", "b": 3}, between=", ") == "none (a), 3 (b)"


def test_a_span_is_one_number_where_both_ends_read_the_same():
    assert common.span([2.5, 1, 2]) == "1.0 to 2.5"
    assert common.span([2.02, 2.04]) == "2.0"
    assert common.span(pd.Series([-3.4, 12]), 0) == "-3 to 12"
    assert common.span({"a": 0.123, "b": 0.2}.values(), 2) == "0.12 to 0.20"


def test_places_of_equals_are_in_their_order():
    assert common.places(np.array([[1.0, 3, 2], [2, 2, 5]])).tolist() == [[3, 1, 2], [2, 3, 1]]


def test_settings_keep_the_order_of_a_table():
    table = pd.DataFrame({"model": list("bbab"), "task": ["y", "x", "x", "y"]})
    assert common.settings_of(table) == [("b", "y"), ("b", "x"), ("a", "x")]


def test_values_of_the_papers_models_are_not_tested():
    claim = common.not_run("The values of Table 1", "on GPT-2", "Table 1")
    assert (claim.verdict, claim.source) == (VERDICTS[3], "Table 1")
    assert claim.rule == "none of these models is among ours"
    assert common.not_run("c", "p", "s", "neither is").rule == "neither is"


def test_bars_are_as_long_as_intervals():
    middle, spread = panels.bars([Interval(2, 1, 5), Interval(3.0, 3.1, 3.2)])
    assert middle.tolist() == [2, 3]
    assert spread.tolist() == pytest.approx(np.array([[1, 0], [3, 0.2]]))


@pytest.mark.parametrize(
    ("p", "n", "text"),
    [
        (2 / 1001, 1000, "p ≤ 0.002"),
        (4 / 1001, 1000, "p = 0.004"),
        (0.0321, 1000, "p = 0.032"),
        (2 / 10000, 9999, "p ≤ 0.0002"),
        (1.0, 9999, "p = 1.0000"),
    ],
)
def test_the_least_p_value_is_a_bound(p, n, text):
    assert common.p_value(p, n) == text


def test_what_is_kept_is_measured_once(tmp_path):
    path, calls = tmp_path / "a" / "b.nc", []

    def measure():
        calls.append(1)
        return xr.Dataset({"x": ("n", [1.0, 2.0])}, attrs={"about": "me"})

    for _ in range(2):
        found = common.kept(path, {"model": "m"}, measure)
        assert found.x.values.tolist() == [1, 2] and found.attrs == {"about": "me", "model": "m"}
    assert len(calls) == 1
    assert common.kept(None, {"model": "m"}, measure).attrs["model"] == "m" and len(calls) == 2
    common.kept(path, {"model": "another"}, measure)  # the file is not what was asked for
    assert len(calls) == 3 and len(list(path.parent.glob("*.set-aside-*"))) == 1
    path.write_bytes(b"damaged")
    assert common.kept(path, {"model": "m"}, measure).x.values.tolist() == [1, 2]
