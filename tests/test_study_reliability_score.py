"""The study of chapter 5: tables against loops, on made-up data, a small model, stored sweeps."""

import functools
import itertools
import json
import math
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy.stats import spearmanr
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, attribution_patching
from hvp_utils.estimators import quadratic_term
from hvp_utils.stats import Interval, holm
from studies import reliability_score as study

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"
MODELS, TASKS = ("a", "b"), ("ioi", "factual")
N_PROMPTS, N_HEADS = 8, 24


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def made(remainder=0.3, n_prompts=N_PROMPTS, seed=0):
    """Effects whose remainder is so many times the quadratic term, with random signs."""
    rng = np.random.default_rng(seed)
    runs = []
    shape = (n_prompts, N_HEADS)
    for model, task in itertools.product(MODELS, TASKS):
        f_ap = rng.normal(size=shape)
        q = 0.1 * np.exp(rng.normal(size=shape)) * np.abs(f_ap) * rng.choice([-1, 1], shape)
        rest = remainder * np.abs(q) * rng.normal(size=shape)
        labels = tuple(f"L{c // 4}H{c % 4}" for c in range(N_HEADS))
        layers, delta = np.arange(N_HEADS) // 4, rng.uniform(1, 2, shape)
        runs.append(study.Judged(model, task, labels, layers, f_ap + q + rest, f_ap, q, delta))
    return runs


@pytest.fixture(scope="module")
def runs():
    return made()


def slow_auroc(score, positive):
    pairs = list(itertools.product(score[positive], score[~positive]))
    return sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)


# --- from sweeps to scores -----------------------------------------------------------------------


def a_sweep():
    values = {
        "activation_patching": [[1.5, 0.0, 2.0], [1.0, 1.0, -1.0]],
        "attribution_patching": [[1.0, 0.0, 0.0], [1.0, 2.0, 1.0]],
        "hvp": [[1.2, 0.0, 1.0], [1.0, 1.0, 0.5]],
        "delta_norm": [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
    }
    return xr.Dataset(
        {name: (("prompt", "component"), np.array(v)) for name, v in values.items()},
        coords={
            "label": ("component", ["L0H0", "L0H1", "L1H0"]),
            "layer": ("component", [0, 0, 1]),
            "clean": ("prompt", ["<s>One two", "<s>Three four"]),
        },
        attrs={"quantisation": "none"},
    )


def test_what_is_judged_is_what_was_swept():
    (run,) = study.judged({("a", "ioi"): a_sweep()})
    assert run.name == "IOI" and run.labels == ("L0H0", "L0H1", "L1H0")
    np.testing.assert_allclose(run.q, [[0.2, 0, 1], [0, -1, -0.5]])
    np.testing.assert_allclose(run.R, [[0.2, 0, math.inf], [0, 0.5, 0.5]])
    np.testing.assert_allclose(run.error, [[0.5, 0, math.inf], [0, 0.5, 2]])
    assert run.bad.tolist() == [[True, False, True], [False, True, True]]


def test_overview_shows_the_second_prompt():
    table = study.overview({("a", "ioi"): a_sweep(), ("a", "x"): a_sweep().isel(prompt=[0])})
    assert table["a clean prompt"].tolist() == ["Three four", "One two"]
    assert table.task.tolist() == ["IOI", "x"] and table["heads"].tolist() == [3, 3]


# --- score against truth -------------------------------------------------------------------------


def test_without_a_remainder_the_score_is_the_error():
    exact = made(remainder=0)
    assert study.ratios(exact).drop(columns=["model", "heads"]).to_numpy() == pytest.approx(1)
    assert all(share == Interval(100, 100, 100) for share in study.within(exact).within)


def test_ratios_are_those_of_a_loop(runs):
    found = study.ratios(runs).set_index(["model", "heads"])
    shares = study.within(runs, factor=1.2).set_index(["model", "heads"]).within
    for heads in ("all effects", "large effects"):
        ratios = []
        for run in runs[2:]:  # the second model
            least = np.quantile(np.abs(run.f), 0.75) if heads == "large effects" else 0
            for p, c in itertools.product(range(N_PROMPTS), range(N_HEADS)):
                if abs(run.f[p, c]) >= least:
                    error = abs(run.f[p, c] - run.f_ap[p, c]) / abs(run.f_ap[p, c])
                    ratios.append(error / (abs(run.q[p, c]) / abs(run.f_ap[p, c])))
        expected = np.quantile(ratios, [0.05, 0.25, 0.5, 0.75, 0.95])
        assert found.loc["b", heads].to_numpy(float) == pytest.approx(expected)
        inside = 100 * sum(1 / 1.2 < r < 1.2 for r in ratios) / len(ratios)
        assert shares["b", heads].estimate == pytest.approx(inside) and 0 < inside < 100


def test_a_head_that_does_nothing_has_no_ratio(runs):
    idle = [run._replace(**{k: getattr(run, k) * 1.0 for k in ("f", "f_ap", "q")}) for run in runs]
    for run in idle:
        for values in (run.f, run.f_ap, run.q):
            values[:, 3] = 0
    assert not study.ratios(idle).isna().any(axis=None)
    assert study.within(idle).within.iloc[0].estimate != study.within(runs).within.iloc[0].estimate


# --- as a detector -------------------------------------------------------------------------------


def test_the_detector_is_that_of_a_loop(runs):
    table = study.detector(runs)
    assert table[["model", "task"]].to_numpy().tolist() == [[r.model, r.name] for r in runs]
    run, row = runs[1], table.iloc[1]
    bad = np.abs(run.f - run.f_ap) > 0.1 * np.abs(run.f_ap)
    assert row["base rate"] == pytest.approx(100 * bad.mean())
    assert row.R.estimate == pytest.approx(slow_auroc(np.abs(run.q / run.f_ap), bad))
    assert row["|q|"] == pytest.approx(slow_auroc(np.abs(run.q), bad))
    assert row["small |f_AP|"] == pytest.approx(slow_auroc(-np.abs(run.f_ap), bad))
    assert row["|δ|"] == pytest.approx(slow_auroc(run.delta, bad))
    of_truth = np.abs(run.f - run.f_ap) > 0.1 * np.abs(run.f)
    expected = slow_auroc(np.abs(run.q / run.f_ap), of_truth)
    assert row["R, of the true effect"].estimate == pytest.approx(expected)


def test_rivals_are_compared_within_prompts(runs):
    flat = [runs[0]._replace(f=runs[0].f.copy()), *runs[1:]]
    flat[0].f[0] = flat[0].f_ap[0]  # on this prompt nothing is off, so it has no AUROC
    tests = study.rivals_beaten(flat, n_resamples=199)
    assert len(tests) == 4 * 3 and tests.holm.to_numpy() == pytest.approx(holm(tests.p))
    run = flat[0]
    gains = [
        slow_auroc(run.R[p], run.bad[p]) - slow_auroc(np.abs(run.q[p]), run.bad[p])
        for p in range(1, N_PROMPTS)
    ]
    row = tests[(tests.rival == "|q|") & (tests.model == "a") & (tests.task == "IOI")].iloc[0]
    assert row.difference.estimate == pytest.approx(np.mean(gains)) and np.mean(gains) > 0


def test_quarters_are_those_of_a_loop(runs):
    table = study.quarters(runs).set_index(["model", "task", "by", "quarter"])
    assert len(table) == 4 * 2 * 4
    run = runs[0]
    for by, size in (("|f|", np.abs(run.f)), ("|δ|", run.delta)):
        cuts = [-math.inf, *np.quantile(size, [0.25, 0.5, 0.75]), math.inf]
        for k in range(4):
            kept = (size >= cuts[k]) & (size < cuts[k + 1])
            row = table.loc["a", "IOI", by, k + 1]
            assert row.AUROC.estimate == pytest.approx(slow_auroc(run.R[kept], run.bad[kept]))
            assert row["base rate"] == pytest.approx(100 * run.bad[kept].mean())
    fall = study.falls(runs).set_index(["model", "task", "by"])["2 less 4"]["a", "IOI", "|f|"]
    second, fourth = (table.loc["a", "IOI", "|f|", k].AUROC.estimate for k in (2, 4))
    assert fall.estimate == pytest.approx(second - fourth)
    lowest = study.lowest_quarter(table.reset_index()).iloc[0]
    areas = [table.loc["a", "IOI", "|f|", k].AUROC.estimate for k in range(1, 5)]
    assert lowest.quarter == 1 + areas.index(min(areas))


def test_a_size_that_ruins_the_score_is_seen_in_its_quarter(runs):
    run = runs[0]
    noisy = np.abs(run.f) >= np.quantile(np.abs(run.f), 0.75)
    rng = np.random.default_rng(1)
    f = np.where(noisy, run.f_ap * (1 + 0.2 * rng.uniform(-1, 1, run.f.shape)), run.f_ap + run.q)
    table = study.quarters([run._replace(f=f)], by=["|f|"])
    assert study.lowest_quarter(table).quarter.item() == 4
    assert study.falls([run._replace(f=f)], by=["|f|"])["2 less 4"].item().low > 0


def test_misses_are_those_of_a_loop(runs):
    table = study.misses(runs, matter=0.2)
    for run, row in zip(runs, table.to_dict("records"), strict=True):
        safe, flagged = [], []
        for p, c in itertools.product(range(N_PROMPTS), range(N_HEADS)):
            if abs(run.f[p, c]) >= 0.2 * np.abs(run.f[p]).max():
                (safe if run.R[p, c] < 0.1 else flagged).append(run.error[p, c])
        assert row["pairs"] == len(safe) + len(flagged) < run.f.size
        assert (row["safe"], row["flagged"]) == (len(safe), len(flagged))
        missed, alarms = sum(e > 0.1 for e in safe), sum(e <= 0.1 for e in flagged)
        assert (row["missed"], row["alarms"]) == (missed, alarms)
        assert row["missed %"].estimate == pytest.approx(100 * missed / len(safe))
        assert row["alarms %"].estimate == pytest.approx(100 * alarms / len(flagged))
        assert row["worst"] == pytest.approx(100 * max(safe))


# --- layers --------------------------------------------------------------------------------------


def test_layers_are_those_of_a_loop(runs):
    table = study.by_layer(runs[0]).set_index("layer")
    assert table.index.tolist() == list(range(6))
    R, E = (getattr(runs[0], key)[:, 8:12] for key in ("R", "E"))
    row = table.loc[2]
    assert row.R.estimate == pytest.approx(np.median(R))
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(R, [0.25, 0.75])))
    assert row.error.estimate == pytest.approx(E.sum(1).mean())


@pytest.mark.parametrize("sign", (1, -1))
def test_layers_that_go_together_and_layers_that_do_not(runs, sign):
    run = runs[0]
    level = 1.0 + run.layers
    q = 0.05 * level * np.abs(run.f_ap)
    missing = np.broadcast_to(0.01 * level**sign, run.f.shape)
    (row,) = study.tracks([run._replace(q=q, f=run.f_ap + missing)], 20).itertuples()
    assert row.correlation == pytest.approx((sign, sign, sign))
    table = study.tracks([run._replace(q=q, f=run.f_ap + missing)], 20)
    assert (table["peak of R"].item(), table["peak of the error"].item()) == (5, 5 * (sign > 0))


def test_tracks_is_spearmans(runs):
    table, found = study.by_layer(runs[3]), study.tracks(runs[3:], 20).correlation.item()
    medians, errors = ([ci.estimate for ci in table[key]] for key in ("R", "error"))
    assert found.estimate == pytest.approx(spearmanr(medians, errors).statistic)


# --- one prompt ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def M():
    return PatchedMetric(tiny_model("llama"), tiny_pair())


def test_one_prompt_has_the_packages_numbers(M):
    table = study.one_prompt(M)
    assert table.component.tolist() == list(M.labels)
    np.testing.assert_allclose(table.truth, activation_patching(M))
    np.testing.assert_allclose(table.AP, attribution_patching(M))
    np.testing.assert_allclose(table.q, quadratic_term(M))
    np.testing.assert_allclose(table.R, np.abs(table.q / table.AP))
    np.testing.assert_allclose(table.error, np.abs(table.truth - table.AP) / np.abs(table.AP))


def test_the_blind_spot_is_the_worst_of_the_safe():
    rows = [("x", 3.0, 1.0, 0.5, 0.5), ("y", 2.0, 1.0, 0.05, 0.05), ("z", 1.0, 0.9, 0.0, 0.0)]
    table = pd.DataFrame(rows, columns=["component", "truth", "AP", "q", "R"])
    blind = study.blind_spot(table)
    assert blind.component == "y" and blind.missing == pytest.approx(0.5)
    assert blind.remainder == pytest.approx(0.95)
    with pytest.raises(ValueError, match="No head of this prompt"):
        study.blind_spot(table.iloc[:1])


def test_the_curve_goes_from_the_base_to_the_truth(M):
    curve, table = study.blind_curve(M, M.labels[3], 9), study.one_prompt(M)
    assert curve.iloc[0][["truth", "AP", "HVP"]].to_numpy() == pytest.approx([M.base] * 3)
    ends = curve.iloc[-1][["truth", "AP", "HVP"]].to_numpy() - M.base
    row = table.iloc[3]
    assert ends == pytest.approx([row.truth, row.AP, row.AP + row.q])
    assert curve["half curvature"].iloc[0] == pytest.approx(row.q)


def exact_run(model, pairs):
    tables = [study.one_prompt(PatchedMetric(model, pair)) for pair in pairs]
    f, f_ap, q = (np.stack([t[key] for t in tables]) for key in ("truth", "AP", "q"))
    delta = np.stack([PatchedMetric(model, pair).delta_norm.numpy() for pair in pairs])
    labels = tuple(tables[0].component)
    return study.Judged("a", "factual", labels, np.zeros(len(labels), int), f, f_ap, q, delta)


def test_rounding_is_what_two_precisions_differ_by():
    model, pairs = tiny_model("llama"), [tiny_pair(), tiny_pair("last")]
    run = exact_run(model, pairs)
    quarter = study.rounding(run, model, pairs)
    assert quarter.n_heads == (run.delta <= np.quantile(run.delta, 0.25)).sum() < run.f.size
    run = run._replace(delta=np.ones_like(run.f))  # all are as short as the shortest
    same = study.rounding(run, model, pairs)
    assert same.n_heads == run.f.size and same.single == same.double
    assert same.double == pytest.approx(slow_auroc(run.R, run.bad))
    other = study.rounding(run._replace(q=1 / run.q), model, pairs)
    assert other.double == same.double and other.single != other.double
    assert study.Rounding(9, 0.9, 0.96).explains and not study.Rounding(9, 0.9, 0.94).explains


# --- figures -------------------------------------------------------------------------------------


def test_figures_show_what_they_are_given(runs, M):
    fig = study.cloud_figure(runs, study.within(runs), "A title")
    assert fig.get_suptitle() == "A title" and len(fig.axes) == 2 + 1  # and a bar of colours
    table = study.quarters(runs)
    fig = study.quarters_figure(table, "A title")
    assert (
        len(fig.axes) == 2 * 2
        and len(study.quarters_figure(table[table.by == "|f|"], "").axes) == 2
    )
    drawn = fig.axes[0].lines[0].get_ydata()
    first = table[(table.by == "|δ|") & (table.model == "a") & (table.task == "IOI")]
    assert drawn == pytest.approx([ci.estimate for ci in first.AUROC])
    fig = study.layers_figure({run.model: study.by_layer(run) for run in runs[::2]}, "A title")
    assert len(fig.axes) == 4 and len(fig.axes[2].patches) == 6
    curve = study.blind_curve(M, M.labels[0], 5)
    fig = study.blind_figure(curve, "A title")
    assert fig.axes[1].lines[0].get_ydata() == pytest.approx(curve["half curvature"])


# --- claims --------------------------------------------------------------------------------------


def ci(estimate, low=None):
    low = estimate - 0.01 if low is None else low
    return Interval(estimate, low, estimate + 0.01)


def told(
    within=95, missed=2, gain=0.1, p=0.01, later=0.98, first=0.5, fall=0.02, track=0.8, low=0.7
):
    """Claims by their text. Lists give a value for each of the settings."""
    settings = list(itertools.product(MODELS, ("IOI", "Factual")))

    def each(value):
        return [*np.broadcast_to(value, len(settings))]

    def table(**columns):
        rows = [dict(zip(("model", "task"), s, strict=True)) for s in settings]
        return pd.DataFrame(rows).assign(**columns)

    near = pd.DataFrame({"model": MODELS, "within": [ci(w) for w in np.broadcast_to(within, 2)]})
    near["heads"] = "all effects"
    quarters = pd.concat(
        table(by="|f|", quarter=k, AUROC=[ci(a) for a in each(first if k == 1 else later)])
        for k in range(1, 5)
    )
    found = study.claims(
        near,
        table(**{"missed %": [ci(m) for m in each(missed)]}),
        table(rival="|q|", difference=[ci(g) for g in each(gain)], p=each(p)),
        quarters,
        table(by="|f|", **{"2 less 4": [ci(f) for f in each(fall)]}),
        pd.DataFrame({"model": MODELS, "correlation": [ci(track, low)] * 2}),
    )
    assert len({claim.claim for claim in found}) == len(found) == 7
    return found


CASES = [
    (0, dict(within=95), dict(within=[95, 80]), dict(within=[95, 40])),
    (1, dict(missed=4), dict(missed=[4, 9, 9, 9]), dict(missed=9)),
    (2, dict(p=0.01), dict(p=[0.01, 0.2, 0.2, 0.2]), dict(gain=-0.1)),
    (3, dict(later=0.98), dict(later=[0.98, 0.98, 0.9, 0.9]), dict(later=[0.98, 0.9, 0.9, 0.9])),
    (4, dict(first=0.5), dict(first=[0.5, 1, 1, 1]), dict(first=1)),
    (5, dict(track=0.8), dict(track=0.5, low=0.1), dict(track=0.5, low=-0.1)),
]


@pytest.mark.parametrize(("place", "holding", "partly", "failing"), CASES)
def test_a_claim_can_come_out_three_ways(place, holding, partly, failing):
    verdicts = [told(**case)[place].verdict for case in (holding, partly, failing)]
    assert verdicts == ["holds", "holds partly", "does not hold here"]


def test_claims_count():
    found = told(later=[0.98, 0.98, 0.9, 0.85], first=[0.5, 1, 1, 1], fall=[0.1, 0, 0, 0])
    assert found[3].here == "6 of 12 entries above 0.97; lowest 0.85"
    assert "lowest on 1 of 4" in found[4].here and found[4].here.endswith("falls on 1")
    assert found[6].verdict == "cannot be tested here"


@functools.cache
def stored():
    n_prompts = {"ioi": 50, "factual": 55, "greater_than_01": 100}
    models = ("smollm2-135m", "gemma-3-270m")
    return study.judged(study.load(models, n_prompts, store=RESULTS))


def test_what_is_stored_gives_the_published_claims():
    runs = stored()
    ioi = [run for run in runs if run.task == "ioi"]
    found = study.claims(
        study.within(runs),
        study.misses(runs),
        study.rivals_beaten(runs),
        study.quarters(runs),
        study.falls(runs),
        study.tracks(ioi),
    )
    published = json.loads((RESULTS / "claims" / "05_reliability_score.json").read_text("utf-8"))
    for claim, expected in zip(found, published, strict=True):
        assert (claim.claim, claim.here, claim.verdict) == tuple(
            expected[key] for key in ("claim", "here", "verdict")
        )


def test_models_may_be_swapped():
    runs = stored()
    swapped = runs[3:] + runs[:3]
    assert study.within(swapped).model.unique().tolist() == ["gemma-3-270m", "smollm2-135m"]
    one, other = (study.misses(r).set_index(["model", "task"]) for r in (runs, swapped))
    pd.testing.assert_frame_equal(one, other.loc[one.index])
