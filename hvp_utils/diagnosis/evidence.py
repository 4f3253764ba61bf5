"""Measuring what a diagnosis rests on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import scipy.special
import torch
import torch.autograd.forward_ad as fwAD
from jaxtyping import Float, Int
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.axes import derivative
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.components import NODE_KINDS
from hvp_utils.estimators import atp_star, ms_hvp
from hvp_utils.estimators.common import along_path
from hvp_utils.estimators.integrals import quadrature
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.prompt_batch import PromptBatch

from .criteria import CHANGED, N_CURVATURES, N_SLOPES, SATURATED, Diagnosis, Reader

__all__ = ["diagnose", "diagnose_each"]


@of_metric
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


@of_metric
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
    _checks.truth("grad_drop", grad_drop)
    _checks.truth("symptoms_only", symptoms_only)
    which = _checked(M, _checks.items("components", components, "a list of labels or numbers"))
    points, weights = quadrature(N_SLOPES, "gausslegendre")
    start = M.along_axes(0.0, 2, which)
    truth = M.effects(M.along_axes(1.0, 0, which).value)
    path = along_path(M, points, 1, which)
    # Slopes are of order 1, and curvatures of order 2.
    assert start.slope is not None and start.curvature is not None and path.slope is not None
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
    kinds = M.components if isinstance(M.components, str) else type(M.components).__name__
    if (kind := kinds.partition(":")[0]) not in NODE_KINDS:
        raise ValueError(f"A diagnosis is of nodes ({', '.join(NODE_KINDS)}), not of {kind}.")
    if not components:
        raise ValueError("There is nothing to diagnose: components is empty.")
    numbers = [int(M.index([c])) if isinstance(c, str) else c for c in components]
    which = _checks.indices("components", numbers, M.n)
    if which.ndim != 1:
        raise TypeError(f"each component must be a label or a number, not {numbers[0]!r}.")
    return which


def _parts(M: PatchedMetric, which: Int[Tensor, " m"]) -> dict[str, Float[Tensor, " m"]]:
    """E by kind of operation: the integral of (1 - t) times what g'' loses without each.

    By the Gauss rule that has the weight 1 - t built in, which is exact where g'' is a polynomial
    of up to twice as many degrees as there are points, less one.
    """
    x, w = scipy.special.roots_jacobi(N_CURVATURES, 1, 0)  # on [-1, 1], weight 1 - x
    points, rule = (torch.from_numpy(a) for a in ((x + 1) / 2, w / 4))

    def integral() -> Float[Tensor, " m"]:
        curvature = cast("Tensor", along_path(M, points, 2, which).curvature)
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
    batch, kind = M.batches[0], cast("str", M.components).partition(":")[0]
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
    first = cast("int", M.n_tokens) - cast("int", M.n_run)  # of one prompt
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
        head, query = divmod(cast("int", part.abs().argmax().item()), part.shape[1])
        row0, row1 = (side[hooks[layer]][0, head, query] for side in (base, patched))
        key = cast("int", (row1 - row0).abs().argmax().item())
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
