"""Attribution patching of edges with gradients taken along a path: EAP-IG and EAP-GP.

Attribution patching of edges is EAP (Syed et al. 2023). These multiply the same differences by
other gradients, averaged over runs whose inputs or activations were moved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import Rows

from .common import Components, only
from .integrals import Quadrature, quadrature

if TYPE_CHECKING:
    from hvp_utils.components import EdgePatches

_EMBEDDING = "blocks.0.hook_in"


@of_metric
def eap_ig(
    M: PatchedMetric,
    n_steps: int = 5,
    method: Quadrature = "right",
    where: Literal["inputs", "activations"] = "inputs",
    components: Components = None,
) -> Float[Tensor, "*prompt m"]:
    """Edge attribution patching with integrated gradients.

    The gradients at the readers are averaged over runs on the way from the corrupted prompt (t = 0)
    to the clean one (t = 1). All that comes after the change moves with it.

    Args:
        M: The metric, with ``components="edges"``.
        n_steps: Points of the rule.
        method: One of ``QUADRATURES``. Published code uses ``"right"`` (t = 1/m, ..., 1) and
            ``"left"`` (t = 0, ..., (m-1)/m).
        where: ``"inputs"`` moves the embedding; ``"activations"`` moves the embedding, the heads of
            a layer, or an MLP, one after the other, and averages over these too.
        components: Indices; all by default, at the same cost.

    Source:
        Hanna, Pezzelle & Belinkov (2024).

    Raises:
        ValueError: Components that are no edges, or an unknown method or place.
    """
    _require_edges(M)
    _checks.one_of("where", where, ("inputs", "activations"))
    t, weights = quadrature(n_steps, method)
    t = t if M.direction == "denoising" else 1 - t  # from here on counted from the base run

    def of_batch(batch: PromptBatch, rows: Rows) -> Float[Tensor, "rows n"]:
        groups = (
            cast("EdgePatches", batch.patches).graph.writers if where == "activations" else [None]
        )
        total = 0.0
        for j in range(len(groups)):
            for point, weight in zip(t.tolist(), weights.tolist(), strict=True):
                moved = cast("EdgePatches", batch.patches).move_writers(j, point, rows)
                total = total + weight * batch.slopes_at_base(rows, moved)
        return cast("Tensor", total / len(groups))

    return only(M.of_prompts(of_batch), components)


@of_metric
def eap_gp(
    M: PatchedMetric, n_steps: int = 5, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """Edge attribution patching along a path that follows gradients: EAP-GP.

    The path begins at the clean embedding; each step goes a unit length down the gradient of the
    squared distance between the logits and those of the corrupted prompt, at the last position. The
    gradients at the readers are averaged over its points but the first. One path of inputs serves
    all edges, as in other implementations; the paper states a path for each node.

    Args:
        M: The metric, with ``components="edges"``.
        n_steps: Steps of the path.
        components: Indices; all by default, at the same cost.

    Source:
        Zhang et al. (2025), EAP-GP.

    Raises:
        ValueError: Components that are no edges, or a number of steps that is none.
    """
    _require_edges(M)
    _checks.steps("n_steps", n_steps)

    def of_batch(batch: PromptBatch, rows: Rows) -> Float[Tensor, "rows n"]:
        def logits(shift: Tensor) -> Tensor:
            moved = {_EMBEDDING: lambda live: live + shift}
            return batch.run.logits(moved, {0: len(rows)}, rows)

        to_other = rows.of(cast("EdgePatches", batch.patches).difference[:, 0])
        denoising = M.direction == "denoising"
        shift = (to_other if denoising else torch.zeros_like(to_other)).clone()
        with torch.no_grad():
            goal = logits(torch.zeros_like(to_other) if denoising else to_other)
        total = 0.0
        for _ in range(n_steps):
            shift = shift.detach().requires_grad_()
            (uphill,) = torch.autograd.grad((logits(shift) - goal).square().sum(), shift)
            length = uphill.flatten(1).norm(dim=1)[:, None, None]
            # At the goal there is no way further down.
            shift = (shift - torch.where(length > 0, uphill / length, 0.0)).detach()
            moved = {_EMBEDDING: lambda live, shift=shift: live + shift}
            total = total + batch.slopes_at_base(rows, moved)
        return cast("Tensor", total / n_steps)

    # Tokens before the first difference move too, so they have to be run.
    return only(M.whole().of_prompts(of_batch), components)


def _require_edges(M: PatchedMetric) -> None:
    if M.components != "edges":
        raise ValueError(f'This estimator is made for components="edges", not {M.components!r}.')
