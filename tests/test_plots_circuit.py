"""The drawing of a circuit: what is in it, and what is refused."""

import matplotlib.pyplot as plt
import pytest
import torch

from hvp_utils import plots
from hvp_utils.circuits import Circuit
from hvp_utils.components import edge_graph

GRAPH = edge_graph(3, 2)
PATHS = Circuit.of(
    GRAPH,
    ["embed->L0H1.v", "L0H1->L1.mlp", "L1.mlp->logits", "embed->L2H0.q", "L2H0->logits"],
)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def drawn(ax):
    boxes = [text.get_text() for text in ax.texts if text.get_text()]
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None) is not None]
    return boxes, arrows


def test_every_node_and_edge_of_the_paths_is_drawn():
    dead = Circuit.of(GRAPH, ["L0.mlp->L1H0.k"])
    ax = plots.circuit(PATHS | dead, title="two ways up")
    nodes, arrows = drawn(ax)
    assert sorted(nodes) == sorted(PATHS.nodes)
    assert len(arrows) == len(PATHS)
    assert ax.get_title(loc="left") + ax.get_title() == "two ways up"
    names = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sorted(names) == ["into a query", "into a value", "into an MLP", "into the logits"]
    places = {text.get_text(): text.get_position() for text in ax.texts if text.get_text()}
    assert len(set(places.values())) == len(places)
    order = [places[node][1] for node in ("embed", "L0H1", "L1.mlp", "L2H0", "logits")]
    assert order == sorted(order) and len(set(order)) == 5


def test_wider_edges_are_larger_and_only_the_largest_are_drawn():
    effects = torch.zeros(GRAPH.n_edges)
    numbers = sorted(PATHS.numbers)
    effects[numbers] = torch.tensor([1.0, 2.0, 5.0, -4.0, 3.0])
    ax = plots.circuit(PATHS, effects)
    widths = [text.arrow_patch.get_linewidth() for text in drawn(ax)[1]]
    assert sorted(range(5), key=widths.__getitem__) == [0, 1, 4, 3, 2]
    path = {"embed->L2H0.q", "L2H0->logits"}
    effects = torch.tensor([1.0 + (label in path) for label in GRAPH.labels])
    ax = plots.circuit(PATHS, effects, most=3)
    assert "(2 of 5 edges drawn)" in ax.get_title(loc="left") + ax.get_title()
    assert sorted(drawn(ax)[0]) == ["L2H0", "embed", "logits"]


def test_what_nobody_could_read_is_refused():
    with pytest.raises(ValueError, match="Nobody can read 5 edges"):
        plots.circuit(PATHS, most=4)
    with pytest.raises(ValueError, match="No edge of this circuit lies on a path"):
        plots.circuit(Circuit.of(GRAPH, ["L0.mlp->L1H0.k"]))
