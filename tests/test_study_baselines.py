"""The study of chapter 8: tables against loops, on paths that are polynomials and small models."""

import itertools
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    atp_star,
    attribution_patching,
    hvp,
    integrated_gradients,
    ms_hvp,
)
from hvp_utils.plans import passes
from hvp_utils.stats import (
    Interval,
    kendall_tau,
    paired_bootstrap,
    top_k_overlap,
    top_k_relative_error,
)
from studies import baselines as study
from studies.baselines import ranking

MODELS, TASKS = ("b", "a"), tuple(study.TASKS)
RESULTS = Path(__file__).parents[1] / "notebooks" / "results"
N_HEADS, N_PROMPTS = 9, 8


# --- paths that are known: g(t) = p t + q t^2 + r t^3 --------------------------------------------


def rule(name, slope, curvature, third):
    """What a method makes of a path, by its definition, in loops."""
    stem, *rest = name.split(":")
    if stem in ("hvp", "finite_difference_hvp", "gauss_newton"):
        return slope(0) + curvature(0) / 2
    if stem == "third_order":
        return slope(0) + curvature(0) / 2 + third / 6
    if stem == "ms_hvp_median":
        return sorted(rule(f"ms_hvp:{k}", slope, curvature, third) for k in (5, 10, 20))[1]
    n = int(rest[0])
    if stem == "ms_hvp":
        return sum(slope(k / n) / n + curvature(k / n) / (2 * n * n) for k in range(n))
    if stem == "integrated_gradients":
        offset = {"left": 0, "midpoint": 0.5, "right": 1}.get(rest[1])
        if offset is not None:
            return sum(slope((k + offset) / n) for k in range(n)) / n
        if rest[1] == "trapezoid":
            inner = sum(slope(k / (n - 1)) for k in range(1, n - 1))
            return (inner + slope(0) / 2 + slope(1) / 2) / (n - 1)
        x, w = np.polynomial.legendre.leggauss(n)
        return sum(b / 2 * slope((a + 1) / 2) for a, b in zip(x, w, strict=True))
    if "complete" in rest:
        return rule("integrated_gradients:5:gausslegendre", slope, curvature, third)
    if "grid" in rest:
        points = [a / n * b / n for a in range(1, n + 1) for b in range(1, n + 1)]
        return slope(0) + sum(s * curvature(s) for s in points) / n**2
    points = [(k + 0.5) / n for k in range(n)]
    return slope(0) + sum(-s * math.log(s) * curvature(s) for s in points) / n


def polynomial_sweep(seed, n_prompts=N_PROMPTS):
    p, q, r = np.random.default_rng(seed).uniform(0.5, 2, size=(3, n_prompts, N_HEADS))
    truth = p + q + r
    values = {"activation_patching": truth, study.AP: p}
    for name in study.SWEPT:
        values[name] = (
            rule(name, lambda t: p + 2 * q * t + 3 * r * t**2, lambda t: 2 * q + 6 * r * t, 6 * r)
            if name != "ms_hvp_median"
            else np.zeros_like(p)
        )
    steps = [
        rule(f"ms_hvp:{k}", lambda t: p + 2 * q * t + 3 * r * t**2, lambda t: 2 * q + 6 * r * t, 0)
        for k in (5, 10, 20)
    ]
    values["ms_hvp_median"] = np.median(steps, axis=0)
    hidden = np.argsort(np.argsort(-truth, axis=1), axis=1) >= 5
    for name in study.SWEPT:
        values[name] = np.where(hidden, np.nan, values[name])
    dims = ("prompt", "component")
    coords = {"label": ("component", [f"L{c}H0" for c in range(N_HEADS)])}
    return xr.Dataset({name: (dims, v) for name, v in values.items()}, coords), (p, q, r, hidden)


@pytest.fixture(scope="module")
def known():
    made = {key: polynomial_sweep(i) for i, key in enumerate(itertools.product(MODELS, TASKS))}
    sweeps = {key: data for key, (data, _) in made.items()}
    return sweeps, {key: parts for key, (_, parts) in made.items()}


def test_estimates_are_what_was_swept(known):
    sweeps, parts = known
    table = study.head_estimates(sweeps)
    assert len(table) == 6 * N_PROMPTS * 5 * (len(study.SWEPT) + 2)
    assert study.settings_of(table) == list(sweeps)
    indexed = table.set_index(["model", "task", "prompt", "component", "method"])
    for (model, task), prompt in itertools.product(sweeps, (0, 5)):
        p, q, r, hidden = (x[prompt] for x in parts[model, task])
        for c in np.flatnonzero(~hidden):
            row = indexed.loc[(model, task, prompt, f"L{c}H0", "two_ends")]
            assert row.estimate == pytest.approx((p[c] + (p[c] + 2 * q[c] + 3 * r[c])) / 2)
            assert row.truth == pytest.approx(p[c] + q[c] + r[c])
            assert row["range"] == pytest.approx((p + q + r).max() - (p + q + r).min())
    assert study.overflown(table) == (0, 6 * N_PROMPTS * 5)


def test_where_a_third_derivative_overflows_hvp_stands_in(known):
    sweeps, _ = known
    key, data = next((k, d.copy(deep=True)) for k, d in sweeps.items())
    place = tuple(np.argwhere(~np.isnan(data.hvp.values))[3])
    data["third_order"].values[place] = np.nan
    table = study.head_estimates({key: data})
    assert study.overflown(table) == (1, N_PROMPTS * 5)
    row = table[table.overflown].iloc[0]
    assert row.estimate == data.hvp.values[place] and row.method == "third_order"


def gradients(sweeps, n_prompts, names, seed=3):
    rng = np.random.default_rng(seed)
    found = {}
    for key, data in sweeps.items():
        data = data.isel(prompt=slice(n_prompts)).copy()
        for name in names:
            noise = rng.normal(size=data.activation_patching.shape)
            data[name] = (("prompt", "component"), data.activation_patching.values + noise)
        found[key] = data
    return found


@pytest.fixture(scope="module")
def everything(known):
    sweeps, _ = known
    many = gradients(sweeps, N_PROMPTS, ("gim", "relp", "hvp"))
    few = gradients(sweeps, 4, ("gim", "relp", "hvp", "atp_star"))
    for data in many.values():  # stored, but not of all prompts
        data["atp_star"] = data.gim.where(data.prompt < 4)
    return sweeps, [many, few]


@pytest.fixture(scope="module")
def errors(everything):
    sweeps, rankings = everything
    return study.errors(study.head_estimates(sweeps), rankings)


def test_errors_are_those_of_the_package(everything, errors):
    sweeps, (many, few) = everything
    assert set(errors.method) == set(study.METHODS)
    assert not errors.duplicated(["model", "task", "method", "prompt"]).any()
    for (model, task), data in sweeps.items():
        own = errors[(errors.model == model) & (errors.task == task)].set_index("method").error
        for method in (study.AP, "hvp", "integrated_hessians:5"):
            expected = top_k_relative_error(data[method], data.activation_patching)
            assert own[method].to_numpy() == pytest.approx(expected)
        for method, where in (("gim", many), ("atp_star", few)):
            found = where[model, task]
            sign = np.sign(found[study.AP].values) if method == "atp_star" else 1
            expected = top_k_relative_error(found[method] * sign, found.activation_patching)
            assert own[method].to_numpy() == pytest.approx(expected)
    assert (errors[errors.method == "atp_star"].groupby(["model", "task"]).size() == 4).all()


# --- comparisons ---------------------------------------------------------------------------------


def test_comparisons_are_on_the_prompts_that_both_have(errors):
    tests = study.compared(errors)
    assert len(tests) == 6 * (len(study.METHODS) - 1)
    for method, n in (("hvp", N_PROMPTS), ("atp_star", 4)):
        row = tests[(tests.method == method) & (tests.model == "a")].iloc[0]
        own = errors[(errors.model == "a") & (errors.task == row.task)]
        pair = [own[own.method == m].error.to_numpy()[:n] for m in (method, study.AP)]
        test = paired_bootstrap(*pair)
        assert tuple(row.difference) == pytest.approx((test.difference, test.low, test.high))
        assert row.p == test.p_value
        assert row["sign"] == np.sign(test.difference) * (test.p_value < 0.05)
    turned = study.compared(errors, against="hvp", methods=[study.AP])
    forward = tests[tests.method == "hvp"]
    assert (turned["sign"].to_numpy() == -forward["sign"].to_numpy()).all()
    assert (forward["sign"] == -1).all()


def levels(of, n_prompts=12, seed=0, models=MODELS):
    """Errors of a given size, by method: a number, or one for each model and task."""
    rng = np.random.default_rng(seed)
    parts = []
    for model, task in itertools.product(models, TASKS):
        noise = rng.uniform(0.9, 1.1, size=n_prompts)
        for method, level in of.items():
            level = level.get((model, task), level["else"]) if isinstance(level, dict) else level
            row = {"model": model, "task": task, "method": method, "prompt": range(n_prompts)}
            parts.append(pd.DataFrame(row | {"error": level * noise}))
    return pd.concat(parts, ignore_index=True)


def test_counts_and_corrected_counts():
    first = (MODELS[0], TASKS[0])
    table = levels(
        {study.AP: 10, "hvp": {first: 12, "else": 8}, "gim": 10, "relp": {first: 8, "else": 12}}
    )
    tests = study.compared(table, n_resamples=4999)
    assert study.counts(tests) == {"hvp": (5, 1), "gim": (0, 0), "relp": (1, 5)}
    kept = study.after_holm(tests).set_index("method")
    assert kept.loc["HVP"].tolist() == [5, 5, 1, 1] and kept.loc["GIM"].tolist() == [0] * 4
    weak = study.after_holm(study.compared(table, n_resamples=99)).set_index("method")
    assert weak.loc["HVP"].tolist() == [5, 0, 1, 0]  # too few resamples for the family
    assert study.no_help(tests) == [first]
    assert study.tally_text({"atp_star": (1, 2)}) == "AtP\\* better on 1 and worse on 2"


def test_rivals_cost_no_more():
    price = pd.DataFrame(
        {
            "model": "a",
            "method": list(study.METHODS),
            "percent": [float(i) for i in range(len(study.METHODS))],
        }
    )
    table = levels(
        {m: 5 for m in study.METHODS} | {"ms_hvp:10": 1, "gauss_newton": 9}, models=("a",)
    )
    found = study.rivals(table, price).set_index("method")
    cost = price.set_index("method").percent
    steps = {m: cost[m] for m in ("hvp", "ms_hvp:2", "ms_hvp:5", "ms_hvp:10")}
    for method in study.METHODS:
        name = study.label(method)
        affordable = [m for m, c in steps.items() if c <= 1.02 * cost[method]]
        if not affordable or method in steps or method == "ms_hvp_median":
            assert name not in found.index
        else:
            assert found.loc[name, "compared with"] == study.label(affordable[-1])
    assert set(found.loc["Gauss–Newton", list(study.TASKS.values())]) == {"worse"}
    assert set(found.loc["slopes at both ends", list(study.TASKS.values())]) == {"tied"}
    assert set(found.loc["IG, right, 35 points", list(study.TASKS.values())]) == {"worse"}


def test_tables_of_single_corrections(errors):
    tests = study.compared(errors)
    table = study.worse_prompts(errors, tests)
    wide = errors.pivot(index=["model", "task", "prompt"], columns="method", values="error")
    for row, (model, task) in zip(table.to_dict("records"), study.settings_of(errors), strict=True):
        own = wide.loc[(model, task)]
        worse = sum(own["gauss_newton"] > own[study.AP])
        assert row["Gauss–Newton"].split(" ")[:3] == [str(worse), "of", str(N_PROMPTS)]
    spread = study.median_and_largest(errors, ("hvp",))
    row = spread[(spread.model == "a") & (spread.task == "ioi")].iloc[0]
    own = sorted(wide.loc[("a", "ioi")].hvp)
    assert row.largest == own[-1] and row["median"] == (own[3] + own[4]) / 2


def test_cells_have_two_digits_below_one_and_arrows():
    assert format(study.Cell.of(Interval(14.66, 12, 17.5), -1), "graded") == "14.7 (12.0 to 17.5) ↓"
    assert (
        format(study.Cell.of(Interval(0.0886, 0.066, 0.1), 1), "graded") == "0.089 (0.066 to 0.1) ↑"
    )
    assert format(study.Cell.of(Interval(1e-5, 0, 1e-4)), "graded") == "< 0.001"
    assert format(study.Cell.of(Interval(0.5, 0, 1), 1), ".2f") == "0.50 (0.00 to 1.00) ↑"


def test_error_tables(errors):
    tests = study.compared(errors)
    table = study.error_table(errors, tests, "factual")
    assert table.columns.tolist() == ["method", *MODELS] and len(table) == 1 + len(study.METHODS)
    own = errors[(errors.model == "a") & (errors.task == "factual") & (errors.method == "hvp")]
    cell = table.set_index("method").loc["HVP", "a"]
    assert cell.estimate == pytest.approx(own.error.mean()) and cell.mark == " ↓"
    assert table.set_index("method").loc["attribution patching", "a"].mark == ""


def test_more_prompts(monkeypatch):
    data = xr.Dataset(
        {
            name: (("prompt", "component"), np.random.default_rng(i).normal(size=(30, N_HEADS)))
            for i, name in enumerate(("activation_patching", study.AP, "hvp"))
        }
    )

    def load(models, tasks, names, n, store, **options):
        return {(models[0], tasks[0]): data.isel(prompt=slice(n))}

    monkeypatch.setattr("studies.common.load", load)
    (row,) = study.larger_sample(("a",), {"ioi": 30}, {"compared": 10, "alone": 5}).to_dict(
        "records"
    )
    own = {m: top_k_relative_error(data[m], data.activation_patching) for m in (study.AP, "hvp")}
    assert row["first"].estimate == pytest.approx((own["hvp"] - own[study.AP])[:10].mean())
    assert row["all"].estimate == pytest.approx((own["hvp"] - own[study.AP]).mean())
    assert row["alone"] == pytest.approx(own[study.AP][:5].mean())


# --- quadrature ----------------------------------------------------------------------------------


def test_cubics_leave_just_the_leading_errors(known):
    left = study.rest(study.head_estimates(known[0]))
    assert list(left.model.unique()) == list(MODELS)
    found = study.ratios(left)
    exact = found[found.method != "left"]
    for row in exact.itertuples():
        assert tuple(row.ratio) == pytest.approx((row.predicted,) * 3, rel=1e-6)
    assert exact.predicted.tolist() == pytest.approx([4, 1, 0.25, -50 / 81] * 2)
    assert all(0.9 < row.ratio.estimate < 1 for row in found[found.method == "left"].itertuples())
    named = study.by_model(found, ["rule", "predicted"], "ratio")
    assert named.columns.tolist() == ["rule", "predicted", *MODELS]
    assert named.rule[0] == "MS-HVP, K = 5" and len(named) == 5


def test_a_median_of_ratios_resamples_whole_prompts():
    top, group = np.array([1.0, 1, 9, 9, 5, 5]), np.array(["x", "x", "y", "y", "z", "z"])
    found = study.median_ratio(top, np.ones(6), group)
    assert tuple(found) == (5, 1, 9)
    assert study.median_ratio(top, 2 * np.ones(6), group).estimate == 2.5


def test_integrated_hessians_correct_by_half(known):
    corrected = study.corrections(study.rest(study.head_estimates(known[0])))
    share = study.shares(corrected).set_index(["part", "model"]).share
    for model in MODELS:
        assert share["complete", model].estimate == pytest.approx(1)
        assert 0.4 < share["path", model].estimate < 0.6 < share["coarse", model].estimate
    assert study.grid_weight(3) == pytest.approx(4 / 9) and study.grid_weight(200) < 0.253


def test_the_median_of_a_steady_approach_is_the_middle(known, errors):
    assert study.is_the_middle(study.rest(study.head_estimates(known[0]))) == {"b": 1.0, "a": 1.0}
    median = study.median_against_ten(errors)
    assert median["median"].tolist() == pytest.approx(median.ten.tolist())
    assert (median["sign"] == 0).all()


def test_steps_against_points(errors):
    versus = study.steps_against_points(errors)
    for name, expected in (("left", -1), ("right", -1), ("midpoint", 1), ("gausslegendre", 1)):
        assert (versus["sign"][versus.rule == name] == expected).all()
    tally = study.matched_tally(versus, study.steps_against_points(errors, 4999)).set_index("rule")
    assert tally.loc["left"].tolist() == [6, 0, 0, 6] and tally.loc["midpoint"].tolist() == [
        0,
        0,
        6,
        6,
    ]
    wide = study.wide_by_setting(versus, "rule", MODELS)
    assert wide.columns.tolist() == ["model", "task", *study.RULES]
    assert wide.model.tolist() == ["b"] * 3 + ["a"] * 3
    ends = study.ends_against_hvp(errors)
    wide = errors.pivot(index=["model", "task", "prompt"], columns="method", values="error")
    first = wide.loc[("b", "ioi")]
    assert ends.difference[0].estimate == pytest.approx((first.two_ends - first.hvp).mean())
    assert ends["both ends"][0].estimate == pytest.approx(first.two_ends.mean())


@pytest.fixture(scope="module")
def small():
    return PatchedMetric(tiny_model("llama"), tiny_pair())


def test_rules_on_one_axis_are_those_of_the_package(small):
    label, c = small.labels[5], torch.tensor([5])
    table = study.rules_on_axis(small, label, 4).set_index("rule")
    expected = {
        "AP": attribution_patching(small, c),
        "HVP": hvp(small, c),
        "slopes at both ends": integrated_gradients(small, 2, "trapezoid", c),
        "left, 4 points": integrated_gradients(small, 4, "left", c),
        "MS-HVP, K = 4": ms_hvp(small, 4, components=c),
        "midpoint, 4 points": integrated_gradients(small, 4, "midpoint", c),
        "Gauss–Legendre, 4 points": integrated_gradients(small, 4, "gausslegendre", c),
    }
    truth = activation_patching(small, c).item()
    for name, estimate in expected.items():
        assert table.estimate[name] == pytest.approx(estimate.item(), abs=1e-9)
        assert table.error[name] == pytest.approx(truth - estimate.item(), abs=1e-9)
    assert list(table.index) == list(expected)


def test_an_axis_is_the_derivative_of_the_metric(small):
    axis = study.axis(small, small.labels[5], 201)
    effect = activation_patching(small, torch.tensor([5])).item()
    assert np.trapezoid(axis.slope, axis.t) == pytest.approx(
        effect, abs=2e-4 * axis.slope.abs().max()
    )
    numeric = np.gradient(axis.slope, axis.t)[1:-1]
    scale = axis.curvature.abs().max()
    assert numeric == pytest.approx(axis.curvature[1:-1].to_numpy(), abs=2e-3 * scale)
    assert isinstance(study.area_figure(axis, 5, "A title"), Figure)


# --- rankings ------------------------------------------------------------------------------------


def test_scores_are_those_of_loops():
    rng = np.random.default_rng(1)
    truth, estimate = rng.normal(size=(2, 3, 30))
    truth[0, 4] = 0
    scores = ranking.scores_of(estimate, truth)
    assert scores["tau"] == pytest.approx(kendall_tau(estimate, truth))
    assert scores["@10"] == pytest.approx(100 * top_k_overlap(estimate, truth, 10))
    for prompt in range(3):
        e, f = np.abs(estimate[prompt]), np.abs(truth[prompt])
        top, wide = (
            sorted(range(30), key=lambda c: -f[c])[:10],
            sorted(range(30), key=lambda c: -e[c]),
        )
        assert scores["missed"][prompt] == 10 * sum(c not in wide[:20] for c in top)
        relative = [abs(e[c] - f[c]) / f[c] for c in range(30) if f[c] > 0]
        assert scores["relative"][prompt] == pytest.approx(100 * np.median(relative))


def made_scores(of, n_prompts=12, models=MODELS):
    """Scores of rankings: all of a method's are one number, but for a little noise."""
    rng, parts = np.random.default_rng(0), []
    names = ("tau", "@5", "@10", "@20", "missed", "relative")
    for model, task in itertools.product(models, TASKS):
        noise = rng.uniform(0.99, 1.01, size=n_prompts)
        for method, level in of.items():
            n = 6 if method == "atp_star" else n_prompts
            row = {"model": model, "task": task, "method": method, "prompt": range(n)}
            value = {
                name: (level if name != "relative" else 100 / level) * noise[:n] for name in names
            }
            parts.append(pd.DataFrame(row | value))
    return pd.concat(parts, ignore_index=True)


LEVELS = {study.AP: 50.0, "gim": 20.0, "relp": 50.0, "atp_star": 40.0, "hvp": 80.0}


def test_rankings_are_counted_and_marked():
    scores = made_scores(LEVELS)
    assert study.tau_counts(scores) == {
        "gim": (0, 6),
        "relp": (0, 0),
        "atp_star": (0, 6),
        "hvp": (6, 0),
    }
    table = study.rank_table(scores, "tau")
    assert table.columns.tolist() == ["task", "method", *MODELS] and len(table) == 3 * 5
    marks = {row["method"]: row["a"].mark.strip() for row in table.to_dict("records")}
    assert marks == {"AP": "", "GIM": "↓", "RelP": "", "AtP*": "↓", "HVP": "↑"}
    changes = study.overlap_changes(scores)
    assert len(changes) == 6 * 4 * 3
    shown = study.overlap_table(changes, "a").set_index(["task", "method"])
    assert shown.columns.tolist() == ["top 5", "top 10", "top 20"] and len(shown) == 3 * 4
    assert shown.loc[("IOI", "GIM"), "top 20"].estimate == pytest.approx(-30, rel=0.02)
    assert isinstance(study.overlap_figure(changes, "A title"), Figure)
    multiple = study.by_multiple(scores).groupby("method").multiple.mean()
    assert multiple.to_dict() == pytest.approx(
        {"gim": 2.5, "relp": 1, "atp_star": 1.25, "hvp": 0.625}
    )


def test_a_summary_is_over_all_prompts(errors):
    scores = made_scores(LEVELS)
    table = study.summary(errors, scores).set_index("method")
    assert list(table.index) == ["attribution patching", "GIM", "RelP", "AtP*", "HVP"]
    assert table.error["GIM"].estimate == pytest.approx(errors[errors.method == "gim"].error.mean())
    own = scores[scores.method == "atp_star"]
    assert table.missed["AtP*"].estimate == pytest.approx(own.missed.mean()) and len(own) == 36


def test_scores_of_rankings_come_from_both_sweeps(everything):
    _, rankings = everything
    wide = [
        {key: data.isel(component=np.arange(40) % N_HEADS) for key, data in s.items()}
        for s in rankings
    ]
    scores = study.rank_scores(wide)
    size = scores.groupby("method").size().to_dict()
    assert size == {study.AP: 48, "gim": 48, "relp": 48, "hvp": 48, "atp_star": 24}
    data = wide[0]["a", "ioi"]
    own = scores[(scores.model == "a") & (scores.task == "ioi") & (scores.method == "gim")]
    assert own.tau.to_numpy() == pytest.approx(
        kendall_tau(data.gim.values, data.activation_patching.values)
    )


def test_queries_and_keys_and_the_parts_of_atp_star():
    model, pair, sweeps = tiny_model("llama"), tiny_pair(), {}
    for kind in study.KINDS:
        M = PatchedMetric(model, pair, kind)
        values = {
            "activation_patching": activation_patching(M),
            study.AP: attribution_patching(M),
            "atp_star": atp_star(M),
        }
        rows = {n: (("prompt", "component"), np.stack([v.numpy()] * 2)) for n, v in values.items()}
        sweeps[kind] = xr.Dataset(rows)
    parts = study.softmax_alone(model, [pair, pair], sweeps).set_index(["components", "method"])
    for kind in study.KINDS:
        M, truth = PatchedMetric(model, pair, kind), sweeps[kind].activation_patching.values[:1]
        for name, estimate in (
            ("AP", attribution_patching(M)),
            ("exact softmax alone", atp_star(M, grad_drop=False)),
            ("AtP*: exact softmax and GradDrop", atp_star(M)),
        ):
            expected = ranking.scores_of(estimate.numpy()[None], truth)
            row = parts.loc[(kind, name)]
            assert row["Kendall's tau"] == pytest.approx(expected["tau"][0])
            assert row["top 5 found, %"] == pytest.approx(expected["@5"][0])
    table = study.query_key_table({("a", kind): data for kind, data in sweeps.items()})
    assert table.components.tolist()[0] == f"queries ({sweeps['queries'].sizes['component']})"
    assert table["method"].tolist() == ["AP", "AtP*"] * 2
    assert table["top 5 found, %"][1].estimate == pytest.approx(
        parts.loc[("queries", "AtP*: exact softmax and GradDrop"), "top 5 found, %"]
    )


# --- prices --------------------------------------------------------------------------------------


def test_prices_are_operations_of_the_plan():
    price = study.priced(("smollm2-135m", "gemma-3-270m"))
    runs = price.pivot(index="method", columns="model", values="runs")
    assert price.percent.tolist() == pytest.approx((100 * price.runs).tolist())
    assert (runs.loc["two_ends"] == runs.loc["finite_difference_hvp"]).all()
    assert (runs.loc["gim"] == runs.loc[study.AP]).all()
    assert (runs.loc[study.AP] < 0.05).all()
    for method in study.METHODS:  # whatever runs each head on its own costs more than the truth
        name = "finite_difference_hvp" if method == "two_ends" else method
        by_head = sum(n for kind, n in passes(name, 270, 30).items() if kind != "gradient") >= 270
        assert by_head == (runs.loc[method, "smollm2-135m"] > 1)
    table = study.price_table(price)
    assert table.columns.tolist()[3:] == ["smollm2-135m, %", "gemma-3-270m, %"]
    assert len(table) == 1 + len(study.METHODS)


def test_seconds_are_shown_only_where_repeats_agree():
    row = {
        "method": ["HVP"],
        "seconds": [1.0],
        "fastest": [0.9],
        "slowest": [1.1],
        "disturbed": [False],
    }
    assert "1.000" in study.seconds_shown(pd.DataFrame(row), 8).to_html()
    hidden = study.seconds_shown(pd.DataFrame(row | {"disturbed": [True]}), 8)
    assert "disturbed (HVP)" in hidden.data and "1.000" not in hidden.data


def test_where_the_heads_come_from(known):
    table = study.origin(known[0])
    assert table.model.tolist() == ["b"] * 3 + ["a"] * 3 and (table["heads"] == N_HEADS).all()
    truth = known[0]["b", "ioi"].activation_patching.values
    assert table.effect[0] == pytest.approx(np.median([sorted(abs(row))[-5:] for row in truth]))


# --- claims --------------------------------------------------------------------------------------

POINTS = [f"integrated_gradients:10:{rule}" for rule in study.RULES]
SINGLES = ("third_order", "finite_difference_hvp", "gauss_newton")
IH_PAIRWISE = [m for m in study.IH.values() if "complete" not in m]
ONE_SIDED = "integrated_gradients:35:right"
BASE = {study.AP: 10.0, "gim": 12.0, "hvp": 5.0, "ms_hvp:5": 1.0, "ms_hvp:10": 0.5}
BASE |= {"ms_hvp_median": 0.4, ONE_SIDED: 2.0, **dict.fromkeys(POINTS, 1.0)}
BASE |= dict.fromkeys((*SINGLES, *IH_PAIRWISE), 5.0)


def judged(of, scores=LEVELS, share=0.5, runs=(8.0, 20.0, 10.0), models=MODELS):
    """All claims on errors of a given size."""
    table, ranks = levels(of, models=models), made_scores(scores, models=models)
    halves = pd.DataFrame(
        [
            (part, m, Interval(value, value, value))
            for part, value in (("path", share), ("coarse", 0.9), ("complete", 1.0))
            for m in models
        ],
        columns=["part", "model", "share"],
    )
    names = ("ms_hvp:5", "integrated_gradients:10:midpoint", "integrated_gradients:5:gausslegendre")
    rows = [(m, name, r) for m in models for name, r in zip(names, runs, strict=True)]
    found = study.claims(
        table,
        study.steps_against_points(table),
        halves,
        study.median_against_ten(table),
        ranks,
        study.overlap_changes(ranks),
        pd.DataFrame(rows, columns=["model", "method", "runs"]),
    )
    assert len(found) == len({c.claim for c in found}) == 14
    return found


YES, PARTLY, NO = "holds", "holds partly", "does not hold here"
FIRST, HALF = (MODELS[0], TASKS[0]), [(MODELS[0], task) for task in TASKS]
CLAIMS = {
    "HVP": "One HVP step",
    "MS-HVP": "MS-HVP with 5 steps lowers",
    "matched": "At matched cost",
    "stuck": "Where one step does not help",
    "price": "MS-HVP stays affordable",
    "median": "The median of K",
    "IH": "Integrated Hessians",
    "half": "The reason is its coefficient",
    "singles": "Third order",
    "GIM": "GIM has a larger",
    "overlap": "GIM finds fewer",
    "typical HVP": "On the typical head, HVP",
    "typical GIM": "On the typical head, GIM",
    "values": "The values of Tables",
}


def some(bad, good, where=(FIRST,)):
    return dict.fromkeys(where, bad) | {"else": good}


def verdicts_of(found):
    verdicts = {
        n: c.verdict for n, start in CLAIMS.items() for c in found if c.claim.startswith(start)
    }
    assert set(verdicts) == set(CLAIMS)
    return verdicts


def test_claims_where_all_is_as_in_the_paper():
    found = judged(BASE)
    expected = dict.fromkeys(CLAIMS, YES) | {"values": "cannot be tested here"}
    # HVP helps everywhere, so it fails nowhere; and on the typical head GIM is far off.
    assert verdicts_of(found) == expected | {"stuck": NO, "singles": PARTLY, "typical GIM": NO}
    (prices,) = [c.here for c in found if c.claim.startswith(CLAIMS["price"])]
    assert "8.0 and 20.0 (b); 8.0 and 20.0 (a); 5 Gauss–Legendre points cost 10.0" in prices


@pytest.mark.parametrize(
    ("changes", "options", "expected"),
    [
        (
            {
                "hvp": some(10.0, 5.0, HALF),
                POINTS[3]: 0.5,
                "ms_hvp_median": some(0.5, 0.4),
                IH_PAIRWISE[0]: some(0.9, 5.0),
                "gim": some(10.0, 12.0, HALF),
            },
            {"runs": (18, 20, 10), "scores": LEVELS | {"gim": 60.0, "atp_star": 60.0}},
            dict.fromkeys(("HVP", "matched", "stuck", "price", "median", "IH", "GIM"), PARTLY)
            | {"MS-HVP": YES, "singles": PARTLY, "overlap": NO, "typical GIM": YES},
        ),
        (
            {"hvp": 11.0, "ms_hvp:5": 10.0, "ms_hvp_median": 0.5, "gim": 8.0}
            | dict.fromkeys(POINTS, 0.5)
            | dict.fromkeys(IH_PAIRWISE, 0.9),
            {"runs": (22, 20, 10), "share": 0.9, "scores": LEVELS | {"hvp": 10.0}},
            dict.fromkeys(set(CLAIMS) - {"overlap", "values"}, NO),
        ),
        (
            {"hvp": some(10.0, 5.0), POINTS[3]: 2.0, "ms_hvp:5": some(1.5, 1.0)}
            | dict.fromkeys(SINGLES, some(10.0, 5.0)),
            {"scores": LEVELS | {"gim": 60.0}},
            {
                "stuck": YES,
                "singles": YES,
                "MS-HVP": YES,
                "typical HVP": YES,
                "typical GIM": PARTLY,
            },
        ),
        (
            {"hvp": some(10.0, 5.0), "ms_hvp:5": some(10.0, 1.0)},
            {"scores": LEVELS | {"gim": 90.0}},
            {"MS-HVP": PARTLY, "typical HVP": PARTLY, "stuck": NO},
        ),
    ],
    ids=("partly", "not", "where HVP fails", "where MS-HVP fails"),
)
def test_claims_come_out_as_constructed(changes, options, expected):
    verdicts = verdicts_of(judged(BASE | changes, **options))
    assert {name: verdicts[name] for name in expected} == expected


def test_a_span_is_one_number_if_it_has_no_length():
    assert study.span([2.02, 2.04]) == "2.0" and study.span([1, 2.5]) == "1.0 to 2.5"


# --- figures, and what is stored -----------------------------------------------------------------


def test_figures_are_drawn(known, errors):
    price = pd.concat(study.priced(("smollm2-135m",)).assign(model=model) for model in MODELS)
    left = study.rest(study.head_estimates(known[0]))
    for figure in (
        study.map_figure(errors, price, "A title"),
        study.map_figure(errors, price, "A title", by_task=False),
        study.quarter_figure(left, "A title"),
        study.weights_figure(study.corrections(left), "A title"),
    ):
        assert isinstance(figure, Figure)
        assert figure.get_suptitle() == "A title"


@pytest.fixture(scope="module")
def stored():
    return study.followed(("smollm2-135m",), 20, store=str(RESULTS))


def test_stored_sweeps_follow_the_theory(stored):
    estimates = study.head_estimates(stored)
    errors = study.errors(estimates)
    for (model, task), data in stored.items():
        own = errors[
            (errors.model == model) & (errors.task == task) & (errors.method == "ms_hvp:5")
        ]
        expected = top_k_relative_error(data["ms_hvp:5"], data.activation_patching)
        assert own.error.to_numpy() == pytest.approx(expected)
    for row in study.ratios(study.rest(estimates)).itertuples():
        assert row.ratio.estimate == pytest.approx(row.predicted, rel=0.05)
