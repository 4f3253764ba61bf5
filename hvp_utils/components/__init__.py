"""What can be patched: nodes such as heads and neurons, edges between them, features of an SAE."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge

from .edges import EdgeGraph, EdgePatches, edge_graph, edge_model
from .features import FeaturePatches, SAEFeatures, SparseAutoencoder
from .nodes import NODE_KINDS, NodePatches, Site, find_sites
from .patches import Patches

#: Kinds of components by name.
COMPONENT_KINDS = (*NODE_KINDS, "edges")

#: Makes the patches between two runs of some prompts of their activations, by hook.
Patching = Callable[[Mapping[str, Tensor], Mapping[str, Tensor]], Patches]


def find_patches(
    bridge: TransformerBridge, components: str | SAEFeatures, positions: range, seed: int = 0
) -> tuple[list[str], Patching]:
    """The hooks whose activations components need, and what makes patches of these.

    Args:
        bridge: The model; of edges, the copy that ``edge_model`` makes.
        components: A kind by name, see ``find_sites``; ``"edges"``; or the features of an SAE.
        positions: Positions that are run.
        seed: Seed of sampled components.

    Raises:
        TypeError: Something else.
        ValueError: An unknown name, or components that this model does not have.
    """
    if isinstance(components, SAEFeatures):
        return components.hooks(bridge), partial(FeaturePatches, components, positions)
    if not isinstance(components, str):
        raise TypeError(
            'components must be the name of a kind, such as "heads", or SAEFeatures(sae), not '
            f"{components!r}."
        )
    if components == "edges":
        return EdgePatches.hooks(bridge), partial(EdgePatches, bridge)
    sites = find_sites(bridge, components, positions, seed)
    return [site.hook for site in sites], partial(NodePatches, sites)


__all__ = [
    "COMPONENT_KINDS",
    "NODE_KINDS",
    "EdgeGraph",
    "EdgePatches",
    "FeaturePatches",
    "NodePatches",
    "Patches",
    "SAEFeatures",
    "Site",
    "SparseAutoencoder",
    "edge_graph",
    "edge_model",
    "find_patches",
    "find_sites",
]
