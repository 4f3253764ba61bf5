"""Statistics: against loops that read like the definitions, scipy, and known distributions."""

import numpy as np
import pytest
import reference
import scipy.stats

from hvp_utils.stats import (
    Auroc,
    Interval,
    bootstrap_ci,
    bootstrap_share,
    holm,
    kendall_tau,
    ndcg,
    paired_bootstrap,
    spearman,
    top_k_overlap,
    top_k_relative_error,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.normal(size=(6, 20))
ESTIMATE = TRUTH + RNG.normal(size=TRUTH.shape)
TIED = np.round(TRUTH), np.round(ESTIMATE)


@pytest.mark.parametrize(("truth", "estimate"), [(TRUTH, ESTIMATE), TIED], ids=["plain", "tied"])
@pytest.mark.parametrize(
    "name", ("kendall_tau", "spearman", "top_k_overlap", "top_k_relative_error")
)
def test_equal_to_explicit_loops(name, truth, estimate):
    fast, slow = globals()[name], getattr(reference, name)
    found = fast(estimate, truth)
    expected = [slow(e.tolist(), f.tolist()) for e, f in zip(estimate, truth, strict=True)]
    assert found == pytest.approx(expected, rel=1e-12)
    assert len(set(np.round(expected, 6))) > 1
    assert fast(estimate[0], truth[0]) == pytest.approx(expected[0], rel=1e-12)  # one prompt
    assert np.ndim(fast(estimate[0], truth[0])) == 0


@pytest.mark.parametrize("name", ("top_k_overlap", "top_k_relative_error"))
@pytest.mark.parametrize("k", (1, 3, 20))
def test_other_k(name, k):
    fast, slow = globals()[name], getattr(reference, name)
    expected = [slow(e.tolist(), f.tolist(), k) for e, f in zip(ESTIMATE, TRUTH, strict=True)]
    assert fast(ESTIMATE, TRUTH, k) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(kendall_tau, scipy.stats.kendalltau), (spearman, scipy.stats.spearmanr)],
)
def test_rank_correlations_are_of_magnitudes(ours, theirs):
    e, f = ESTIMATE[0], TRUTH[0]
    assert ours(e, f) == pytest.approx(theirs(np.abs(e), np.abs(f)).statistic, rel=1e-12)
    assert ours(-e, f) == ours(e, f)
    assert ours(f, f) == pytest.approx(1)
    assert ours(1 / f, f) == pytest.approx(-1)


@pytest.mark.parametrize(("truth", "estimate"), [(TRUTH, ESTIMATE), TIED], ids=["plain", "tied"])
@pytest.mark.parametrize("gain", ("magnitude", "membership"))
@pytest.mark.parametrize("k", (1, 3, 20))
def test_ndcg_is_that_of_a_loop(truth, estimate, gain, k):
    slow = [
        reference.ndcg(e.tolist(), f.tolist(), k, gain)
        for e, f in zip(estimate, truth, strict=True)
    ]
    assert ndcg(estimate, truth, k, gain) == pytest.approx(slow, rel=1e-12)
    assert ndcg(estimate[0], truth[0], k, gain) == pytest.approx(slow[0], rel=1e-12)
    assert ndcg(-truth, truth, k, gain) == pytest.approx(1)


def test_ndcg_by_hand():
    truth, estimate = [4.0, -3.0, 2.0, 1.0], [3.0, 0.1, 0.2, -4.0]  # ranked: 3, 0, 2, 1
    best = 4 + 3 / np.log2(3)
    assert ndcg(estimate, truth, 2) == pytest.approx((1 + 4 / np.log2(3)) / best)
    assert ndcg(estimate, truth, 2, "membership") == pytest.approx(
        (1 / np.log2(3)) / (1 + 1 / np.log2(3))
    )
    # Any order of the right ones will do for membership, and not for magnitude.
    assert ndcg([3, 4, 0, 0], truth, 2, "membership") == 1 > ndcg([3, 4, 0, 0], truth, 2)


def test_ndcg_is_that_of_scikit_learn():
    theirs = pytest.importorskip("sklearn.metrics").ndcg_score
    for e, f in zip(np.abs(ESTIMATE), np.abs(TRUTH), strict=True):
        belongs = np.isin(np.arange(20), np.argsort(-f)[:5]).astype(float)
        assert ndcg(e, f, 5) == pytest.approx(theirs([f], [e], k=5))
        assert ndcg(e, f, 5, "membership") == pytest.approx(theirs([belongs], [e], k=5))


def test_ndcg_refuses_what_has_no_order():
    with pytest.raises(ValueError, match="estimates contain NaN"):
        ndcg([np.nan, 1], [1, 2], 1)
    with pytest.raises(ValueError, match="All true effects are 0"):
        ndcg([1, 2], [0, 0], 1)


def test_holm_is_that_of_a_loop_and_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for n in (1, 2, 7, 40):
        p = np.random.default_rng(n).uniform(size=n) ** 3
        assert holm(p) == pytest.approx(reference.holm(p.tolist()), rel=1e-12)
    assert holm([0.2, 0.2, 0.9]).tolist() == pytest.approx([0.6, 0.6, 0.9])
    assert holm([]).tolist() == []


def test_holm_keeps_false_alarms_rare():
    rng = np.random.default_rng(0)
    alarms = [(holm(rng.uniform(size=10)) < 0.05).any() for _ in range(2000)]
    assert 0.035 < np.mean(alarms) < 0.065


@pytest.mark.parametrize("wrong", ([0.5, 1.2], [-0.1], [np.nan], [[0.1]], 0.5))
def test_holm_refuses_what_is_no_p_value(wrong):
    with pytest.raises(ValueError, match="from 0 to 1"):
        holm(wrong)


def test_top_k_relative_error_by_hand():
    truth = [4.0, -6.0, 1.0, 0.0]  # range 10, largest two: -6 and 4
    assert top_k_relative_error([3.0, -3.0, 99.0, np.nan], truth, k=2) == pytest.approx(20.0)
    assert top_k_relative_error(truth, truth, k=4) == 0


def test_top_k_overlap_by_hand():
    truth, estimate = [4.0, -6.0, 1.0, 0.0], [0.0, 5.0, -7.0, 1.0]
    assert top_k_overlap(estimate, truth, k=1) == 0
    assert top_k_overlap(estimate, truth, k=2) == 0.5
    assert top_k_overlap(estimate, truth, k=4) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: top_k_relative_error([1, 2], [1, 2, 3]), r"one shape.*\(2,\) and \(3,\)"),
        (lambda: kendall_tau(1.0, 2.0), "one shape"),
        (
            lambda: top_k_relative_error([1, 2], [1, 2]),
            "k must be a whole number from 1 to 2, not 5",
        ),
        (lambda: top_k_overlap([1, 2], [1, 2], 0), "k must be a whole number from 1 to 2, not 0"),
        (lambda: top_k_relative_error([np.nan, 2], [1, 2], 2), "NaN among the estimates of the 2"),
        (lambda: top_k_relative_error([1, 2], [np.nan, 2], 1), "true effects contain NaN"),
        (lambda: top_k_overlap([np.nan, 2], [1, 2], 1), "estimates contain NaN"),
        (lambda: top_k_relative_error([1, 2], [3, 3], 1), "All true effects are equal"),
        (lambda: bootstrap_ci([1.0]), "at least 2 of them, not 1"),
        (lambda: bootstrap_ci([1.0, np.nan]), "NaN among the values"),
        (lambda: paired_bootstrap([1, 2], [1, 2, 3]), r"\(2,\) and \(3,\) given"),
        (lambda: paired_bootstrap([[1, 2]], [[1, 2]]), "one number per prompt"),
        (lambda: paired_bootstrap([1], [2]), "at least 2 of them"),
        (lambda: bootstrap_share([1, 2], [1, 2, 3]), r"per prompt: \(2,\) and \(3,\) given"),
        (lambda: bootstrap_share([[1, 2]], [[1, 2]]), "one number per prompt"),
        (lambda: bootstrap_share([1], [2]), "at least 2 of them"),
        (lambda: Auroc([1, 2], [0, 1]), r"\[prompts, components\]: \(2,\), \(2,\) and \(2,\)"),
        (lambda: Auroc([[1, 2]], [[0, 1, 1]]), r"one shape.*\(1, 2\), \(1, 3\) and \(1, 3\)"),
        (lambda: Auroc([[1, 2]], [[0, 1]], [[1, 1], [1, 1]]), r"and \(2, 2\) given"),
        (lambda: Auroc([[1, np.nan]], [[0, 1]]), "NaN among the scores"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --- the area under the ROC curve ------------------------------------------------------------

N_PROMPTS = 7
# Ties within prompts and between them, infinities of both signs, and prompts of one kind only.
SCORE = np.round(RNG.normal(size=(N_PROMPTS, 30)), 1)
SCORE[RNG.random(SCORE.shape) < 0.05] = np.inf
SCORE[RNG.random(SCORE.shape) < 0.05] = -np.inf
POSITIVE = SCORE + RNG.normal(size=SCORE.shape) > 0.3
POSITIVE[2], POSITIVE[4] = True, False
KEPT = RNG.random(SCORE.shape) < 0.7


def slow_auroc(score, positive, kept):
    """The share of pairs in which the positive one scores higher; ties count half."""
    high = [s for s, p, k in zip(score.flat, positive.flat, kept.flat, strict=True) if k and p]
    low = [s for s, p, k in zip(score.flat, positive.flat, kept.flat, strict=True) if k and not p]
    won = pairs = 0
    for a in high:
        for b in low:
            won += 1 if a > b else 0.5 if a == b else 0
            pairs += 1
    return won / pairs if pairs else float("nan")


def scipys_auroc(score, positive, kept):
    high, low = score[kept & positive], score[kept & ~positive]
    return scipy.stats.mannwhitneyu(high, low).statistic / (len(high) * len(low))


@pytest.mark.parametrize("kept", (np.ones_like(KEPT), KEPT), ids=("all", "some"))
@pytest.mark.parametrize("sign", (1, -1))
def test_auroc_equals_explicit_loops_and_scipy(sign, kept):
    found = Auroc(sign * SCORE, POSITIVE, kept)()
    assert found == pytest.approx(slow_auroc(sign * SCORE, POSITIVE, kept), rel=1e-12)
    assert found == pytest.approx(scipys_auroc(sign * SCORE, POSITIVE, kept), rel=1e-12)
    assert (0.6 < found < 0.95) if sign == 1 else (0.05 < found < 0.4)
    if kept.all():
        assert found == Auroc(sign * SCORE, POSITIVE)()


def test_auroc_by_hand():
    score = [[4.0, 3.0], [2.0, 1.0]]
    assert Auroc(score, [[1, 1], [0, 0]])() == 1
    assert Auroc(score, [[0, 0], [1, 1]])() == 0
    assert Auroc(score, [[1, 0], [0, 1]])() == 0.5  # 4 beats both, 1 beats neither
    assert Auroc([[1.0, 1.0]], [[1, 0]])() == 0.5
    assert Auroc([[np.inf, -np.inf, 0.0, np.inf]], [[1, 0, 0, 0]])() == pytest.approx(2.5 / 3)
    assert np.isnan(Auroc(score, [[1, 1], [1, 1]])())
    assert np.isnan(Auroc(score, [[0, 0], [0, 0]])())


def test_a_nan_that_does_not_count_does_no_harm():
    holed = np.where(KEPT, SCORE, np.nan)
    assert Auroc(holed, POSITIVE, KEPT)() == Auroc(SCORE, POSITIVE, KEPT)()
    holed[tuple(np.argwhere(KEPT)[3])] = np.nan
    with pytest.raises(ValueError, match="NaN among the scores"):
        Auroc(holed, POSITIVE, KEPT)


@pytest.mark.parametrize(
    "drawn", ([0, 1, 2, 3, 4, 5, 6], [3], [1, 1, 1, 0], [6, 2, 2, 5, 0, 6, 6], [2, 4])
)
def test_resampled_prompts_are_prompts_put_together(drawn):
    """A prompt drawn twice is there twice, also against itself."""
    area = Auroc(SCORE, POSITIVE, KEPT)
    expected = slow_auroc(SCORE[drawn], POSITIVE[drawn], KEPT[drawn])
    assert area(drawn) == pytest.approx(expected, rel=1e-12)
    assert area(drawn) == pytest.approx(Auroc(SCORE[drawn], POSITIVE[drawn], KEPT[drawn])())
    assert area(drawn) == area(np.array(drawn)[::-1])


def test_prompts_of_one_kind_have_no_area_of_their_own():
    area = Auroc(SCORE, POSITIVE, KEPT)
    assert np.isnan([area([2]), area([4]), area([4, 4])]).all()
    assert not np.isnan(area([2, 4]))
    found = area.by_prompt()
    expected = [slow_auroc(SCORE[[i]], POSITIVE[[i]], KEPT[[i]]) for i in range(N_PROMPTS)]
    assert found == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert np.isnan(found).nonzero()[0].tolist() == [2, 4]
    assert len(set(found[~np.isnan(found)])) == N_PROMPTS - 2


def test_wins_are_pairs_between_prompts():
    area = Auroc(SCORE, POSITIVE, KEPT)
    for i, j in np.ndindex(N_PROMPTS, N_PROMPTS):
        high, low = SCORE[i][KEPT[i] & POSITIVE[i]], SCORE[j][KEPT[j] & ~POSITIVE[j]]
        assert area.wins[i, j] == sum((a > b) + (a == b) / 2 for a in high for b in low)
        assert (area.n_positive[i], area.n_negative[j]) == (len(high), len(low))


def test_the_interval_of_an_area_is_a_bootstrap_over_prompts():
    area = Auroc(SCORE, POSITIVE, KEPT)
    found = area.interval(n_resamples=40, level=0.8, seed=3)
    draws = np.random.default_rng(3).integers(N_PROMPTS, size=(40, N_PROMPTS))
    slow = [slow_auroc(SCORE[draw], POSITIVE[draw], KEPT[draw]) for draw in draws]
    assert found == pytest.approx((area(), np.percentile(slow, 10), np.percentile(slow, 90)))
    assert found.low < found.estimate < found.high
    assert area.interval() == area.interval(n_resamples=1000, level=0.95, seed=0)


# --- the bootstrap ---------------------------------------------------------------------------


def test_bootstrap_equals_its_definition():
    values = RNG.exponential(size=12)
    found = bootstrap_ci(values, np.median, n_resamples=200, level=0.9, seed=5)
    draws = np.random.default_rng(5).integers(12, size=(200, 12))
    medians = sorted(float(np.median([values[i] for i in draw])) for draw in draws)
    assert found.estimate == np.median(values)
    assert found.low == pytest.approx(np.percentile(medians, 5))
    assert found.high == pytest.approx(np.percentile(medians, 95))
    assert found.low < found.estimate < found.high


def test_bootstrap_agrees_with_scipy():
    values = RNG.normal(size=50)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    ours = bootstrap_ci(values, n_resamples=4000)
    width = theirs.high - theirs.low
    assert ours.low == pytest.approx(theirs.low, abs=0.05 * width)
    assert ours.high == pytest.approx(theirs.high, abs=0.05 * width)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng, covered, n = np.random.default_rng(7), 0, 200
    for seed in range(n):
        interval = bootstrap_ci(rng.normal(3.0, 2.0, size=40), n_resamples=300, seed=seed)
        covered += interval.low <= 3.0 <= interval.high
    # 95 % less a little for 40 values; give or take three standard errors.
    assert 0.89 <= covered / n <= 0.985


def test_bootstrap_is_reproducible_and_seeded():
    values = RNG.normal(size=10)
    assert bootstrap_ci(values) == bootstrap_ci(values)
    assert bootstrap_ci(values) != bootstrap_ci(values, seed=1)
    wide, narrow = bootstrap_ci(values, level=0.99), bootstrap_ci(values, level=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_a_share_is_pooled_and_not_a_mean_of_shares():
    assert bootstrap_share([1, 9], [1, 99]).estimate == pytest.approx(10)  # not (100 + 9.1) / 2
    part, whole = RNG.integers(5, size=15), RNG.integers(5, 50, size=15)
    found = bootstrap_share(part, whole, n_resamples=200, level=0.9, seed=5)
    draws = np.random.default_rng(5).integers(15, size=(200, 15))
    shares = [100 * sum(part[i] for i in d) / sum(whole[i] for i in d) for d in draws]
    expected = (100 * part.sum() / whole.sum(), np.percentile(shares, 5), np.percentile(shares, 95))
    assert found == pytest.approx(expected)
    assert found.low < found.estimate < found.high


def test_equal_shares_leave_no_doubt():
    whole = RNG.integers(1, 50, size=12)
    assert bootstrap_share(0.25 * whole, whole) == pytest.approx((25, 25, 25))
    assert bootstrap_share(np.zeros(12), whole) == (0, 0, 0)
    assert bootstrap_share(whole, whole) == (100, 100, 100)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (".1f %", "3.2 % (2.9 to 3.6)"),
        (".2f", "3.24 (2.88 to 3.58)"),
        ("+.0f forward equivalents", "+3 forward equivalents (+3 to +4)"),
        ("", "3.24 (2.88 to 3.58)"),
        (" nats", "3.24 nats (2.88 to 3.58)"),
        (".1e", "3.2e+00 (2.9e+00 to 3.6e+00)"),
    ],
)
def test_intervals_as_text(spec, text):
    assert format(Interval(3.24, 2.881, 3.579), spec) == text


def test_the_text_of_an_interval_keeps_three_digits_unless_told():
    assert f"{Interval(12345.678, 0.00123456, np.inf)}" == "1.23e+04 (0.00123 to inf)"
    with pytest.raises(ValueError):
        format(Interval(1, 2, 3), "q")


def test_identical_arrays_do_not_differ():
    test = paired_bootstrap(TRUTH[0], TRUTH[0])
    assert test == (0.0, 0.0, 0.0, 1.0)


def test_clearly_different_arrays_do():
    a = RNG.normal(size=30)
    b = a + 1 + 0.1 * RNG.normal(size=30)
    test = paired_bootstrap(a, b, n_resamples=999)
    assert test.difference == pytest.approx((a - b).mean())
    assert test.low < test.difference < test.high < 0
    assert test.p_value == pytest.approx(2 / 1000)  # as small as 999 resamples can say
    mirrored = paired_bootstrap(b, a, n_resamples=999)
    assert mirrored.p_value == test.p_value
    assert mirrored.difference == -test.difference


def test_pairs_are_kept_together():
    """A small constant difference shows only against the pair's own spread, not the arrays'."""
    a = 100 * RNG.normal(size=20)
    assert paired_bootstrap(a, a + 0.01).p_value < 0.01
    assert paired_bootstrap(a, RNG.permutation(a) + 0.01).p_value > 0.05


def test_p_values_are_honest_when_nothing_differs():
    rng = np.random.default_rng(3)
    p = [
        paired_bootstrap(rng.normal(size=40), rng.normal(size=40), 200, seed=i).p_value
        for i in range(200)
    ]
    assert 0.01 <= np.mean(np.array(p) < 0.05) <= 0.12
    assert 0.4 < np.mean(p) < 0.6
