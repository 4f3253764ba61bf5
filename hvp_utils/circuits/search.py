"""Searching for circuits: ACDC, edge pruning, and hybrid attribution and pruning.

Each looks for a small circuit on which M stays where it is with all edges kept, so each works with
any metric. Published versions ask that the whole distribution of the next token stays:
``with_kl`` gives prompts such a metric, 0 for the clean run and less for all else.

A search that is interrupted from the keyboard gives the best circuit so far, and says so.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from hvp_utils import _checks
from hvp_utils.estimators import attribution_patching
from hvp_utils.models import as_bridge
from hvp_utils.patched_metric import PatchedMetric, of_metric
from hvp_utils.tasks import PromptPair

from .circuit import Circuit, graph_of

if TYPE_CHECKING:
    from typing import TypedDict

    from typing_extensions import Unpack

    class PruningOptions(TypedDict, total=False):
        """Options of ``edge_pruning`` that ``hap`` passes on."""

        learning_rate: float
        seed: int


__all__ = ["Found", "acdc", "edge_pruning", "hap", "with_kl"]

_log = logging.getLogger(__name__)


class Found(NamedTuple):
    """What a search found.

    Attributes:
        circuit: The circuit.
        value: M of it, the mean over prompts.
        finished: Whether the search came to its end; if not, this is the best so far.
    """

    circuit: Circuit
    value: float
    finished: bool


@of_metric
def acdc(M: PatchedMetric, threshold: float, together: int = 1) -> Found:
    """Automated circuit discovery: take away edge after edge, from the logits backwards.

    An edge is taken away for good if M falls by less than ``threshold`` from where it is without
    the edges taken away before.

    Args:
        M: The metric over edges, in the noising direction.
        threshold: How much M may fall for one edge, in its unit.
        together: How many edges into the same reader are tried at once, each alone. With 1 the
            search is sequential, as published. With more, those that pass go together, so M may
            fall by more than the threshold at a step; and a batch of runs takes the place of many.

    Raises:
        ValueError: The other direction, no edges, or arguments that make no sense.

    Source:
        Conmy et al. (2023).
    """
    _require_noising(M)
    threshold = _checks.number("threshold", threshold, least=0, infinite=True)
    together = min(_checks.whole("together", together), M.n)
    alpha = torch.zeros(M.n)
    value = float(M(alpha))

    def steps() -> Iterator[int]:
        nonlocal value
        for edges in _by_reader(M):
            for part in edges.split(together):
                tried = alpha.repeat(len(part), 1)
                tried[torch.arange(len(part)), part] = 1
                found = M(tried).cpu()
                gone = value - found < threshold
                alpha[part[gone]] = 1
                if gone.any():
                    alone = gone.sum() == 1
                    value = float(found[gone][0] if alone else M(alpha))
                yield len(part)

    finished = _run(steps(), M.n, "ACDC", "edge")
    return Found(Circuit.from_mask(graph_of(M), alpha == 0), value, finished)


@of_metric
def edge_pruning(
    M: PatchedMetric,
    n_edges: int,
    n_steps: int = 200,
    candidates: Circuit | None = None,
    learning_rate: float = 0.1,
    seed: int = 0,
) -> Found:
    """Learn which edges to keep by gradients, with masks that are pushed to 0 and 1.

    Every edge has a mask z in [0, 1] drawn from a hard concrete distribution (a stretched and
    clipped sigmoid of noise), and M is taken at strengths 1 - z. Adam raises M, while two
    multipliers hold the expected number of edges kept to a target, which falls from all candidates
    to ``n_edges`` over the first two thirds of the steps. In the end the ``n_edges`` most likely
    edges are kept.

    Args:
        M: The metric over edges, in the noising direction.
        n_edges: How many edges the circuit gets.
        n_steps: Steps of the optimiser, each with all prompts of M, a run and a backward pass.
        candidates: The edges to choose from; all by default. The others stay as in the corrupted
            run throughout.
        learning_rate: That of Adam, for the logits of the masks.
        seed: Seed of the noise.

    Raises:
        ValueError: The other direction, no edges, or more edges than there are candidates.

    Source:
        Bhaskar et al. (2024); the distribution is that of Louizos et al. (2018).
    """
    _require_noising(M)
    graph = graph_of(M)
    chosen = torch.arange(M.n)
    if candidates is not None:
        _checks.instance("candidates", candidates, Circuit, "a Circuit, or None for all edges")
        if candidates.graph != graph:
            raise ValueError("candidates is a circuit of another graph than M's edges.")
        chosen = chosen[candidates.mask()]
    n = len(chosen)
    if type(n_edges) is not int or not 0 < n_edges <= n:
        raise ValueError(f"n_edges must be between 1 and the {n} candidates, not {n_edges!r}.")
    _checks.steps("n_steps", n_steps)
    learning_rate = _checks.number("learning_rate", learning_rate, above=0)
    generator = torch.Generator().manual_seed(_checks.seed(seed))
    log_alpha = torch.full((n,), 3.0, requires_grad=True)  # nearly all are kept at first
    multipliers = torch.zeros(2, requires_grad=True)
    ascent = torch.optim.Adam([multipliers], lr=learning_rate, maximize=True)
    descent = torch.optim.Adam([log_alpha], lr=learning_rate)
    outside = torch.ones(M.n)

    def steps() -> Iterator[int]:
        for step in range(n_steps):
            warm = min(1.0, 1.5 * (step + 1) / n_steps)
            target = 1 + warm * (n_edges / n - 1)
            z = _hard_concrete(log_alpha, generator)
            alpha = outside.scatter(0, chosen, 1 - z)
            excess = _expected_share(log_alpha) - target
            loss = -M(alpha).cpu() + multipliers[0] * excess + multipliers[1] * excess.square()
            for optimiser in (descent, ascent):
                optimiser.zero_grad()
            loss.backward()
            for optimiser in (descent, ascent):
                optimiser.step()
            yield 1

    finished = _run(steps(), n_steps, "edge pruning", "step")
    kept = chosen[log_alpha.detach().argsort(descending=True, stable=True)[:n_edges]]
    circuit = Circuit(graph, frozenset(kept.tolist()))
    return Found(circuit, float(M(1.0 - circuit.mask().float())), finished)


@of_metric
def hap(
    M: PatchedMetric,
    n_edges: int,
    n_candidates: int,
    n_steps: int = 200,
    effects: Float[Tensor, " n"] | None = None,
    **options: Unpack[PruningOptions],
) -> Found:
    """Hybrid attribution and pruning: screen edges by attribution, prune what is left.

    Args:
        M: The metric over edges, in the noising direction.
        n_edges: How many edges the circuit gets.
        n_candidates: How many edges pass the screen, by magnitude.
        n_steps: Steps of ``edge_pruning``.
        effects: What edges are screened by; edge attribution patching by default.
        options: Others of ``edge_pruning``.

    Source:
        Gu et al. (2025).
    """
    effects = attribution_patching(M) if effects is None else effects
    screened = Circuit.top(M, effects, n_candidates, signed=False)
    return edge_pruning(M, n_edges, n_steps, screened, **options)


# --- the usual metric -----------------------------------------------------------------------------


def with_kl(
    model: TransformerBridge | PreTrainedModel, pairs: Sequence[PromptPair]
) -> list[PromptPair]:
    """The same prompts with the metric -KL(clean run || run) at the last position, in nats.

    It is 0 for the clean run, whatever the answers, and less where the next token is distributed in
    another way.

    Args:
        model: The model that the clean prompts are run on.
        pairs: The prompts.
    """
    bridge, found = as_bridge(model), []
    pairs = [pairs] if isinstance(pairs, PromptPair) else pairs
    pairs = _checks.items("pairs", pairs, "a list of PromptPair")
    for pair in pairs:
        _checks.instance("each of pairs", pair, PromptPair, "a PromptPair")
        with torch.no_grad():
            logits = bridge(pair.resolve(bridge).clean[None], return_type="logits")[0, -1]
        found.append(replace(pair, metric=_MinusKL(logits.log_softmax(-1))))
    return found


@dataclass(frozen=True, eq=False)
class _MinusKL:
    log_probs: Float[Tensor, " d_vocab"]

    def __call__(self, logits: Float[Tensor, "batch d_vocab"]) -> Float[Tensor, " batch"]:
        return (self.log_probs.exp() * (logits.log_softmax(-1) - self.log_probs)).sum(-1)


# --- the hard concrete distribution ---------------------------------------------------------------

_TEMPERATURE, _LOW, _HIGH = 2 / 3, -0.1, 1.1


def _hard_concrete(
    log_alpha: Float[Tensor, " n"], generator: torch.Generator
) -> Float[Tensor, " n"]:
    """Masks between 0 and 1, many of them exactly 0 or 1."""
    u = torch.rand(log_alpha.shape, generator=generator).clamp(1e-6, 1 - 1e-6)
    s = torch.sigmoid((u.log() - (1 - u).log() + log_alpha) / _TEMPERATURE)
    return (s * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _expected_share(log_alpha: Float[Tensor, " n"]) -> Float[Tensor, ""]:
    """The expected share of masks that are not 0."""
    return torch.sigmoid(log_alpha - _TEMPERATURE * math.log(-_LOW / _HIGH)).mean()


# --- what searches share --------------------------------------------------------------------------


def _by_reader(M: PatchedMetric) -> Iterator[Tensor]:
    """Edges into one reader after the other, the last reader first, its last writer first."""
    start = M.n
    for group in reversed(graph_of(M).readers):
        n_readers = len(group.labels)
        start -= group.n_writers * n_readers
        numbers = torch.arange(group.n_writers * n_readers).view(group.n_writers, n_readers) + start
        for reader in reversed(range(n_readers)):
            yield numbers[:, reader].flip(0)


def _run(steps: Iterator[int], total: int, name: str, unit: str) -> bool:
    """Take all steps of a search; whether it came to its end."""
    with tqdm(total=total, desc=name, unit=unit, delay=2, leave=False) as bar:
        try:
            for done in steps:
                bar.update(done)
        except KeyboardInterrupt:
            _log.warning(
                "%s was interrupted at %d of %d: this is the best so far.", name, bar.n, total
            )
            return False
    return True


def _require_noising(M: PatchedMetric) -> None:
    graph_of(M)
    if M.direction != "noising":
        raise ValueError(
            "A search takes edges away from the clean run, so M must start from it. "
            'Use direction="noising".'
        )
