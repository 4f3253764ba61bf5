"""Nodes of a network: heads, queries, keys, values, MLP outputs, residual stream, neurons.

A *node* is a slice of one activation tensor. The tensors are named by their TransformerLens hook;
each holds several nodes, laid out along some of its dimensions (heads, positions or neurons) or
filling it whole (MLP outputs). A patch adds strength times difference, whatever else is patched.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import _checks
from hvp_utils.architectures import require_node_kind
from hvp_utils.suffix_run import Patch, Rows

from .patches import Patches

__all__ = ["NODE_KINDS", "NodePatches", "Site", "find_sites"]


@dataclass(frozen=True, eq=False)
class Site:
    """One activation tensor and the nodes it holds.

    Attributes:
        hook: TransformerLens hook name; the activation there is ``[batch, pos, *rest]``.
        layer: Layer of the hook.
        labels: One label per component, such as ``L4H11``.
        shape: How component strengths broadcast against one activation ``[pos, *rest]``: size 1
            everywhere but in the dimensions that the components are laid out along.
        chosen: Indices among those positions when only some of the components were asked for.
    """

    hook: str
    layer: int
    labels: tuple[str, ...]
    shape: tuple[int, ...]
    chosen: Int[Tensor, " n"] | None = None

    def spread(self, alpha: Float[Tensor, "batch n"]) -> Float[Tensor, "batch ..."]:
        """Patch strengths, ready to multiply an activation difference ``[pos, *rest]``."""
        if self.chosen is not None:
            full = alpha.new_zeros(len(alpha), math.prod(self.shape))
            alpha = full.index_copy(1, self.chosen.to(alpha.device), alpha)
        return alpha.reshape(len(alpha), *self.shape)

    def norms(self, delta: Float[Tensor, "*prompt pos ..."]) -> Float[Tensor, "*prompt n"]:
        """Euclidean norm of each component's activation difference."""
        prompts = delta.shape[: delta.ndim - len(self.shape)]
        squares = delta.square().sum_to_size(*prompts, *self.shape).reshape(*prompts, -1)
        chosen = slice(None) if self.chosen is None else self.chosen.to(delta.device)
        return squares[..., chosen].sqrt()


class NodePatches(Patches):
    """Patches of nodes between two runs of some prompts.

    Args:
        sites: The activation tensors that hold them, in layer order.
        base: Activations of the base run at their hooks, ``[prompt, pos, *rest]``.
        other: Those of the other run.

    Attributes:
        sites: As given.
        deltas: For each site the difference of its activation, ``[prompt, pos, *rest]``.
    """

    def __init__(
        self, sites: tuple[Site, ...], base: Mapping[str, Tensor], other: Mapping[str, Tensor]
    ):
        self.sites = sites
        self.deltas = [other[site.hook] - base[site.hook] for site in sites]
        self.labels = tuple(label for site in sites for label in site.labels)
        self.sizes = [len(site.labels) for site in sites]
        self.site_layers = [site.layer for site in sites]
        norms = [site.norms(delta) for site, delta in zip(sites, self.deltas, strict=True)]
        self.delta_norm = torch.cat(norms, dim=1)

    def patch(self, strengths: Mapping[int, Tensor], rows: Rows) -> dict[str, Patch]:
        """See ``Patches``: live activations plus strength times difference."""

        def shift(i: int) -> Patch:
            site, delta, strength = self.sites[i], self.deltas[i], strengths[i]
            return lambda live: (
                live + site.spread(strength[: len(live)]) * rows.of(delta, len(live))
            )

        return {self.sites[i].hook: shift(i) for i in strengths}


def _heads(bridge: TransformerBridge, layer: int, positions: range, chosen: Tensor | None) -> Site:
    n = bridge.cfg.n_heads
    labels = tuple(f"L{layer}H{head}" for head in range(n))
    return Site(f"blocks.{layer}.attn.hook_z", layer, labels, (1, n, 1))


def _attention_input(
    bridge: TransformerBridge, layer: int, positions: range, chosen: Tensor | None, hook: str
) -> Site:
    """Queries, keys or values of one layer, one component per position and head."""
    n = bridge.cfg.n_heads
    if hook != "hook_q":  # several query heads may share one key and value head
        n = getattr(bridge.cfg, "n_key_value_heads", None) or n
    labels = tuple(f"L{layer}H{head}P{pos}" for pos in positions for head in range(n))
    return Site(f"blocks.{layer}.attn.{hook}", layer, labels, (len(positions), n, 1))


def _mlp_out(
    bridge: TransformerBridge, layer: int, positions: range, chosen: Tensor | None
) -> Site:
    return Site(f"blocks.{layer}.hook_mlp_out", layer, (f"L{layer}.mlp",), (1, 1))


def _resid(bridge: TransformerBridge, layer: int, positions: range, chosen: Tensor | None) -> Site:
    labels = tuple(f"L{layer}P{pos}" for pos in positions)
    return Site(f"blocks.{layer}.hook_resid_post", layer, labels, (len(positions), 1))


def _neurons(
    bridge: TransformerBridge, layer: int, positions: range, chosen: Tensor | None, hook: str
) -> Site:
    labels = tuple(
        f"L{layer}N{int(neuron)}"
        for neuron in (range(cast("int", bridge.cfg.d_mlp)) if chosen is None else chosen)
    )
    return Site(
        f"blocks.{layer}.mlp.{hook}", layer, labels, (1, cast("int", bridge.cfg.d_mlp)), chosen
    )


#: Kinds of nodes by name. Heads, MLP outputs and neurons are patched at all positions together,
#: the others position by position.
NODE_KINDS = {
    "heads": _heads,
    "queries": partial(_attention_input, hook="hook_q"),
    "keys": partial(_attention_input, hook="hook_k"),
    "values": partial(_attention_input, hook="hook_v"),
    "mlp_out": _mlp_out,
    "resid": _resid,
    "neurons_pre": partial(_neurons, hook="hook_pre"),
    "neurons_post": partial(_neurons, hook="hook_post"),
}


def find_sites(
    bridge: TransformerBridge, components: str, positions: range, seed: int = 0
) -> tuple[Site, ...]:
    """The activation tensors of a kind of node, in layer order.

    Args:
        bridge: The model.
        components: ``"heads"`` (``hook_z``, the head outputs before the output projection),
            ``"queries"``, ``"keys"``, ``"values"`` (one component per position and head),
            ``"mlp_out"``, ``"resid"`` (``hook_resid_post``, one component per layer and position),
            ``"neurons_pre"`` or ``"neurons_post"`` (before and after the activation function). A
            neuron kind followed by a number, such as ``"neurons_pre:256"``, takes that many
            neurons of each layer, drawn without replacement.
        positions: Positions that the two prompts can differ at; kinds with one component per
            position list only these.
        seed: Seed of the draw.

    Raises:
        ValueError: Unknown kind, or more neurons asked for than a layer has.
        NotImplementedError: Nodes that this architecture does not have one by one.
    """
    _checks.model(bridge, "bridge")
    _checks.instance("components", components, str, "a kind of node by name")
    _checks.instance("positions", positions, range, "a range of positions")
    _checks.seed(seed)
    kind, _, count = components.partition(":")
    if kind not in NODE_KINDS:
        raise ValueError(
            f"Unknown components {components!r}. Known kinds: {', '.join(NODE_KINDS)}, edges; "
            'neurons can be sampled, as in "neurons_pre:256" (256 per layer).'
        )
    if count and not kind.startswith("neurons"):
        raise ValueError(f"{components!r}: only neurons can be sampled; use {kind!r}.")
    if count and not (count.isdigit() and 1 <= int(count) <= cast("int", bridge.cfg.d_mlp)):
        raise ValueError(
            f"{components!r}: the number of neurons per layer must be between 1 and "
            f"{bridge.cfg.d_mlp}, the width of this model's MLPs."
        )
    require_node_kind(bridge, kind)
    generator = torch.Generator().manual_seed(seed)
    known = bridge.hook_dict  # made anew each time it is asked for
    sites = []
    for layer in range(bridge.cfg.n_layers):
        chosen = None
        if count:
            chosen = torch.randperm(cast("int", bridge.cfg.d_mlp), generator=generator)[
                : int(count)
            ].sort()[0]
        site = NODE_KINDS[kind](bridge, layer, positions, chosen)
        if site.hook not in known:
            raise ValueError(f"This model has no hook {site.hook!r}, which {kind!r} needs.")
        sites.append(site)
    return tuple(sites)
