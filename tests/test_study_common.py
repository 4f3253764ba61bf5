"""What all studies share."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from hvp_utils import Claim, Interval, bootstrap_ci
from studies import common


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
            "name": ["a|b", "c"],
            "n": [1, 20],
            "error": [Interval(0.5, -1, 2), 3.0],
            "ok": [True, False],
        }
    )
    shown = common.show(table, {"error": ".1f"}, "Errors.").data
    assert shown.splitlines() == [
        "Errors.",
        "",
        "| name | n | error | ok |",
        "| --- | ---: | ---: | --- |",
        "| a\\|b | 1 | 0.5 (−1.0 to 2.0) | yes |",
        "| c | 20 | 3.0 | no |",
    ]


@pytest.mark.parametrize("model", ["smollm2-135m", "other"])
def test_claims_are_published_only_of_the_books_model(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    claim = Claim("c", "p", "Table 1", "h", "holds", "r")
    assert "**holds**" in common.show_claims("11_x", [claim], model).data
    assert (tmp_path / "results" / "claims" / "11_x.json").exists() == (model == "smollm2-135m")
