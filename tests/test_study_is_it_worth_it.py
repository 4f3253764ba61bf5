"""The study of chapter 10: tables against loops, on constructed data and tiny models."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, row_screen
from hvp_utils.stats import Interval
from studies import is_it_worth_it as study
from studies.is_it_worth_it import neurons

MODELS, TASKS = ("smollm2-135m", "gemma-3-270m"), ("ioi", "greater_than_01", "factual")
N = 40


def made(model="smollm2-135m", task="ioi", n_prompts=6, n=N, seed=0, hidden=True):
    """A task whose largest effects are steep, but for one that only its row betrays."""
    rng = np.random.default_rng(seed)
    f = 0.05 * rng.normal(size=(n_prompts, n))
    f[:, :5] = [5, -4, 3, 2.5, -2]
    f_ap, q = 0.9 * f, 0.02 * rng.normal(size=f.shape)
    if hidden:
        f_ap[:, 4], q[:, 4] = 0.0, 1.0
    values = {"f": f, "f_ap": f_ap, "q": q, "hvp": f_ap + q, "far": f_ap.copy()}
    values |= {f"q:{k}": q + 0.01 * rng.normal(size=f.shape) for k in study.PRODUCTS}
    values |= {f"sketched_hvp:{k}": f_ap + values[f"q:{k}"] for k in study.PRODUCTS}
    values |= {f"r:{k}": np.abs(q) * 1.1 for k in (2, 4, 16)}
    values["r"] = values["r:2"]
    return study.Scored(model, task, values, tuple(f"L{c // 4}H{c % 4}" for c in range(n)))


@pytest.fixture(scope="module")
def runs():
    return [made(m, t, seed=i) for i, (m, t) in enumerate(itertools.product(MODELS, TASKS))]


def steps_of(runs):
    """Methods of many steps: the closer to the truth the more steps they take."""
    names = {
        "ms_hvp:2": 0.1,
        "ms_hvp:5": 0.01,
        "ms_hvp:10": 0.001,
        **{
            f"integrated_gradients:{k}:{m}": 0.001
            for k in (5, 10)
            for m in ("midpoint", "gausslegendre")
        },
    }
    return {
        (run.model, run.task): {name: run["f"] + off for name, off in names.items()} for run in runs
    }


# --- rules ---------------------------------------------------------------------------------------


def test_what_is_patched_is_exact_and_the_rest_is_as_it_was():
    run = made()
    size = np.random.default_rng(1).permuted(np.tile(np.arange(N), (6, 1)), axis=1)
    for m in (0, 3, N):
        estimates = study.patched(run, size, m)
        for p, c in itertools.product(range(6), range(N)):
            expected = run["f"] if size[p, c] >= N - m else run["f_ap"]
            assert estimates[p, c] == expected[p, c]


def test_places_are_those_of_a_sorted_list():
    size = np.random.default_rng(0).normal(size=(3, 9))
    for row, found in zip(size, study.places(size), strict=True):
        order = sorted(range(9), key=lambda c: -row[c])
        assert [found[c] for c in order] == list(range(1, 10))


def test_the_score_of_nothing_is_nothing():
    values = {"f_ap": np.array([[0.0, 0.0, 2.0]]), "q": np.array([[0.0, 1.0, -1.0]])}
    run = study.Scored("a", "ioi", values)
    assert study.RULES["R, exact"].size(run).tolist() == [[0.0, math.inf, 0.5]]


def test_only_a_second_term_finds_a_flat_start(runs):
    after = study.errors_after(runs, numbers=(5, 10))
    error = after[after.patches == 5].groupby("rule").error.max()
    for rule, runs_of in study.RULES.items():
        assert runs_of.times >= 1
        if "|q|" in rule or "+ r" in rule:
            assert error[rule] == 0
        elif rule != "R, exact":
            assert error[rule] > 1
    assert len(after) == len(runs) * len(study.RULES) * 2 * 6


def test_numbers_are_chosen_on_the_first_setting_alone(runs):
    numbers = (1, 5, 20, N)
    after = study.errors_after(runs, numbers=numbers)
    chosen = study.chosen(after, MODELS[0])
    assert chosen[study.ROWS] == 5 and chosen[study.FIRST] in (20, N)
    others = study.errors_after(runs[1:], numbers=numbers)
    changed = pd.concat(
        [after[(after.model == MODELS[0]) & (after.task == "ioi")], others.assign(error=9.0)]
    )
    assert study.chosen(changed, MODELS[0]) == chosen
    assert study.chosen(after.assign(error=2.0), MODELS[0]) == {}
    table = study.chosen_table(after, {study.ROWS: 5})
    assert (table.iloc[:, 2] == "0.00 (100%)").all() and len(table) == len(runs)


def test_the_head_that_is_rescued_comes_first():
    run = made()
    first = study.rescued(run).iloc[0]
    assert first.component == "L1H0" and first["place by |f_AP| + r"] <= 5
    assert first["place by |f_AP|"] > 20
    assert len(study.rescued(run)) == 5 * 6
    table = study.one_prompt(run, 2)
    assert (
        table.effect.tolist() == run["f"][2].tolist() and table.r.tolist() == run["r"][2].tolist()
    )


# --- fresh prompts -------------------------------------------------------------------------------


@pytest.mark.parametrize("better", [study.ROWS, study.FIRST])
def test_either_rule_can_win(better):
    runs = [made(m, t, 20, hidden=better == study.ROWS) for m in MODELS for t in TASKS]
    if better == study.FIRST:
        for run in runs:  # rows that point elsewhere
            run.values["r"][:, 5:] = 100.0
    tested = study.put_to_test(runs, {study.FIRST: 5, study.ROWS: 5})
    settings = study.in_settings(tested)
    whole = study.pooled(tested).set_index("method")
    sign = -1 if better == study.ROWS else 1
    assert all(sign * d.estimate > 0 for d in settings.difference)
    assert sign * whole.difference[study.FIRST].estimate > 0
    assert whole.p[study.FIRST] < 0.01 and np.isnan(whole.p[study.ROWS])
    assert (whole.prompts == 20 * 6).all()
    mean = tested[tested.method == study.AP].error.mean()
    assert whole.error[study.AP].estimate == pytest.approx(mean)


def test_the_same_price_is_less_than_a_patch_above(runs):
    equal = study.equal_price(runs, m=10)
    assert set(equal.model) == set(MODELS)
    for model, part in equal.groupby("model"):
        patches = part.drop_duplicates("method").set_index("method").patches
        heads = study.counted(model, ["hvp"]).n.iloc[0]
        budget, spent = (
            study.of_rule(model, rule, patches[rule]) * heads / 100
            for rule in (study.ROWS, study.FIRST)
        )
        assert patches[study.ROWS] == 10 < patches[study.FIRST]
        assert 0 <= spent - budget < 1


def test_missed_heads_are_counted():
    run = made(hidden=True)
    assert study.missed([run], m=5)["missed"] == 0
    run.values["r"][:2, 4] = 0.0
    found = study.missed([run, made(hidden=False)], m=5)
    assert (found["heads"], found["missed"], found["prompts"], found["hit"]) == (60, 2, 12, 2)
    worst = max(100 * 2 / np.ptp(run["f"][p]) for p in (0, 1))
    assert found["worst"] == pytest.approx(worst)


def test_a_better_second_term_chooses_better():
    run = made()
    run.values["r:2"][:, 4] = 0.0
    row = study.second_terms([run], m=5).iloc[0]
    assert row["2 differences"] > 1
    assert row["16 differences"] == row["exact q"] == 0


# --- prices --------------------------------------------------------------------------------------


def test_counted_prices():
    for model, n in (("smollm2-135m", 270), ("gemma-3-270m", 72)):
        table = study.counted(model, ["activation_patching", "hvp", "ms_hvp:5"]).set_index("method")
        assert (table.n == n).all() and table.percent["activation_patching"] == pytest.approx(100)
        assert 200 < table.percent["hvp"] < 300 < table.percent["ms_hvp:5"]
        rows = study.counted(model, ["row_norms:2"]).runs.iloc[0]
        assert study.of_rule(model, study.ROWS, 10) == pytest.approx(100 * (rows + 10) / n)
    a, b = (
        study.counted("gpt2", [f"integrated_gradients:5:{m}"])
        for m in ("midpoint", "gausslegendre")
    )
    assert a.runs.tolist() == b.runs.tolist() and b.method[0].endswith("gausslegendre")
    assert study.price_table(("gpt2",)).shape == (len(study.LABELS), 3)


def test_a_larger_model_makes_what_serves_all_cheaper():
    scale = study.at_scale("llama-3.1-8b", ["attribution_patching", "hvp"], 1e13)
    table = scale.set_index(["components", "method"])
    for kind in ("heads", "neurons_pre"):
        n = table.n[kind, "hvp"]
        assert table.runs[kind, "attribution_patching"] < 10 < n < table.runs[kind, "hvp"]
    half = study.at_scale("llama-3.1-8b", ["hvp"], 2e13).seconds
    assert (2 * half).tolist() == pytest.approx(scale[scale.method == "hvp"].seconds.tolist())


def measured_in(seconds, disturbed=False):
    return pd.DataFrame(
        {"method": [*seconds], "seconds": [*seconds.values()], "fastest": [*seconds.values()]}
    ).assign(slowest=lambda t: t.seconds, disturbed=disturbed)


def test_counted_over_measured():
    model = "smollm2-135m"
    seconds = {"activation_patching": 2.7, "attribution_patching": 0.1, "hvp": 6.0}
    table = study.counted_over_measured(model, measured_in(seconds), {}).set_index("method")
    runs = study.counted(model, ["attribution_patching", "hvp"]).set_index("method").runs
    assert table.ratio["hvp"] == pytest.approx(runs["hvp"] * 0.01 / 6)
    assert table.ratio["attribution_patching"] == pytest.approx(runs["attribution_patching"] * 0.1)
    assert table.kind.to_dict() == {"hvp": "one by one", "attribution_patching": "all at once"}


def test_a_rule_is_followed():
    model = tiny_model("llama")
    M = PatchedMetric(model, tiny_pair())
    truth, screened = activation_patching(M), row_screen(M)
    for rule, size in (
        (study.FIRST, screened.first_order.abs()),
        (study.ROWS, screened.first_order.abs() + screened.quadratic),
    ):
        which = size.topk(3).indices
        expected = screened.first_order.clone()
        expected[which] = truth[which]
        torch.testing.assert_close(study.follow(rule, M, 3), expected, rtol=1e-4, atol=1e-5)
    table = study.seconds(M, {study.ROWS: 3}, repeats=1, derivatives=False)
    assert study.rule_label(study.ROWS, 3) in set(table.method) and (table.seconds > 0).all()


# --- error against price -------------------------------------------------------------------------


def test_front_and_its_title(runs):
    points = study.front(runs, steps_of(runs))
    means = points.groupby(["series", "point"])[["percent", "error"]].mean()
    assert means.error["2 differences, then patch the largest |f_AP| + r", "5"] == 0
    assert means.error["MS-HVP", "ms_hvp:5"] == pytest.approx(0.11, rel=0.05)
    table = study.cheapest(points).set_index(["model", "task", "series"])
    for run in runs:
        key = run.model, run.task
        assert np.isnan(table.price[(*key, "AP")])
        assert table.price[(*key, "MS-HVP")] > 100
        assert table.price[(*key, "2 differences, then patch the largest |f_AP| + r")] < 100
    assert "only by patching" in study.front_title(points)
    cheap = points.assign(percent=points.percent.where(points.series != "MS-HVP", 1.0))
    assert "only" not in study.front_title(cheap)
    assert study.cheapest_table(points).shape == (points.series.nunique(), 1 + len(runs))


def test_workflow_prices_and_errors(runs):
    found = study.workflow(runs, steps_of(runs))
    keyed = found.groupby(["screen", "fix", "model"])[["error", "percent"]].mean()
    exact = keyed.loc["10 largest, exact", "exact patching"]
    assert (exact.error == 0).all()
    for model in MODELS:
        table = study.counted(model, ["hvp", "row_norms:2"]).set_index("method")
        assert exact.percent[model] == pytest.approx(table.percent["hvp"] + 100 * 10 / N)
        rows = keyed.loc["10 largest, rows"].xs(model, level="model").percent
        assert rows["exact patching"] == pytest.approx(table.percent["row_norms:2"] + 100 * 10 / N)
        assert rows["HVP"] > rows["exact patching"]
        free = keyed.loc[("10 largest, exact", "HVP", model)].percent
        assert free == pytest.approx(table.percent["hvp"])
    shown = study.workflow_table(found, runs)
    assert len(shown) == 2 * 7 and shown.iloc[-1].flagged == "none: AP alone"


# --- sketches ------------------------------------------------------------------------------------


def test_spectrum_of_a_known_matrix():
    from studies.is_it_worth_it.sketches import held_by_largest

    held = held_by_largest(np.array([[3.0, -2.0, 1.0], [1.0, 0.0, 0.0]]), 3)
    assert held == pytest.approx(np.array([[900 / 14, 1300 / 14, 100], [100, 100, 100]]))


def test_sketches_of_a_matrix_of_low_rank():
    generator = torch.Generator().manual_seed(0)
    V = torch.randn(30, 2, generator=generator, dtype=torch.float64)
    H = V @ V.T
    found = study.sketches(H, ks=(4, 8), n_seeds=3, more={})
    table = study.over_seeds({"a": H}, {"a": found})
    error = table.groupby(["method", "k"]).error.max()
    assert error["xdiag", 8] < 1e-6 < 10 < error["hutchinson", 8]
    assert len(table) == 2 * 2 * 3 and table.inside.between(0, 100).all()
    ones = torch.ones(30, dtype=torch.float64)
    known = study.Known(H, ones, ones, H.diagonal() / 2)
    assert study.flags_found(known, found["xdiag", 8]) == (1, 1)
    blind = [s._replace(values=0 * s.values) for s in found["xdiag", 8]]
    assert study.flags_found(known, blind) == (0, 0)


def test_hessian_and_differences_of_a_tiny_model():
    model = tiny_model("llama")
    M = PatchedMetric(model, tiny_pair())
    H = study.hessian(M)
    assert H.diagonal() == pytest.approx(
        M.along_axes(0.0).curvature.double().cpu(), rel=1e-3, abs=1e-4
    )
    torch.testing.assert_close(H, H.T)
    w = torch.ones(M.n)
    near, far = (study.difference_error(M, H, w, step) for step in (0.01, 1.0))
    assert near < far


def test_what_the_score_does_not_see():
    truth = torch.tensor([1.0, 1.0, 1.0, 4.0, 6.0]).double()
    slope, q = torch.ones(5).double(), torch.tensor([0.5, 0, 0, 0.05, 0.5]).double()
    known = study.Known(torch.eye(5).double(), truth, slope, q)
    found = study.hidden_from_score("abcde", known)  # e is farther off, but flagged
    assert (found["head"], found["by R"], found["by size"]) == ("d", 3, 3)
    assert found["R"] == pytest.approx(0.05) and found["error"] == pytest.approx(75)


def test_the_reference_pair_is_stored_and_read(tmp_path, monkeypatch):
    model = tiny_model("llama")
    M = PatchedMetric(model, tiny_pair())
    first = study.everything("tiny", M, tmp_path)
    assert first.truth == pytest.approx(activation_patching(M).double().cpu(), rel=1e-5)
    assert first.H.diagonal() / 2 == pytest.approx(first.q, rel=1e-3, abs=1e-4)
    monkeypatch.setattr(PatchedMetric, "hessian_matvec", None)  # nothing is computed any more
    again = study.everything("tiny", M, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_errors_of_stored_sketches():
    run = made()
    run.values["q:4"] = 2 * run["q"]
    found = study.stored_errors([run], (4,))
    assert found.error.to_numpy() == pytest.approx(100)
    assert study.stored_errors_table(found).iloc[0].tolist() == [
        "smollm2-135m",
        "IOI",
        "100.0 (100)",
    ]


# --- together ------------------------------------------------------------------------------------


class Quadratic:
    """M(alpha) = g a + a H a / 2: every interaction is an entry of H, and nothing else happens."""

    def __init__(self, n=12, cubic=0.0, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.g = torch.randn(n, generator=generator, dtype=torch.float64)
        H = torch.randn(n, n, generator=generator, dtype=torch.float64)
        self.H, self.n, self.cubic = (H + H.T) / 2, n, cubic
        self.base, self.delta_norm = 0.0, torch.ones(n, dtype=torch.float64)

    def __call__(self, alpha):
        bend = torch.einsum("bi,ij,bj->b", alpha, self.H, alpha) / 2
        return alpha @ self.g + bend + self.cubic * alpha.sum(1) ** 3

    def gradient(self):
        return self.g

    def truth(self):
        return self(torch.eye(self.n, dtype=torch.float64))


@pytest.mark.parametrize("cubic", [0.0, 1.0])
def test_pairs_and_joint_patches(cubic):
    M = Quadratic(cubic=cubic)
    one = study.measure_pairs("a", M, M.truth(), M.H, n_ranked=8)
    i, j = one.ranked[:2]
    alpha = torch.zeros(1, M.n, dtype=torch.float64)
    alpha[0, [i, j]] = 1
    expected = M(alpha)[0] - one.truth[i] - one.truth[j]
    assert one.measured[0, 1] == pytest.approx(expected.item())
    pairs = study.pairs_table([one])
    assert len(pairs) == 28
    joint = study.joint_patches([one], (2, 5), 20).set_index(["heads", "prediction"]).error
    assert np.isnan(joint[2, "exact effects + measured interactions"])
    right = [
        joint[5, p] < 1e-6 for p in ("quadratic model", "exact effects + Hessian's interactions")
    ]
    assert right == [cubic == 0] * 2
    assert joint[5, "slopes"] > 1
    correlation = study.correlations(pairs, 5)
    assert correlation["pairs of the largest"].tolist() == [10]
    # Interactions of the cube are the same for all pairs, so they do not change the correlation.
    assert correlation["correlation, all"][0] == pytest.approx(1)


# --- neurons -------------------------------------------------------------------------------------


def some_neurons(model="smollm2-135m"):
    run = made(model, n=1000)
    values = dict(run.values) | {"q:48": run["q"], "local": run["f_ap"] + run["q"]}
    values |= steps_of([run])[run.model, run.task]
    return neurons.Neurons(model, 46_080, 90.0, values)


def test_neurons_choose_by_two_terms():
    sample = [some_neurons(m) for m in MODELS]
    points = neurons.front(sample, shares=(0.01, 0.05))
    ends = points[points.point == "0.05"].groupby("series").error.mean()
    assert ends[neurons.ROWS] < ends[neurons.FIRST]
    price = points[points.point == "0.01"].groupby("series").percent.mean()
    assert 1 < price[neurons.FIRST] < price[neurons.ROWS] < price[neurons.SKETCHED] < 1.2
    title = neurons.front_title(points, 0.05)
    assert f"{ends[neurons.FIRST]:.1f}"[:3] in title and title.startswith("5 %")
    terms = neurons.errors_of_terms(sample)
    assert terms["error, 48 products"].tolist() == [0, 0]
    assert (terms["error, 8 products"] > 0).all()
    assert (terms.recall == 100).all() and (terms.precision == 100).all()


def test_screens_are_stored_and_read(tmp_path, monkeypatch):
    model = tiny_model("llama")
    pair = tiny_pair()
    monkeypatch.setattr(neurons, "make_prompts", lambda task, model, n: [pair] * n)
    monkeypatch.setattr(neurons, "PRODUCTS", (4, 6))
    M = PatchedMetric(model, pair, "neurons_pre")
    labels = M.labels[::2]
    first = neurons.screens("tiny", labels, 2, model, tmp_path)
    assert first["r"].values[0] == pytest.approx(
        row_screen(M).quadratic[::2].numpy(), rel=1e-3, abs=1e-6
    )
    assert first.attrs["n"] == M.n and 0 < first.attrs["held"] <= 100.1
    monkeypatch.setattr(neurons, "make_prompts", None)  # nothing is computed any more
    again = neurons.screens("tiny", labels, 2, model, tmp_path)
    np.testing.assert_array_equal(again["q:6"], first["q:6"])


# --- claims and targets --------------------------------------------------------------------------

VERDICTS = ("holds", "holds partly", "does not hold here")


@pytest.mark.parametrize("which", range(3))
def test_every_claim_can_come_out_each_way(which):
    good = {"hvp over ap": 2.0, "hvp over exact": 0.5, "ig over hvp": 20.0, "later step": 0.5}
    bad = {"hvp over ap": 5.0, "hvp over exact": 2.0, "ig over hvp": 0.5, "later step": 2.0}
    half = bad | {"ig over hvp": 5.0}
    pairs = ((good, good), (good, half), (bad, bad))[which]
    ratios = {name: dict(zip("ab", (p[name] for p in pairs), strict=True)) for name in good}
    claims = study.claims(("a", "b"), ratios)
    assert [c.verdict for c in claims[:4]] == [VERDICTS[which]] * 4
    assert claims[4].verdict == "cannot be tested here"
    assert not any("copy" in c.paper for c in claims)


def test_counted_ratios():
    ratios = study.price_ratios(MODELS)
    for model in MODELS:
        table = study.counted(model, ["attribution_patching", "hvp", "ms_hvp:5"]).set_index(
            "method"
        )
        assert ratios["hvp over ap"][model] == pytest.approx(
            table.runs["hvp"] / table.runs["attribution_patching"]
        )
        # MS-HVP of five steps is HVP, and four steps elsewhere; the shared gradient apart.
        later = (table.runs["ms_hvp:5"] - table.runs["hvp"]) / 4
        first = table.runs["hvp"] - table.runs["attribution_patching"]
        assert ratios["later step"][model] == pytest.approx(later / first)


def targets(error=1.0, seconds=10.0, disturbed=False):
    seeds = pd.DataFrame(
        [(m, "xdiag", 32, s, error) for m in MODELS for s in range(10)],
        columns=["model", "method", "k", "seed", "error"],
    )
    stored = pd.DataFrame(
        [(m, "ioi", p, 32, error) for m in MODELS for p in range(4)],
        columns=["model", "task", "prompt", "k", "error"],
    )
    labels = [study.rule_label(rule, study.N_PATCHED) for rule in (study.BOTH, study.ROWS)]
    spent = {"activation_patching": 100.0, "sketched_hvp:32": seconds}
    timed = measured_in(spent | dict.fromkeys(labels, seconds), disturbed)
    errors = {(m, r): error for m in MODELS for r in (study.BOTH, study.ROWS)}
    runs = [made(m) for m in MODELS]
    tested = study.put_to_test(runs, dict.fromkeys((study.BOTH, study.ROWS), study.N_PATCHED))
    every = (measured_in({"sketched_hvp:48": seconds}, disturbed), 46_080)
    flags = dict.fromkeys(MODELS, (1 - error / 50, 1 - error / 50))
    return study.targets(
        MODELS, seeds, stored, flags, errors, tested, dict.fromkeys(MODELS, timed), timed, every
    )


def test_targets_can_be_met_and_missed():
    met, missed = targets(), targets(error=20.0, seconds=150.0)
    assert set(met.met) == {"yes", ""}
    operations = missed.what.str.contains("operations")
    assert (missed.met[operations] == "yes").all()  # they depend on nothing measured
    assert set(missed.met[~operations]) == {"no", ""}


@pytest.mark.parametrize("disturbed", [False, True])
def test_seconds_of_heads_have_no_verdict(disturbed):
    table = targets(disturbed=disturbed)
    seconds = table.what.str.contains("seconds")
    assert seconds.sum() == 5 and not table.met[seconds].any()
    assert table.measured[seconds].str.contains("not shown").tolist() == [disturbed] * 5


# --- figures -------------------------------------------------------------------------------------


def test_figures(runs):
    after = study.errors_after(runs, numbers=(5, 10))
    points = study.front(runs, steps_of(runs))
    M = Quadratic(cubic=0.1)
    one = study.measure_pairs("a", M, M.truth(), M.H, n_ranked=8)
    strength = np.linspace(0, 1, 5)
    curve = pd.DataFrame({"strength": strength, "truth": strength**2, "AP": 0.0, "HVP": strength})
    spectra = pd.DataFrame(
        [(m, p, 0, k, 100 - 50 / k) for m in MODELS for p in ("x", "y") for k in range(1, 33)],
        columns=["model", "place", "prompt", "k", "held"],
    )
    H = M.H @ M.H
    seeds = study.over_seeds({"a": H}, {"a": study.sketches(H, ks=(4, 8), n_seeds=2, more={})})
    figures = [
        study.rules_figure(after, "t"),
        study.front_figure(points, "t"),
        study.front_figure(points, "t", pool_tasks=True, whiskers=False),
        study.choice_figure(study.one_prompt(runs[0], 0), curve, "L1H0", "t"),
        study.spectra_figure(spectra, "t"),
        study.sketches_figure(seeds, "t"),
        study.pairs_figure(study.pairs_table([one]), "t"),
        study.joint_figure(study.joint_patches([one], (2, 5)), "t"),
    ]
    assert all(isinstance(figure, Figure) for figure in figures)
    assert len(figures[1].axes) == 6 and len(figures[2].axes) == 2
    table = study.spectra_table(spectra)
    assert table["8, worst prompt"].tolist() == pytest.approx([100 - 50 / 8] * 4)


def test_intervals_are_cells(runs):
    tested = study.put_to_test(runs, {study.FIRST: 5, study.ROWS: 5})
    assert all(isinstance(cell, Interval) for cell in study.in_settings(tested)[study.AP])
