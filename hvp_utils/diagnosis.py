"""Which failure is it? Why attribution patching misjudges one component.

Three failures of attribution patching have names: attention saturation and effect cancellation
(Kramar et al. 2024), and zero gradients (Hanna et al. 2024). Symptoms of them are common, also
where nothing is wrong, so each criterion here asks what part of the *error* a failure accounts for.

Of one component with path g(t) = M(t e_c), the error of attribution patching is

    E = g(1) - g(0) - g'(0) = integral of (1 - t) g''(t) over [0, 1].

g''(t) is a sum over the operations of the network (see ``hvp_utils.backward_rules.linearised``), so
E is the sum of one part for each kind of operation, with nothing left over: ``Diagnosis.parts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import scipy.special
import torch
import torch.autograd.forward_ad as fwAD
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils.axes import derivative
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.components import NODE_KINDS
from hvp_utils.estimators import atp_star, ms_hvp
from hvp_utils.estimators.common import along_path
from hvp_utils.estimators.integrals import quadrature
from hvp_utils.patched_metric import PatchedMetric
from hvp_utils.prompt_batch import PromptBatch

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
    "diagnose",
    "diagnose_each",
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
#: A gradient counts as zero where it is at most this share of the mean |slope| along the path.
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
        pattern_part: The part of E that scores and softmax of attention account for.
        saturated_share: The share of what the patterns contribute that comes from rows which are
            ``SATURATED`` in the base run and ``CHANGED`` by the patch.
    """
    explained = pattern_part / error if error else 0.0
    return explained >= MAIN_PART and saturated_share >= MAIN_PART


def is_cancellation(direct: float, indirect: float, error: float) -> bool:
    """Whether an error is large only because direct and indirect effect all but cancel.

    They have opposite signs, ``|direct| + |indirect|`` is at least ``AMPLIFIED`` times the total,
    and against the sizes of the parts the error would not count as ``MISJUDGED``.
    """
    sizes = abs(direct) + abs(indirect)
    amplified = sizes >= AMPLIFIED * abs(direct + indirect)
    return direct * indirect < 0 and amplified and abs(error) <= MISJUDGED * sizes


def is_zero_gradient(slope_at_base: float, mean_size: float) -> bool:
    """Whether the slope at the base run is next to nothing against the path's.

    Args:
        slope_at_base: g'(0).
        mean_size: The mean of ``|g'(t)|`` over [0, 1].
    """
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


def diagnose(M: PatchedMetric, component: str | int, grad_drop: bool = True) -> Diagnosis:
    """Which failure makes attribution patching misjudge a component, and the evidence.

    About 25 second derivatives of a single component, and with GradDrop a gradient for
    each layer: a tool for the few components that matter, once their true effect is known.

    Args:
        M: The metric of one prompt, over nodes of any kind.
        component: A label, such as ``"L4H11"``, or an index.
        grad_drop: Whether to try that remedy too.

    Source:
        The failures: Kramar et al. (2024), Hanna et al. (2024). The criteria are ours.

    Raises:
        ValueError: More than one prompt, components that are no nodes, or an unknown component.
        TypeError: The model runs in half precision.
    """
    return diagnose_each(M, [component], grad_drop)[0]


def diagnose_each(
    M: PatchedMetric,
    components: Iterable[str | int],
    grad_drop: bool = True,
    symptoms_only: bool = False,
) -> list[Diagnosis]:
    """``diagnose`` for some components of one prompt, which share what can be shared.

    Args:
        M: The metric of one prompt, over nodes of any kind.
        components: Labels or indices.
        grad_drop: Whether to try that remedy too.
        symptoms_only: Leave out ``parts`` and ``ms_hvp``, which take most of the time. The parts
            are NaN then, and saturation is never found.
    """
    which = _checked(M, list(components))
    points, weights = quadrature(N_SLOPES, "gausslegendre")
    start = M.along_axes(0.0, 2, which)
    truth = M.effects(M.along_axes(1.0, 0, which).value)
    path = along_path(M, points, 1, which)
    if symptoms_only:
        parts = dict.fromkeys(NONLINEARITIES, torch.full_like(truth, torch.nan))
    else:
        parts = _parts(M, which)
    direct = [found.tolist() for found in _direct(M, which)]
    readers = _readers(M, which)
    remedies = {
        "hvp": start.slope + start.curvature / 2,
        "five slopes": torch.tensordot(weights.to(path.slope), path.slope, 1),
    }
    if not symptoms_only:
        remedies["ms_hvp:5"] = ms_hvp(M, 5, which, start)
    if M.components in ("queries", "keys"):
        remedies["qk_fix"] = atp_star(M, grad_drop=False, components=which)
    if grad_drop:
        remedies["grad_drop"] = atp_star(M, components=which)
    return [
        Diagnosis(
            component=M.labels[c],
            truth=truth[i].item(),
            estimate=start.slope[i].item(),
            direct=direct[0][i],
            direct_estimate=direct[1][i],
            slopes=tuple(path.slope[:, i].tolist()),
            points=tuple(points.tolist()),
            weights=tuple(weights.tolist()),
            parts={kind: part[i].item() for kind, part in parts.items()},
            reader=readers[i][0],
            saturated_share=readers[i][1],
            remedies={name: value[i].item() for name, value in remedies.items()},
        )
        for i, c in enumerate(which.tolist())
    ]


def _checked(M: PatchedMetric, components: list[str | int]) -> Int[Tensor, " m"]:
    if M.n_prompts != 1 or M.prompt_dims:
        raise ValueError(
            f"A diagnosis is of one prompt, and this is M of {M.n_prompts}: paths have "
            "no mean. Make a PatchedMetric of the prompt in question."
        )
    if (kind := M.components.partition(":")[0]) not in NODE_KINDS:
        raise ValueError(f"A diagnosis is of nodes ({', '.join(NODE_KINDS)}), not of {kind}.")
    if not components:
        raise ValueError("There is nothing to diagnose: components is empty.")
    which = []
    for c in components:
        if isinstance(c, str):
            c = M.index([c]).item()
        if not 0 <= int(c) < M.n:
            raise ValueError(f"There is no component {c}: there are {M.n}, counted from 0.")
        which.append(int(c))
    return torch.tensor(which)


def _parts(M: PatchedMetric, which: Int[Tensor, " m"]) -> dict[str, Float[Tensor, " m"]]:
    """E by kind of operation: the integral of (1 - t) times what g'' loses without each.

    By the Gauss rule that has the weight 1 - t built in, which is exact where g'' is a polynomial
    of up to twice as many degrees as there are points, less one.
    """
    x, w = scipy.special.roots_jacobi(N_CURVATURES, 1, 0)  # on [-1, 1], weight 1 - x
    points, rule = (torch.from_numpy(a) for a in ((x + 1) / 2, w / 4))

    def integral() -> Float[Tensor, " m"]:
        curvature = along_path(M, points, 2, which).curvature
        return torch.tensordot(rule.to(curvature), curvature, 1)

    whole, parts = integral(), {}
    *some, last = NONLINEARITIES
    for kind in some:
        with linearised(M.model, kind):
            parts[kind] = whole - integral()
    # All kinds add up to the curvature, so the last need not be run.
    parts[last] = whole - sum(parts.values())
    return parts


def _direct(
    M: PatchedMetric, which: Int[Tensor, " m"]
) -> tuple[Float[Tensor, " m"], Float[Tensor, " m"]]:
    """The effect with what all later blocks write held at the base run, and its estimate."""
    batch, kind = M.batches[0], M.components.partition(":")[0]
    hooks = {
        (layer, write): f"blocks.{layer}.{write}"
        for layer in range(M.model.cfg.n_layers)
        for write in ("hook_attn_out", "hook_mlp_out")
    }
    with torch.no_grad():
        held: dict[str, Tensor] = {}

        def keep(hook: str):
            return lambda live: held.setdefault(hook, live)

        batch.run.logits({hook: keep(hook) for hook in hooks.values()}, {0: 1}, batch.rows())
    effect, slope = (batch.base.new_zeros(len(which)) for _ in range(2))
    for layer in batch.layers[which].unique().tolist():
        mine = (batch.layers[which] == layer).nonzero()[:, 0]
        c = which[mine]
        rows = batch.rows(torch.zeros(len(c), dtype=torch.long))
        same_layer = kind in ("heads", "queries", "keys", "values")
        fixed = {
            hook: lambda live, hook=hook: held[hook].expand_as(live)
            for (at, write), hook in hooks.items()
            if at > layer or (same_layer and at == layer and write == "hook_mlp_out")
        }

        def value(t: Tensor, c=c, rows=rows, fixed=fixed) -> Tensor:
            patches = batch.patches.patch_on_axes(batch.places(c), t, rows)
            return batch.evaluate(patches | fixed, batch.entering(c), rows)

        t = batch.base.new_zeros(len(c)).requires_grad_()
        slope[mine] = derivative(value(t).sum(), t)
        with torch.no_grad():
            effect[mine] = value(torch.ones_like(t)) - batch.base
    return effect, slope


def _readers(M: PatchedMetric, which: Int[Tensor, " m"]) -> list[tuple[Reader | None, float]]:
    """For each component the attention row that adds most to its error, and the saturated share.

    A row's contribution is G . (p(1) - p(0) - p'(0)): what its pattern does less what the slope
    promises, times the gradient at the pattern.
    """
    batch = M.batches[0]
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(M.model.cfg.n_layers)]
    G = batch.gradients_at(hooks, batch.rows())
    tokens = M.pair.resolve(M.model)
    other = tokens.clean if M.direction == "denoising" else tokens.corrupted
    first = M.n_tokens - M.n_run
    others = None
    if other is not None:
        others = batch.run.unpatched(hooks, other[None, first:])[1]
    found = []
    for c in which:
        base, rate = _patterns(batch, c[None], hooks, 0.0)
        patched, _ = _patterns(batch, c[None], hooks, 1.0)
        rows = []  # (contribution, saturated and left, layer, head, query)
        for layer, hook in enumerate(hooks):
            if hook not in base:
                continue
            p, p1 = base[hook][0], patched[hook][0]
            part = (G[hook][0] * (p1 - p - rate[hook][0])).sum(-1)
            top = p.argmax(-1, keepdim=True)
            moved = (p1 - p).gather(-1, top)[..., 0].abs()
            left = (p.amax(-1) >= SATURATED) & (moved >= CHANGED)
            rows.append((layer, part, left))
        sizes = sum(part.abs().sum().item() for _, part, _ in rows)
        if not sizes:
            found.append((None, 0.0))
            continue
        share = sum((part.abs() * left).sum().item() for _, part, left in rows) / sizes
        layer, part, _ = max(rows, key=lambda row: row[1].abs().max().item())
        head, query = divmod(part.abs().argmax().item(), part.shape[1])
        row0, row1 = (side[hooks[layer]][0, head, query] for side in (base, patched))
        key = (row1 - row0).abs().argmax().item()
        elsewhere = float("nan")
        if others is not None:
            elsewhere = others[hooks[layer]][0, head, query, key].item()
        reader = Reader(
            head=f"L{layer}H{head}",
            position=first + query,
            key=key,
            base=row0[key].item(),
            patched=row1[key].item(),
            other=elsewhere,
            part=part[head, query].item(),
        )
        found.append((reader, share))
    return found


def _patterns(
    batch: PromptBatch, c: Int[Tensor, " one"], hooks: list[str], t: float
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Attention patterns with one component at strength t, and their derivatives by t."""
    seen: dict[str, Tensor] = {}

    def see(hook: str):
        return lambda live: seen.setdefault(hook, live)

    rows, at = batch.rows(torch.zeros(1, dtype=torch.long)), batch.base.new_full((1,), t)
    with torch.no_grad(), fwAD.dual_level():
        strength = fwAD.make_dual(at, torch.ones_like(at))
        patches = batch.patches.patch_on_axes(batch.places(c), strength, rows)
        reached = {h: see(h) for h in hooks if int(h.split(".")[1]) >= batch.layers[c].item()}
        batch.evaluate(patches | reached, batch.entering(c), rows)
        both = {hook: fwAD.unpack_dual(pattern) for hook, pattern in seen.items()}
        values = {hook: dual.primal for hook, dual in both.items()}
        rates = {
            hook: torch.zeros_like(dual.primal) if dual.tangent is None else dual.tangent
            for hook, dual in both.items()
        }
    return values, rates
