"""The study of chapter 15: toys against closed forms, tables against loops, constructed cases."""

import dataclasses
import math

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from tiny_models import tiny_model, tiny_task

from hvp_utils import PatchedMetric, activation_patching, attribution_patching, plots
from hvp_utils import diagnosis as d
from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.stats import Interval
from studies import failure_modes as study
from studies.failure_modes import census, judged, tables

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _style():
    plots.use_style()
    yield
    plt.close("all")


# --- toys ----------------------------------------------------------------------------------------


def test_toys_are_their_closed_forms():
    table = study.estimates().set_index("failure")
    by_hand = study.closed_forms().set_index("toy")
    for toy in study.TOYS:
        for name in ("truth", "AP", "HVP"):
            assert table[name][toy] == pytest.approx(by_hand[name][toy], abs=1e-12)


def test_toys_meet_the_criteria_made_for_them():
    points = torch.linspace(0, 1, 1001, dtype=torch.float64)
    for name in (d.SATURATION, d.ZERO_GRADIENT):
        slopes, _ = study.derivatives(study.TOYS[name], points)
        assert d.is_zero_gradient(slopes[0].item(), slopes.abs().mean().item())
    found = study.rules(study.TOYS[d.CANCELLATION])
    assert d.is_cancellation(5.0, -4.8, found["truth"] - found["AP"])
    p = [study.TOYS[d.SATURATION](torch.tensor(t)).item() for t in (0.0, 1.0)]
    assert 1 - p[0] > d.SATURATED and p[1] - p[0] > d.CHANGED  # of the other key


def test_the_tutorials_numbers():
    found = study.rules(study.TOYS[d.CANCELLATION])
    assert found["truth"] == pytest.approx(0.2) and found["AP"] == pytest.approx(-0.1)
    assert study.FLIP == pytest.approx(0.2 / 4.8)
    assert 5 - 4.8 * (1 + study.FLIP) == pytest.approx(0)


def test_rules_against_loops():
    k = 5
    for path in study.TOYS.values():
        found = study.rules(path, k)
        total = 0.0
        for i in range(k):
            t = torch.tensor(i / k, dtype=torch.float64)
            slope = torch.func.grad(path)(t)
            total += slope / k + torch.func.grad(torch.func.grad(path))(t) / (2 * k**2)
        assert found["MS-HVP, K = 5"] == pytest.approx(total.item())
        x, w = np.polynomial.legendre.leggauss(k)
        slopes = [torch.func.grad(path)(torch.tensor((u + 1) / 2)).item() for u in x]
        assert found["5 slopes"] == pytest.approx(np.dot(w, slopes) / 2)


# --- the search ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    setting = study.Setting("tiny", "queries", n_prompts=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(census, "make_prompts", lambda task, model, n: tiny_task(model, n))
        return study.measure(tiny_model("llama"), setting)


def test_the_search_finds_what_loops_find(measured):
    for prompt, pair in enumerate(tiny_task(None, 2)):
        M = PatchedMetric(tiny_model("llama"), pair, "queries")
        f, ap = activation_patching(M), attribution_patching(M)
        largest = f.abs().max().item()
        bad = [c for c in range(M.n) if abs(f[c] - ap[c]) > 0.1 * largest]
        rest = sorted((c for c in range(M.n) if c not in bad), key=lambda c: -abs(f[c].item()))
        part = measured.isel(case=measured.prompt.values == prompt)
        names = part.component.values
        assert set(names[part.bad.values == 1]) == {M.labels[c] for c in bad}
        assert set(names[part.bad.values == 0]) == {M.labels[c] for c in rest[: len(bad)]}
        assert part.largest.values == pytest.approx(largest)
        for one in study.diagnoses(part):
            c = M.labels.index(one.component)
            assert one.truth == pytest.approx(f[c].item())
            assert one.estimate == pytest.approx(ap[c].item())


def test_diagnoses_come_back_as_they_were(measured):
    pair = tiny_task(None, 1)[0]
    M = PatchedMetric(tiny_model("llama"), pair, "queries")
    kept = study.diagnoses(measured.isel(case=measured.bad.values == 1))[0]
    again = d.diagnose(M, kept.component)
    assert kept.verdict == again.verdict and kept.criteria == again.criteria
    assert kept.reader._replace(part=0.0) == again.reader._replace(part=0.0) or (
        kept.reader.base == pytest.approx(again.reader.base)
    )
    for name, value in again.remedies.items():
        assert kept.remedies[name] == pytest.approx(value)
    for name, value in again.parts.items():
        assert kept.parts[name] == pytest.approx(value, abs=1e-9)


def test_controls_have_symptoms_only(measured):
    controls = measured.isel(case=measured.bad.values == 0)
    assert np.isnan(controls.parts).all() and np.isfinite(controls.slopes).all()
    assert np.isnan(controls.remedies.sel(remedy="ms_hvp:5")).all()


def test_settings_have_names_of_their_own():
    names = [setting.name for setting in study.SETTINGS.values()]
    assert len(set(names)) == len(names)
    assert study.Setting("ioi", "neurons_pre:256").name == "ioi__neurons_pre-256__denoising"


def test_stored_cases_are_read_and_others_measured(tmp_path, monkeypatch, measured):
    asked = []
    monkeypatch.setattr(census, "load_model", lambda name, device: tiny_model("llama"))
    monkeypatch.setattr(
        census, "measure", lambda *args: asked.append(args) or measured.copy(deep=True)
    )
    for _ in range(2):
        found = study.stored(["a"], ["heads, IOI"], str(tmp_path))
    assert len(asked) == 1 and list(found) == [("a", "heads, IOI")]
    pd.testing.assert_frame_equal(
        study.cases(found).drop(columns=["model", "setting"]),
        study.cases({("a", "b"): measured}).drop(columns=["model", "setting"]),
    )


# --- tables --------------------------------------------------------------------------------------


def a_case(bad=True, **changes):
    parts = dict.fromkeys(NONLINEARITIES, 0.0) | {"mlp_gating": 1.0}
    one = d.Diagnosis(
        "L0H0",
        2.0,
        1.0,
        1.0,
        0.5,
        (2.0,) * 5,
        (0.1, 0.3, 0.5, 0.7, 0.9),
        (0.2,) * 5,
        parts,
        None,
        0.0,
        {"hvp": 1.75, "ms_hvp:5": 1.9, "five slopes": 2.0, "grad_drop": 1.0},
    )
    return bad, dataclasses.replace(one, **changes)


SHARP = {
    "parts": dict.fromkeys(NONLINEARITIES, 0.0) | {"attention_pattern": 1.0},
    "saturated_share": 1.0,
    "remedies": {"qk_fix": 1.9, "hvp": 0.5, "ms_hvp:5": 1.5, "five slopes": 1.9, "grad_drop": 1.9},
}
CANCELS = {
    "truth": 0.2,
    "estimate": -0.1,
    "direct": 5.0,
    "slopes": (0.2,) * 5,
    "remedies": {"grad_drop": 0.2, "hvp": 0.2, "five slopes": 0.2},
}
FLAT_START = {"estimate": 0.01}


def found_cases():
    """Cases of two models by (model, setting), of known verdicts."""
    groups = {
        ("a", "heads, IOI"): [a_case(), a_case(**FLAT_START), a_case(False), a_case(False)],
        ("a", "queries, IOI"): [a_case(**SHARP), a_case(False, saturated_share=0.3)],
        ("a", "neurons, IOI"): [a_case(**CANCELS), a_case(False)],
        ("b", "heads, IOI"): [a_case(), a_case(False)],
        ("b", "keys, IOI"): [a_case(**SHARP), a_case(**SHARP), a_case(False), a_case(False)],
        ("b", "neurons, IOI"): [a_case(), a_case(False)],
    }
    return {
        key: census._dataset([(i % 2, bad, 4.0, one) for i, (bad, one) in enumerate(group)])
        for key, group in groups.items()
    }


@pytest.fixture(scope="module")
def table():
    return study.cases(found_cases())


def test_cases(table):
    assert len(table) == 16 and table.bad.sum() == 8
    assert table.verdict[~table.bad].eq(d.NO_FAILURE).all()
    first = table.iloc[0]
    assert (first.percent, first.main, first.main_share) == (25.0, "mlp_gating", 1.0)
    assert first["removed: hvp"] == pytest.approx(0.75) and not first.hides
    flat = table[table.bad & table["flat start"]].iloc[0]
    assert flat.verdict == d.ZERO_GRADIENT and flat.hides


def test_counts(table):
    by_model = study.counts(table, ("model",)).set_index("model")
    assert by_model.misjudged.to_dict() == {"a": 4, "b": 4}
    assert by_model[d.SATURATION].to_dict() == {"a": 1, "b": 2}
    assert by_model[d.CANCELLATION].to_dict() == {"a": 1, "b": 0}
    assert by_model[d.ZERO_GRADIENT].to_dict() == {"a": 1, "b": 0}
    assert by_model.none.to_dict() == {"a": 1, "b": 2}
    rows = study.counts(table)
    assert (rows[[*study.NAMED, "none"]].sum(axis=1) == rows.misjudged).all()
    told = study.explained(table)
    assert (told["misjudged"], told["named"], told["mlp"]) == (8, 5, 3)
    assert told["share"].estimate == pytest.approx(62.5)


def test_symptoms(table):
    rows = study.symptoms(table).set_index("symptom")
    assert rows.misjudged["row leaves saturation"].estimate == pytest.approx(100 * 3 / 8)
    assert rows.others["row leaves saturation"].estimate == pytest.approx(100 / 8)
    assert rows.accounts.to_list() == [3, 1, 1]


def test_thresholds_at_their_values_give_the_counts(table):
    rows = study.thresholds(table).set_index(["failure", "threshold"])
    bad = table[table.bad]
    for (failure, _), row in rows.iterrows():
        assert row.used == bad[failure].sum()
        assert row.stricter <= row.used <= row.looser
    assert rows.loc[d.ZERO_GRADIENT, "slope over mean slope"]["values"] == "0.05, 0.1, 0.2"


def test_softmax_cases():
    def row(start, end):
        return d.Reader("L1H0", 3, 2, start, end, 0.0, 0.1)

    ends = ((0.02, 0.6), (0.02, 0.05), (0.96, 0.1), (0.5, 0.9))
    group = [a_case(**(SHARP | {"reader": row(*both)})) for both in ends] + [a_case()]
    data = census._dataset([(0, bad, 4.0, one) for bad, one in group])
    found = study.softmax_cases(study.cases({("a", "queries, IOI"): data}))
    assert (found["n"], found["near"], found["too small"]) == (4, 2, 2)
    assert found["middle"] == pytest.approx((0.02, 0.615))


def test_flat_starts(table):
    rows = study.flat_starts(table).set_index("setting")
    assert rows.flat["heads, IOI"].estimate == pytest.approx(100 / 6)
    assert rows.components.sum() == len(table)


def test_origins(table):
    rows = study.origins(table).set_index("operation")
    assert rows.loc["attention patterns"].to_list() == [1, 2]
    assert rows.loc["MLP gates"].to_list() == [3, 2]
    assert rows[["a", "b"]].to_numpy().sum() == 8


def test_remedied(table):
    rows = study.remedied(table).set_index(["verdict", "remedy"])
    fix = rows.loc[d.SATURATION, "Q and K fix"]
    assert (fix.n, fix["median"], fix.worse) == (3, pytest.approx(90), 0)
    assert rows.loc[d.SATURATION, "HVP"].worse == 3
    assert rows.loc[d.OTHER, "HVP"].halved == 3
    assert (d.OTHER, "Q and K fix") not in rows.index


def test_queries_and_keys(table):
    rows = study.queries_and_keys(table)
    assert rows.n.to_list() == [1, 2] and rows.saturated.all()
    assert rows["too small"].to_list() == [1, 2] and rows.nearer.to_list() == [1, 2]


def test_hidden_neurons():
    truth = np.array([[1.0, -2.0, 0.5, 0.01], [3.0, 1.0, 1.0, 0.0]])
    ap = np.array([[0.2, 1.0, 0.4, 0.0], [0.5, 1.0, 1.0, 0.0]])
    data = xr.Dataset(
        {
            "activation_patching": (("prompt", "component"), truth),
            "attribution_patching": (("prompt", "component"), ap),
        }
    )
    row = study.hidden_neurons({"a": data}, 5, 3).iloc[0]
    assert (row.neurons, row.hidden, row.turned) == (6, 2, 1)
    assert row.largest == pytest.approx(6)


def test_prices_are_counted():
    rows = study.priced(["smollm2-135m"]).set_index("remedy")
    assert rows.percent["MS-HVP, K = 5"] > rows.percent["HVP"] > rows.percent["GradDrop"]
    assert study.fix_passes(["smollm2-135m"]) == {"smollm2-135m": 2}


def test_example(table):
    flat = study.example(table, "a", "heads, IOI", d.ZERO_GRADIENT)
    assert flat.percent == pytest.approx(100 * 1.99 / 4)
    other = study.example(table, "b", "keys, IOI", d.CANCELLATION)  # there is none
    assert other.verdict == d.SATURATION
    with pytest.raises(ValueError, match="No component of b is badly misjudged in 'queries, IOI'"):
        study.example(table, "b", "queries, IOI", d.OTHER)


def test_remedy_table(table):
    price = pd.DataFrame(
        {"model": ["a", "a"], "remedy": ["HVP", "5 slopes"], "percent": [4.0, 9.0]}
    )
    rows = study.remedy_table(table, price, "a").set_index("remedy")
    assert rows.price["HVP"] == 0.04 and np.isnan(rows.price["GradDrop"])
    assert rows.loc["Q and K fix", [d.SATURATION, d.OTHER]].to_list() == ["3 of 3", "–"]
    assert rows.loc["HVP", [d.SATURATION, d.OTHER, "worse"]].to_list() == [
        "0 of 3",
        "3 of 3",
        "3 of 8",
    ]


# --- figures and claims --------------------------------------------------------------------------


def test_figures_draw_every_case(table):
    fig = study.census_figure(table, "title")
    left, right = fig.axes
    assert sum(p.get_width() for p in left.patches) == table.bad.sum()
    assert sum(p.get_width() for p in right.patches) == table.bad.sum()
    toys = study.toys_figure("title")
    assert len(toys.axes) == 3 and len(toys.axes[0].lines) == 3
    flow = study.flow_figure("title")
    text = " ".join(t.get_text() for t in flow.axes[0].texts)
    for name in study.NAMED:
        assert name in text
    for threshold in (d.SATURATED, d.FLAT, d.AMPLIFIED):
        assert f"{threshold:g}" in text
    flow.canvas.draw()
    box = flow.axes[0].get_window_extent()
    for t in flow.axes[0].texts:
        extent = t.get_window_extent()
        assert box.x0 - 5 <= extent.x0 and extent.x1 <= box.x1 + 5


def edges_table(gp):
    rows = [
        ("a", "ioi", m, Interval(e, e, e)) for m, e in (("EAP", 50), ("EAP-IG", 30), ("EAP-GP", gp))
    ]
    return pd.DataFrame(rows, columns=["model", "task", "method", "error"])


NEURONS = pd.DataFrame({"model": ["a", "b"], "hidden": [2, 1]})


def test_claims(table):
    found = {
        c.claim.split(" ")[0]: c.verdict for c in study.claims(table, NEURONS, edges_table(20))
    }
    assert found["Saturated"] == "holds"
    assert found["Cancellation"] == "holds partly"  # model b has none
    assert found["The"] in ("holds", "holds partly")
    assert found["EAP-GP"] == "holds"
    assert study.claims(table, NEURONS, edges_table(40))[-1].verdict == "does not hold here"
    none = NEURONS.assign(hidden=0)
    assert judged._cancellation(table, none).verdict == "does not hold here"


def test_claims_without_examples(table):
    plain = table[(table.verdict != d.SATURATION) & (table.verdict != d.CANCELLATION)]
    saturation = judged._saturation(plain)
    assert saturation.verdict == "does not hold here" and "none found" in saturation.here
    assert judged._graddrop(plain).verdict == "cannot be tested here"


def test_edge_remedies_are_chapter_twelves(monkeypatch):
    key = {"model": "a", "task": "ioi"}
    one = Interval(1.0, 1.0, 1.0)
    monkeypatch.setattr(
        tables.edges,
        "errors",
        lambda m: pd.DataFrame(
            [{**key, "method": n, "error": one} for n in ("EAP-GP", "EAP", "GIM")]
        ),
    )
    monkeypatch.setattr(
        tables.edges,
        "zero_gradients",
        lambda m: pd.DataFrame(
            [{**key, "method": n, "missed": one} for n in ("EAP", "EAP-GP", "GIM")]
        ),
    )
    assert study.edge_remedies({}).method.to_list() == ["EAP", "EAP-GP"]
    assert math.isclose(study.edge_remedies({}).error[0].estimate, 1.0)
