"""Local curvature: that of the patched part alone, all behind it being linear.

For a neuron it is the curvature of its own activation function, for an edge that of its reader. The
curvature of M along an axis is this plus what comes from the network behind (see the theory page).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Float
from torch import Tensor

from hvp_utils.axes import NO_BAR, axis_batch
from hvp_utils.curvature import Diagonal, diagonal
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import Rows

from .common import Components, only
from .taylor import attribution_patching

if TYPE_CHECKING:
    from hvp_utils.components import EdgePatches, NodePatches


@of_metric
def local_curvature(M: PatchedMetric, components: Components = None) -> Float[Tensor, "*prompt m"]:
    """Attribution patching plus ``local_quadratic_term``.

    Of a neuron the correction that stops at the neuron itself: the paper's counter-example. It
    costs the same for some components as for all.

    Source:
        Zhang & Wang (2026), section 3.3 and figure 2; for edges it is ours.

    Raises:
        ValueError: The components are neither pre-activation neurons nor edges.
    """
    return attribution_patching(M, components) + local_quadratic_term(M, components)


@of_metric
def local_quadratic_term(
    M: PatchedMetric, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """Half the curvature of the patched part alone, times the gradient at its output.

    For a neuron: half of act''(z) delta^2 times the gradient at the neuron's output, over all
    positions. For an edge from u to v: half the second derivative of ``<g, f_v(in_v + t delta_u)>``
    at t = 0, where f_v is the reader (a head, an MLP, or the metric) and g the gradient at what it
    writes. Edges into the logits have no other curvature. It costs the same for some components as
    for all: of edges, a run of a single block for each writer and each block behind it.

    Source:
        Zhang & Wang (2026), section 3.3; for edges it is ours.

    Raises:
        ValueError: The components are neither pre-activation neurons nor edges.
        TypeError: The model runs in half precision.
    """
    M.require_full_precision()
    if M.components == "edges":
        return only(M.of_prompts(_edge_terms), components)
    if str(M.components).startswith("neurons_pre"):
        return only(M.of_prompts(_neuron_terms), components)
    raise ValueError(
        "The local curvature is that of an activation function or of a reader, so it needs "
        f'components "neurons_pre" (or "neurons_pre:256") or "edges", not {M.components!r}.'
    )


@of_metric
def local_sketched_hvp(
    M: PatchedMetric, n_matvecs: int = 32, seed: int = 0, components: Components = None
) -> Float[Tensor, "*prompt m"]:
    """``local_curvature``, with the sketched curvature where the two differ too much for chance.

    Too much is more than two standard errors of the sketch. It helps the largest edges; where
    effects are small the errors of the sketch are larger than they, and so is the harm.

    Args:
        M: The metric.
        n_matvecs: Products with the Hessian, as in ``sketched_hvp``.
        seed: Seed of the sketch.
        components: Indices; all by default, at the same cost.

    Source:
        Ours.

    Raises:
        ValueError: The components are neither pre-activation neurons nor edges, or a number of
            products that cannot be used.
        TypeError: The model runs in half precision.
    """
    local = local_quadratic_term(M)
    sketch = diagonal(M, "xdiag", n_matvecs, seed)
    return only(sketch.slopes + combined(local, sketch), components)


def combined(local: Float[Tensor, "*prompt n"], sketch: Diagonal) -> Float[Tensor, "*prompt n"]:
    """The quadratic term of ``local_sketched_hvp``, from both of its parts."""
    by_chance = (sketch.values / 2 - local).abs() <= sketch.error  # two errors of the half
    return torch.where(by_chance, local, sketch.values / 2)


def _neuron_terms(batch: PromptBatch, rows: Rows) -> Float[Tensor, "rows n"]:
    outputs = [
        site.hook.replace("hook_pre", "hook_post")
        for site in cast("NodePatches", batch.patches).sites
    ]
    strengths, values, seen = batch.traced(rows, hooks=outputs)
    posts = [seen[hook] for hook in outputs]
    gradients = torch.autograd.grad(values.sum(), posts, retain_graph=True)
    terms = []
    for strength, post, gradient in zip(strengths, posts, gradients, strict=True):
        # A neuron's output depends on no strength of its layer but its own: one pass serves all.
        (first,) = torch.autograd.grad((gradient * post).sum(), strength, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), strength, retain_graph=True)
        terms.append(second / 2)
    return torch.cat(terms, dim=1)


def _edge_terms(batch: PromptBatch, rows: Rows) -> Float[Tensor, "rows n"]:
    return torch.stack([_edge_terms_of(batch, int(prompt)) for prompt in rows.prompts])


def _edge_terms_of(batch: PromptBatch, prompt: int) -> Float[Tensor, " n"]:
    """Of one prompt: a run of a reader's own block for each writer, all the block's heads at once.

    A head's output depends on no other head's inputs, so one double backward pass serves them all;
    queries, keys and values have runs of their own.
    """
    edges, alone = cast("EdgePatches", batch.patches), batch.rows(torch.tensor([prompt]))
    outputs = [group.hook for group in edges.graph.writers[1:]]
    gradients = batch.gradients_at(outputs, alone)
    terms = []
    for group in edges.graph.readers[:-1]:
        attention = "attn" in group.hook
        block = f"blocks.{group.layer}"
        output = f"{block}.attn.hook_result" if attention else f"{block}.hook_mlp_out"
        n_readers = len(group.labels)

        def of_writers(part: slice, group=group, output=output, n_readers=n_readers) -> Tensor:
            n = part.stop - part.start
            t = batch.base.new_zeros(n, n_readers).requires_grad_()
            copies = batch.rows(torch.full((n,), prompt))
            writers = torch.arange(part.start, part.stop).repeat_interleave(n_readers).to(t.device)
            prompts = torch.full((n * n_readers,), prompt)
            added = edges.contributions(writers, t.flatten(), prompts)
            added = added.unflatten(0, (n, n_readers)).transpose(1, 2)  # [n, pos, reader, d]

            def add(live: Tensor) -> Tensor:
                return live + (added if live.ndim == 4 else added[:, :, 0])

            out = batch.run.until(output, {group.hook: add}, {group.layer: n}, copies)
            value = (out * gradients[output]).sum()
            (first,) = torch.autograd.grad(value, t, create_graph=True)
            if not first.requires_grad:
                return torch.zeros_like(t)
            return torch.autograd.grad(first.sum(), t, materialize_grads=True)[0] / 2

        found = torch.cat(list(batch.map(of_writers, group.n_writers, NO_BAR, weight=n_readers)))
        terms.append(found.flatten())
    # Behind the last reader comes nothing: its curvature is all there is.
    n = sum(edges.sizes)
    terms.append(_at_logits(batch, prompt, torch.arange(n - edges.sizes[-1], n)))
    return torch.cat(terms)


def _at_logits(batch: PromptBatch, prompt: int, components: Tensor) -> Float[Tensor, " m"]:
    t = batch.base.new_zeros(len(components))
    parts = [
        axis_batch(
            batch, components[part], t[part], 2, batch.rows(torch.full((len(part),), prompt))
        )
        for part in torch.arange(len(components)).split(batch.batch_size)
    ]
    return torch.cat(parts, dim=1)[2] / 2
