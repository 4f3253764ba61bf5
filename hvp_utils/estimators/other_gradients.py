"""Attribution patching with another backward pass: GIM, RelP and AtP*."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.backward_rules import changed_backward, drop_layer, gim_rules, relp_rules
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import Rows

from .common import Components, only
from .taylor import attribution_patching

if TYPE_CHECKING:
    from hvp_utils.components import NodePatches


@of_metric
def gim(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """Attribution patching with the backward pass of GIM; see ``gim_rules``.

    Source:
        Edin et al. (2025).
    """
    with changed_backward(M.model, *gim_rules()):
        return attribution_patching(M, components)


@of_metric
def relp(
    M: PatchedMetric, freeze_patterns: bool = False, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """Attribution patching with the backward pass of RelP; see ``relp_rules``.

    Source:
        Jafari et al. (2025).
    """
    with changed_backward(M.model, *relp_rules(freeze_patterns)):
        return attribution_patching(M, components)


@of_metric
def atp_star(
    M: PatchedMetric,
    qk_fix: bool = True,
    grad_drop: bool = True,
    components: Components = None,
) -> Float[Tensor, "*prompt m"]:
    """AtP*: exact attention patterns for queries and keys, and gradients with layers dropped.

    ``qk_fix`` recomputes the softmax under the patched query or key and is linear only after it;
    it concerns the component kinds ``"queries"`` and ``"keys"`` and leaves others as they are.
    ``grad_drop`` averages over the layers l the size of the estimate when no gradient flows
    through layer l, so that effects which cancel do not hide; the result then has no sign. It is
    made for components that some layer writes, whose own layer gives nothing when it is dropped;
    a residual stream belongs to no layer, and its average is a little too large.

    Source:
        Kramar et al. (2024), AtP*. (Zhang & Wang describe GradDrop differently, as dropping
        components whose activation region changes; this follows the original.)

    Raises:
        ValueError: GradDrop on a model of one layer.
    """
    _checks.truth("qk_fix", qk_fix)
    _checks.truth("grad_drop", grad_drop)
    n_layers = M.model.cfg.n_layers
    if grad_drop and n_layers < 2:
        raise ValueError("GradDrop averages over the layers but one; this model has only one.")

    def of_batch(batch: PromptBatch, rows: Rows) -> Float[Tensor, "rows n"]:
        def slopes() -> Float[Tensor, "rows n"]:
            return batch.slopes_at_base(rows)

        fixed = qk_fix and M.components in ("queries", "keys")
        estimate = _pattern_fix(batch, rows, cast("str", M.components)) if fixed else slopes
        if not grad_drop:
            return estimate()
        total = 0.0
        for layer in range(n_layers):
            with changed_backward(M.model, drop_layer(layer)):
                total = total + estimate().abs()
        return cast("Tensor", total / (n_layers - 1))

    return only(M.of_prompts(of_batch), components)


def _pattern_fix(
    batch: PromptBatch, rows: Rows, components: str
) -> Callable[[], Float[Tensor, "rows n"]]:
    """Estimates for queries or keys that are linear from the attention pattern on.

    The patterns under the patches take one run, with all components patched at once: a query
    changes its own row of the pattern only, a key its own column of the scores. The gradient at
    the patterns is taken anew at each call of the result.
    """
    nodes = cast("NodePatches", batch.patches)
    attention = [site.hook.rpartition(".")[0] for site in nodes.sites]
    patterns = [f"{name}.hook_pattern" for name in attention]
    scores = [f"{name}.hook_attn_scores" for name in attention]
    base: dict[str, Tensor] = {}
    patched: dict[str, Tensor] = {}

    def keep(where: dict[str, Tensor], hook: str) -> Callable[[Tensor], Tensor]:
        def record(live: Tensor) -> Tensor:
            where[hook] = live
            # Handing on the base pattern keeps every later layer's input as it was.
            return base[hook] if hook in patterns else live

        return record

    moves = {
        site.hook: lambda live, delta=delta: live + rows.of(delta)
        for site, delta in zip(nodes.sites, nodes.deltas, strict=True)
    }
    whole = {0: len(rows)}
    with torch.no_grad():
        batch.run.logits({hook: keep(base, hook) for hook in [*patterns, *scores]}, whole, rows)
        changes = {hook: keep(patched, hook) for hook in [*patterns, *scores]}
        batch.run.logits(moves | changes, whole, rows)

    def estimates() -> Float[Tensor, "rows n"]:
        _, values, seen = batch.traced(rows, hooks=patterns)
        at = [seen[hook] for hook in patterns]
        # A pattern that nothing reads, as when its layer is dropped, has gradient 0.
        gradients = torch.autograd.grad(values.sum(), at, materialize_grads=True)
        parts = []
        for G, pattern, score, site in zip(gradients, patterns, scores, nodes.sites, strict=True):
            if components == "queries":
                effects = ((patched[pattern] - base[pattern]) * G).sum(-1)
            else:
                effects = _key_effects(base[pattern], patched[score] - base[score], G)
                effects = effects[..., -batch.n_run :]  # earlier keys are the same in both runs
                effects = effects.unflatten(1, (site.shape[1], -1)).sum(2)  # heads that share it
            parts.append(effects.mT.flatten(1))  # position by position, as the labels go
        return torch.cat(parts, dim=1)

    return estimates


def _key_effects(
    p: Float[Tensor, "rows head query key"],
    change: Float[Tensor, "rows head query key"],
    G: Float[Tensor, "rows head query key"],
) -> Float[Tensor, "rows head key"]:
    """Effect of patching one key at a time, given the change of its scores.

    With one score of a row changed by s, its probability p becomes p e^s / (1 + p (e^s - 1)), and
    the others share what it gains or loses in proportion (Kramar et al. 2024).
    """
    change = torch.where(p > 0, change, torch.zeros_like(change))  # masked: no number, no change
    # (p' - p)/(1 - p) = p (e^s - 1)/(1 + p (e^s - 1)), times e^-s above and below where s > 0.
    m = torch.expm1(-change.abs())
    gain = torch.where(change > 0, -p * m / (1 + m - p * m), p * m / (1 + p * m))
    others = (p * G).sum(-1, keepdim=True)
    return (gain * (G - others)).sum(-2)
