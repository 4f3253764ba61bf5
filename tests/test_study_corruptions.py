"""The study of chapter 14: tables against loops, on constructed data and a small model."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from tiny_models import tiny_model, tiny_task

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    hvp,
    ms_hvp,
)
from hvp_utils.stats import (
    Interval,
    bootstrap_ci,
    bootstrap_share,
    paired_bootstrap,
    top_k_relative_error,
)
from studies import corruptions as study
from studies.corruptions import errors as errors_module
from studies.corruptions import judged, kinds, recommended, strengths

ROOT = Path(__file__).resolve().parents[1]
N, MODELS = 12, ("a", "b")
TASKS = tuple(study.CORRUPTIONS)


def a_sweep(n_prompts=6, n=N, ap=0.5, second=0.1, seed=0, clean="clean"):
    """Errors of AP and of HVP of a given size, the same truth; labels as of heads."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n_prompts, n))
    values = {
        "activation_patching": truth,
        "attribution_patching": truth + ap * rng.normal(size=truth.shape),
        "hvp": truth + second * rng.normal(size=truth.shape),
        "delta_norm": rng.uniform(1, 2, size=truth.shape),
    }
    return xr.Dataset(
        {name: (("prompt", "component"), v) for name, v in values.items()}
        | {
            "clean": ("prompt", [f"<s>{clean} {i}" for i in range(n_prompts)]),
            "corrupted": ("prompt", [f"<s>other {i}" for i in range(n_prompts)]),
            "base": ("prompt", np.arange(n_prompts) - 3.0),
            "other": ("prompt", np.arange(n_prompts) - 1.0),
        },
        coords={
            "label": ("component", [f"L{c // 4}H{c % 4}" for c in range(n)]),
            "layer": ("component", np.arange(n) // 4),
        },
    )


@pytest.fixture(scope="module")
def sweeps():
    keys = itertools.product(MODELS, TASKS)
    return {key: a_sweep(seed=i, ap=0.3 + i / 20) for i, key in enumerate(keys)}


@pytest.fixture(scope="module")
def errors(sweeps):
    return study.measure(sweeps)


# --- reading -------------------------------------------------------------------------------------


def test_zero_ablation_is_read_as_noising(monkeypatch):
    asked = []

    def sweep(model, task, estimators, **options):
        asked.append((model, task, options["direction"], options["n_prompts"]))
        return a_sweep()

    monkeypatch.setattr(errors_module, "sweep", sweep)
    found = study.load(("a", "a", "b"), ("ioi", "factual_zero"), 6)
    assert list(found) == [(m, t) for m in "ab" for t in ("ioi", "factual_zero")]
    assert asked[:2] == [("a", "ioi", "denoising", 6), ("a", "factual_zero", "noising", 6)]


@pytest.mark.parametrize(("other", "works"), [("ioi_zero", False), ("factual_zero", True)])
def test_other_clean_prompts_are_refused_where_they_are_compared(monkeypatch, other, works):
    names = {"ioi": "one", other: "two"}
    monkeypatch.setattr(
        errors_module, "sweep", lambda m, task, *_, **__: a_sweep(clean=names[task])
    )
    if works:
        assert len(study.load("a", ("ioi", other), 6)) == 2
    else:
        with pytest.raises(ValueError, match="clean prompts of ioi_zero"):
            study.load("a", ("ioi", other), 6)


def test_examples(sweeps):
    table = study.examples(sweeps, "b")
    assert len(table) == len(TASKS)
    zero = table.corruption == "zero ablation"
    assert (table.other[zero] == "none").all() and table.change[zero].isna().all()
    assert (table.other[~zero] == "other 0").all() and (table.clean == "clean 0").all()
    assert table.change[~zero].to_numpy() == pytest.approx(2)  # other less base


# --- errors --------------------------------------------------------------------------------------


def test_measures_are_those_of_loops(sweeps, errors):
    key = ("b", "factual_resample")
    data = sweeps[key]
    found = errors.set_index(["model", "task", "measure", "method", "prompt"]).error
    assert found.index.is_unique and len(found) == 18 * 3 * 2 * 6
    for method, name in (("AP", "attribution_patching"), ("HVP", "hvp")):
        for prompt in (0, 4):
            f, e = (data[v].values[prompt] for v in ("activation_patching", name))
            off = [abs(x - y) for x, y in zip(e, f, strict=True)]
            ratios = sorted(100 * o / abs(y) for o, y in zip(off, f, strict=True))
            of = {m: found[(*key, m, method, prompt)] for m in study.MEASURES}
            assert of["median head"] == pytest.approx((ratios[N // 2 - 1] + ratios[N // 2]) / 2)
            assert of["mean error"] == pytest.approx(sum(off) / N)
            top = sorted(range(N), key=lambda c: -abs(f[c]))[:5]
            expected = 100 * sum(off[c] for c in top) / 5 / (max(f) - min(f))
            assert of["top 5"] == pytest.approx(expected)


def test_an_interval_of_means_is_that_of_the_bootstrap(random):
    ap, second = (np.abs(random(15).numpy()) for _ in range(2))

    def slow(drawn):
        drawn = drawn.astype(int)
        return 100 * (1 - second[drawn].mean() / ap[drawn].mean())

    expected = bootstrap_ci(np.arange(15), slow, n_resamples=300, seed=4)
    assert study.reduction(ap, second, n_resamples=300, seed=4) == pytest.approx(expected)
    assert study.reduction(ap, 0 * ap) == (100, 100, 100)
    assert study.reduction(ap, 2 * ap) == pytest.approx((-100, -100, -100))


def test_compare_is_a_paired_test_of_each_group(errors):
    table = study.compare(errors, ("model", "task", "measure"), n_resamples=499)
    assert len(table) == 18 * 3
    for row in table.sample(4, random_state=1).itertuples():
        part = errors[
            (errors.model == row.model)
            & (errors.task == row.task)
            & (errors.measure == row.measure)
        ]
        ap, second = (part[part.method == m].error.to_numpy() for m in ("AP", "HVP"))
        test = paired_bootstrap(ap, second, n_resamples=499)
        assert row.difference == pytest.approx(test[:3]) and row.p == test.p_value
        assert row.AP == bootstrap_ci(ap) and row.HVP == bootstrap_ci(second)
        assert row.reduction.estimate == pytest.approx(100 * (1 - second.mean() / ap.mean()))


def test_better_and_worse_look_at_the_sign_and_at_the_test():
    pairs = {"better": (2.0, 0.01), "worse": (0.05, 3.0), "neither": (0.5, 0.5)}
    made = {("a", task): a_sweep(20, ap=a, second=h) for task, (a, h) in pairs.items()}
    table = study.compare(study.measure(made), ("model", "task", "measure")).set_index("task")
    for sign in (study.better, study.worse):
        assert set(table.index[sign(table)]) >= {sign.__name__}
        assert not sign(table)[{"better": "worse", "worse": "better"}[sign.__name__]].any()
    assert not (study.better(table) & (table.p >= 0.05)).any()
    assert study.better(table.assign(corrected=1.0), "corrected").sum() == 0


# --- diagnosis -----------------------------------------------------------------------------------


def test_corruptions_are_compared_on_the_same_prompts(errors):
    found = study.against_the_usual(errors)
    assert len(found) == 2 * 2 * (3 + 2)
    assert not found.task.isin(["factual_swap", "greater_than_01", "ioi", "factual"]).any()
    row = found[(found.model == "b") & (found.task == "factual_zero") & (found.method == "HVP")]
    part = errors[(errors.model == "b") & (errors.measure == "top 5") & (errors.method == "HVP")]
    zero, usual = (part[part.task == t].error.to_numpy() for t in ("factual_zero", "factual"))
    test = paired_bootstrap(zero, usual)
    assert row.usual.item() == "factual"
    assert row.difference.item() == pytest.approx(test[:3]) and row.p.item() == test.p_value
    wide = study.side_by_side(found)
    assert wide.model.tolist() == ["a"] * 5 + ["b"] * 5
    cell = wide[(wide.model == "b") & wide.corruption.str.startswith("Factual: zero ablation less")]
    assert cell["HVP, points"].item() == pytest.approx(test[:3])
    assert cell.corruption.item() == "Factual: zero ablation less random token"


def test_warnings_are_those_of_a_loop(sweeps):
    found = study.warnings(sweeps).set_index(["model", "task"])
    key = ("b", "ioi_resample")
    data, zero = sweeps[key], sweeps["b", "ioi_zero"]
    counts, shares = {"R > 1": [], "R3 > q": [], "HVP worse": []}, []
    for i in range(6):
        f, ap, second, moved = (
            data[v].values[i]
            for v in ("activation_patching", "attribution_patching", "hvp", "delta_norm")
        )
        top = sorted(range(N), key=lambda c: -abs(f[c]))[:5]
        q, rest = np.abs(second - ap), np.abs(f - second)
        counts["R > 1"].append(sum(q[c] > abs(ap[c]) for c in top))
        counts["R3 > q"].append(sum(rest[c] > q[c] for c in top))
        counts["HVP worse"].append(sum(rest[c] > abs(f[c] - ap[c]) for c in top))
        shares.append(np.median([moved[c] / zero.delta_norm.values[i, c] for c in top]))
    for name, count in counts.items():
        assert found.loc[key, name] == bootstrap_share(count, np.full(6, 5))
    assert found.length[key] == pytest.approx(bootstrap_ci(shares))
    assert found.length["a", "factual_zero"] == (1, 1, 1)
    for task in ("factual_swap", "greater_than_01"):  # they have prompts of their own
        assert np.isnan(found.length["a", task])


def test_lengths(sweeps):
    table = study.lengths(sweeps).set_index(["model", "task"]).length
    assert len(table) == 4
    norms = sweeps["a", "factual_swap"].delta_norm.values
    assert table["a", "factual_swap"] == bootstrap_ci([row.mean() for row in norms])


# --- how many prompts ----------------------------------------------------------------------------


def rows_of(ap, second, measure="top 5"):
    about = {"model": "a", "task": "ioi", "measure": measure, "prompt": np.arange(len(ap))}
    parts = [
        pd.DataFrame(about | {"method": m, "error": e}) for m, e in (("AP", ap), ("HVP", second))
    ]
    return pd.concat(parts)


def test_running_takes_the_first_prompts():
    ap, second = np.ones(50), np.r_[np.full(20, 0.5), np.full(30, 2.0)]
    found = study.running(rows_of(ap, second))
    at = dict(zip(found.n, found.reduction, strict=True))
    assert at[5] == at[20] == (50, 50, 50)
    assert at[50].estimate == pytest.approx(100 * (1 - (20 * 0.5 + 30 * 2) / 50))
    row = study.settled(found).iloc[0]
    assert (row["n = 5"], row["n = 15"]) == (50, 50) and row["n = 50"] == pytest.approx(-40)
    assert row["off later"] == pytest.approx(90)
    assert row.width == pytest.approx(at[50].high - at[50].low)


def test_needed_prompts_follow_from_the_width(random):
    ap = 1 + 0.1 * random(50).numpy()
    constant = study.needed(rows_of(ap, ap / 2 * (1 + 1e-9 * np.arange(50))))
    assert constant.prompts.item() == 2
    noisy = 0.5 + 2 * np.abs(random(50).numpy())
    found = study.needed(rows_of(ap, noisy)).iloc[0]
    rng, width = np.random.default_rng(0), None
    for n in range(5, 51, 5):
        drawn = rng.integers(50, size=(1000, n))
        cuts = [100 * (1 - noisy[d].mean() / ap[d].mean()) for d in drawn]
        width = np.subtract(*np.quantile(cuts, [0.975, 0.025]))
    assert found.prompts == math.ceil(50 * (width / 20) ** 2) > 2
    assert found.power == pytest.approx(-0.5, abs=0.1)
    assert study.needed(rows_of(ap, noisy), within=width / 2).prompts.item() == 50


def test_the_first_prompts_and_all():
    ap, second = np.ones(50), np.r_[np.full(20, 0.5), np.full(30, 2.0)]
    row = study.first_and_all(rows_of(ap, second), 20).iloc[0]
    assert row["first 20"].estimate == pytest.approx(0.5) and row["p, first 20"] < 0.05
    assert row["all"].estimate == pytest.approx(-0.4) and row["p, all"] < 0.05


# --- other components ----------------------------------------------------------------------------


def test_kinds_have_prompts_by_their_sample(monkeypatch):
    asked = []

    def load(models, tasks, n, components, **options):
        asked.append((models[0], components, tasks[0], n, options))
        return {(models[0], tasks[0]): a_sweep(n)}

    monkeypatch.setattr(kinds, "load", load)
    found = study.load_kinds(("a", "b"), 20, 10, 4, device="cpu")
    assert len(found) == 12 and found["b", "neurons after"].sizes["prompt"] == 10
    n = {components: n for _, components, _, n, _ in asked}
    assert n["heads"] == n["mlp_out"] == n["resid"] == 20
    assert n["neurons_pre:16"] == 10 and n["neurons_pre:256"] == 4
    assert all(options == {"device": "cpu"} for *_, options in asked)
    table = study.compare_kinds(found)
    assert (table.n == N).all()
    assert set(table.kind[table.few]) == {"the same, 256 a layer"}
    largest = study.largest_effects(found)["a", "heads"]
    rows = found["a", "heads"].activation_patching.values
    assert largest == pytest.approx(np.mean([max(abs(x) for x in row) for row in rows]))


def test_precision(monkeypatch):
    monkeypatch.setattr(kinds, "make_prompts", lambda task, model, n: tiny_task(model, n))
    models = {"float32": tiny_model("llama", torch.float32), "float64": tiny_model("llama")}
    table = study.in_precision(models, "heads").set_index("precision")
    M = PatchedMetric(models["float64"], tiny_task(None, 1)[0])
    f, ap, second = (e(M).numpy() for e in (activation_patching, attribution_patching, hvp))
    exact = table.loc["float64"]
    assert exact.n == 12
    assert exact.AP == pytest.approx(100 * np.median(np.abs(ap - f) / np.abs(f)))
    assert exact.HVP == pytest.approx(100 * np.median(np.abs(second - f) / np.abs(f)))
    assert exact.reduction == pytest.approx(100 * (1 - exact.HVP / exact.AP))
    assert table.AP["float32"] == pytest.approx(exact.AP, rel=0.01)
    assert table.AP["float32"] != exact.AP


# --- strengths, on a small model -----------------------------------------------------------------


def tiny_prompts(task, model, n, seed=0):
    """The prompts of ``tiny_task``; without a corrupted one for zero ablation."""
    pairs = tiny_task(model, n, seed)
    if not task.endswith("_zero"):
        return pairs
    return [PromptPair(p.clean, None, p.answer, name=p.name) for p in pairs]


WAYS = ("ioi", "ioi_zero")


@pytest.fixture(scope="module")
def tiny():
    """A model, and what would be stored of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(strengths, "make_prompts", tiny_prompts)
        patch.setattr(recommended, "make_prompts", tiny_prompts)
        model, stored = tiny_model("llama"), {}
        for way in WAYS:
            M = study.metric_of(model, way, 4)
            names = zip(
                study.ESTIMATORS, (activation_patching, attribution_patching, hvp), strict=True
            )
            stored["a", way] = xr.Dataset(
                {name: (("prompt", "component"), function(M).numpy()) for name, function in names}
                | {"base": ("prompt", M.base.numpy())},
                coords={"label": ("component", list(M.labels))},
            )
        yield model, stored


@pytest.fixture(scope="module")
def live(tiny):
    model, stored = tiny
    return study.on_the_way(model, "a", stored, 3, (*WAYS, study.CONTROL))


def test_heads_are_patched_by_degrees(tiny, live):
    model, _ = tiny
    assert len(live) == 3 * 3 * 5 * len(study.STRENGTHS)
    for way, prompt, t in ((WAYS[0], 2, 0.32), (WAYS[1], 1, 0.71), (study.CONTROL, 0, 1.0)):
        task, direction = {study.CONTROL: ("ioi", "noising")}.get(
            way, (way, "noising" if way == "ioi_zero" else "denoising")
        )
        M = PatchedMetric(model, tiny_prompts(task, model, 3)[prompt], direction=direction)
        f, ap, second = (e(M) for e in (activation_patching, attribution_patching, hvp))
        part = live[(live.way == way) & (live.prompt == prompt) & (live.strength == t)]
        top = sorted(range(12), key=lambda c: -abs(f[c].item()))[:5]
        assert part.component.tolist() == top
        for row in part.itertuples():
            strength = torch.zeros(12, dtype=torch.float64)
            strength[row.component] = t
            assert row.truth == pytest.approx(M(strength).item() - M.base, abs=1e-9)
            assert row.AP == pytest.approx(t * ap[row.component].item(), abs=1e-9)
            q = (second - ap)[row.component].item()
            assert row.HVP == pytest.approx(row.AP + t**2 * q, abs=1e-9)
            assert row.span == pytest.approx((f.max() - f.min()).item())


def test_errors_on_the_way(live):
    each = study.by_prompt(live)
    row = each[(each.way == "ioi_zero") & (each.prompt == 1) & (each.strength == 0.5)].iloc[0]
    part = live[(live.way == "ioi_zero") & (live.prompt == 1) & (live.strength == 0.5)]
    assert row.AP == pytest.approx(np.mean([abs(r.AP - r.truth) for r in part.itertuples()]))
    found = study.ratios(live).set_index(["way", "strength"]).ratio
    part = each[(each.way == "ioi") & (each.strength == 1)]
    assert found["ioi", 1.0].estimate == pytest.approx(part.HVP.mean() / part.AP.mean())
    # Small steps: the ratio is about proportional to the strength.
    assert found["ioi", 0.1].estimate < found["ioi", 0.5].estimate
    ends = study.crossings(live).set_index("way")
    percent = (100 * part.HVP / part.span).to_numpy()
    assert ends.HVP["ioi"].estimate == pytest.approx(percent.mean())
    expected = study.crossing(study.STRENGTHS, [found["ioi", t].estimate for t in study.STRENGTHS])
    assert ends.crossing["ioi"] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize(
    ("factor", "expected"), [(2, 0.5), (4, 0.25), (20, 0.1), (0.5, float("nan"))]
)
def test_a_ratio_that_is_proportional_crosses_where_it_must(factor, expected):
    ratio = [factor * t for t in study.STRENGTHS]
    found = study.crossing(study.STRENGTHS, ratio)
    assert found == pytest.approx(expected, nan_ok=True)


def test_a_crossing_is_the_first_and_lies_between_its_neighbours():
    # Logarithms: from 0.5 at 0.1 to 2 at 0.4, so 1 is reached half of the way.
    assert study.crossing([0.1, 0.4, 1.0], [0.5, 2, 0.5]) == pytest.approx(0.2)
    assert study.crossing([0.1, 0.4, 1.0], [0.5, 0.9, 1.0]) == pytest.approx(1.0)
    assert study.crossing([0.1, 0.2, 0.8], [0.1, 0.5, 2]) == pytest.approx(0.4)


def test_helping_at_a_strength_can_come_out_either_way():
    rows = [
        ("a", w, 0, 0, t, 0.0, 1.0, h, 1.0) for w, h in (("x", 0.5), ("y", 0.9)) for t in (0.1, 1)
    ]
    columns = ["model", "way", "prompt", "component", "strength", "truth", "AP", "HVP", "span"]
    found = pd.DataFrame(rows, columns=columns)
    assert study.helps_at(found, 0.1)
    found.loc[found.way == "y", "HVP"] = -1.1
    assert not study.helps_at(found, 0.1)


def test_more_steps(tiny):
    model, stored = tiny
    found = study.more_steps(model, "a", stored, 3, (2,)).set_index(["method", "prompt"]).error
    for prompt, pair in enumerate(tiny_prompts("ioi_zero", model, 3)):
        M = PatchedMetric(model, pair, direction="noising")
        f = activation_patching(M).numpy()
        for method, e in (
            ("AP", attribution_patching(M)),
            ("K = 1", hvp(M)),
            ("K = 2", ms_hvp(M, 2)),
        ):
            assert found[method, prompt] == pytest.approx(top_k_relative_error(e.numpy(), f))


def test_a_table_of_steps_counts_the_prompts():
    part = {"AP": [1.0, 2, 3], "K = 1": [5.0, 5, 5], "K = 5": [0.5, 2.5, 1]}
    rows = [("a", p, m, e) for m, es in part.items() for p, e in enumerate(es)]
    table = study.steps_table(pd.DataFrame(rows, columns=["model", "prompt", "method", "error"]))
    assert table["last below AP"].item() == "2 of 3"
    assert table["K = 1"].item() == (5, 5, 5) and table.AP.item().estimate == 2


def test_other_prompts_than_the_stored_are_refused(tiny):
    model, stored = tiny
    wrong = {("a", "ioi"): stored["a", "ioi"].assign(base=stored["a", "ioi"].base + 1)}
    with pytest.raises(ValueError, match="not those of the stored"):
        study.on_the_way(model, "a", wrong, 3, ("ioi",))


def test_curves_of_the_largest_heads(tiny):
    model, stored = tiny
    curves = study.largest_curves(model, "a", stored, WAYS)
    for way in WAYS:
        first = stored["a", way].isel(prompt=0)
        c = int(np.abs(first.activation_patching.values).argmax())
        last = curves[curves.way == way].iloc[-1]
        assert last.component == first.label.values[c]
        for column, name in zip(("truth", "AP", "HVP"), study.ESTIMATORS, strict=True):
            assert last[column] == pytest.approx(float(first[name].values[c]), abs=1e-6)


def test_overshoots_are_counted():
    ends = {"x": (1, 0.5, 0.9), "y": (1, 0.5, 1.6), "z": (-1, -0.5, -3)}
    rows = [(way, 0.0, 0, 0, 0) for way in ends] + [(way, 1.0, *e) for way, e in ends.items()]
    curves = pd.DataFrame(rows, columns=["way", "strength", "truth", "AP", "HVP"])
    assert study.overshoots(curves) == 2
    assert study.overshoots(curves[curves.way == "x"]) == 0


# --- what the book recommends --------------------------------------------------------------------


def test_largest_heads_that_methods_find(tiny, monkeypatch):
    model, stored = tiny
    monkeypatch.setattr(recommended, "PATCHES", 7)
    found = study.found_of_largest(model, "a", stored, 2, WAYS)
    exact = found[found.method == "top_effects"]  # so few heads are all patched
    assert (exact.found == 5).all() and (exact.percent == 100).all() and (exact.doubtful == 0).all()

    def order(way, prompt, name):
        values = stored["a", way][name].values[prompt]
        return sorted(range(12), key=lambda c: -abs(values[c]))

    for row in found.itertuples():
        true = set(order(row.way, row.prompt, "activation_patching")[:5])
        if row.method in ("AP", "7 patches"):
            k = 5 if row.method == "AP" else 7
            chosen = order(row.way, row.prompt, "attribution_patching")[:k]
            assert row.found == len(true & set(chosen)) and np.isnan(row.doubtful)
    prices = found[found.way == "ioi"].groupby("method").percent.mean()
    assert prices["7 patches"] - prices["AP"] == pytest.approx(100 * 7 / 12)


def test_what_top_effects_names_is_what_counts(tiny, monkeypatch):
    model, stored = tiny

    def three_right(M, k):
        values = np.abs(activation_patching(M).numpy())
        table = pd.DataFrame(
            {"component": np.array(M.labels)[np.argsort(-values)[[0, 1, 4, 5, 9]]]}
        )
        table.attrs = {"percent": 7.0, "doubtful": ["x", "y"]}
        return table

    monkeypatch.setattr(recommended, "top_effects", three_right)
    found = study.found_of_largest(model, "a", stored, 2, WAYS)
    part = found[found.method == "top_effects"]
    assert (part.found == 3).all() and (part.percent == 7).all() and (part.doubtful == 2).all()


# --- figures -------------------------------------------------------------------------------------


def test_figures_have_a_panel_each(sweeps, errors, live, tiny):
    table = study.compare(errors, ("model", "task", "measure"), n_resamples=99)
    drawn = study.errors_figure(table, "A title")
    assert len(drawn.axes) == 4 and drawn.get_suptitle() == "A title"
    labels = [text.get_text() for text in drawn.axes[0].get_yticklabels()]
    assert labels == list(study.NAMES.values())
    drawn = study.reductions_figure(table, "A title")
    assert len(drawn.axes) == 2
    part = table[(table.model == "a") & (table.measure == "median head")]
    marks = drawn.axes[0].lines[0].get_xdata()
    assert marks.tolist() == [r.estimate for r in part.reduction]
    assert len(study.strength_figure(study.ratios(live), "A title").axes) == 1
    running = study.running(errors[errors.task.isin(["ioi", "factual"])], (2, 4, 6))
    assert len(study.settling_figure(running, "A title").axes) == 4
    curves = study.largest_curves(tiny[0], "a", tiny[1], WAYS)
    drawn = study.curves_figure(curves, "A title")
    assert drawn.axes[0].lines[0].get_ydata()[-1] == curves[curves.way == "ioi"].truth.iloc[-1]


# --- claims --------------------------------------------------------------------------------------


def compared(keys, cut, p=0.002, **changes):
    """A table as of ``compare``: one reduction for all, or others for some keys."""
    rows = []
    for model, key, measure in itertools.product(MODELS, keys, study.MEASURES):
        value = changes.get(f"{measure}|{key}", changes.get(measure, cut))
        value, q = value if isinstance(value, tuple) else (value, p)
        d = Interval(value, value, value)
        rows.append((model, key, measure, d, d, q))
    columns = ["model", "key", "measure", "reduction", "difference", "p"]
    return pd.DataFrame(rows, columns=columns)


def tables(**changes):
    """Inputs of ``claims`` under which all claims hold, but for what is changed."""
    steps = [("a", 0, "AP", 30.0), ("a", 0, "K = 1", 20.0), ("a", 0, "K = 5", 3.0)]
    steps = steps + [("b", *row[1:]) for row in steps]
    swap, token = Interval(3, 2.5, 3.5), Interval(2, 1.5, 2.4)
    lengths = [(m, t, i) for m in MODELS for t, i in (("factual_swap", swap), ("factual", token))]
    later = [("a", "ioi", measure, 2.0) for measure in study.MEASURES]
    kind = compared(study.KINDS, 80, **{f"{m}|neurons after": 5 for m in study.MEASURES})
    made = {
        "heads": compared(TASKS, 85).rename(columns={"key": "task"}),
        "steps": pd.DataFrame(steps, columns=["model", "prompt", "method", "error"]),
        "swaps": compared(["factual_swap"], 60).rename(columns={"key": "task"}),
        "moved": pd.DataFrame(lengths, columns=["model", "task", "length"]),
        "later": pd.DataFrame(later, columns=["model", "task", "measure", "off later"]),
        "kinds": kind.rename(columns={"key": "kind"}),
    }
    return made | changes


def heads(cut=85, p=0.002, **changes):
    return {"heads": compared(TASKS, cut, p, **changes).rename(columns={"key": "task"})}


def of_kinds(cut=80, p=0.002, **changes):
    return {"kinds": compared(study.KINDS, cut, p, **changes).rename(columns={"key": "kind"})}


def steps(**errors):
    made = tables()["steps"]
    for key, error in errors.items():
        made.loc[(made.model == key) & (made.method == "K = 5"), "error"] = error
    return {"steps": made}


def later(**off):
    made = tables()["later"]
    return {
        "later": made.assign(**{"off later": [off.get(m.split()[0], 2.0) for m in made.measure]})
    }


def moved(*models):
    """Only these models have longer patches under entity swaps."""
    made = tables()["moved"]
    short = ~made.model.isin(models) & (made.task == "factual_swap")
    made.loc[short, "length"] = pd.Series([Interval(2, 1.9, 2.5)] * len(made))[short]
    return {"moved": made}


def swaps(cut, p=0.002):
    return {"swaps": compared(["factual_swap"], cut, p).rename(columns={"key": "task"})}


ZEROS = ("ioi_zero", "factual_zero")


@pytest.mark.parametrize(
    ("start", "partly", "failing"),
    [
        (
            "HVP lowers the median",
            heads(**{"median head|ioi_zero": 50}),
            heads(**{"median head|ioi_zero": (50, 0.2)}),
        ),
        (
            "The gain under these",
            heads(**{"top 5|factual": (10, 0.3)}),
            heads(**{"top 5|factual": (-10, 0.01)}),
        ),
        (
            "Zero corruption can",
            heads(**{f"top 5|{t}": 60 for t in ZEROS}),
            heads(**{f"median head|{t}": 60 for t in ZEROS}),
        ),
        ("Under zero ablation", steps(a=31.0), steps(a=31.0, b=31.0)),
        ("Under entity swaps HVP", swaps(30), swaps(-20)),
        ("Entity swaps make", moved("a"), moved()),
        ("The estimate of the reduction", later(top=20), later(median=20)),
        ("HVP works on the residual", of_kinds(40), of_kinds(40, 0.3)),
        ("HVP works on neurons before", of_kinds(40), of_kinds(40, 0.3)),
        (
            "There is little to gain",
            of_kinds(**{"median head|neurons after": 5}),
            of_kinds(**{"median head|neurons after": 20}),
        ),
    ],
)
def test_a_claim_can_come_out_any_way(start, partly, failing):
    def verdict_of(**changes):
        found = study.claims(**tables(**changes))
        (claim,) = [claim for claim in found if claim.claim.startswith(start)]
        return claim.verdict

    assert verdict_of() == "holds"
    assert verdict_of(**partly) == "holds partly"
    assert verdict_of(**failing) == "does not hold here"


def test_the_models_of_the_paper_are_not_here():
    *rest, last = study.claims(**tables())
    assert last.verdict == "cannot be tested here" and len(rest) == 10
    assert all(claim.verdict == "holds" for claim in rest)


def test_how_far_zero_is_behind():
    table = heads(**{"top 5|ioi_zero": 60})["heads"]
    found = study.behind(table)["top 5"]
    assert sorted(found) == [0, 0, 25, 25]


def test_models_are_named_as_they_are_given():
    made = {k: t.replace({"model": {"a": "gpt2", "b": "c"}}) for k, t in tables().items()}
    texts = " ".join(claim.here for claim in study.claims(**made))
    assert "(gpt2)" in texts and "(c)" in texts and "smollm" not in texts


def test_published_claims_follow_from_the_stored_sweeps():
    store = str(ROOT / "notebooks" / "results")
    names = ("smollm2-135m", "gemma-3-270m")
    found = study.measure(study.load(names, study.TABLE_12, 20, store=store))
    again = judged._of_table_12(study.compare(found, ("model", "task", "measure")))
    path = ROOT / "notebooks" / "results" / "claims" / "14_corruptions.json"
    published = {c["claim"]: c for c in json.loads(path.read_text(encoding="utf-8"))}
    for claim in again:
        assert published[claim.claim]["here"] == claim.here
        assert published[claim.claim]["verdict"] == claim.verdict
