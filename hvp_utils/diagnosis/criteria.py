"""What counts as which failure, and what a diagnosis holds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from hvp_utils import _checks

__all__ = [
    "AMPLIFIED",
    "CANCELLATION",
    "CHANGED",
    "FLAT",
    "MAIN_PART",
    "MISJUDGED",
    "NO_FAILURE",
    "N_CURVATURES",
    "N_SLOPES",
    "OTHER",
    "SATURATED",
    "SATURATION",
    "VERDICTS_OF_DIAGNOSIS",
    "ZERO_GRADIENT",
    "Diagnosis",
    "Reader",
    "is_cancellation",
    "is_saturation",
    "is_zero_gradient",
]

#: An estimate is misjudged if it is off by more than this share of the true effect. Smaller errors
#: change no conclusion that people draw from attribution patching.
MISJUDGED = 0.1
#: A row of an attention pattern is saturated if one key has at least this probability: the
#: tutorial's "probability > 0.95". The slope of the softmax, p (1 - p), is below a fifth of its
#: largest value there.
SATURATED = 0.95
#: A row has left saturation if the patch moves the probability of that key by this much. Without
#: such a change a saturated softmax is a constant, which its slope describes well.
CHANGED = 0.1
#: A cause accounts for an error if its part is at least half of it.
MAIN_PART = 0.5
#: Direct and indirect effect cancel if their sizes add up to at least this many times the total.
#: Five is where the total is half of the smaller of the two.
AMPLIFIED = 5.0
#: A gradient counts as zero where it is at most this share of the mean ``|slope|`` along the path.
FLAT = 0.1
#: Points of the Gauss-Legendre rule along the path; also what "five slopes" are as a remedy.
N_SLOPES = 5
#: Points at which curvatures are taken for the parts of the error.
N_CURVATURES = 3

NO_FAILURE, SATURATION, CANCELLATION, ZERO_GRADIENT, OTHER = VERDICTS_OF_DIAGNOSIS = (
    "well judged",
    "attention saturation",
    "effect cancellation",
    "zero gradient",
    "none of the three",
)


def is_saturation(error: float, pattern_part: float, saturated_share: float) -> bool:
    """Whether an error arises in attention rows that start saturated and do not stay so.

    Args:
        error: E, the true effect less the estimate.
        pattern_part: The part of E that scores and softmax of attention explain; NaN if unknown.
        saturated_share: The share of what the patterns contribute that comes from rows which are
            ``SATURATED`` in the base run and ``CHANGED`` by the patch.
    """
    if isinstance(pattern_part, float) and math.isnan(pattern_part):
        return False
    error = _checks.number("error", error)
    pattern_part = _checks.number("pattern_part", pattern_part)
    saturated_share = _checks.number("saturated_share", saturated_share, least=0)
    explained = pattern_part / error if error else 0.0
    return explained >= MAIN_PART and saturated_share >= MAIN_PART


def is_cancellation(direct: float, indirect: float, error: float) -> bool:
    """Whether an error is large only because direct and indirect effect all but cancel.

    They have opposite signs, ``|direct| + |indirect|`` is at least ``AMPLIFIED`` times the total,
    and against the sizes of the parts the error would not count as ``MISJUDGED``.
    """
    direct, indirect = _checks.number("direct", direct), _checks.number("indirect", indirect)
    error = _checks.number("error", error)
    sizes = abs(direct) + abs(indirect)
    amplified = sizes >= AMPLIFIED * abs(direct + indirect)
    return direct * indirect < 0 and amplified and abs(error) <= MISJUDGED * sizes


def is_zero_gradient(slope_at_base: float, mean_size: float) -> bool:
    """Whether the slope at the base run is next to nothing against the path's.

    Args:
        slope_at_base: g'(0).
        mean_size: The mean of ``|g'(t)|`` over [0, 1].
    """
    slope_at_base = _checks.number("slope_at_base", slope_at_base)
    mean_size = _checks.number("mean_size", mean_size, least=0)
    return mean_size > 0 and abs(slope_at_base) <= FLAT * mean_size


class Reader(NamedTuple):
    """The row of an attention pattern that contributes most to an error.

    Attributes:
        head: Its head, such as ``L7H3``.
        position: The token that attends.
        key: The token whose probability changes most.
        base: Its probability in the base run.
        patched: The same with the component patched.
        other: The same in the other run; NaN for zero ablation.
        part: What the row contributes to the error, to first order in the pattern.
    """

    head: str
    position: int
    key: int
    base: float
    patched: float
    other: float
    part: float


@dataclass(frozen=True)
class Diagnosis:
    """Why attribution patching is off for one component, with the evidence.

    Attributes:
        component: Its label.
        truth: The true effect f = g(1) - g(0).
        estimate: Attribution patching, g'(0).
        direct: The effect with all that later blocks write held at the base run.
        direct_estimate: Attribution patching of ``direct``.
        slopes: g' at the ``N_SLOPES`` points ``points``.
        points: Points of the Gauss-Legendre rule.
        weights: Its weights.
        parts: The part of the error that each kind of operation accounts for, by
            ``NONLINEARITIES``.
        reader: The attention row with the largest contribution; None if no pattern changes.
        saturated_share: See ``is_saturation``.
        remedies: Estimates by other methods, by name: ``"hvp"``, ``"ms_hvp:5"``,
            ``"five slopes"``, and where they apply ``"qk_fix"`` and ``"grad_drop"`` (a size).
    """

    component: str
    truth: float
    estimate: float
    direct: float
    direct_estimate: float
    slopes: tuple[float, ...]
    points: tuple[float, ...]
    weights: tuple[float, ...]
    parts: Mapping[str, float]
    reader: Reader | None
    saturated_share: float
    remedies: Mapping[str, float] = field(default_factory=dict)

    @property
    def error(self) -> float:
        """E: the true effect less the estimate."""
        return self.truth - self.estimate

    @property
    def indirect(self) -> float:
        """What is left of the effect without ``direct``."""
        return self.truth - self.direct

    @property
    def indirect_estimate(self) -> float:
        """What is left of the estimate without ``direct_estimate``."""
        return self.estimate - self.direct_estimate

    @property
    def mean_size(self) -> float:
        """The mean ``|g'|`` along the path."""
        return sum(w * abs(s) for w, s in zip(self.weights, self.slopes, strict=True))

    @property
    def left_over(self) -> float:
        """What the parts miss of the error: nothing but the error of the quadrature rule."""
        return self.error - sum(self.parts.values())

    @property
    def criteria(self) -> dict[str, bool]:
        """Which failures account for the error; more than one may."""
        error = self.error
        return {
            SATURATION: is_saturation(error, self.parts["attention_pattern"], self.saturated_share),
            CANCELLATION: is_cancellation(self.direct, self.indirect, error),
            ZERO_GRADIENT: is_zero_gradient(self.estimate, self.mean_size),
        }

    @property
    def verdict(self) -> str:
        """One of ``VERDICTS_OF_DIAGNOSIS``.

        The first that holds: saturation names a cause, cancellation a structure, and a zero
        gradient only says what it looks like.
        """
        if abs(self.error) <= MISJUDGED * abs(self.truth):
            return NO_FAILURE
        return next((name for name, holds in self.criteria.items() if holds), OTHER)

    @property
    def main_part(self) -> str:
        """The kind of operation with the largest part in the direction of the error."""
        return max(self.parts, key=lambda kind: self.parts[kind] * (1 if self.error > 0 else -1))

    def removed(self, remedy: str) -> float:
        """The share of the error that a remedy takes away; below 0 where it adds to it.

        A score without a sign is compared with the size of the effect, and with what the size of
        attribution patching lacks of it. NaN where there is nothing to take away.
        """
        value, truth, before = self.remedies[remedy], self.truth, abs(self.error)
        if remedy == "grad_drop":
            truth, before = abs(truth), abs(abs(truth) - abs(self.estimate))
        return 1 - abs(truth - value) / before if before else float("nan")

    def __str__(self) -> str:
        return "\n".join([f"{self.component}: {self.verdict}", *(f"  {x}" for x in self._lines())])

    def _lines(self) -> Iterator[str]:
        """The evidence, a sentence a line."""
        yield f"true effect {self.truth:+.3f}, attribution patching {self.estimate:+.3f}"
        yield (
            f"direct {self.direct:+.3f} (estimated {self.direct_estimate:+.3f}), indirect "
            f"{self.indirect:+.3f} (estimated {self.indirect_estimate:+.3f})"
        )
        path = " ".join(f"{slope:+.3f}" for slope in self.slopes)
        yield f"slope at the base {self.estimate:+.3f}, along the path {path}"
        if not self.error:
            return
        for kind in dict.fromkeys((self.main_part, "attention_pattern")):
            yield f"{self.parts[kind] / self.error:.0%} of the error from {kind.replace('_', ' ')}"
        if (row := self.reader) is not None:
            yield (
                f"{row.head} at token {row.position} gives token {row.key} probability "
                f"{row.base:.2f} (patched {row.patched:.2f}, other run {row.other:.2f})"
            )
        taken = ", ".join(f"{self.removed(name):.0%} by {name}" for name in self.remedies)
        yield f"error removed: {taken}"
