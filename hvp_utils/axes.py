"""Derivatives along the axis of each component, for the prompts of one batch.

Each component of each prompt has a row of its own, which enters the run at the component's layer.
At 0 all axes meet, and one run serves them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import Rows

if TYPE_CHECKING:
    from hvp_utils.components import NodePatches

__all__ = ["along_axes", "axis_batch", "batched_derivative", "derivative", "hessian_delta"]

NO_BAR = tqdm(disable=True)


def along_axes(
    batch: PromptBatch,
    wanted: Int[Tensor, "prompt m"],
    t: Float[Tensor, "prompt m"],
    order: int,
    bar: tqdm,
) -> Float[Tensor, "order prompt m"]:
    """g_c(t) and its first derivatives, one component of one prompt each.

    Args:
        batch: The prompts.
        wanted: Components of each prompt.
        t: Where on its axis each is.
        order: The highest derivative wanted.
        bar: Is told how many are done.
    """
    results = t.new_zeros(order + 1, *t.shape)
    results[0] = batch.base[:, None]
    moving = (batch.patches.delta_norm.gather(1, wanted.to(t.device)) > 0).cpu()
    if order == 1 or (order == 2 and batch.patches.one_run_at_base):
        # At 0 all axes meet: one run serves them all.
        here = moving & (t == 0).cpu()
        moving &= ~here
        if here.any():
            found = _at_base(batch, wanted, here.any(0), order, bar)
            results[1:, here] = found[:, here]
    prompt, column = moving.nonzero(as_tuple=True)
    # In layer order, since a row enters the batch at the layer of its component.
    in_order = batch.layers[wanted[prompt, column]].argsort(stable=True)
    prompt, column = prompt[in_order], column[in_order]

    def derivatives_of(part: slice) -> Tensor:
        p, c = prompt[part], column[part]
        return axis_batch(batch, wanted[p, c], t[p, c], order, batch.rows(p))

    done = list(batch.map(derivatives_of, len(prompt), bar))
    if done:
        results[:, prompt, column] = torch.cat(done, dim=1)
    return results


def _at_base(
    batch: PromptBatch,
    wanted: Int[Tensor, "prompt m"],
    columns: Tensor,
    order: Literal[1, 2],
    bar: tqdm,
) -> Float[Tensor, "order prompt m"]:
    """Slopes, perhaps curvatures, at 0 in some columns of the components wanted; else 0."""
    device = batch.base.device
    found = torch.zeros(order, *wanted.shape, dtype=batch.base.dtype, device=device)
    chosen = wanted[:, columns]
    # In layer order for each prompt, so that a batch of columns has its sites together.
    chosen, back = _sorted_by(batch.layers[chosen], chosen)
    sizes, starts = batch.patches.sizes, batch.starts

    def derivatives_of(part: slice) -> Tensor:
        own = chosen[part].to(device)
        if order == 1:
            return batch.slopes_at_base(batch.rows(part)).gather(1, own)[:, None]
        strengths, slopes = batch.gradient_graph(batch.rows(part))

        def curvatures_of(column: slice) -> Tensor:
            mine = chosen[part][:, column]
            # Only the sites these components live at: nothing below their layers is run.
            sites = slice(
                cast("int", batch.site_of[mine].min().item()),
                cast("int", batch.site_of[mine].max().item()) + 1,
            )
            place = (mine - starts[sites.start]).T[..., None].to(device)  # [column, prompt, 1]
            blank = slopes[0].new_zeros(*place.shape[:2], sum(sizes[sites]))
            directions = blank.scatter(2, place, 1.0).split(sizes[sites], dim=-1)
            rows = batched_derivative(slopes[sites], strengths[sites], directions)
            return torch.cat(rows, dim=-1).gather(2, place)[..., 0]

        weight = part.stop - part.start
        curvature = torch.cat(list(batch.map(curvatures_of, chosen.shape[1], bar, weight)))
        slope = torch.cat(slopes, dim=1).detach().gather(1, own)
        return torch.stack([slope, curvature.T], dim=1)

    # The rows of the inner loop are what takes time; the outer one's are not counted.
    parts = torch.cat(list(batch.map(derivatives_of, len(batch), NO_BAR)))
    found[:, :, columns] = parts.gather(2, back[:, None].expand_as(parts).to(device)).movedim(1, 0)
    return found


def axis_batch(
    batch: PromptBatch,
    components: Int[Tensor, " b"],
    t: Float[Tensor, " b"],
    order: int,
    rows: Rows,
) -> Float[Tensor, "order b"]:
    """Value, slope, ... of a few components, each in a row of its own."""
    t = t.clone().requires_grad_(order > 0)
    with torch.set_grad_enabled(order > 0):
        value = batch.on_axes(components, t, rows)
    derivatives = [value]
    for k in range(order):
        # Row b depends on t_b alone, so the gradient of the sum holds every row's derivative.
        derivatives.append(derivative(derivatives[-1].sum(), t, create_graph=k + 1 < order))
    return torch.stack([d.detach() for d in derivatives])


def hessian_delta(
    batch: PromptBatch,
    wanted: Int[Tensor, "prompt m"],
    t: Float[Tensor, "prompt m"],
    bar: tqdm,
) -> Float[Tensor, "prompt m pos ..."]:
    """H delta of some nodes, shaped like their activation; see ``PatchedMetric.hessian_delta``."""
    prompt, column = torch.ones_like(wanted).nonzero(as_tuple=True)
    order = batch.layers[wanted[prompt, column]].argsort(stable=True)
    prompt, column = prompt[order], column[order]
    nodes = cast("NodePatches", batch.patches)
    if not len(prompt):
        return nodes.deltas[0].new_zeros(*wanted.shape, *nodes.deltas[0].shape[1:])

    def vectors_of(part: slice) -> Tensor:
        p, c = prompt[part], wanted[prompt[part], column[part]]
        rows, at = batch.rows(p), t[p, column[part]].clone().requires_grad_()
        places = batch.places(c)
        shifts = {
            i: nodes.deltas[i].new_zeros(len(at), *nodes.deltas[i].shape[1:]).requires_grad_()
            for i in places
        }
        patches = nodes.patch_on_axes(places, at, rows)
        for i, shift in shifts.items():
            hook = nodes.sites[i].hook
            patches[hook] = _plus(patches[hook], shift)
        value = batch.evaluate(patches, batch.entering(c), rows)
        slope = derivative(value.sum(), at, create_graph=True)
        vectors = torch.zeros_like(next(iter(shifts.values())))
        if not slope.requires_grad:
            return vectors
        found = torch.autograd.grad(slope.sum(), list(shifts.values()), materialize_grads=True)
        for (i, (row, place)), rate in zip(places.items(), found, strict=True):
            own = at.new_zeros(len(row), nodes.sizes[i]).scatter(1, place[:, None], 1.0)
            vectors[row] = rate[row] * nodes.sites[i].spread(own)
        return vectors

    vectors = torch.cat(list(batch.map(vectors_of, len(prompt), bar)))
    back = (prompt * wanted.shape[1] + column).argsort()
    return vectors[back.to(vectors.device)].unflatten(0, wanted.shape)


def _sorted_by(keys: Int[Tensor, "prompt m"], values: Tensor) -> tuple[Tensor, Tensor]:
    """Values in the order of their keys, prompt by prompt, and where each went."""
    order = keys.argsort(dim=1, stable=True)
    return values.gather(1, order), order.argsort(dim=1)


def _plus(patch: Callable[[Tensor], Tensor], shift: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda live: patch(live) + shift[: len(live)]


def derivative(value: Tensor, by: Tensor, create_graph: bool = False) -> Tensor:
    """Gradient of a scalar, and zero where ``value`` does not depend on ``by`` at all."""
    if not value.requires_grad:
        return torch.zeros_like(by)
    return torch.autograd.grad(value, by, create_graph=create_graph, materialize_grads=True)[0]


def batched_derivative(
    values: Sequence[Tensor], by: Sequence[Tensor], directions: Sequence[Tensor]
) -> list[Tensor]:
    """For each of a batch of directions v, the gradient of the sum of values * v.

    One backward pass, vectorised over the batch (``torch.func.vmap``); the graph is kept.
    """
    pairs = [(value, v) for value, v in zip(values, directions, strict=True) if value.requires_grad]
    found = [None] * len(by)
    if pairs:
        values, directions = zip(*pairs, strict=True)
        found = torch.autograd.grad(
            values, by, directions, retain_graph=True, is_grads_batched=True, allow_unused=True
        )
    rows = len(directions[0])
    return [
        part.new_zeros(rows, *part.shape) if derivative is None else derivative
        for derivative, part in zip(found, by, strict=True)
    ]
