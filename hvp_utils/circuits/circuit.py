"""A circuit: some edges of a network, thought to be all that a behaviour needs.

As a point in the space of patch strengths it is M's argument with 0 at its edges and 1 at all
others, in the noising direction: its edges carry what they carry in the clean run, the others what
they carry in the corrupted one.
"""

from __future__ import annotations

import heapq
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.components import EdgeGraph, edge_graph
from hvp_utils.patched_metric import PatchedMetric, of_metric

if TYPE_CHECKING:
    from hvp_utils.components import EdgePatches

__all__ = ["Circuit", "importance"]


@of_metric
def importance(M: PatchedMetric, effects: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Effects as what a component does for the clean behaviour: positive where it supports it.

    In the denoising direction that is what patching it gains, in the noising direction what
    patching it loses.
    """
    effects = _checks.tensor("effects", effects, finite=True)
    return effects if M.direction == "denoising" else -effects


@dataclass(frozen=True)
class Circuit:
    """A set of edges.

    Circuits on one graph combine as sets do: ``a & b``, ``a | b``, ``a - b``, ``a <= b``. They
    have a length, labels can be ``in`` them and come out in the order of the network.

    Attributes:
        graph: The graph of all edges.
        numbers: The numbers of the circuit's edges in ``graph.labels``.

    Example:
        >>> M = PatchedMetric(model, pairs, "edges", direction="noising")
        >>> circuit = Circuit.top(M, attribution_patching(M), 200)
        >>> circuit.heads
    """

    graph: EdgeGraph
    numbers: frozenset[int]

    def __post_init__(self) -> None:
        _checks.instance("graph", self.graph, EdgeGraph, "an EdgeGraph")
        _checks.instance("numbers", self.numbers, Set, "a set of numbers of edges")
        for i in self.numbers:
            _checks.whole("each of numbers", i, 0)
        outside = [i for i in self.numbers if i >= self.graph.n_edges]
        if outside:
            raise ValueError(
                f"There is no edge {outside[0]}: the graph has {self.graph.n_edges} edges, "
                "numbered from 0."
            )

    # --- made from labels, masks and scores -----------------------------------------------------

    @classmethod
    def of(cls, graph: EdgeGraph, labels: Iterable[str]) -> Circuit:
        """The circuit of the edges with some labels, such as ``"L4H11->L9H9.q"``.

        Raises:
            ValueError: A label that no edge has.
        """
        _checks.instance("graph", graph, EdgeGraph, "an EdgeGraph")
        labels = [labels] if isinstance(labels, str) else labels
        labels = _checks.items("labels", labels, "labels of edges")
        labels = list(labels)
        for label in labels:
            if not isinstance(label, str) or label not in graph.numbers:
                raise ValueError(
                    f"No edge is called {label!r}. They are called {graph.labels[0]!r}, "
                    f"{graph.labels[-1]!r} and so on."
                )
        return cls(graph, frozenset(graph.numbers[label] for label in labels))

    @classmethod
    def from_mask(cls, graph: EdgeGraph, mask: Bool[Tensor, " n"]) -> Circuit:
        """The circuit of the edges at which a mask is true."""
        _checks.instance("graph", graph, EdgeGraph, "an EdgeGraph")
        mask = _checks.tensor("mask", mask, truth_values=True, as_it_is=True).cpu()
        if mask.shape != (graph.n_edges,) or mask.dtype != torch.bool:
            raise ValueError(
                f"A mask of {graph.n_edges} truth values was expected, one per edge, not "
                f"{mask.dtype} of shape {tuple(mask.shape)}."
            )
        return cls(graph, frozenset(mask.nonzero()[:, 0].tolist()))

    @classmethod
    def top(
        cls, M: PatchedMetric, effects: Float[Tensor, " n"], n: int, signed: bool = True
    ) -> Circuit:
        """The n edges with the largest effects.

        Args:
            M: The metric that the effects belong to, over edges.
            effects: One number per edge, as an estimator gives it.
            n: How many edges.
            signed: Whether only what supports the clean behaviour counts as large (see
                ``importance``), or the magnitude.

        Raises:
            ValueError: No edges, numbers that do not fit them, or more edges than there are.
        """
        graph = graph_of(M)
        ranking = _scores(M, effects, signed).argsort(descending=True, stable=True)
        return cls(graph, frozenset(ranking[: _checked(n, M)].tolist()))

    @classmethod
    def above(
        cls, M: PatchedMetric, effects: Float[Tensor, " n"], threshold: float, signed: bool = True
    ) -> Circuit:
        """The edges with effects above a threshold; arguments as of ``top``."""
        threshold = _checks.number("threshold", threshold, infinite=True)
        graph = graph_of(M)
        return cls.from_mask(graph, _scores(M, effects, signed) > threshold)

    @classmethod
    def greedy(
        cls, M: PatchedMetric, effects: Float[Tensor, " n"], n: int, signed: bool = True
    ) -> Circuit:
        """Up to n edges, grown from the logits backwards; arguments as of ``top``.

        Each step takes the largest of the edges into what is connected so far, so that all edges
        lead to the logits. ``top`` may take edges that lead nowhere.

        Source:
            Hanna, Pezzelle & Belinkov (2024).
        """
        graph, n = graph_of(M), _checked(n, M)
        score = _scores(M, effects, signed).tolist()
        into = defaultdict(list)
        for i, (_, reader) in enumerate(graph.nodes_of_edges):
            into[reader].append(i)
        taken, reached, waiting = [], set(), []

        def reach(node: str) -> None:
            if node not in reached:
                reached.add(node)
                for i in into[node]:
                    heapq.heappush(waiting, (-score[i], i))

        reach("logits")
        while waiting and len(taken) < n:
            _, i = heapq.heappop(waiting)
            taken.append(i)
            reach(graph.nodes_of_edges[i][0])
        return cls(graph, frozenset(taken))

    @classmethod
    def random(cls, graph: EdgeGraph, n: int, seed: int = 0) -> Circuit:
        """N edges drawn at random."""
        _checks.instance("graph", graph, EdgeGraph, "an EdgeGraph")
        _checks.whole("n", n, 0, graph.n_edges)
        generator = torch.Generator().manual_seed(_checks.seed(seed))
        order = torch.randperm(graph.n_edges, generator=generator)
        return cls(graph, frozenset(order[:n].tolist()))

    # --- what is in it --------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.numbers)

    def __iter__(self) -> Iterator[str]:
        labels = self.graph.labels
        return (labels[i] for i in sorted(self.numbers))

    def __contains__(self, label: object) -> bool:
        return self.graph.numbers.get(cast("str", label)) in self.numbers

    def __repr__(self) -> str:
        return f"Circuit({len(self):,} of {self.graph.n_edges:,} edges)"

    def mask(self) -> Bool[Tensor, " n"]:
        """Which edges are in it."""
        mask = torch.zeros(self.graph.n_edges, dtype=torch.bool)
        mask[list(self.numbers)] = True
        return mask

    @property
    def nodes(self) -> tuple[str, ...]:
        """The embedding, heads, MLPs and logits at its edges' ends, in the order of the network."""
        found = {node for i in self.numbers for node in self.graph.nodes_of_edges[i]}
        order = (*self.graph.writer_labels, "logits")
        return tuple(node for node in order if node in found)

    @property
    def heads(self) -> tuple[str, ...]:
        """The heads among its nodes."""
        return tuple(node for node in self.nodes if "H" in node)

    def pruned(self) -> Circuit:
        """Only the edges on a path from the embedding to the logits.

        What is left out carries what it carries in the corrupted run, or reaches nothing; so M of
        the circuit does not change, only its size.
        """
        ends = [(i, *self.graph.nodes_of_edges[i]) for i in sorted(self.numbers)]
        # Edges are numbered by reader, in the order of the network: one sweep each way will do.
        fed = {"embed"}
        for _, writer, reader in ends:
            if writer in fed:
                fed.add(reader)
        used = {"logits"}
        for _, writer, reader in reversed(ends):
            if reader in used:
                used.add(writer)
        return Circuit(self.graph, frozenset(i for i, u, v in ends if u in fed and v in used))

    # --- as sets --------------------------------------------------------------------------------

    def __and__(self, other: Circuit) -> Circuit:
        return self._like(self.numbers & self._same(other))

    def __or__(self, other: Circuit) -> Circuit:
        return self._like(self.numbers | self._same(other))

    def __sub__(self, other: Circuit) -> Circuit:
        return self._like(self.numbers - self._same(other))

    def __le__(self, other: Circuit) -> bool:
        return self.numbers <= self._same(other)

    def _like(self, numbers: frozenset[int]) -> Circuit:
        return Circuit(self.graph, numbers)

    def _same(self, other: Circuit) -> frozenset[int]:
        if not isinstance(other, Circuit):
            raise TypeError(f"A circuit combines with circuits, not with {other!r}.")
        if other.graph != self.graph:
            raise ValueError("These are circuits of models of different shapes.")
        return other.numbers

    # --- as JSON --------------------------------------------------------------------------------

    def to_json(self, path: str | Path | None = None) -> str:
        """The circuit as text: the shape of its graph, and the labels of its edges.

        Args:
            path: Where to write it, too.
        """
        record = {"graph": self.graph.shape(), "edges": list(self)}
        text = json.dumps(record, indent=1) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> Circuit:
        """The circuit that ``to_json`` wrote: its text, or where it lies.

        Raises:
            ValueError: The text is not that of a circuit.
        """
        _checks.instance("source", source, str | Path, "the JSON of a circuit, or its path")
        is_text = isinstance(source, str) and source.lstrip().startswith("{")
        if not (is_text or Path(source).is_file()):
            raise FileNotFoundError(
                f"source is neither the JSON of a circuit nor a file: {_checks.shown(source)}."
            )
        text = cast("str", source) if is_text else Path(source).read_text(encoding="utf-8")
        try:
            record = json.loads(text)
            graph, labels = edge_graph(**record["graph"]), record["edges"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"This is not the JSON of a circuit, which has 'graph' and 'edges': {error!r}."
            ) from None
        return cls.of(graph, labels)


def graph_of(M: PatchedMetric) -> EdgeGraph:
    """The graph whose edges M patches.

    Raises:
        ValueError: M is over something else.
    """
    _checks.instance("M", M, PatchedMetric, "a PatchedMetric")
    if M.components != "edges":
        raise ValueError(
            f"Circuits are made of edges, but this is M over {M.components!r}. "
            'Use components="edges".'
        )
    return cast("EdgePatches", M.batches[0].patches).graph


def _scores(M: PatchedMetric, effects: Tensor, signed: bool) -> Float[Tensor, " n"]:
    effects = _checks.tensor("effects", effects).detach().cpu()
    if effects.shape != (M.n,):
        raise ValueError(
            f"One effect for each of the {M.n} edges was expected, not {tuple(effects.shape)}."
            + (" Take the mean over prompts." if effects.ndim == 2 else "")
        )
    if effects.isnan().any():
        raise ValueError(f"{int(effects.isnan().sum())} of the effects are NaN.")
    signed = _checks.truth("signed", signed)
    return importance(M, effects) if signed else effects.abs()


def _checked(n: int, M: PatchedMetric) -> int:
    if type(n) is not int or not 0 <= n <= M.n:
        raise ValueError(f"A circuit has between 0 and {M.n} edges, not {n!r}.")
    return n
