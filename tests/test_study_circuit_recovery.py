"""The study of chapter 11: tables against loops, on constructed data and a small model."""

import functools
import itertools
import math

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, hvp
from hvp_utils.stats import Interval, holm, kendall_tau
from studies import circuit_recovery as study
from studies.circuit_recovery import faithful

MODELS, TASKS = ("a", "gemma-b"), ("ioi", "greater_than_01")
ALL = ("AP", "HVP", "MS-HVP", "IG", "GIM", "AtP*", "sketched HVP", "|AP| + r", "10 patches")
N_HEADS = 32


def made(errors, n_prompts=12, methods=ALL, seed=0, **changes):
    """Scores with errors of a given size, by method; the truth is the same for all of them."""
    rng = np.random.default_rng(seed)
    scored = []
    for model, task in itertools.product(MODELS, TASKS):
        truth = np.sort(rng.exponential(size=N_HEADS))[::-1] + 0.05 * rng.normal(
            size=(n_prompts, N_HEADS)
        )
        values = {"truth": truth}
        for method in methods:
            noise = rng.normal(size=truth.shape)
            values[method] = truth + errors.get(method, 0.5) * noise
        labels = tuple(f"L{c // 4}H{c % 4}" for c in range(N_HEADS))
        lengths = rng.uniform(1, 2, size=truth.shape)
        layers = np.arange(N_HEADS) // 4
        scored.append(study.Scores(model, task, labels, layers, lengths, values))
    return scored


@pytest.fixture(scope="module")
def scored():
    return made({"AP": 0.6, "HVP": 0.2, "MS-HVP": 0.01, "GIM": 2.0})


# --- from sweeps to scores -----------------------------------------------------------------------


def a_sweep(n_prompts=3, n=24):
    rng = np.random.default_rng(0)
    names = (*study.ESTIMATORS, "delta_norm")
    return xr.Dataset(
        {name: (("prompt", "component"), rng.normal(size=(n_prompts, n))) for name in names},
        coords={
            "label": ("component", [f"L{c}H0" for c in range(n)]),
            "layer": ("component", np.arange(n)),
        },
    )


def test_scores_are_what_was_swept():
    data = a_sweep()
    (one,) = study.scores({("a", "ioi"): data})
    assert one.methods == list(study.METHODS) == list(ALL)
    np.testing.assert_array_equal(one.truth, data.activation_patching)
    np.testing.assert_array_equal(one.values["MS-HVP"], data["ms_hvp:5"])
    np.testing.assert_array_equal(one.values["IG"], data["integrated_gradients:5:gausslegendre"])
    ap, rows = data.attribution_patching.values, data["row_norms:2"].values
    for prompt, estimates in enumerate(one.values["10 patches"]):
        size = [abs(f) + r / 2 for f, r in zip(ap[prompt], rows[prompt], strict=True)]
        chosen = sorted(range(24), key=lambda c: -size[c])[:10]
        expected = [one.truth[prompt, c] if c in chosen else ap[prompt, c] for c in range(24)]
        assert estimates.tolist() == expected
        assert one.values["|AP| + r"][prompt].tolist() == pytest.approx(size)


# --- rankings ------------------------------------------------------------------------------------


def slow_top(values, k):
    return sorted(range(len(values)), key=lambda c: -abs(values[c]))[:k]


def test_top_is_that_of_a_loop(scored):
    values = scored[0].values["AP"]
    for mask, row in zip(study.top(values, 7), values, strict=True):
        assert sorted(np.flatnonzero(mask)) == sorted(slow_top(row, 7))


def test_per_prompt_is_that_of_a_loop(scored):
    found = study.per_prompt(scored, (5, 10)).set_index(
        ["model", "task", "method", "measure", "k", "prompt"]
    )
    assert found.index.is_unique and len(found) == 4 * len(ALL) * 12 * (3 * 2 + 1)
    for one, method, prompt in itertools.product(scored[:2], ("AP", "GIM"), (0, 7)):
        e, f = one.values[method][prompt], one.truth[prompt]
        key = (one.model, one.task, method)
        for k in (5, 10):
            belongs, chosen = slow_top(f, k), slow_top(e, k)
            value = found.value[(*key, "overlap", k, prompt)]
            assert value == pytest.approx(len(set(chosen) & set(belongs)) / k)
            discounts = [1 / math.log2(i + 2) for i in range(k)]
            gains = [d * (c in belongs) for d, c in zip(discounts, chosen, strict=True)]
            value = found.value[(*key, "NDCG, membership", k, prompt)]
            assert value == pytest.approx(sum(gains) / sum(discounts))
        assert found.value[(*key, "Kendall's tau", 0, prompt)] == pytest.approx(kendall_tau(e, f))


def test_of_the_mean_is_that_of_a_loop(scored):
    n_resamples = 40
    found = study.of_the_mean(scored, (5,), n_resamples, seed=3).set_index(
        ["model", "task", "method", "measure", "k"]
    )
    one = scored[1]
    interval = found.value[(one.model, one.task, "AP", "overlap", 5)]

    def share(prompts):
        e, f = (
            [sum(v[p, c] for p in prompts) for c in range(N_HEADS)]
            for v in (one.values["AP"], one.truth)
        )
        return len(set(slow_top(e, 5)) & set(slow_top(f, 5))) / 5

    assert interval.estimate == pytest.approx(share(range(12)))
    draws = np.random.default_rng(3).integers(12, size=(n_resamples, 12))
    low, high = np.quantile([share(draw) for draw in draws], [0.025, 0.975])
    assert (interval.low, interval.high) == pytest.approx((low, high))


def test_the_family_of_tests_is_all_of_them(scored):
    tests = study.paired_tests(study.per_prompt(scored), n_resamples=999)
    assert len(tests) == 4 * (len(ALL) - 1) * 3
    assert tests.holm.to_numpy() == pytest.approx(holm(tests.p))
    better = tests[tests.method == "MS-HVP"]
    assert (better.difference.map(lambda d: d.estimate) > 0).all()
    worse = tests[(tests.method == "GIM") & (tests.k == 5)]
    assert (worse.difference.map(lambda d: d.high) < 0).all()


def test_moves_are_those_of_a_loop(scored):
    for k in (3, 10):
        for row in study.moves(scored, k).itertuples():
            (one,) = [s for s in scored if (s.model, s.task) == (row.model, row.task)]
            belongs, before, after = (
                {one.labels[c] for c in slow_top(one.mean(m), k)}
                for m in ("truth", "AP", row.method)
            )

            def heads(text):
                return set(text.split(", ")) - {""}

            assert heads(row.entered_rightly) == (after - before) & belongs
            assert heads(row.entered_wrongly) == (after - before) - belongs
            assert heads(row.left_rightly) == (before - after) - belongs
            assert heads(row.left_wrongly) == (before - after) & belongs
            assert row.rightly == len((after - before) & belongs) + len((before - after) - belongs)
            assert row.net == len(after & belongs) - len(before & belongs)
            assert row.rightly - row.wrongly == 2 * row.net


def test_halves_agree_where_prompts_do(scored):
    same = [one._replace(values={"truth": one.truth[:1].repeat(6, 0)}) for one in scored]
    assert (study.split_half(same, (5, 10), 20).overlap == 1).all()
    noisy = [one._replace(values={"truth": 20 * one.values["GIM"]}) for one in made({"GIM": 30})]
    assert study.split_half(noisy, (5,), 50).overlap.mean() < 0.6


def test_wide_tables_have_a_row_a_method(scored):
    part = study.per_prompt(scored, (5, 10)).query("measure == 'overlap' and prompt == 0")
    wide = study.wide_table(part)
    assert list(wide.columns) == ["model", "task", "method", "k = 5", "k = 10"]
    assert len(wide) == 4 * len(ALL) and set(wide.task) == {"IOI", "Greater-Than"}
    assert wide.method.tolist()[: len(ALL)] == list(ALL)


# --- planted circuits ----------------------------------------------------------------------------


def test_planted_circuits_are_found_by_all():
    table = study.planted_recovery((0, 3), {"n_layers": 3, "n_heads": 4})
    assert (table.auroc == 1).all() and (table.outside < 1e-8).all()
    assert set(table.method) == {"truth", "AP", "HVP", "MS-HVP"}
    truth = table[table.method == "truth"]
    assert (truth.tau > 1 - 1e-9).all() and (truth.overlap == 1).all() and (truth.error == 0).all()
    assert (table.members < table["heads"]).all()


# --- one head ------------------------------------------------------------------------------------


def test_places_and_the_head_that_falls_farthest():
    (one, *_) = made({"AP": 0, "HVP": 0}, methods=("AP", "HVP"))
    values = {m: v.copy() for m, v in one.values.items()}
    values["AP"][:, 4] *= np.where(np.arange(12) % 2, 1, -1)  # cancels over prompts
    values["HVP"][:, 4] *= 0.5
    one = one._replace(values=values)
    table = study.places(one, 10)
    for row in table.itertuples(index=False):
        c = one.labels.index(row.component)
        means = {m: [abs(v) for v in one.mean(m)] for m in values}
        ranks = {m: sorted(means[m], reverse=True).index(means[m][c]) + 1 for m in values}
        shown = table[table.component == row.component].iloc[0]
        assert {m: shown[f"place of {m}"] for m in values} == ranks
        assert shown.lost == ranks["AP"] - ranks["truth"]
        ap, corrected = one.mean("AP")[c], one.mean("HVP")[c]
        assert row.R == pytest.approx(abs(corrected - ap) / abs(ap), abs=1e-6)
    found = study.case([one]).iloc[0]
    assert found.component == one.labels[4] and found["place of AP"] > 20
    each = study.by_prompt(one, one.labels[4])
    assert (np.sign(each.AP) != np.sign(each.truth)).sum() == 6


def test_underestimation_sees_long_patches(scored):
    rows = []
    for one in scored:
        values = one.values | {"AP": one.truth * (1 - one.delta_norm / 3)}
        rows.append(one._replace(values=values))
    assert all(i.low > 0.9 for i in study.underestimation(rows).correlation)
    assert any(i.low < 0 for i in study.underestimation(scored).correlation)


def test_curve_and_attention_of_a_head():
    model, pair = tiny_model("llama"), tiny_pair()
    M = PatchedMetric(model, pair)
    label = M.labels[3]
    curve = study.head_curve(M, label, 5)
    last = curve.iloc[-1]
    assert last.truth == pytest.approx(activation_patching(M)[3].item(), abs=1e-6)
    assert last.HVP == pytest.approx(hvp(M)[3].item(), abs=1e-6)
    assert (curve.iloc[0][["truth", "AP", "HVP"]].abs() < 1e-6).all()
    seen = study.attention_of(M.model, pair, label)
    sums = seen.groupby(["run", "query"]).weight.sum()
    assert (sums <= 1 + 1e-5).all() and (sums > 0).all()
    assert (seen.key <= seen["query"]).all() and (seen.key > 0).all()
    drawn = study.case_figure({label: curve}, seen, label, "A title")
    assert isinstance(drawn, Figure)
    assert isinstance(study.attention_figure({label: seen}, "A title"), Figure)


# --- faithfulness --------------------------------------------------------------------------------


class Kept:
    """Known circuits whose metric is the sum of the weights of the heads that they keep."""

    def __init__(self, weights, n_prompts=6):
        self.weights, self.n_prompts = np.asarray(weights, dtype=float), n_prompts

    def of(self, masks):
        noise = 1 + 0.01 * np.arange(self.n_prompts)[:, None]
        ones = np.ones(self.n_prompts)
        return faithful.Kept(
            noise * (masks @ self.weights), noise[:, 0] * self.weights.sum(), 0 * ones
        )


def test_faithfulness_is_what_the_kept_heads_carry(scored):
    weights = scored[0].mean("truth")
    known = {(one.model, one.task): Kept(weights) for one in scored}
    table = study.faithfulness_table(scored, known, (5, 10))
    assert len(table) == 4 * (len(ALL) + 1) * 2
    for row in table.sample(20, random_state=0).itertuples():
        (one,) = [s for s in scored if (s.model, s.task) == (row.model, row.task)]
        chosen, belongs = (slow_top(one.mean(m), row.k) for m in (row.method, "truth"))
        assert row.faithfulness.estimate == pytest.approx(weights[chosen].sum() / weights.sum())
        assert row.off == pytest.approx(abs(1 - row.faithfulness.estimate))
        assert row.overlap == pytest.approx(len(set(chosen) & set(belongs)) / row.k)


def test_means_by_method_are_over_everything(scored):
    known = {(one.model, one.task): Kept(np.ones(N_HEADS)) for one in scored}
    table = study.faithfulness_table(scored, known, (5, 10))
    means = study.by_method(table).set_index("method")
    for method in ("truth", "GIM"):
        part = table[table.method == method]
        assert means.overlap[method] == pytest.approx(sum(part.overlap) / 8)
        assert means.off[method] == pytest.approx(1 - 7.5 / N_HEADS)


def test_circuits_that_look_alike_and_differ():
    def row(method, overlap, value, k=10):
        return ("a", "ioi", method, k, overlap, Interval(value, 0, 1), abs(1 - value))

    columns = ["model", "task", "method", "k", "overlap", "faithfulness", "off"]
    rows = [row("truth", 1, 1), row("AP", 0.9, 0.2), row("HVP", 0.9, 0.8), row("IG", 0.7, 1.0)]
    found = study.overlap_is_not_faithfulness(pd.DataFrame(rows, columns=columns))
    assert (found["better"].method, found["worse"].method, found["k"]) == ("HVP", "AP", 10)
    found = study.overlap_is_not_faithfulness(pd.DataFrame(rows, columns=columns), within=0.3)
    assert (found["better"].method, found["worse"].method) == ("IG", "AP")
    same = [row("truth", 1, 1), row("AP", 0.9, 0.8), row("HVP", 0.9, 0.8), row("IG", 0.2, 0)]
    assert study.overlap_is_not_faithfulness(pd.DataFrame(same, columns=columns)) is None


def test_differing_heads(scored):
    one = scored[0]
    pair = dict(model=one.model, task=one.task, k=6)
    pair |= {w: pd.Series({"method": m}) for w, m in (("better", "HVP"), ("worse", "GIM"))}
    better, worse = ({one.labels[c] for c in slow_top(one.mean(m), 6)} for m in ("HVP", "GIM"))
    texts = study.differing_heads(scored, pair)
    assert [set(text.split(", ")) for text in texts] == [better - worse, worse - better]


def test_kept_circuits_are_run_once(tmp_path, monkeypatch):
    model, pairs = tiny_model("llama"), [tiny_pair(), tiny_pair("last")]
    M = PatchedMetric(model, pairs, direction="noising")
    rng = np.random.default_rng(0)
    values = {m: rng.normal(size=(3, M.n)) for m in ("truth", "AP")}
    one = study.Scores("tiny", "ioi", tuple(M.labels), M.layers.numpy(), None, values)
    runs = []
    monkeypatch.setattr(faithful, "make_prompts", lambda *_: runs.append(1) or pairs)
    for store in (None, tmp_path, tmp_path):
        found = study.heads_kept([one], 2, (1, 3), store, {"tiny": model})
        known = found["tiny", "ioi"]
        assert len(known.masks) <= 4
    assert len(runs) == 2  # the third time they were read
    (row,) = study.heads_kept([one], 2, (1, 2, 3), tmp_path, {"tiny": model}).values()
    assert len(runs) == 3 and len(row.masks) > len(known.masks)
    table = study.faithfulness_table([one], {("tiny", "ioi"): row}, (2,))
    mask = torch.tensor(study.top(one.mean("AP"), 2))
    empty = M(torch.ones(M.n, dtype=torch.float64)).item()
    expected = (M((~mask).double()).item() - empty) / (M.base - empty)
    found = table[table.method == "AP"].faithfulness.iloc[0].estimate
    assert found == pytest.approx(expected, abs=1e-4)
    wrong = one._replace(labels=tuple(reversed(one.labels)))
    with pytest.raises(ValueError, match="not those of the scores"):
        study.heads_kept([wrong], 2, (1,), tmp_path, {"tiny": model})


# --- what was published --------------------------------------------------------------------------


def test_published_circuits():
    heads = [head for group in study.GPT2_IOI.values() for head in group]
    assert len(heads) == len(set(heads)) == 26
    assert len(study.GPT2_GREATER_THAN["all heads"]) == 9
    assert not study.roles_in_the_paper().agree.any()


def test_rankings_against_a_published_circuit(scored):
    one = scored[0]
    circuit = {"ioi": {"first": one.labels[:3], "second": one.labels[3:5]}}
    table = study.against_published([one], circuit).set_index("method")
    assert (table["heads"] == 5).all()
    for method in one.values:
        chosen = slow_top(one.mean(method), 5)
        assert table.precision[method] == pytest.approx(len({*chosen} & {*range(5)}) / 5)
        size = np.abs(one.mean(method))
        wins = [np.sign(size[i] - size[j]) / 2 + 0.5 for i in range(5) for j in range(5, N_HEADS)]
        assert table.auroc[method] == pytest.approx(np.mean(wins))
    assert study.against_published([one._replace(task="factual")], circuit).empty
    with pytest.raises(ValueError, match="a has no L99H0"):
        study.against_published([one], {"ioi": {"x": ("L99H0",)}})


def test_hits_behind_are_those_of_all_subsets():
    for k, value in ((5, 0.869), (5, 0.699), (5, 0.723), (5, 1.0), (5, 0.5), (10, 0.936)):
        discounts = [1 / math.log2(i + 2) for i in range(k)]
        hits = {
            size
            for size in range(k + 1)
            for chosen in itertools.combinations(discounts, size)
            if f"{sum(chosen) / sum(discounts):.3f}" == f"{value:.3f}"
        }
        assert study.hits_behind(value, k) == sorted(hits)
    assert study.hits_behind(0.999, 5) == []


def test_where_the_paper_disagrees_with_itself():
    table = study.paper_against_itself().set_index(["method", "k"])
    assert table.agree.to_dict() == {
        ("AP", 10): False,
        ("AP", 20): True,
        ("HVP", 10): False,
        ("HVP", 20): False,
    }


# --- figures -------------------------------------------------------------------------------------


def test_figures_have_a_panel_a_setting(scored):
    drawn = study.overlap_figure(study.per_prompt(scored), ("AP", "HVP"), "A title")
    assert len(drawn.axes) == 4 and drawn.get_suptitle() == "A title"
    known = {(one.model, one.task): Kept(np.ones(N_HEADS)) for one in scored}
    table = study.faithfulness_table(scored, known)
    drawn = study.faithfulness_figure(table, ("truth", "AP"), "A title")
    assert len(drawn.axes) == 4
    line = drawn.axes[0].lines[0]
    assert line.get_xdata().tolist() == list(study.KS)
    assert line.get_ydata().tolist() == pytest.approx([k / N_HEADS for k in study.KS])
    drawn = study.landscape_figure(scored[:2], {"a": "L1H2"}, "A title")
    assert len(drawn.axes) == 2 * 3 + 2  # and a bar of colours a row
    grid = drawn.axes[0].images[0].get_array()
    assert grid[1, 2] == pytest.approx(scored[0].mean("truth")[6])
    roles = pd.DataFrame(
        {"component": ["L0H0", "L1H1"], "role": ["x", "y"], "truth": [1.0, -2], "AP": 1, "HVP": 1}
    )
    assert len(study.roles_figure(roles, "A title").axes) == 3


# --- claims --------------------------------------------------------------------------------------

GOOD = {m: 1e-6 for m in ALL} | {"AP": 0.8, "GIM": 3.0}
BAD = {m: 3.0 for m in ALL} | {"AP": 0.001, "GIM": 0.0005}


JUDGED = ("AP", "HVP", "MS-HVP", "IG", "GIM")


def told(errors, faith=("AP",), change=None):
    """Claims by their text. ``faith``: methods whose circuits keep little."""
    return _told(tuple(errors.items()), faith, change)


@functools.cache
def _told(errors, faith, change):
    few, many = made(dict(errors), 8, JUDGED), made(dict(errors), 20, ("AP", "HVP"))
    many = [change(one) if change else one for one in many]
    rows = [
        (one.model, one.task, m, 5, 1.0, Interval(0, 0, 0), 0.9 if m in faith else 0.1)
        for one in many
        for m in ("truth", "AP", "HVP")
    ]
    columns = ["model", "task", "method", "k", "overlap", "faithfulness", "off"]
    found = study.claims(many, few, pd.DataFrame(rows, columns=columns))
    assert len({claim.claim for claim in found}) == len(found)
    return {claim.claim: claim for claim in found}


def lost_head(one, corrected=0.9):
    """AP loses the third head by a mean of zero; HVP gives back a share of it."""
    values = {m: one.truth.copy() for m in one.values}
    values["AP"][:, 2] = 1e-3 * np.where(np.arange(len(one.truth)) % 2, 1.1, -1)
    values["HVP"][:, 2] *= corrected
    return one._replace(values=values)


def long_patches(one):
    values = one.values | {"AP": one.truth * (1 - one.delta_norm / 3)}
    return one._replace(values=values)


def verdict_of(found, start):
    (claim,) = [claim for text, claim in found.items() if text.startswith(start)]
    return claim.verdict


@pytest.mark.parametrize(
    ("start", "holding", "failing"),
    [
        ("HVP finds more", dict(errors=GOOD), dict(errors=BAD)),
        ("MS-HVP finds the most", dict(errors=GOOD), dict(errors=GOOD | {"MS-HVP": 30.0})),
        ("HVP and integrated", dict(errors=GOOD), dict(errors=GOOD | {"IG": 30.0})),
        ("GIM ranks", dict(errors=GOOD), dict(errors=GOOD | {"AP": 3.0, "GIM": 0.001})),
        ("Attribution patching ranks all", dict(errors=BAD), dict(errors=GOOD | {"AP": 100.0})),
        ("HVP matches", dict(errors=GOOD), dict(errors=BAD)),
        ("The gains concentrate", dict(errors=BAD), dict(errors=GOOD)),
        ("The five largest heads", dict(errors=BAD), dict(errors=GOOD | {"AP": 30.0})),
        ("HVP recovers more", dict(errors=GOOD), dict(errors=BAD)),
        ("A head of the true", dict(errors=GOOD, change=lost_head), dict(errors=BAD)),
        ("HVP partially", dict(errors=GOOD, change=lost_head), dict(errors=BAD)),
        ("Attribution patching under", dict(errors=GOOD, change=long_patches), dict(errors=BAD)),
        ("Better estimates", dict(errors=GOOD), dict(errors=GOOD, faith=("HVP",))),
        ("Greater-Than on Gemma", dict(errors=GOOD), dict(errors=BAD)),
    ],
)
def test_a_claim_can_come_out_either_way(start, holding, failing):
    assert verdict_of(told(**holding), start) == "holds"
    assert verdict_of(told(**failing), start) == "does not hold here"


def test_claims_say_how_many_prompts_and_what_cannot_be_tested():
    found = told(GOOD)
    for text, claim in found.items():
        if not any(word in text for word in ("Figure 12", "GPT-2", "faithful circuits")):
            assert "8 prompts" in claim.here or "20 prompts" in claim.here
    assert verdict_of(found, "HVP recovers all of GPT-2") == "cannot be tested here"
    assert verdict_of(found, "The three heads of Figure 12") == "does not hold here"


def test_roles_that_agree_would_hold(monkeypatch):
    table = study.roles_in_the_paper().assign(agree=True)
    monkeypatch.setattr("studies.circuit_recovery.judged.roles_in_the_paper", lambda: table)
    _told.cache_clear()
    assert verdict_of(told(GOOD), "The three heads of Figure 12") == "holds"
    _told.cache_clear()


def test_without_gemma_there_is_one_claim_less():
    few, many = made(GOOD), made(GOOD, 20)
    few, many = ([one for one in part if one.model == "a"] for part in (few, many))
    rows = [
        ("a", t, m, 5, 1.0, Interval(0, 0, 0), 0.1) for t in TASKS for m in ("truth", "AP", "HVP")
    ]
    columns = ["model", "task", "method", "k", "overlap", "faithfulness", "off"]
    found = study.claims(many, few, pd.DataFrame(rows, columns=columns))
    assert len(found) == len(told(GOOD)) - 1
