"""The study of chapter 9: tables against loops, on constructed heads and a small model."""

import functools
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, hvp, model_sizes
from hvp_utils.plans import passes
from hvp_utils.stats import Interval
from studies import is_it_worth_it as worth
from studies import prices
from studies import screen_flag_fix as study
from studies.screen_flag_fix import recommended
from studies.screen_flag_fix.operating import AIMS

MODELS, TASKS = ("a", "b"), ("ioi", "factual")
N = 40


def heads(world, task="ioi", model="a", n_prompts=10, seed=0, lipschitz=100.0):
    """Effects of 40 heads, of which attribution patching gets five wrong that matter.

    In the ``"hidden"`` world their estimates are tiny, so that R is large and size finds nothing.
    In the ``"loud"`` world they are the largest estimates with small scores, and heads that do not
    matter have large ones. In the ``"hopeless"`` world HVP is worse than attribution patching.
    """
    rng = np.random.default_rng(seed)
    f = 0.01 * rng.normal(size=(n_prompts, N))
    f[:, :5] = 10 + rng.uniform(size=(n_prompts, 5))
    f[:, 5:15] = 0.02 if world == "loud" else 2 + 0.1 * rng.uniform(size=(n_prompts, 10))
    f_ap = f * (1 + 1e-3 * rng.normal(size=f.shape))
    hvp = f.copy()
    f_ap[:, :5] = 0.5 if world == "hidden" else 1.2 * f[:, :5]
    if world == "loud":
        f_ap[:, 5:15] = 0.01
    if world == "hopeless":
        hvp = f + 3 * (f_ap - f)
    sizes = {"delta_norm": np.ones_like(f), "lipschitz": np.full_like(f, lipschitz)}
    sizes["r"] = np.abs(hvp - f_ap) * rng.uniform(1, 1.5, size=f.shape)
    return study.Effects(model, task, f, f_ap, hvp, ms_hvp=f + 0.1 * (hvp - f), **sizes)


def made(worlds=("hidden", "loud"), **options):
    return [
        heads(world, task, model, seed=i, **options)
        for i, (model, world) in enumerate(zip(MODELS, worlds, strict=True))
        for task in TASKS
    ]


@pytest.fixture(scope="module")
def found():
    return made()


@pytest.fixture(scope="module")
def curves(found):
    return study.operating(found, tuple(study.RULES))


# --- from sweeps to effects ----------------------------------------------------------------------


def a_sweep(names, n_prompts=3, n=8, seed=0):
    rng = np.random.default_rng(seed)
    values = {name: (("prompt", "component"), rng.normal(size=(n_prompts, n))) for name in names}
    return xr.Dataset(values)


def test_effects_are_what_was_swept():
    names = (*study.ALL_HEADS, "delta_norm", "row_norms:2", "hessian_lipschitz")
    data, five = a_sweep(names), a_sweep(["ms_hvp:5"], seed=1)
    (one,) = study.effects({("a", "ioi"): data}, {("a", "ioi"): five})
    assert (one.model, one.task, one.n) == ("a", "ioi", 8)
    np.testing.assert_array_equal(one.f, data.activation_patching)
    np.testing.assert_array_equal(one.q, data.hvp - data.attribution_patching)
    np.testing.assert_array_equal(one.r, data["row_norms:2"] / 2)
    np.testing.assert_array_equal(one.ms_hvp, five["ms_hvp:5"])
    np.testing.assert_array_equal(one.lipschitz, data.hessian_lipschitz)
    np.testing.assert_allclose(one.R, np.abs(one.q) / np.abs(one.f_ap))
    (bare,) = study.effects({("a", "ioi"): a_sweep((*study.ALL_HEADS, "delta_norm"))})
    assert bare.r is None and bare.ms_hvp is None and bare.lipschitz is None


def test_loading_asks_for_what_is_wanted(monkeypatch):
    asked = []

    def load(models, tasks, estimators, n_prompts, **options):
        asked.append((models[0], tasks[0], tuple(estimators), n_prompts, options))
        names = (*estimators, "delta_norm", *study.ALL_HEADS)
        return {(models[0], tasks[0]): a_sweep(dict.fromkeys(names), n_prompts)}

    monkeypatch.setattr(study.load.__globals__["common"], "load", load)
    n = {"ioi": 2, "factual": 3, "greater_than_01": 4}
    loaded = study.load(("m", "k"), n, ["row_norms:2"], five_steps=True, device="cpu")
    assert [(one.model, one.task, len(one.f)) for one in loaded] == [
        (model, task, n[task]) for model in ("m", "k") for task in study.TASKS
    ]
    assert all(one.r is not None and one.ms_hvp is not None for one in loaded)
    assert len(asked) == 2 * 6 and sum("top" in options for *_, options in asked) == 6
    assert {count for *_, count, _ in asked} == {2, 3, 4}
    study.load(("m",), 5, tasks=("ioi",))
    assert asked[-1][3] == 5


# --- rules and measures --------------------------------------------------------------------------


def slow_flags(one, rule, k):
    """Which k heads of each prompt come first."""
    flags = np.zeros(one.f.shape, dtype=bool)
    for prompt in range(len(one.f)):
        ap, q = one.f_ap[prompt], one.hvp[prompt] - one.f_ap[prompt]
        score = {
            "R": lambda c, q=q, ap=ap: abs(q[c]) / abs(ap[c]),
            "|f_AP|": lambda c, ap=ap: abs(ap[c]),
            "|q|": lambda c, q=q: abs(q[c]),
            study.ORACLE: lambda c, p=prompt, ap=ap: abs(one.f[p, c] - ap[c]),
            study.ROWS: lambda c, p=prompt, ap=ap: abs(ap[c]) + one.r[p, c],
        }[rule]
        flags[prompt, sorted(range(one.n), key=lambda c: -score(c))[:k]] = True
    return flags


def slow_top_5(one, flags, fix):
    values = {"hvp": one.hvp, "ms_hvp": one.ms_hvp, "exact": one.f}[fix]
    left = []
    for f, ap, better, flagged in zip(one.f, one.f_ap, values, flags, strict=True):
        top = sorted(range(one.n), key=lambda c: -abs(f[c]))[:5]
        errors = [abs((better[c] if flagged[c] else ap[c]) - f[c]) for c in top]
        left.append(100 * sum(errors) / 5 / (max(f) - min(f)))
    return left


@pytest.mark.parametrize("rule", study.RULES)
def test_rules_flag_what_a_loop_flags(found, rule):
    for one, k in itertools.product(found, (1, 6)):
        np.testing.assert_array_equal(study.flagged_by(one, rule, k), slow_flags(one, rule, k))


def test_measures_are_those_of_a_loop(found):
    for one, fix in itertools.product(found[::2], study.FIXES):
        flags = study.flagged_by(one, "R", 6)
        np.testing.assert_allclose(study.top_5(one, flags, fix), slow_top_5(one, flags, fix))
        after, before = study.repaired(one, flags, fix) - one.f, one.f_ap - one.f
        expected = [100 * sum(abs(a)) / sum(abs(b)) for a, b in zip(after, before, strict=True)]
        np.testing.assert_allclose(study.summed(one, flags, fix), expected)
    one = found[0]
    flags = study.flagged_by(one, "R", 3)
    off = np.abs(one.f - one.f_ap) > 0.1 * np.abs(one.f_ap)
    assert (study.still_off(one, False) == 100 * 5 / N).all()
    np.testing.assert_allclose(study.still_off(one, flags), 100 * (off & ~flags).sum(1) / N)


# --- operating curves ----------------------------------------------------------------------------


def test_curves_are_those_of_a_loop(found, curves):
    assert set(curves.fix) == set(study.FIXES) and set(curves.rule) == set(study.RULES)
    fixed, shares, errors = study.errors_of(curves, "b", "|f_AP|", "hvp")
    assert fixed.tolist() == study.numbers(N).tolist() and fixed[0] == 0 and fixed[-1] == N
    np.testing.assert_allclose(shares, 100 * fixed / N)
    ones = [one for one in found if one.model == "b"]
    for k, row in zip(fixed[:8], errors[:8], strict=True):
        slow = [slow_top_5(one, slow_flags(one, "|f_AP|", k), "hvp") for one in ones]
        np.testing.assert_allclose(row, np.concatenate(slow))
    exact = study.errors_of(curves, "b", "R")[2]
    assert (exact[-1] == 0).all() and (exact[0] > 0).all()


def test_the_oracle_knows_what_the_measure_is_about(found):
    table = study.operating(found, ("R", study.ORACLE), ["exact"], "off by > 10 %")
    for model, one in (("a", found[0]), ("b", found[2])):
        fixed, _, errors = study.errors_of(table, model, study.ORACLE)
        bad = one.off_by_10[0].sum()
        np.testing.assert_allclose(errors.mean(1), 100 * np.maximum(bad - fixed, 0) / N)
    # And the one for sums of errors takes the largest.
    table = study.operating(found, ("R", "|f_AP|", study.ORACLE), ["exact"], "summed error")
    for model in MODELS:
        best = study.errors_of(table, model, study.ORACLE)[2]
        for rule in ("R", "|f_AP|"):
            assert (best <= study.errors_of(table, model, rule)[2] + 1e-9).all()


def test_thresholds_lie_where_a_loop_puts_them(found):
    points = study.at_thresholds(found, "hvp", (0.1, 1)).set_index(["model", "tau"])
    ones = found[2:]
    for tau in (0.1, 1):
        flags = [np.abs(one.q) / np.abs(one.f_ap) > tau for one in ones]
        shares = np.concatenate([flag.mean(1) for flag in flags])
        left = np.concatenate([slow_top_5(o, f, "hvp") for o, f in zip(ones, flags, strict=True)])
        assert points.share["b", tau] == pytest.approx(100 * shares.mean())
        assert points.left["b", tau] == pytest.approx(left.mean())


def test_what_fixes_leave(found, curves):
    table = study.what_fixes_leave(found, curves).set_index(["model", "fix"])
    for model, ones in zip(MODELS, (found[:2], found[2:]), strict=True):
        none, whole = (
            np.concatenate([slow_top_5(one, np.full(one.f.shape, by), "ms_hvp") for one in ones])
            for by in (False, True)
        )
        row = table.loc[model, "ms_hvp"]
        assert row.none.estimate == pytest.approx(none.mean())
        assert row["all"].estimate == pytest.approx(whole.mean(), abs=1e-9)
        assert row.left == pytest.approx(100 * whole.mean() / none.mean())
        assert row.best <= row["all"].estimate + 1e-12
        assert table.loc[model, "exact"]["all"] == (0, 0, 0)


def test_how_many_heads_a_rule_needs(found, curves):
    need = study.shares_needed(curves, 1)
    assert need.loc["R", "a"] == need.loc[study.ROWS, "a"] == 100 * 5 / N  # the five that matter
    assert need.loc["|f_AP|", "a"] > 100 * 14 / N  # ten harmless ones come first
    assert need.loc["|f_AP|", "b"] == 100 * 5 / N and need.loc["R", "b"] >= 100 * 14 / N
    with pytest.raises(ValueError, match="No number of heads"):
        study.needed(np.arange(3), np.ones((3, 4)), 0.5)


def test_what_a_screen_may_cost(found, curves):
    summed = study.operating(found, ("R", "|f_AP|", "|q|"), ["exact"], "summed error")
    table = study.allowance(curves, summed).set_index(["model", "aim", "rule"])
    aim = next(iter(AIMS))
    assert {rule for _, a, rule in table.index if a == aim} == {*study.RULES} - {study.ORACLE}
    need = study.shares_needed(curves, 1)
    for model, rule in itertools.product(MODELS, ("R", "|q|")):
        row = table.loc[model, aim, rule]
        assert row.needed == need.loc[rule, model]
        assert row.against_all == pytest.approx(1 - row.needed / 100)
        gain = (need.loc["|f_AP|", model] - need.loc[rule, model]) / 100
        assert row.saves.estimate == pytest.approx(gain)
    assert table.loc["a", aim, "R"].saves.low > 0 > table.loc["b", aim, "R"].saves.high
    assert table.loc["a", aim, "|f_AP|"].saves == (0, 0, 0)


def test_intervals_of_what_a_rule_saves_resample_prompts():
    fixed = np.arange(3)
    mine, other = np.array([[4, 4], [0, 4], [0, 0]]), np.array([[4, 4], [4, 4], [0, 0]])
    # Drawn twice, the first prompt needs one head of two less; the second, or both, need none less.
    assert study.saved(fixed, mine, other, 1) == (0, 0, 0.5)


# --- a fixed share -------------------------------------------------------------------------------


def test_random_is_the_mean_of_all_subsets():
    rng = np.random.default_rng(0)
    f, ap, corrected = rng.normal(size=(3, 4, 7))
    one = study.Effects("a", "ioi", f, ap, corrected)
    shared = study.at_share([one], 2 / 7, ["hvp"]).set_index(["method", "prompt"])
    subsets = []
    for chosen in itertools.combinations(range(7), 2):
        flags = np.zeros(f.shape, dtype=bool)
        flags[:, chosen] = True
        subsets.append(slow_top_5(one, flags, "hvp"))
    np.testing.assert_allclose(shared.top_5["random"], np.mean(subsets, axis=0))
    np.testing.assert_allclose(shared.top_5["R"], slow_top_5(one, slow_flags(one, "R", 2), "hvp"))
    np.testing.assert_allclose(shared.summed["none"], 100)


def test_tests_see_which_rule_is_better(found):
    shared = study.at_share(found)
    tests = study.share_tests(shared)
    assert len(tests) == 4 * 2 * 4 and (tests.holm >= tests.p).all()
    for fix, sign in itertools.product(("hvp", "exact"), (-1, 1)):
        # R is better in both tasks of the first model, and worse in those of the second.
        for test in ("R less random", "R less |f_AP|"):
            assert study.significant(tests, test, fix, sign) == 2
    row = tests[(tests.test == "R less |f_AP|") & (tests.fix == "exact")].iloc[0]
    means = shared[(shared.fix == "exact") & (shared.model == row.model)]
    means = means[means.task == row.task].groupby("method").top_5.mean()
    assert row.difference.estimate == pytest.approx(means["R"] - means["|f_AP|"])
    table = study.share_table(shared, "exact")
    assert list(table.columns[2:]) == ["none", "all", "R", "random", "|f_AP|", "|q|"]
    assert table["|f_AP|"][0] == pytest.approx(means["|f_AP|"])
    kept = study.gains_kept(shared, tests)
    assert [kept["a", task] for task in TASKS] == pytest.approx([100, 100], abs=0.1)
    assert [kept["b", task] for task in TASKS] == pytest.approx([0, 0], abs=0.1)
    shared = study.at_share(made(("hopeless", "hopeless")))
    assert study.gains_kept(shared, study.share_tests(shared)) == {}


def test_summed_errors_and_cuts(found):
    table = study.summed_table(found).set_index(["model", "heads fixed"])
    label = f"{study.PAPER_SHARE:.0%}, by R"
    flags = [study.flagged_by(one, "R", 6) for one in found[2:]]
    expected = [study.summed(one, by, "hvp") for one, by in zip(found[2:], flags, strict=True)]
    assert table.loc["b", label]["HVP"].estimate == pytest.approx(np.mean(expected))
    assert table.loc["a", "all"]["exact patching"] == (0, 0, 0)
    cuts = study.median_cuts(found)
    one = found[0]
    limit = sorted(one.R.ravel())[-round(0.15 * one.R.size)]
    flags = limit <= one.R
    after = np.abs(np.where(flags, one.hvp, one.f_ap) - one.f).sum(1)
    expected = np.median(100 - 100 * after / one.error.sum(1))
    assert cuts["a", "ioi"] == pytest.approx(expected, abs=0.01)
    assert cuts["a", "ioi"] > 90 > 10 > cuts["b", "ioi"]


def test_percentages_are_where_R_wins(found):
    table = study.percentages(found, 0.4).set_index(["model", "rule"]).left
    assert table["b", "none"].estimate == 100 * 15 / N
    assert table["b", "R"] == (0, 0, 0)
    assert table["a", "R"] == (0, 0, 0)
    left = [100 * (one.off_by_10 & ~slow_flags(one, "|f_AP|", 16)).mean(1) for one in found[2:]]
    assert table["b", "|f_AP|"].estimate == pytest.approx(np.mean(left)) and np.mean(left) > 5
    assert study.percentages(found, 0.25).set_index(["model", "rule"]).left["b", "R"].estimate == (
        100 * 5 / N
    )


# --- thresholds, guarantee, trusted heads --------------------------------------------------------


def test_thresholds_count_heads(found):
    table = study.thresholds(found, (0.1, 0.5)).set_index(["model", "tau"])
    row = table.loc["b", 0.1]
    assert row.flagged.estimate == 100 * 15 / N
    assert row.recall.estimate == row.precision.estimate == 100
    row = table.loc["b", 0.5]  # the five large heads are off by 17 percent of their estimates
    assert row.flagged.estimate == 100 * 10 / N
    assert row.recall.estimate == pytest.approx(100 * 10 / 15) and row.precision.estimate == 100
    left = np.concatenate([slow_top_5(one, one.R > 0.5, "exact") for one in found[2:]])
    assert row["top_5, exact"].estimate == pytest.approx(left.mean())
    assert table.loc["a", 0.5]["summed, hvp"].estimate < 5


def test_full_hvp_against_selective(found):
    tests = study.full_against_selective(found, 0.5).set_index("model")
    expected = [
        study.top_5(one, True, "hvp") - study.top_5(one, one.R > 0.5, "hvp") for one in found
    ]
    for model, parts in zip(MODELS, (expected[:2], expected[2:]), strict=True):
        assert tests.difference[model].estimate == pytest.approx(np.mean(parts))
    assert tests.p["b"] < 0.05 and tests.difference["b"].high < 0


def test_the_guarantee_is_that_of_a_loop(found):
    bounds = study.guarantee(found, (0.1, 0.5))
    assert len(bounds) == 4 * 10 * 2 and bounds.identity_off.max() < 1e-9
    row = bounds[(bounds.model == "b") & (bounds.prompt == 3) & (bounds.tau == 0.5)].iloc[0]
    one = found[2]
    error = first = cubic = gap = sizes = 0
    for c in range(N):
        f, ap, q = one.f[3, c], one.f_ap[3, c], one.q[3, c]
        cubic += one.lipschitz[3, c] * one.delta_norm[3, c] ** 3 / 6
        if abs(q) / abs(ap) > 0.5:
            error += f - one.hvp[3, c]
        else:
            error, first = error + f - ap, first + 0.5 * abs(ap)
            gap, sizes = gap + q, sizes + abs(q)
    assert row.error == pytest.approx(abs(error)) and row.cubic == pytest.approx(cubic)
    assert row.bound == pytest.approx(first + cubic)
    assert row.gap == pytest.approx(gap) and row.cancellation == pytest.approx(abs(gap) / sizes)
    assert row.gap_bound == pytest.approx(abs(gap) / sizes * first)
    table = study.guarantee_table(bounds, 0.5).set_index(["model", "task"])
    part = bounds[(bounds.tau == 0.5) & (bounds.model == "b") & (bounds.task == "ioi")]
    shown = table.loc["b", "IOI"]
    assert shown.holds == shown.prompts == 10
    assert shown.looseness == pytest.approx(np.median(part.bound / part.error))
    assert shown.cubic == pytest.approx(100 * np.median(part.cubic / part.bound))


def test_a_guarantee_can_fail():
    # Five heads are off by far more than quadratic terms say, and the constants are too small.
    wrong = [one._replace(hvp=one.f_ap.copy()) for one in made(lipschitz=1e-6)]
    table = study.guarantee_table(study.guarantee(wrong, (0.1,)))
    assert (table.holds == 0).all()


def test_error_on_trusted_heads(found):
    table = study.on_trusted(found, 0.5).set_index(["model", "task"])
    row, one = table.loc["b", "IOI"], found[2]
    left = [
        [abs(one.f[p, c] - one.f_ap[p, c]) * (one.R[p, c] <= 0.5) for c in range(N)]
        for p in range(10)
    ]
    shares = [100 * sum(e) / one.error[p].sum() for p, e in enumerate(left)]
    assert row.left.estimate == pytest.approx(np.mean(shares)) and row.left.estimate > 90
    worst = [100 * sum(sorted(e)[-5:]) / sum(e) for e in left]
    assert row.five_worst == pytest.approx(np.mean(worst))
    assert row.top_trusted == row.top_off == 100
    assert row.quadratic == pytest.approx(1) and row.remainder == pytest.approx(0)  # HVP is exact
    row = table.loc["a", "IOI"]
    assert row.top_trusted == 0 and row.left.estimate < 1


# --- prices --------------------------------------------------------------------------------------

REAL = ("smollm2-135m", "gemma-3-270m")


def test_prices_are_the_counted_ones():
    table = study.of_methods(REAL)
    for model in REAL:
        sizes = model_sizes(model)
        n = sizes.n_components("heads", 5)
        costs = study.costs(sizes)
        counted = prices.counted(sizes, ["hvp", "ms_hvp:5", "row_norms:2"]).set_index("method")
        for method, row in counted.iterrows():
            run = passes(method, n, sizes.n_layers)
            assert costs.price(run) == pytest.approx(row.runs)
            assert study.percent(sizes, run) == pytest.approx(row.percent)
            assert study.price_of(table, model, method) == pytest.approx(row.percent)
        # The score of every head has the price of its HVP.
        assert costs.price(study.screen_passes("R", n)) == pytest.approx(counted.runs["hvp"])
        chosen = study.price_of(table, model, study.CHOSEN)
        assert chosen == pytest.approx(counted.percent["row_norms:2"] + 100 * 10 / n)
        assert study.price_of(table, model, "activation_patching") == 100


def test_the_whole_price_has_the_screen_in_it(curves):
    sizes = dict.fromkeys(MODELS, model_sizes("gemma-3-270m"))
    priced = study.priced(curves, sizes)
    n = 72
    costs = study.costs(sizes["a"])
    for one in study.STRATEGIES:
        part = priced[(priced.strategy == one.name) & (priced.model == "a")].set_index("fixed")
        errors = study.errors_of(curves, "a", one.rule, one.fix)[2].mean(1)
        assert [i.estimate for i in part.left] == pytest.approx(errors.tolist())
        assert part.percent[0] == pytest.approx(
            100 * costs.price(study.screen_passes(one.rule, N)) / n
        )
        each = sum(count * costs.price({kind: 1}) for kind, count in one.each.items())
        assert part.percent[N] - part.percent[0] == pytest.approx(100 * N * each / n)


# --- one pair ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    tau = float(study.heads_of(M).R.median())
    return M, study.heads_of(M, tau), tau


def test_heads_of_a_pair(small):
    M, table, tau = small
    f, corrected = activation_patching(M), hvp(M)
    assert table.component.tolist() == list(M.labels)
    assert table.f.tolist() == pytest.approx(f.tolist())
    assert (table.f_ap + table.q).tolist() == pytest.approx(corrected.tolist())
    assert table.remainder.tolist() == pytest.approx((f - corrected).tolist())
    assert (table.flagged == (table.q.abs() / table.f_ap.abs() > tau)).all()
    order = sorted(range(M.n), key=lambda c: -abs(f[c].item()))
    assert table.place_f[order[2]] == 3


def test_worst_trusted_head_and_flagged_ones():
    columns = ["component", "f", "f_ap", "q", "flagged", "error", "place_f", "place_ap"]
    rows = [
        ("L0H0", 3.0, 1.0, 2.0, True, 2.0, 2, 30),
        ("L0H1", 4.0, 3.0, 0.1, False, 1.0, 1, 1),
        ("L1H0", 1.0, 0.75, 0.0, False, 0.25, 7, 2),
        ("L1H1", 0.2, 0.1, 0.1, True, 0.1, 8, 3),
    ]
    table = pd.DataFrame(rows, columns=columns)
    worst = study.worst_trusted(table)
    assert worst.component == "L0H1" and worst.share == pytest.approx(80)
    seen = study.small_flags(table)
    assert (seen.flagged, seen.outside, seen.top_flagged) == (2, 1, 1)
    assert seen.median_flagged == pytest.approx(1.6) and seen.median_trusted == 2.5


def test_workflows_of_a_pair(small):
    M, table, tau = small
    costs = study.costs(model_sizes("smollm2-135m"))
    screened = study.workflows(M, costs, tau)
    rows = study.by_fix(table, screened, costs).set_index("what")
    n, flagged = M.n, int(table.flagged.sum())
    assert 0 < flagged < n
    screen = costs.gradient + n * costs.curvature
    by_fix = [rows.loc[f"screen by R, fix with {study.FIXES[fix]}"] for fix in study.FIXES]
    assert [row.fixed for row in by_fix] == [flagged] * 3
    assert by_fix[0].runs == pytest.approx(screen) == rows.runs["HVP of every head"]
    assert by_fix[2].runs == pytest.approx(screen + flagged)
    f = torch.tensor(table.f)
    estimates = torch.where(torch.tensor(table.flagged), f, torch.tensor(table.f_ap))
    top = f.abs().topk(5).indices
    expected = 100 * (estimates - f)[top].abs().mean() / (f.max() - f.min())
    assert by_fix[2].error == pytest.approx(expected.item(), abs=1e-6)
    assert rows.error["exact patching of every head"] == 0
    assert rows.percent["exact patching of every head"] == 100


# --- the recommendation --------------------------------------------------------------------------


def test_the_recommendation_is_tested_on_fresh_prompts(monkeypatch):
    """Those that chapter 10 calls fresh, with what each rule needs and no more."""
    asked = []

    def fresh(models, n_known, n_fresh, products, probes, **_):
        asked.append((models, n_known, n_fresh, products, probes))
        return [as_scored(heads("hidden", task, m)) for m in models for task in TASKS]

    monkeypatch.setattr(recommended.worth, "fresh", fresh)
    errors = study.patched_errors(MODELS)
    assert asked == [(MODELS, 20, 30, (), (2,))]
    assert errors[errors.method != worth.AP].drop_duplicates("method").patches.tolist() == [10, 25]


def as_scored(one):
    values = {"f": one.f, "f_ap": one.f_ap, "r": one.r}
    return worth.Scored(one.model, one.task, values)


@pytest.mark.parametrize(("world", "sign"), [("hidden", -1), ("loud", 0)])
def test_the_recommendation_against_its_runner_up(world, sign, monkeypatch):
    monkeypatch.setitem(study.PATCHES, worth.FIRST, 10)
    effects = made((world, world))
    errors = worth.put_to_test([as_scored(one) for one in effects], study.PATCHES)
    for rule, name in ((worth.ROWS, study.ROWS), (worth.FIRST, "|f_AP|")):
        left = [slow_top_5(one, slow_flags(one, name, 10), "exact") for one in effects]
        assert errors[errors.method == rule].error.tolist() == pytest.approx(np.concatenate(left))
    close = study.close_call(errors)
    assert close.prompts == 40 and close.n_resamples == 1000
    assert np.sign(close.difference.estimate) == sign
    assert close.recommended - close.runner_up == pytest.approx(close.difference.estimate)
    assert (close.p < 0.05) == (sign != 0)
    table = study.patched_table(errors)
    assert table.prompts.tolist() == [10] * 4
    assert table.columns.tolist()[3:] == [f"10 by {study.ROWS}", "10 by |f_AP|"]
    assert table[f"10 by {study.ROWS}"][0].estimate == pytest.approx(0, abs=1e-9)


def test_prices_of_the_rules():
    table = study.rule_prices(REAL).set_index(["model", "rule"])
    methods = study.of_methods(REAL)
    for model, n in zip(REAL, (270, 72), strict=True):
        assert table.percent[model, study.ROWS] == pytest.approx(
            study.price_of(methods, model, study.CHOSEN)
        )
        gradient = study.price_of(methods, model, "attribution_patching")
        assert table.percent[model, "|f_AP|"] == pytest.approx(gradient + 100 * 25 / n)


# --- figures -------------------------------------------------------------------------------------


def test_figures(found, curves, small):
    points = study.at_thresholds(found, "exact", (0.1, 1))
    panels = [(curves, model, fix) for model in MODELS for fix in ("hvp", "exact")]
    drawn = study.curves_figure(panels, 2, ["left   [%]"], "A title", points)
    assert len(drawn.axes) == 4 and drawn.get_suptitle() == "A title"
    line = drawn.axes[1].get_lines()[0]
    _, shares, errors = study.errors_of(curves, "a", "R", "exact")
    assert line.get_label() == "R"
    np.testing.assert_allclose(line.get_xdata(), shares[1:])
    np.testing.assert_allclose(line.get_ydata(), errors[1:].mean(1))
    random = next(one for one in drawn.axes[1].get_lines() if one.get_label() == "random")
    assert random.get_ydata()[-1] == pytest.approx(0) and len(drawn.axes[0].texts) == 0
    assert [text.get_text() for text in drawn.axes[1].texts] == ["τ = 0.1", "τ = 1"]

    sizes = dict.fromkeys(MODELS, model_sizes("gemma-3-270m"))
    methods = study.of_methods(("gemma-3-270m",))
    methods = pd.concat([methods.assign(model=model) for model in MODELS])
    left = study.what_fixes_leave(found, curves)
    drawn = study.price_figure(study.priced(curves, sizes), left, methods, "A title")
    labels = drawn.axes[0].get_legend_handles_labels()[1]
    assert {one.name for one in study.STRATEGIES} < {*labels}
    (star,) = [one for one in drawn.axes[1].get_lines() if one.get_label().startswith("exact")]
    assert (star.get_xdata()[0], star.get_ydata()[0]) == (pytest.approx(100), 0)

    drawn = study.guarantee_figure(study.guarantee(found, (0.1, 0.5)), "ioi", "A title")
    assert len(drawn.axes) == 2 and drawn.axes[0].get_title().endswith("IOI")
    assert isinstance(study.one_pair_figure(small[1], "A title"), Figure)


# --- claims --------------------------------------------------------------------------------------


@functools.cache
def _measured(worlds, lipschitz):
    effects = made(worlds, lipschitz=lipschitz)
    shared = study.at_share(effects)
    bounds = study.guarantee(effects, (0.05, study.TAU))
    return shared, study.share_tests(shared), study.median_cuts(effects), bounds


def told(worlds=("hidden", "loud"), spent=1.0, lipschitz=100.0, off=0.0):
    """Claims by their text. ``spent``: the selective workflow's price, in HVPs of every head."""
    shared, tests, cuts, bounds = _measured(worlds, lipschitz)
    methods = study.of_methods(REAL[:1])
    methods = pd.concat([methods.assign(model=model) for model in MODELS])
    every = methods[methods.method == "hvp"].runs.iloc[0]
    selective = {"a": spent * every, "b": every if spent == 0.5 else spent * every}
    bounds = bounds.assign(identity_off=bounds.identity_off + off)
    found = study.claims(shared, tests, cuts, methods, selective, bounds)
    assert len({claim.claim for claim in found}) == len(found) == 9
    return {claim.claim: claim for claim in found}


HOLDS, PARTLY, FAILS = "holds", "holds partly", "does not hold here"
ALL_HIDDEN, ALL_LOUD = {"worlds": ("hidden", "hidden")}, {"worlds": ("loud", "loud")}


@pytest.mark.parametrize(
    ("start", "cases"),
    [
        ("Correcting only", {HOLDS: ALL_HIDDEN, PARTLY: {}, FAILS: ALL_LOUD}),
        ("R-ranked", {HOLDS: ALL_HIDDEN, PARTLY: {}, FAILS: ALL_LOUD}),
        ("R identifies", {HOLDS: ALL_HIDDEN, PARTLY: {}, FAILS: ALL_LOUD}),
        ("With a small share", {HOLDS: ALL_HIDDEN, PARTLY: {}, FAILS: ALL_LOUD}),
        ("Selective correction", {HOLDS: {"spent": 0.4}, PARTLY: {"spent": 0.5}, FAILS: {}}),
        ("The selective workflow adds", {HOLDS: {"spent": 0.007}, FAILS: {}}),
        ("Proposition 2", {HOLDS: {}, FAILS: {"lipschitz": 1e-9, "worlds": ("hopeless",) * 2}}),
        ("The gap", {HOLDS: {}, FAILS: {"off": 1e-3}}),
    ],
)
def test_a_claim_can_come_out_either_way(start, cases):
    for expected, options in cases.items():
        (claim,) = [claim for text, claim in told(**options).items() if text.startswith(start)]
        assert claim.verdict == expected, claim.here


def test_claims_without_a_gain_and_of_other_models():
    found = told(("hopeless", "hopeless"))
    claim = found["Correcting only what R flags keeps most of the gain of full HVP"]
    assert claim.verdict == FAILS and claim.here == "full HVP has no significant gain"
    assert sum(claim.verdict == "cannot be tested here" for claim in found.values()) == 1
    swapped = told(("loud", "hidden"))
    assert [c.verdict for c in swapped.values()] == [c.verdict for c in told().values()]


def test_intervals_are_intervals(found):
    assert all(isinstance(one, Interval) for one in study.on_trusted(found).left)
