"""The study of chapter 6: tables against loops, on constructed data and a small model."""

import functools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair, tiny_task

from hvp_utils import PatchedMetric, activation_patching, hvp, load_model, reference_pair
from hvp_utils.reliability import hessian_lipschitz
from hvp_utils.stats import Interval, bootstrap_share
from studies import lipschitz_hessian as study
from studies.lipschitz_hessian import exact, judged, line
from studies.lipschitz_hessian.remainders import threshold

MODELS, TASKS = ("a", "b"), ("ioi", "factual")
N_LAYERS, N_HEADS, N_PROMPTS = 4, 3, 5
LAYERS = np.repeat(np.arange(N_LAYERS), N_HEADS)
STORED = sorted((Path(__file__).parents[1] / "notebooks" / "results" / "lipschitz").glob("*.nc"))


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    """Intervals are the package's, and tested there."""
    quick = functools.partial(bootstrap_share, n_resamples=20)
    monkeypatch.setattr("studies.lipschitz_hessian.remainders.bootstrap_share", quick)


def a_sweep(
    seed=0, loose=5.0, curve=0.1, rest=0.02, base=-3.0, rates=None, late=1.0, rounding=False
):
    """Known parts: f_AP, q of relative size `curve`, R3 of `rest`, and a bound of loose * |R3|.

    With `rounding` the first prompt has remainders of the size of rounding, above their bounds.
    """
    rng = np.random.default_rng(seed)
    size = (N_PROMPTS, len(LAYERS))
    f_ap = rng.normal(size=size)
    q = curve * rng.uniform(0.5, 1.5, size) * f_ap * np.where(LAYERS == N_LAYERS - 1, late, 1)
    r3 = rest * rng.uniform(0.5, 1.5, size) * f_ap
    L_H = rng.uniform(0.49, 0.51, size) * (1 if rates is None else 2 * rates[LAYERS])
    delta = (6 * loose * np.abs(r3) / L_H) ** (1 / 3)
    if rounding:
        r3[0], delta[0] = 1e-7, 1e-6
    values = {
        "activation_patching": f_ap + q + r3,
        "attribution_patching": f_ap,
        "hvp": f_ap + q,
        "ms_hvp:2": f_ap + q + r3 - r3 / 4,
        "ms_hvp:5": f_ap + q + r3 - r3 / 25,
        "hessian_lipschitz": L_H,
        "delta_norm": delta,
    }
    return xr.Dataset(
        {name: (("prompt", "component"), v) for name, v in values.items()}
        | {"base": ("prompt", np.full(N_PROMPTS, base))},
        coords={
            "label": ("component", [f"L{k}H{i % N_HEADS}" for i, k in enumerate(LAYERS)]),
            "layer": ("component", LAYERS),
        },
    )


def made(models=MODELS, **options):
    settings = [(model, task) for model in models for task in TASKS]
    return study.records({key: a_sweep(seed, **options) for seed, key in enumerate(settings)})


@pytest.fixture(scope="module")
def table():
    return made()


# --- records -------------------------------------------------------------------------------------


def test_records_are_what_was_swept(table):
    data = a_sweep(1)  # of model a, factual
    part = table[(table.model == "a") & (table.task == "factual")]
    assert len(part) == N_PROMPTS * len(LAYERS)
    largest = np.abs(data.activation_patching.values).max(1)
    for row in part.sample(15, random_state=0).itertuples():
        c = data.label.values.tolist().index(row.component)
        f, ap, corrected, L, d = (
            data[name].values[row.prompt, c]
            for name in (
                "activation_patching",
                "attribution_patching",
                "hvp",
                "hessian_lipschitz",
                "delta_norm",
            )
        )
        bound, q = L * d**3 / 6, corrected - ap
        assert row.bound == pytest.approx(bound) == pytest.approx(5 * abs(f - corrected))
        assert row.R == pytest.approx(abs(q / ap)) and row.eta == pytest.approx(bound / abs(q))
        assert row.upper == pytest.approx((1 + row.eta) * row.R)
        assert row.lower == pytest.approx(max(0, (1 - row.eta) * row.R))
        assert row.relative == pytest.approx(abs(f - ap) / abs(ap))
        assert row.left_5 == pytest.approx(abs(f - corrected) / 25)
        assert row.floor == pytest.approx(100 * 2**-24 * 3)
        assert row.counts == (max(bound, abs(f - corrected)) > row.floor)
        assert row.matters == (abs(f) >= 0.01 * largest[row.prompt])
    assert table.holds.all()
    assert not made(loose=0.5).holds.any()


def test_threshold_is_that_of_one_at_least():
    assert threshold(0.01) == pytest.approx(100 * 2**-24)
    assert threshold(np.array([-7.0]))[0] == pytest.approx(700 * 2**-24)


def test_share_is_over_prompts():
    frame = pd.DataFrame({"task": "t", "prompt": [0, 0, 1, 1, 1]})
    part = pd.Series([True, False, True, True, False])
    whole = pd.Series([True, True, True, True, False])
    found = study.share(frame, part, whole)
    assert found.estimate == 75 and (found.low, found.high) == (50, 100)


def test_held_counts_what_is_large_enough():
    found = study.records({("a", "ioi"): a_sweep(rounding=True)})
    row = study.held(found).iloc[0]
    assert row["all records"].estimate == pytest.approx(80)
    assert row["that count"].estimate == 100 and row["above 10 thresholds"].estimate == 100
    assert study.held(found).task.tolist() == ["ioi", "all"]
    fails = study.counted_failures(found).iloc[0]
    assert (fails.failures, fails["failures that count"]) == (12, 0)
    assert fails["that count"] == 48
    fails = study.counted_failures(made(loose=0.5)).iloc[0]
    assert fails.failures == fails["failures that count"] == 120


def test_distributions_are_those_of_a_loop(table):
    row = study.distributions(table).iloc[0]
    part = table[(table.model == "a") & (table.task == "ioi") & table.counts]
    bounds = sorted(part.bound)
    assert row["that count"] == len(bounds) and row.records == 60
    assert row["bound median"] == pytest.approx((bounds[29] + bounds[30]) / 2)
    assert row["remainder mean"] == pytest.approx(sum(part.R3) / len(part))
    assert row["too large by"] == pytest.approx(5)
    assert study.looseness(table).tolist() == pytest.approx([5, 5])
    assert row["L_H 90 %"] <= row["L_H largest"] == max(part.L_H)


def test_paper_is_as_printed():
    paper = study.PAPER.set_index("model")
    for model, held, of in (("GPT-2, paper", 2370, 2877), ("Gemma-2-2B, paper", 3945, 4152)):
        assert round(100 * held / of, 1) == paper.holds[model]
        assert paper["that count"][model] == of


def test_steps_divide_the_bound():
    found = study.steps(made()).set_index(["model", "K"])
    assert (found["more than rounding"] == 0).all() and found.above.isna().all()
    assert found["too large by"].tolist() == pytest.approx([5] * 6)
    assert found.worst.tolist() == pytest.approx([0.2] * 6)
    data = a_sweep()
    data["ms_hvp:2"].values[1, 3] = data.activation_patching.values[1, 3] + 0.5
    found = study.steps(study.records({("a", "ioi"): data})).set_index("K")
    assert found["more than rounding"].tolist() == [0, 1, 0]
    assert found.above[2] == pytest.approx(0.5 / threshold(3.0))
    assert found.held[2].estimate < 100 == found.held[1].estimate


# --- certificates --------------------------------------------------------------------------------


def test_certificates_by_a_loop(table):
    found = study.certificates(table).set_index(["model", "task"])
    for (model, task), part in table[table.matters].groupby(["model", "task"]):
        row = found.loc[(model, task)]
        assert row["η < 1"].estimate == pytest.approx(100 * np.mean([e < 1 for e in part.eta]))
        assert row["median η"] == pytest.approx(np.median(part.eta))
        inside = [
            lo <= x <= up for lo, x, up in zip(part.lower, part.relative, part.upper, strict=True)
        ]
        assert row.inside.estimate == pytest.approx(100 * np.mean(inside)) == 100
        assert row.sure == sum(e < 0.5 for e in part.eta)
        assert row.broken == 0
    wrong = study.certificates(made(loose=0.01, rest=-0.5))
    assert (wrong.below.map(lambda share: share.estimate) < 50).all()
    assert wrong.broken.sum() > 0


def test_calls_by_a_loop():
    table = made(curve=0.06, rest=0.05, loose=1.2)
    found = study.calls(table).set_index(["model", "call"])
    part = table[(table.model == "b") & table.matters]
    wrong_by_R = [row for row in part.itertuples() if row.R < 0.1 and row.relative > 0.1]
    called = [row for row in part.itertuples() if (1 + row.eta) * row.R < 0.1]
    row = found.loc[("b", "safe: R < 0.1")]
    assert row.wrong == len(wrong_by_R) > 0
    row = found.loc[("b", "safe: (1 + η) R < 0.1")]
    assert (row.calls, row.wrong) == (len(called), 0) and row.calls > 0
    assert row.share.estimate == pytest.approx(100 * len(called) / len(part))
    bad = [row for row in part.itertuples() if row.R > 0.1 and row.relative <= 0.1]
    assert found.wrong[("b", "bad: R > 0.1")] == len(bad)

    tests = study.wrong_calls(table).set_index("model")
    groups = part[part.R < 0.1].groupby(["task", "prompt"])
    shares = [100 * (rows.relative > 0.1).mean() for _, rows in groups]
    assert tests.difference["b"].estimate == pytest.approx(np.mean(shares))
    assert tests.p["b"] < 0.05 and tests.holm["b"] >= tests.p["b"]
    none = study.wrong_calls(made(curve=0.02, rest=0.001))
    assert all(d == Interval(0, 0, 0) for d in none.difference) and (none.p == 1).all()

    matched = study.matched_calls(table).set_index("model").loc["b"]
    smallest = sorted(part.itertuples(), key=lambda row: row.R)[: len(called)]
    assert matched["wrong by R"] == sum(row.relative > 0.1 for row in smallest)
    assert matched["largest R"] == pytest.approx(smallest[-1].R)
    assert matched["wrong by the bound"] == 0 and matched.calls == len(called)


# --- parts and layers ----------------------------------------------------------------------------


def test_parts_of_known_third_derivatives():
    largest = study.smooth_parts(20_001).set_index("part").largest
    assert largest["logistic, a softmax over two"] == pytest.approx(1 / 8)
    assert largest["RMSNorm beside other entries of length 1"] == pytest.approx(3)
    assert largest["GeLU"] == pytest.approx(study.gelu_closed_form(), abs=1e-6)
    x = np.linspace(-3, 3, 60_001)
    gelu = [v * (1 + math.erf(v / 2**0.5)) / 2 for v in x]
    slow = np.abs(np.diff(gelu, 3)).max() / (x[1] - x[0]) ** 3
    assert slow == pytest.approx(study.gelu_closed_form(), rel=1e-2)


LENGTH = np.array([1.0, 3.0, 2.0, 6.0])
LENGTHS = {model: {"right": LENGTH, "wrong": 1 / (1 + np.arange(N_LAYERS))} for model in MODELS}


def test_trends_find_the_length():
    table = made(rates=LENGTH**-3.0)
    found = study.trends(table, LENGTHS, "ioi", 20)
    assert found.model.tolist() == list(MODELS)
    for _, row in found.iterrows():
        assert row["exponent, right"].estimate == pytest.approx(-3, abs=0.05)
        assert row["correlation, right"] == pytest.approx(-1, abs=1e-3)
        assert study.best_length(row) == "right"
        assert row.depth.estimate == pytest.approx(-0.8)  # ranks 1 3 2 4 turned round
        assert row["spread of L_H"] == pytest.approx(3 * np.log10(6), abs=0.05)
    part = table[(table.model == "a") & (table.task == "ioi")]
    assert study.laws(part, LENGTHS["a"])["right"] == pytest.approx(LENGTH**-3.0, rel=0.05)
    medians = [np.median(part.bound[part.layer == k]) for k in range(N_LAYERS)]
    assert study.by_layer(part, "bound") == pytest.approx(medians)


# --- in float64 ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def M():
    return PatchedMetric(tiny_model("llama"), tiny_pair())


@pytest.fixture(scope="module")
def three(M):
    return study.three_values(M, torch.arange(M.n))


def test_three_values_are_those_of_the_package(M, three):
    every = torch.arange(M.n)
    cubic = hessian_lipschitz(M) * M.delta_norm**3 / 6
    np.testing.assert_allclose(three.cubic, cubic, rtol=1e-8)
    bends = [M.along_axes(t, components=every).curvature for t in (0.0, 0.5, 1.0)]
    pairs = [(bends[0] - bends[1]) * 2, (bends[1] - bends[2]) * 2, bends[0] - bends[2]]
    along = torch.stack(pairs).abs().amax(0) / 6
    np.testing.assert_allclose(three.along, along, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(three.remainder, (activation_patching(M) - hvp(M)).abs(), atol=1e-9)
    step = 1e-5
    two = [M.along_axes(t, components=every).curvature for t in (0.0, step)]
    np.testing.assert_allclose(
        6 * three.third, ((two[1] - two[0]) / step).abs(), rtol=0.01, atol=1e-4
    )
    assert (three.cosine <= 1 + 1e-9).all() and (three.along <= three.cubic + 1e-12).all()


def test_ratios_and_what_they_are_compared_by():
    data = xr.Dataset(
        {
            "remainder": ("head", [1.0, 2.0, 4.0, 1e-9]),
            "cubic": ("head", [10.0, 20.0, 40.0, 1e-9]),
            "along": ("head", [0.9, 2.2, 4.4, 1.0]),
            "third": ("head", [1.0, 1.0, 0.5, 1.0]),
            "cosine": (("pair", "head"), [[0.1, 0.2, 0.3, 0.9]] * 3),
        },
        {"label": ("head", ["L0H0", "L0H1", "L1H0", "L1H1"])},
        {"base": 1.0, "moving": 8},
    )
    table = study.ratios({"m": data})
    assert len(table) == 9  # the last head does not count
    found = study.compared(table).set_index("value")
    assert found.bounds.tolist() == pytest.approx([1, 2 / 3, 1 / 3])
    assert found["median"].tolist() == pytest.approx([10, 1.1, 0.5])
    assert found.within.tolist() == pytest.approx([0, 1, 1 / 3])
    assert found["rank"].tolist()[:2] == pytest.approx([1, 1]) and found["rank"].iloc[2] < 0
    angles = study.cosines({"m": data})
    assert len(angles) == 9 and angles.cosine.max() == 0.3
    assert angles.random.iloc[0] == pytest.approx((2 / math.pi / 8) ** 0.5)
    assert study.worst_head(data) == "L1H0"
    assert isinstance(study.slack_figure(table, angles, "A title"), Figure)


def test_the_reference_is_measured_once(tmp_path, monkeypatch):
    loads = []
    monkeypatch.setattr(line, "load_model", lambda *_, **__: loads.append(1) or tiny_model("llama"))
    monkeypatch.setattr(line, "reference_pair", tiny_pair)
    for store in (None, tmp_path, tmp_path):
        found = study.reference(["org/tiny"], 5, store)["org/tiny"]
    assert len(loads) == 2 and len(found.label) == 5  # the third time it was read
    lengths = study.lengths_by_model({"x": found})["x"]
    assert set(lengths) == set(study.LENGTHS) and all((v > 0).all() for v in lengths.values())
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    _, seen = M.run.unpatched(["blocks.1.hook_resid_mid"])
    slow = [v.norm().item() for v in seen["blocks.1.hook_resid_mid"][0]]
    assert lengths["residual stream"][1] == pytest.approx(sum(slow) / len(slow))


def test_path_ends_where_the_estimates_do(M):
    label = M.labels[4]
    found = study.path(M, label, 5)
    last = found.iloc[-1]
    assert last.effect == pytest.approx(activation_patching(M)[4].item())
    assert last.HVP == pytest.approx(hvp(M)[4].item())
    expected = hessian_lipschitz(M)[4] * M.delta_norm[4] ** 3 / 6
    assert last.bound == pytest.approx(expected.item())
    assert found.bound[2] == pytest.approx(last.bound / 8) and found.effect[0] == pytest.approx(0)
    assert isinstance(study.path_figure(found, label, "A title"), Figure)


def test_again_runs_what_failed(monkeypatch):
    model = tiny_model("llama")
    monkeypatch.setattr(exact, "make_prompts", lambda task, model, n: tiny_task(model, n))
    M = PatchedMetric(model, tiny_task(model, 2)[1])
    table = made(("a",)).query("prompt < 2").reset_index(drop=True)
    table["component"] = [M.labels[c % M.n] for c in range(len(LAYERS))] * 4
    held = study.again(table, "a", model=model)
    assert held.sample.empty and held.resolved == []
    failing = (table.task == "factual") & (table.prompt == 1) & (table.component == M.labels[2])
    first = (table.task == "ioi") & (table.prompt == 0)
    found = table.assign(holds=~(failing | first), counts=True)
    found.loc[failing, "R3"] = 1000 * found.bound[failing]
    run = study.again(found, "a", most=4, model=model)
    assert run.sample["failing"].tolist() == [12] and run.sample["run again"].tolist() == [4]
    R3, bound = exact.remainder_and_bound(M, torch.tensor([2]))
    assert len(run.resolved) == 13 and run.resolved[-1] == (R3 <= bound).item()
    assert run.closest == f"{M.labels[2]}, Factual" and run.share == pytest.approx(1000)
    assert run.path.effect.iloc[-1] == pytest.approx(activation_patching(M)[2].item())
    assert isinstance(study.closest_figure({"a": run, "b": run}, "A title"), Figure)


@pytest.mark.skipif(not STORED, reason="nothing is stored")
def test_stored_values_are_finite_and_bounded():
    for data in map(xr.load_dataset, STORED):
        assert np.isfinite([data[n] for n in ("remainder", "cubic", "along", "third")]).all()
        assert (data.along <= data.cubic * (1 + 1e-9)).all()


@pytest.mark.skipif(not STORED, reason="nothing is stored")
def test_a_stored_head_can_be_measured_again():
    (path,) = [p for p in STORED if p.name.startswith("smollm2-135m")]
    data = xr.load_dataset(path)
    place = int(data.remainder.values.argmax())
    model = load_model("smollm2-135m", device="cpu", dtype=torch.float64)
    M = PatchedMetric(model, reference_pair())
    head = M.labels.index(str(data.label.values[place]))
    R3, cubic = exact.remainder_and_bound(M, torch.tensor([head]))
    assert R3[0] == pytest.approx(float(data.remainder[place]), rel=1e-6)
    assert cubic[0] == pytest.approx(float(data.cubic[place]), rel=1e-6)


# --- figures -------------------------------------------------------------------------------------


def test_figures_have_a_panel_a_model(table):
    drawn = study.bound_figure(table, "A title")
    assert drawn.get_suptitle() == "A title"
    assert ["".join(ax.get_title(loc) for loc in ("left", "center")) for ax in drawn.axes[:2]] == [
        f"{m}: 0 of {table[table.model == m].counts.sum()} fail" for m in MODELS
    ]
    for rows in (("L_H",), ("L_H", "delta", "bound")):
        drawn = study.layers_figure(table, LENGTHS, "ioi", "A title", rows)
        assert len(drawn.axes) == 2 * len(rows)
    line = drawn.axes[0].lines[0]
    part = table[(table.model == "a") & (table.task == "ioi")]
    assert line.get_ydata().tolist() == pytest.approx(study.by_layer(part, "L_H").tolist())


# --- claims --------------------------------------------------------------------------------------

FALLING, FLAT = 10.0 ** -np.arange(N_LAYERS), np.array([1, 1.2, 1.2, 1])
PARTS = study.smooth_parts(20_001)


KNOWN = {}


def told(parts=PARTS, second=None, **options):
    """Claims of the same data for both models, or of other data for the second."""
    key = repr((parts.largest.tolist(), second, options))
    KNOWN[key] = KNOWN.get(key) or _told(parts, second, options)
    return KNOWN[key]


def _told(parts, second, options):
    table = made(("a",), **options)
    table = pd.concat([table, made(("b",), **(options if second is None else second))])
    table = table.reset_index(drop=True)
    found = study.claims(table, study.trends(table, LENGTHS, "ioi", 20), parts, "ioi")
    assert len({claim.claim for claim in found}) == len(found) == 12
    return found


def verdict_of(found, start):
    (claim,) = [claim for claim in found if claim.claim.startswith(start)]
    return claim.verdict


@pytest.mark.parametrize(
    ("start", "good", "bad"),
    [
        ("The cubic bound", {}, dict(loose=0.5)),
        ("Where it fails", dict(loose=0.5), dict(rounding=True)),
        ("The bound is about ten", {}, dict(loose=100)),
        ("L_H falls with depth", dict(rates=FALLING), dict(rates=FALLING[::-1])),
        ("The last layers", dict(late=0.01, rest=1e-4), dict(late=10)),
        ("The relative error", {}, dict(loose=0.01, rest=0.5)),
        ("MS-HVP with K", {}, dict(loose=0.5)),
    ],
)
def test_a_claim_can_come_out_in_every_way(start, good, bad):
    assert verdict_of(told(**good), start) == "holds"
    assert verdict_of(told(**bad), start) == "does not hold here"
    assert verdict_of(told(**good, second=bad), start) == "holds partly"


@pytest.mark.parametrize(
    ("start", "good", "bad"),
    [
        ("Layer 0 stands out", dict(rates=FLAT), dict(rates=FALLING)),
        ("A flat profile", dict(rates=FLAT), dict(rates=FALLING)),
    ],
)
def test_claims_that_both_models_must_bear_out(start, good, bad):
    assert verdict_of(told(**good), start) == "holds"
    assert verdict_of(told(**good, second=bad), start) == "does not hold here"


def test_failures_in_the_first_layer():
    table = made(loose=5.0)
    trend, parts = study.trends(table, LENGTHS, "ioi", 20), PARTS
    start = "The failures are concentrated"
    assert verdict_of(study.claims(table, trend, parts, "ioi"), start) == "does not hold here"
    for layers, expected in (((0,), "holds"), ((0, 1, 2), "does not hold here")):
        failing = table.assign(holds=~table.layer.isin(layers))
        assert verdict_of(study.claims(failing, trend, parts, "ioi"), start) == expected
    one = table.assign(holds=~((table.layer == 0) & (table.model == "a")))
    assert verdict_of(study.claims(one, trend, parts, "ioi"), start) == "holds partly"


def test_share_of_the_last_layers():
    part = pd.DataFrame(
        {"prompt": [0] * 4 + [1] * 4, "layer": [*range(4)] * 2, "E": [1.0, 1, 1, 1, 0, 0, 0, 2]}
    )
    assert judged.late_share(part).estimate == pytest.approx((25 + 100) / 2)


def test_parts_that_disagree_do_not_hold():
    parts = PARTS.copy()
    assert verdict_of(told(parts), "GeLU and SiLU") == "holds"
    parts.loc[parts.part == "GeLU", "largest"] = 0.9
    found = told(parts)
    assert verdict_of(found, "GeLU and SiLU") == "does not hold here"
    assert verdict_of(found, "The values of Tables") == "cannot be tested here"
