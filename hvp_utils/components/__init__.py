"""What can be patched: nodes of the network, such as heads and neurons, and edges between them."""

from .edges import EdgeGraph, EdgePatches, edge_graph, edge_model
from .nodes import NODE_KINDS, NodePatches, Site, find_sites
from .patches import Patches

#: Kinds of components by name.
COMPONENT_KINDS = (*NODE_KINDS, "edges")

__all__ = [
    "COMPONENT_KINDS",
    "NODE_KINDS",
    "EdgeGraph",
    "EdgePatches",
    "NodePatches",
    "Patches",
    "Site",
    "edge_graph",
    "edge_model",
    "find_sites",
]
