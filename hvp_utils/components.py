"""What can be patched: heads, queries, keys, values, MLP outputs, residual stream, neurons.

A *component* is a slice of one activation tensor. The tensors are named by their TransformerLens
hook; each holds several components, laid out along some of its dimensions (heads, positions or
neurons) or filling it whole (MLP outputs). That layout is all the rest of the package needs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

__all__ = ["COMPONENT_KINDS", "Site", "find_sites"]


@dataclass(frozen=True, eq=False)
class Site:
    """One activation tensor and the components it holds.

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

    def norms(self, delta: Float[Tensor, "pos ..."]) -> Float[Tensor, " n"]:
        """Euclidean norm of each component's activation difference."""
        squares = delta.square().sum_to_size(self.shape).reshape(-1)
        return (squares if self.chosen is None else squares[self.chosen.to(delta.device)]).sqrt()


def _heads(bridge: TransformerBridge, layer: int, positions: range, chosen) -> Site:
    n = bridge.cfg.n_heads
    labels = tuple(f"L{layer}H{head}" for head in range(n))
    return Site(f"blocks.{layer}.attn.hook_z", layer, labels, (1, n, 1))


def _attention_input(
    bridge: TransformerBridge, layer: int, positions: range, chosen, hook: str
) -> Site:
    """Queries, keys or values of one layer, one component per position and head."""
    n = bridge.cfg.n_heads
    if hook != "hook_q":  # several query heads may share one key and value head
        n = getattr(bridge.cfg, "n_key_value_heads", None) or n
    labels = tuple(f"L{layer}H{head}P{pos}" for pos in positions for head in range(n))
    return Site(f"blocks.{layer}.attn.{hook}", layer, labels, (len(positions), n, 1))


def _mlp_out(bridge: TransformerBridge, layer: int, positions: range, chosen) -> Site:
    return Site(f"blocks.{layer}.hook_mlp_out", layer, (f"L{layer}.mlp",), (1, 1))


def _resid(bridge: TransformerBridge, layer: int, positions: range, chosen) -> Site:
    labels = tuple(f"L{layer}P{pos}" for pos in positions)
    return Site(f"blocks.{layer}.hook_resid_post", layer, labels, (len(positions), 1))


def _neurons(bridge: TransformerBridge, layer: int, positions: range, chosen, hook: str) -> Site:
    labels = tuple(
        f"L{layer}N{int(neuron)}"
        for neuron in (range(bridge.cfg.d_mlp) if chosen is None else chosen)
    )
    return Site(f"blocks.{layer}.mlp.{hook}", layer, labels, (1, bridge.cfg.d_mlp), chosen)


#: Component kinds by name. Heads, MLP outputs and neurons are patched at all positions together,
#: the others position by position.
COMPONENT_KINDS = {
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
    """The activation tensors of a component kind, in layer order.

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
    """
    kind, _, count = components.partition(":")
    if kind not in COMPONENT_KINDS:
        raise ValueError(
            f"Unknown components {components!r}. Known kinds: {', '.join(COMPONENT_KINDS)}; "
            'neurons can be sampled, as in "neurons_pre:256" (256 per layer).'
        )
    if count and not kind.startswith("neurons"):
        raise ValueError(f"{components!r}: only neurons can be sampled; use {kind!r}.")
    if count and not (count.isdigit() and 1 <= int(count) <= bridge.cfg.d_mlp):
        raise ValueError(
            f"{components!r}: the number of neurons per layer must be between 1 and "
            f"{bridge.cfg.d_mlp}, the width of this model's MLPs."
        )
    generator = torch.Generator().manual_seed(seed)
    sites = []
    for layer in range(bridge.cfg.n_layers):
        chosen = None
        if count:
            chosen = torch.randperm(bridge.cfg.d_mlp, generator=generator)[: int(count)].sort()[0]
        site = COMPONENT_KINDS[kind](bridge, layer, positions, chosen)
        if site.hook not in bridge.hook_dict:
            raise ValueError(f"This model has no hook {site.hook!r}, which {kind!r} needs.")
        sites.append(site)
    return tuple(sites)
