"""Statistics: against loops that read like the definitions, scipy, and known distributions."""

import numpy as np
import pytest
import reference
import scipy.stats

from hvp_utils import (
    bootstrap_ci,
    kendall_tau,
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
        (lambda: top_k_relative_error([1, 2], [1, 2]), "k must be between 1 and 2 comp.*not 5"),
        (lambda: top_k_overlap([1, 2], [1, 2], 0), "between 1 and 2 components, not 0"),
        (lambda: top_k_relative_error([np.nan, 2], [1, 2], 2), "NaN among the estimates of the 2"),
        (lambda: top_k_relative_error([1, 2], [np.nan, 2], 1), "true effects contain NaN"),
        (lambda: top_k_overlap([np.nan, 2], [1, 2], 1), "estimates contain NaN"),
        (lambda: top_k_relative_error([1, 2], [3, 3], 1), "All true effects are equal"),
        (lambda: bootstrap_ci([1.0]), "at least 2 of them, not 1"),
        (lambda: bootstrap_ci([1.0, np.nan]), "NaN among the values"),
        (lambda: paired_bootstrap([1, 2], [1, 2, 3]), r"\(2,\) and \(3,\) given"),
        (lambda: paired_bootstrap([[1, 2]], [[1, 2]]), "one number per prompt"),
        (lambda: paired_bootstrap([1], [2]), "at least 2 of them"),
    ],
)
def test_refusals(call, message):
    with pytest.raises(ValueError, match=message):
        call()


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
