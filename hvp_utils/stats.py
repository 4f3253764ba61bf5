"""Comparing estimates with the truth, and saying how sure the comparison is.

Arrays are anything numpy can read; the last dimension is components. Functions of several prompts
take ``[prompts, components]`` and return one number per prompt, ready for ``bootstrap_ci``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

import numpy as np
import scipy.stats
from jaxtyping import Float, Int
from numpy import ndarray
from numpy.typing import ArrayLike

from hvp_utils import _checks

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    class BootstrapOptions(TypedDict, total=False):
        """Options of ``bootstrap_ci``, as other functions pass them on."""

        n_resamples: int
        level: float
        seed: int


__all__ = [
    "Auroc",
    "Interval",
    "PairedTest",
    "bootstrap_ci",
    "bootstrap_share",
    "holm",
    "kendall_tau",
    "ndcg",
    "paired_bootstrap",
    "spearman",
    "top_k_overlap",
    "top_k_relative_error",
]


#: Beyond so many resamples nothing changes but the time and memory that they take.
MOST_RESAMPLES = 1_000_000


class Interval(NamedTuple):
    """A statistic with its bootstrap confidence interval.

    Formats as text, with a unit after the number format if there is one:
    ``f"{interval:.1f %}"`` is ``"3.2 % (2.9 to 3.6)"``.
    """

    estimate: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        number, space, unit = spec.partition(" ")
        estimate, low, high = (format(value, number or ".3g") for value in self)
        return f"{estimate}{space}{unit} ({low} to {high})"


class PairedTest(NamedTuple):
    """A paired difference with its interval and two-sided p-value."""

    difference: float
    low: float
    high: float
    p_value: float


def _pair(estimate: ArrayLike, truth: ArrayLike) -> tuple[ndarray, ndarray]:
    estimate, truth = _checks.array("estimate", estimate), _checks.array("truth", truth)
    if estimate.shape != truth.shape or truth.ndim == 0:
        raise ValueError(
            f"Estimate and truth must have one shape, components last: {estimate.shape} and "
            f"{truth.shape} given."
        )
    if not truth.size:
        raise ValueError("truth is empty: there are no effects to compare.")
    if np.isnan(truth).any():
        raise ValueError("The true effects contain NaN.")
    return estimate, truth


def _top(values: ndarray, k: int) -> ndarray:
    return np.argsort(-np.abs(values), axis=-1, kind="stable")[..., :k]


def top_k_relative_error(
    estimate: ArrayLike, truth: ArrayLike, k: int = 5
) -> np.float64 | Float[ndarray, " prompts"]:
    """Mean absolute error on the k largest true effects, in percent of the truth's range.

    Only the estimates of those k components are read, so the others may be NaN.

    Raises:
        ValueError: Shapes differ, NaN among the top k, or all true effects are equal.

    Source:
        Zhang & Wang (2026), section 4.1 (with k = 5).
    """
    estimate, truth = _pair(estimate, truth)
    _checks.whole("k", k, 1, truth.shape[-1])
    top = _top(truth, k)
    error = np.abs(np.take_along_axis(estimate - truth, top, -1)).mean(-1)
    span = np.ptp(truth, axis=-1)
    if np.isnan(error).any():
        raise ValueError(f"There are NaN among the estimates of the {k} largest true effects.")
    if (span == 0).any():
        raise ValueError(
            "All true effects are equal: an error relative to their range has no meaning."
        )
    return 100 * error / span


def top_k_overlap(
    estimate: ArrayLike, truth: ArrayLike, k: int = 5
) -> np.float64 | Float[ndarray, " prompts"]:
    """Share of the k largest true effects among the k largest estimates, by magnitude, 0 to 1."""
    estimate, truth = _pair(estimate, truth)
    _checks.whole("k", k, 1, truth.shape[-1])
    if np.isnan(estimate).any():
        raise ValueError("The estimates contain NaN.")
    matches = _top(estimate, k)[..., :, None] == _top(truth, k)[..., None, :]
    return matches.any(-1).mean(-1)


def ndcg(
    estimate: ArrayLike,
    truth: ArrayLike,
    k: int,
    gain: Literal["magnitude", "membership"] = "magnitude",
) -> np.float64 | Float[ndarray, " prompts"]:
    """Normalised discounted cumulative gain of the k largest estimates, by magnitude, 0 to 1.

    The component that the estimates put in place i adds its gain over ``log2(i + 1)``. Of k places
    the first count most. The sum is divided by that of the true order.

    Args:
        estimate: Estimated effects.
        truth: True effects.
        k: How many places count.
        gain: ``"magnitude"``: a component gains the size of its true effect. ``"membership"``: 1 if
            it is among the k largest true effects, and 0 if not, so the order among those that
            belong there does not matter.

    Raises:
        ValueError: NaN among the estimates, or all true effects are 0.

    Source:
        Järvelin & Kekäläinen (2002), with the logarithm of Burges et al. (2005).
    """
    estimate, truth = _pair(estimate, truth)
    _checks.whole("k", k, 1, truth.shape[-1])
    if np.isnan(estimate).any():
        raise ValueError("The estimates contain NaN.")
    _checks.one_of("gain", gain, ("magnitude", "membership"))
    gains = {"magnitude": np.abs(truth), "membership": np.zeros_like(truth)}[gain]
    if gain == "membership":
        np.put_along_axis(gains, _top(truth, k), 1.0, axis=-1)
    discount = 1 / np.log2(np.arange(k) + 2)
    found, best = (
        (np.take_along_axis(gains, _top(order, k), -1) * discount).sum(-1)
        for order in (estimate, truth)
    )
    if (best == 0).any():
        raise ValueError("All true effects are 0: there is no order to recover.")
    return found / best


def _rank_correlation(
    function: Callable, estimate: ArrayLike, truth: ArrayLike
) -> np.float64 | ndarray:
    estimate, truth = _pair(estimate, truth)
    rows = zip(
        estimate.reshape(-1, truth.shape[-1]), truth.reshape(-1, truth.shape[-1]), strict=True
    )
    out = np.array([function(np.abs(e), np.abs(f)).statistic for e, f in rows])
    return out.reshape(truth.shape[:-1])[()]


def kendall_tau(estimate: ArrayLike, truth: ArrayLike) -> np.float64 | Float[ndarray, " prompts"]:
    """Kendall's rank correlation (tau-b) of the magnitudes, -1 to 1."""
    return _rank_correlation(scipy.stats.kendalltau, estimate, truth)


def spearman(estimate: ArrayLike, truth: ArrayLike) -> np.float64 | Float[ndarray, " prompts"]:
    """Spearman's rank correlation of the magnitudes, -1 to 1."""
    return _rank_correlation(scipy.stats.spearmanr, estimate, truth)


def drawn_prompts(prompts: ArrayLike, n: int) -> Int[ndarray, " k"]:
    """Numbers of some of n prompts, some perhaps several times."""
    drawn = _checks.array("prompts", prompts)
    if drawn.ndim != 1 or not len(drawn) or not np.isin(drawn, np.arange(n)).all():
        raise ValueError(
            f"prompts must be a list of numbers from 0 to {n - 1}, not {_checks.shown(prompts)}."
        )
    return drawn.astype(int)


def _resample(values: ndarray, n_resamples: int, seed: int, statistic: Callable) -> ndarray:
    _checks.whole("n_resamples", n_resamples, 1, MOST_RESAMPLES)
    _checks.seed(seed)
    _checks.instance("statistic", statistic, cast("type", Callable), "a function of the values")
    if values.ndim != 1:
        raise ValueError(f"values must be one number per prompt, not {_checks.shown(values)}.")
    if len(values) < 2:
        raise ValueError(f"A bootstrap over prompts needs at least 2 of them, not {len(values)}.")
    if np.isnan(values).any():
        raise ValueError("There are NaN among the values to resample.")
    draws = np.random.default_rng(seed).integers(len(values), size=(n_resamples, len(values)))
    if statistic is np.mean:  # the same numbers, many times faster
        found = values[draws].mean(1)
    else:
        found = np.apply_along_axis(statistic, 1, values[draws])
    if np.isnan(found).any():
        raise ValueError(
            "The statistic is undefined on some resamples of the prompts: there are too few "
            "prompts that it can be computed from."
        )
    return found


def bootstrap_ci(
    values: ArrayLike,
    statistic: Callable[[ndarray], float] = np.mean,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap over prompts.

    Args:
        values: One number per prompt.
        statistic: What is estimated from them.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the resampling.

    Source:
        Efron & Tibshirani (1993), chapter 13; as in Zhang & Wang (2026), section 4.1.
    """
    values = _checks.array("values", values)
    level = _checks.number("level", level, above=0, below=1)
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(_resample(values, n_resamples, seed, statistic), tails)
    return Interval(float(statistic(values)), float(low), float(high))


def bootstrap_share(
    part: ArrayLike, whole: ArrayLike, **options: Unpack[BootstrapOptions]
) -> Interval:
    """Share of the whole in percent, pooled over prompts, from one count of each per prompt.

    ``options`` are those of ``bootstrap_ci``.
    """
    part, whole = _checks.array("part", part), _checks.array("whole", whole)
    if part.shape != whole.shape or part.ndim != 1:
        raise ValueError(
            f"part and whole must be one number per prompt: {part.shape} and {whole.shape} given."
        )
    return bootstrap_ci(
        np.arange(len(part)),
        lambda drawn: 100 * part[drawn.astype(int)].sum() / whole[drawn.astype(int)].sum(),
        **options,
    )


class Auroc:
    """Area under the ROC curve of a score, pooled over prompts and fast to resample by prompt.

    The chance that a positive component scores higher than a negative one, of whichever prompts;
    ties count half. NaN where there are none of one kind.

    Args:
        score: ``[prompts, components]``; infinities rank last and first.
        positive: Which components are to be found, of the same shape.
        kept: Components that count, of the same shape; all by default.

    Attributes:
        wins: ``[prompts, prompts]``: pairs of a positive component of prompt i and a negative one
            of prompt j in which the positive one scores higher.
        n_positive: Positive components of each prompt.
        n_negative: Negative components of each prompt.

    Raises:
        ValueError: Shapes differ, or the score is NaN where it counts.
    """

    def __init__(self, score: ArrayLike, positive: ArrayLike, kept: ArrayLike | None = None):
        score, positive = _checks.array("score", score), _checks.array("positive", positive) > 0
        kept = np.ones_like(positive) if kept is None else _checks.array("kept", kept) > 0
        if not score.shape == positive.shape == kept.shape or score.ndim != 2:
            raise ValueError(
                "Score, positive and kept must have one shape [prompts, components]: "
                f"{score.shape}, {positive.shape} and {kept.shape} given."
            )
        if np.isnan(score[kept]).any():
            raise ValueError("There are NaN among the scores.")
        low = [np.sort(s[k & ~p]) for s, p, k in zip(score, positive, kept, strict=True)]
        high = [s[k & p] for s, p, k in zip(score, positive, kept, strict=True)]
        self.wins = np.array(
            [
                [(np.searchsorted(b, a) + np.searchsorted(b, a, "right")).sum() / 2 for b in low]
                for a in high
            ]
        )
        self.n_negative, self.n_positive = (
            np.array([len(a) for a in part]) for part in (low, high)
        )

    def __call__(self, prompts: ArrayLike | None = None) -> float:
        """The area, of some prompts drawn with repeats if any are given."""
        n = len(self.wins)
        prompts = np.arange(n) if prompts is None else drawn_prompts(prompts, n)
        weight = np.bincount(prompts, minlength=n)
        pairs = (weight @ self.n_positive) * (weight @ self.n_negative)
        return float(weight @ self.wins @ weight / pairs) if pairs else float("nan")

    def interval(self, **options: Unpack[BootstrapOptions]) -> Interval:
        """With an interval over prompts; ``options`` are those of ``bootstrap_ci``."""
        return bootstrap_ci(np.arange(len(self.wins)), self, **options)

    def by_prompt(self) -> Float[ndarray, " prompts"]:
        """One area for each prompt, NaN where a prompt has components of one kind only."""
        pairs = self.n_positive * self.n_negative
        return np.where(pairs > 0, np.diag(self.wins) / np.maximum(pairs, 1), np.nan)


def paired_bootstrap(
    a: ArrayLike, b: ArrayLike, n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> PairedTest:
    """Is the mean of a different from that of b, on the same prompts?

    The prompts are resampled with their pairs kept together. The p-value is twice the share of
    resamples whose difference lies on the other side of 0, and at least 2 / (n_resamples + 1).

    Args:
        a: One number per prompt.
        b: The same of the other method, prompts in the same order.
        n_resamples: Number of resamples.
        level: Coverage of the interval.
        seed: Seed of the resampling.
    """
    a, b = _checks.array("a", a), _checks.array("b", b)
    level = _checks.number("level", level, above=0, below=1)
    if a.shape != b.shape or a.ndim != 1:
        raise ValueError(f"a and b must be one number per prompt: {a.shape} and {b.shape} given.")
    resampled = _resample(a - b, n_resamples, seed, np.mean)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    beyond = min((resampled <= 0).sum(), (resampled >= 0).sum())
    p_value = min(1.0, 2 * (beyond + 1) / (n_resamples + 1))
    return PairedTest(float((a - b).mean()), float(low), float(high), float(p_value))


def holm(p_values: ArrayLike) -> Float[ndarray, " tests"]:
    """P-values of a family of tests, adjusted so that one false alarm in all has a chance below p.

    The smallest is multiplied by the number of tests, the next by one less, and so on; none is
    adjusted to less than a smaller one.

    Args:
        p_values: One p-value for each test of the family.

    Raises:
        ValueError: They are not numbers from 0 to 1 in one dimension.

    Source:
        Holm (1979).
    """
    p = _checks.array("p_values", p_values)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("P-values must be numbers from 0 to 1, in one dimension.")
    order = p.argsort(kind="stable")
    adjusted = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(adjusted, 1)[order.argsort(kind="stable")]
