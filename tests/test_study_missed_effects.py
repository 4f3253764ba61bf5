"""The study of missed effects: against the package, loops, and what lies in the store."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.stats import binomtest
from test_patched_metric import assert_close
from tiny_models import tiny_model, tiny_pair, tiny_task

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    plots,
    reference_pair,
    row_screen,
)
from hvp_utils.claims import VERDICTS
from hvp_utils.plans import ModelSizes, pass_flops
from hvp_utils.reliability import missed_bound
from studies import common
from studies import missed_effects as study
from studies.missed_effects import measuring

STORE = Path(__file__).resolve().parents[1] / "notebooks" / "results" / "missed"
MODELS = ("smollm2-135m", "gemma-3-270m")
HOLDS, PARTLY, DOES_NOT, _ = VERDICTS


def model():
    return tiny_model("qwen2")


# --- measuring -----------------------------------------------------------------------------------


def test_no_point_is_run_twice():
    M = PatchedMetric(model(), tiny_pair())
    asked = []
    again = measuring.Remembered(M)
    again._M = type(
        "Counted", (), {"__call__": lambda self, a: asked.append(len(a)) or M(a), "n": M.n}
    )()
    points = torch.eye(M.n, dtype=torch.float64)
    assert_close(again(points[:5]), M(points[:5]), 1e-11)
    assert_close(again(points[[7, 2, 9, 0]]), M(points[[7, 2, 9, 0]]), 1e-11)
    assert again.n == M.n and asked == [5, 2]


@pytest.mark.parametrize(("every", "some"), ((1000, 5), (20, 5)))
def test_exact_effects(every, some):
    data = study.exact(model(), "neurons_pre", tiny_pair(), 3, every - 10, some, store=None)
    M = PatchedMetric(model(), tiny_pair(), "neurons_pre")
    order = row_screen(M).size.argsort(descending=True).tolist()
    assert data.shown.values.tolist() == order[:3]
    number = data.number.values
    assert len(set(number)) == len(number) == (M.n if every > 20 else 3 + 2 * some)
    assert set(order[: 3 + some]) <= set(number)
    truth = activation_patching(M)
    np.testing.assert_allclose(data.effect, truth[torch.tensor(number).long()], rtol=1e-5)
    assert data.attrs["n"] == M.n and data.attrs["n_run"] == M.n_run


@pytest.mark.parametrize("kind", ("neurons_pre", "edges"))
def test_bounds_are_those_of_the_package(kind, tmp_path, monkeypatch):
    monkeypatch.setitem(study.SHARES, kind, 0.25)
    options = {"n_shown": 2, "every": 40, "some": 8, "store": tmp_path, "subsets": (12, 24)}
    data = study.measure(model(), kind, tiny_pair(), **options)
    M = PatchedMetric(model(), tiny_pair(), kind)
    shown = data.shown.values.tolist()
    truth = activation_patching(M).abs()
    for control, name in ((None, "none"), ("attribution_patching", "attribution patching")):
        for m in (12, 24):
            b = missed_bound(M, shown, m, 0.25, study.CONFIDENCE, control)
            one = data.sel(control=name, n_subsets=m)
            assert one.bound.item() == pytest.approx(b.bound, rel=1e-6)
            assert str(one["where"].values) == M.labels[b.component]
            assert one.inclusions == b.inclusions[b.inclusions > 0].min()
            known = [c for c in data.number.values if c not in shown]
            below = [bool(b.upper[c] >= truth[c] * (1 - 1e-6)) for c in known]
            assert one.covered.item() == pytest.approx(np.mean(below))
    assert data.attrs["size"] == b.size
    # The second time it is read.
    monkeypatch.setattr(measuring, "PatchedMetric", None)
    xr.testing.assert_equal(study.measure(model(), kind, tiny_pair(), **options), data)
    with pytest.raises(TypeError):  # other subsets are another measurement
        study.measure(model(), kind, tiny_pair(), **options | {"subsets": (12, 36)})


def test_coverage_is_that_of_the_package(monkeypatch):
    monkeypatch.setattr(measuring, "make_prompts", lambda task, bridge, n: tiny_task(bridge, n))
    monkeypatch.setattr(measuring, "HEADS_SHOWN", 0.2)
    monkeypatch.setitem(study.SHARES, "heads", 0.25)
    data = study.coverage(model(), "tiny", 2, 2, (9, 15), store=None)
    for i, pair in enumerate(tiny_task(model(), 2)):
        M = PatchedMetric(model(), pair)
        truth = activation_patching(M).abs()
        ap = attribution_patching(M).abs()
        shown = ap.argsort(descending=True)[:2].tolist()
        left = [c for c in range(M.n) if c not in shown]
        star = max(left, key=lambda c: truth[c])
        assert data.missed[i] == pytest.approx(truth[star].item())
        assert data.largest[i] == pytest.approx(truth.max().item())
        for seed in range(2):
            for j, control in enumerate((None, "attribution_patching")):
                for k, m in enumerate((9, 15)):
                    b = missed_bound(M, shown, m, 0.25, 0.95, control, seed=seed)
                    at = (i, seed, j, k)
                    assert data.bound.values[at] == pytest.approx(b.bound, rel=1e-6)
                    assert data.own.values[at] == pytest.approx(b.upper[star].item(), rel=1e-6)


def test_leaving_out_what_was_shown(monkeypatch):
    monkeypatch.setattr(measuring, "HEADS_SHOWN", 0.2)
    monkeypatch.setitem(study.SHARES, "heads", 0.25)
    data = study.left_out(model(), tiny_pair(), 12, store=None)
    M = PatchedMetric(model(), tiny_pair())
    shown = attribution_patching(M).abs().argsort(descending=True)[:2].tolist()
    for i, patched in enumerate((True, False)):
        for j, control in enumerate((None, "attribution_patching")):
            b = missed_bound(M, shown, 12, 0.25, 0.95, control, patched)
            assert data.bound.values[i, j] == pytest.approx(b.bound, rel=1e-6)
    truth = activation_patching(M).abs()
    truth[shown] = 0
    assert data.missed.item() == pytest.approx(truth.max().item())
    monkeypatch.setattr("studies.missed_effects.tables.left_out", lambda name, **o: data)
    table = study.left_out_table(("a", "b"))
    assert table.model.tolist() == ["a", "a", "b", "b"]
    assert table["none"].tolist() == 2 * data.bound.values[:, 0].tolist()


# --- tables --------------------------------------------------------------------------------------

SIZES = ModelSizes(3, 32, 4, 2, 8, 5, True, 53, 10_000)


def made(bound, kind="neurons_pre", n=20, effects=(5.0, -3.0, 0.5, -1.0)):
    """What ``measure`` returns, of four effects, the first two of them shown."""
    return xr.Dataset(
        {
            "number": ("patched", [4, 7, 9, 11]),
            "effect": ("patched", np.array(effects)),
            "shown": ("shown", [4, 7]),
            "bound": (("control", "n_subsets"), np.array(bound)),
            "error": (("control", "n_subsets"), np.full((2, 2), 0.1)),
            "covered": (("control", "n_subsets"), np.full((2, 2), 0.5)),
            "inclusions": (("control", "n_subsets"), [[3, 6], [3, 6]]),
        },
        coords={"control": list(study.CONTROLS), "n_subsets": [50, 100]},
        attrs={
            "model": "m",
            "components": kind,
            "n": n,
            "n_tokens": 8,
            "n_run": 5,
            "batch_size": 4,
        },
    )


def test_runs_are_counted():
    data = made([[4.0, 2.0], [2.0, 1.5]])
    one = pass_flops(SIZES, "neurons_pre", 8, 5, 4)
    spent = study.runs(data, 100, SIZES)
    run = one["forward"]
    screen = (one["gradient"] + 2 * one["gradient_row"]) / run
    subsets = 100 * one["gradient_row"] / 2 / run
    assert spent["screen"] == pytest.approx(screen) and spent["patches"] == 2
    assert spent["subsets"] == pytest.approx(subsets)
    assert spent["total"] == pytest.approx(screen + 2 + subsets)
    assert spent["percent"] == pytest.approx(100 * (screen + 2 + subsets) / 20)
    # A run from the first layer on costs more than a patch, and no more than two of them.
    assert 1 < spent["subsets"] / 100 <= 2.1


def test_tables():
    measured = {
        ("m", "neurons_pre"): made([[4.0, 2.0], [2.0, 1.5]]),
        ("m", "edges"): made([[9.0, 0.9], [0.9, 0.8]], "edges", n=4),
    }
    table = study.bounds(measured, {"m": SIZES})
    assert len(table) == 8
    assert table.missed.eq(1.0).all() and table.shown.eq(5.0).all() and table.covered.eq(50).all()
    assert table.ratio.equals(table.bound / 1.0)
    assert table.holds.tolist() == [True] * 5 + [False] * 3
    assert table.every.tolist() == [False] * 4 + [True] * 4
    wide = study.overview(table)
    assert wide.components.tolist() == ["neurons", "edges"]
    assert wide["none"].tolist() == [2.0, 0.9] and wide["attribution patching"][0] == 1.5
    assert study.overview(table, 50)["none"].tolist() == [4.0, 9.0]
    assert study.shrinkage(table)["m", "neurons", 100] == 0.75
    told = study.summary(table)
    assert told.components.tolist() == ["20 neurons", "4 edges"]
    assert told.loc[0, ["shown", "missed", "subsets alone", "with AP"]].tolist() == [5, 1, 2, 1.5]
    assert told["price, %"].tolist() == wide.percent.tolist()


def covered(bound, own):
    dims = ("prompt", "seed", "control", "n_subsets")
    return xr.Dataset(
        {"bound": (dims, bound), "own": (dims, own), "missed": ("prompt", [1.0, 2.0])},
        coords={"control": list(study.CONTROLS), "n_subsets": [50]},
    )


def test_how_often_it_held():
    bound = np.full((2, 10, 2, 1), 3.0)
    own = bound.copy()
    bound[0, :4, 1] = 0.9
    own[1, :3, 0] = 1.9
    table = study.held({"m": covered(bound, own)})
    assert [i.estimate for i in table.held] == [100, 80] and table.draws.tolist() == [20, 20]
    assert [i.estimate for i in table.own] == [85, 100]
    ends = binomtest(16, 20).proportion_ci(0.95, "exact")
    assert table.held[1][1:] == pytest.approx((100 * ends.low, 100 * ends.high))
    assert table.ratio[0] == np.median([3.0] * 10 + [1.5] * 10)
    more = pd.concat([table.assign(n_subsets=1, held=0), table, table.assign(model="other")])
    assert dict(study.most_subsets(more, "m")) == dict(zip(study.CONTROLS, (100, 80), strict=True))


# --- claims and figure ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bound", "failed", "expected"),
    (
        ([[4.0, 2.0], [2.0, 1.5]], 0, HOLDS),
        ([[9.0, 6.0], [2.0, 1.5]], 0, PARTLY),
        ([[4.0, 0.9], [2.0, 1.5]], 0, DOES_NOT),
        ([[4.0, 2.0], [2.0, 0.5]], 0, HOLDS),
        ([[4.0, 2.0], [2.0, 1.5]], 2, DOES_NOT),
    ),
)
def test_claims(bound, failed, expected):
    heads = np.full((2, 10, 2, 1), 3.0)
    heads[0, :failed] = 0.5
    table = study.bounds({("m", "neurons_pre"): made(bound)}, {"m": SIZES})
    found = study.claims(table, study.held({"m": covered(heads, heads)}))
    assert [c.verdict for c in found] == [expected]
    assert f"{100 - 5 * failed} % of draws" in found[0].here


def test_figure():
    plots.use_style()
    measured = {
        (m, k): made([[4.0, 2.0], [2.0, 1.5]], k)
        for m in ("a", "b")
        for k in ("neurons_pre", "edges")
    }
    table = study.bounds(measured, {"a": SIZES, "b": SIZES})
    fig = study.bounds_figure(table, "Something")
    fig.draw_without_rendering()
    assert len(fig.axes) == 4 and fig.get_suptitle() == "Something"
    for ax in fig.axes:
        plain, ours, missed, shown = (line.get_ydata() for line in ax.lines)
        assert list(plain) == [4, 2] and list(ours) == [2, 1.5]
        assert set(missed) == {1.0} and set(shown) == {5.0}
    plt.close(fig)


# --- what is stored ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stored():
    """What the book reads; where a file is missing or of another kind, it would be measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "load_model", None)
        return study.load(MODELS, store=STORE)


def test_what_is_stored_is_whole(stored, monkeypatch):
    monkeypatch.setattr(common, "load_model", None)
    table = study.bounds(stored)
    assert len(table) == 2 * 2 * 2 * len(study.SUBSETS)
    every = (table.model == "smollm2-135m") & (table.components == "neurons")
    assert (table.every == every).all()
    assert {k: int(d.attrs["n"]) for k, d in stored.items()} == {
        ("smollm2-135m", "neurons_pre"): 46_080,
        ("smollm2-135m", "edges"): 123_211,
        ("gemma-3-270m", "neurons_pre"): 36_864,
        ("gemma-3-270m", "edges"): 10_342,
    }
    for data in study.load_coverage(MODELS, store=STORE).values():
        assert np.isfinite(data.bound).all() and (data.missed <= data.largest).all()
    assert (table.inclusions >= 3).all() and (table.percent < 100).all()


def test_a_sample_of_it_is_measured_again(stored, real_model):
    data = stored["smollm2-135m", "neurons_pre"]
    M = PatchedMetric(real_model, reference_pair(), "neurons_pre")
    some = data.number.values[np.abs(data.effect.values).argsort()[::-1][:20]]
    effects = activation_patching(M, torch.tensor(some).long())
    known = dict(zip(data.number.values, data.effect.values, strict=True))
    np.testing.assert_allclose(effects, [known[c] for c in some], atol=2e-3)
    m = study.SUBSETS[0]
    b = missed_bound(M, data.shown.values.tolist(), m, study.SHARES["neurons_pre"])
    expected = data.bound.sel(control="attribution patching", n_subsets=m).item()
    assert b.bound == pytest.approx(expected, rel=0.02)
