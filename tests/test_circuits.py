"""Circuits, what they keep, how they are found: against slow, obvious code and known ones."""

import json

import networkx as nx
import numpy as np
import pytest
import torch
from test_edges import slow_edges
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, tiny_model, tiny_pair, tiny_task

from hvp_utils import PatchedMetric, PromptPair, activation_patching, attribution_patching
from hvp_utils.circuits import (
    FRACTIONS,
    Circuit,
    Kept,
    acdc,
    auroc,
    cmd,
    cpr,
    curve,
    edge_pruning,
    faithfulness,
    hap,
    importance,
    overlap,
    search,
    with_kl,
)
from hvp_utils.components import edge_graph
from hvp_utils.models import as_bridge
from hvp_utils.planted import planted_model

GRAPH = edge_graph(2, 2)
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)


def edges_of(architecture, pairs=None, direction="noising"):
    pairs = tiny_pair() if pairs is None else pairs
    return PatchedMetric(tiny_model(architecture), pairs, "edges", direction)


@pytest.fixture(scope="module")
def M():
    return edges_of("llama")


@pytest.fixture
def effects(M, random):
    return random(M.n)


def is_node_of(reader):
    return reader if reader.endswith(".mlp") else reader.split(".")[0]


# --- circuits as sets --------------------------------------------------------------------------


def test_circuits_behave_as_sets_of_labels():
    a = Circuit.of(GRAPH, ["embed->L0H0.q", "L0H1->L1H0.v", "L1.mlp->logits"])
    b = Circuit.of(GRAPH, ["L1.mlp->logits", "embed->logits"])
    assert len(a) == 3 and "L0H1->L1H0.v" in a and "embed->logits" not in a
    assert set(a | b) == set(a) | set(b)
    assert set(a & b) == {"L1.mlp->logits"}
    assert set(a - b) == set(a) - set(b)
    assert (a & b) <= a and not a <= b
    assert list(a) == sorted(a, key=GRAPH.labels.index)
    assert a == Circuit.from_mask(GRAPH, a.mask()) and hash(a) == hash(Circuit.of(GRAPH, a))
    assert a.mask().sum() == 3 and a.mask().shape == (GRAPH.n_edges,)
    assert a.nodes == ("embed", "L0H0", "L0H1", "L1H0", "L1.mlp", "logits")
    assert a.heads == ("L0H0", "L0H1", "L1H0")
    with pytest.raises(AttributeError):
        a.numbers = frozenset()


def test_what_cannot_be_a_circuit_is_refused(M, effects):
    with pytest.raises(ValueError, match="No edge is called 'L9->L2'"):
        Circuit.of(GRAPH, ["L9->L2"])
    with pytest.raises(ValueError, match="no edge 900"):
        Circuit(GRAPH, frozenset([900]))
    with pytest.raises(ValueError, match="truth values was expected"):
        Circuit.from_mask(GRAPH, torch.ones(GRAPH.n_edges))
    with pytest.raises(ValueError, match="different shapes"):
        Circuit(GRAPH, frozenset()) | Circuit(edge_graph(3, 2), frozenset())
    with pytest.raises(TypeError, match="combines with circuits"):
        Circuit(GRAPH, frozenset()) | {"embed->logits"}
    with pytest.raises(ValueError, match="between 0 and"):
        Circuit.top(M, effects, M.n + 1)
    with pytest.raises(ValueError, match="2 of the effects are NaN"):
        Circuit.top(M, torch.cat([effects[2:], torch.full((2,), torch.nan)]), 5)
    with pytest.raises(ValueError, match="Take the mean over prompts"):
        Circuit.top(M, effects.repeat(2, 1), 5)
    heads = PatchedMetric(tiny_model("llama"), tiny_pair(), "heads", "noising")
    with pytest.raises(ValueError, match='Use components="edges"'):
        Circuit.top(heads, torch.zeros(heads.n), 1)


@pytest.mark.parametrize("direction", ("denoising", "noising"))
def test_top_takes_what_supports_the_clean_behaviour(direction, random):
    M = edges_of("llama", direction=direction)
    effects = random(M.n)
    gain = (effects if direction == "denoising" else -effects).tolist()
    assert importance(M, effects).tolist() == gain
    order = sorted(range(M.n), key=lambda i: -gain[i])
    assert Circuit.top(M, effects, 20).numbers == frozenset(order[:20])
    by_size = sorted(range(M.n), key=lambda i: -abs(gain[i]))
    assert Circuit.top(M, effects, 20, signed=False).numbers == frozenset(by_size[:20])
    for signed in (True, False):
        expected = {i for i in range(M.n) if (gain[i] if signed else abs(gain[i])) > 0.8}
        assert Circuit.above(M, effects, 0.8, signed).numbers == expected
    assert Circuit.top(M, effects, 3) <= Circuit.top(M, effects, 4)


@pytest.mark.parametrize("parallel", (False, True))
@pytest.mark.parametrize("seed", range(5))
def test_pruning_leaves_what_lies_on_a_path(seed, parallel):
    graph = edge_graph(3, 2, parallel)
    circuit = Circuit.random(graph, 40, seed)
    network = nx.DiGraph()
    network.add_nodes_from(("embed", "logits"))
    for label in circuit:
        writer, reader = label.split("->")
        network.add_edge(writer, is_node_of(reader))
    fed = nx.descendants(network, "embed") | {"embed"}
    used = nx.ancestors(network, "logits") | {"logits"}
    expected = {
        label
        for label in circuit
        if label.split("->")[0] in fed and is_node_of(label.split("->")[1]) in used
    }
    assert set(circuit.pruned()) == expected
    assert circuit.pruned().pruned() == circuit.pruned()


@each_architecture
def test_pruning_does_not_change_the_metric(architecture):
    M = edges_of(architecture)
    graph = M.batches[0].patches.graph
    circuits = [Circuit.random(graph, n, seed) for seed, n in enumerate((60, 120, 200))]
    pruned = [circuit.pruned() for circuit in circuits]
    assert any(len(a) < len(b) for a, b in zip(pruned, circuits, strict=True))
    found = faithfulness(M, [*circuits, *pruned]).values[0]
    assert found[:3] == pytest.approx(found[3:], rel=1e-10)


def test_greedy_grows_from_the_logits(M, effects):
    score = dict(zip(M.labels, (-effects).tolist(), strict=True))
    for n in (1, 10, 80):
        taken, reached = [], {"logits"}
        for _ in range(n):
            open_edges = [
                label
                for label in M.labels
                if label not in taken and is_node_of(label.split("->")[1]) in reached
            ]
            best = max(open_edges, key=score.get)
            taken.append(best)
            reached.add(best.split("->")[0])
        assert set(Circuit.greedy(M, effects, n)) == set(taken)
    assert len(Circuit.greedy(M, effects, M.n)) == M.n


@pytest.mark.parametrize("parallel", (False, True))
def test_json_brings_the_circuit_back(tmp_path, parallel):
    graph = edge_graph(3, 4, parallel)
    assert edge_graph(**graph.shape()) == graph
    circuit = Circuit.random(graph, 30)
    path = tmp_path / "circuit.json"
    text = circuit.to_json(path)
    assert Circuit.from_json(text) == Circuit.from_json(path) == circuit
    assert Circuit.from_json(str(path)) == circuit
    assert json.loads(text)["edges"] == list(circuit)
    for broken in ("{", '{"edges": []}', '{"graph": {"n_layers": 2}, "edges": []}'):
        with pytest.raises(ValueError, match="not the JSON of a circuit"):
            Circuit.from_json(broken)
    with pytest.raises(ValueError, match="No edge is called"):
        Circuit.from_json(text.replace(next(iter(circuit)), "L9H9->L2.mlp"))


# --- faithfulness --------------------------------------------------------------------------------


@each_architecture
def test_a_circuit_equals_the_slow_reference(architecture):
    """Every input of every reader computed anew, one circuit at a time."""
    M, slow = edges_of(architecture), slow_edges(architecture, "noising")
    circuits = [Circuit.random(M.batches[0].patches.graph, n, n) for n in (40, 150)]
    kept = faithfulness(M, circuits)
    for i, circuit in enumerate(circuits):
        assert kept.values[0, i] == pytest.approx(slow.M(1 - circuit.mask().double()).item())
    assert kept.full[0] == pytest.approx(slow.M(torch.zeros(M.n)).item())
    assert kept.empty[0] == pytest.approx(slow.M(torch.ones(M.n)).item())


def test_many_prompts_are_each_prompt(random):
    bridge = tiny_model("llama")
    pairs = [tiny_pair(), *tiny_task(bridge, 3), tiny_pair("last")]
    M = edges_of("llama", pairs)
    graph = M.batches[0].patches.graph
    circuits = [
        Circuit.random(graph, 50),
        Circuit(graph, frozenset()),
        Circuit.random(graph, 150, 1),
        Circuit(graph, frozenset(range(M.n))),
        Circuit.random(graph, 50),
    ]
    kept = faithfulness(M, circuits)
    for i, pair in enumerate(pairs):
        alone = edges_of("llama", pair)
        expected = [alone(1 - c.mask().double()).item() for c in circuits]
        assert kept.values[i] == pytest.approx(expected, rel=1e-9)
        assert (kept.full[i], kept.empty[i]) == pytest.approx((alone.base, alone.other))
    share = (kept.values.mean(0) - kept.empty.mean()) / (kept.full.mean() - kept.empty.mean())
    assert kept.faithfulness() == pytest.approx(share)
    assert kept.faithfulness()[[1, 3]] == pytest.approx([0, 1])
    twice = kept.faithfulness([2, 2, 0])
    values = kept.values[[2, 2, 0]].mean(0)
    gap = kept.full[[2, 2, 0]].mean() - kept.empty[[2, 2, 0]].mean()
    assert twice == pytest.approx((values - kept.empty[[2, 2, 0]].mean()) / gap)


def test_nodes_can_be_kept_too(random):
    M = PatchedMetric(tiny_model("qwen2"), tiny_task(tiny_model("qwen2"), 2), "heads", "noising")
    mask = torch.stack(
        [torch.arange(M.n) % 2 == 0, torch.zeros(M.n).bool(), torch.ones(M.n).bool()]
    )
    kept = faithfulness(M, mask)
    points = (~mask).double()[:, None]
    assert_close(torch.tensor(kept.values), M.each(points).T)
    assert kept.empty == pytest.approx(M.each(torch.ones(1, 1, M.n))[0].tolist())
    assert kept.faithfulness()[1:] == pytest.approx([0, 1])


@each_architecture
def test_no_edge_alone_brings_anything_back(architecture):
    """But the one from the embedding to the logits, where the last token differs."""
    M = edges_of(architecture, tiny_pair("last"))
    direct = torch.tensor([label == "embed->logits" for label in M.labels])
    slope = M.gradient(torch.ones(M.n, dtype=torch.float64)).abs()
    assert slope[direct].max() > 1e-4
    assert slope[~direct].max() < 1e-11
    some = [Circuit(M.batches[0].patches.graph, frozenset([i])) for i in range(0, M.n - 1, 9)]
    change = faithfulness(M, some).values[0] - M.other
    lone = np.array(["embed->logits" not in circuit for circuit in some])
    assert abs(change[lone]).max() < 1e-11


def test_areas_by_hand():
    """Trapezoids between MIB's fractions, of the curve and of its distance from 1."""
    values = np.array([[0.0, 1.0, 3.0], [0.0, 3.0, 3.0]])
    kept = Kept(values, full=np.array([2.0, 2.0]), empty=np.array([0.0, 0.0]))
    assert kept.faithfulness().tolist() == [0, 1, 1.5]
    assert kept.faithfulness([0]).tolist() == [0, 0.5, 1.5]
    interval = kept.interval(lambda f: f[1])
    assert interval.estimate == 1 and (interval.low, interval.high) == (0.5, 1.5)


def test_curve_is_cut_from_a_ranking(random):
    bridge = tiny_model("llama")
    M = edges_of("llama", tiny_task(bridge, 4))
    effects = random(M.n)
    for signed, area in ((True, cpr), (False, cmd)):
        found = curve(M, effects, signed)
        assert found.fractions == FRACTIONS and len(found.circuits) == 10
        f = []
        for share, circuit in zip(FRACTIONS, found.circuits, strict=True):
            assert circuit == Circuit.top(M, effects, int(share * M.n), signed)
            m = M(1 - circuit.mask().double()).item()
            f.append((m - M.other) / (M.base - M.other))
        assert found.faithfulness == pytest.approx(f)
        height = f if signed else [abs(1 - x) for x in f]
        expected = sum(
            (b - a) * (x + y) / 2
            for a, b, x, y in zip(FRACTIONS, FRACTIONS[1:], height, height[1:], strict=False)
        )
        interval = area(M, effects)
        assert interval.estimate == pytest.approx(expected)
        assert interval.low < expected < interval.high
    greedy = curve(M, effects, cut=Circuit.greedy)
    assert greedy.circuits[5] == Circuit.greedy(M, effects, int(0.05 * M.n))
    alone = cpr(edges_of("llama"), effects)
    assert np.isfinite(alone.estimate) and np.isnan(alone.low)


def test_what_cannot_be_evaluated_is_refused(M):
    circuit = Circuit.random(M.batches[0].patches.graph, 5)
    with pytest.raises(ValueError, match='Use direction="noising"'):
        faithfulness(edges_of("llama", direction="denoising"), circuit)
    with pytest.raises(ValueError, match="no circuit to run"):
        faithfulness(M, [])
    with pytest.raises(TypeError, match="not str"):
        faithfulness(M, ["embed->logits"])
    with pytest.raises(ValueError, match="Masks must be truth values"):
        faithfulness(M, torch.ones(2, M.n))
    with pytest.raises(ValueError, match="nothing to be faithful to"):
        faithfulness(edges_of("llama", tiny_pair("same")), circuit)


# --- comparison ----------------------------------------------------------------------------------


def test_overlap_by_counting(M, effects):
    found, known = Circuit.top(M, effects, 30), Circuit.top(M, effects.roll(3), 50)
    both = sum(label in set(known) for label in found)
    result = overlap(found, known)
    assert result == (both / 30, both / 50, both / (80 - both))
    assert overlap(found, found) == (1, 1, 1)
    empty = Circuit(found.graph, frozenset())
    assert np.isnan(overlap(empty, found).precision) and overlap(empty, found).recall == 0


def test_auroc_by_counting_pairs(M, effects):
    known = Circuit.random(M.batches[0].patches.graph, 40)
    effects = effects.round(decimals=1)  # ties
    for signed, score in ((False, effects.abs()), (True, -effects)):
        inside, outside = score[known.mask()], score[~known.mask()]
        wins = sum(float(a > b) + 0.5 * float(a == b) for a in inside for b in outside)
        expected = wins / (len(inside) * len(outside))
        assert auroc(M, effects, known, signed) == pytest.approx(expected)
    assert np.isnan(auroc(M, effects, Circuit(known.graph, frozenset())))


# --- search --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def planted():
    made = planted_model(seed=1)
    bridge = as_bridge(made.model)
    generator = torch.Generator().manual_seed(1)
    clean, corrupted = torch.randint(0, 40, (2, 8), generator=generator).tolist()
    pairs = with_kl(bridge, [PromptPair(clean, corrupted, 5)])
    M = PatchedMetric(bridge, pairs, "edges", "noising")
    return M, Circuit.of(M.batches[0].patches.graph, made.circuit)


def test_kl_by_hand():
    bridge = tiny_model("llama")
    (pair,) = with_kl(bridge, [tiny_pair()])
    M = PatchedMetric(bridge, pair, "edges", "noising")
    p, q = (
        bridge(torch.tensor([tokens]))[0, -1].softmax(-1) for tokens in (pair.clean, pair.corrupted)
    )
    expected = -sum(float(a * (a / b).log()) for a, b in zip(p, q, strict=True))
    assert M.base == pytest.approx(0, abs=1e-12)
    assert M.other == pytest.approx(expected) and M.other < -0.01


def test_acdc_finds_a_planted_circuit(planted):
    M, known = planted
    one, many = acdc(M, 1e-7), acdc(M, 1e-7, together=1000)
    assert one.finished and many.finished
    # Of what belongs to the circuit a little may not matter for this prompt.
    assert one.circuit <= known and overlap(one.circuit, known).recall > 0.9
    assert many.circuit <= known
    assert one.value == pytest.approx(M(1 - one.circuit.mask().double()).item(), abs=1e-12)
    assert many.value == pytest.approx(M(1 - many.circuit.mask().double()).item(), abs=1e-12)


def slow_acdc(M, threshold):
    """One edge after the other, from the last reader and its last writer."""
    order = [label.split("->")[1] for label in M.labels]
    readers = list(dict.fromkeys(order))
    alpha, value = torch.zeros(M.n), M.base
    for reader in reversed(readers):
        for i in reversed([i for i in range(M.n) if order[i] == reader]):
            alpha[i] = 1
            now = M(alpha).item()
            if value - now < threshold:
                value = now
            else:
                alpha[i] = 0
    return {M.labels[i] for i in range(M.n) if alpha[i] == 0}


@pytest.mark.parametrize("architecture", ("gpt2", "gemma3"))
def test_acdc_equals_the_slow_loop(architecture):
    M = edges_of(architecture)
    threshold = 0.02
    found = acdc(M, threshold)
    assert set(found.circuit) == slow_acdc(M, threshold)
    assert 0 < len(found.circuit) < M.n
    # Tried together, edges do not hear of each other, and the circuits differ.
    assert acdc(M, threshold, together=50).circuit != found.circuit
    assert len(acdc(M, 1e9).circuit) == 0


def test_edge_pruning_and_hap_find_a_planted_circuit(planted):
    M, known = planted
    n = len(known)
    chance = n / M.n
    found = edge_pruning(M, n, n_steps=150)
    assert found.finished and len(found.circuit) == n
    assert overlap(found.circuit, known).precision > max(0.75, 2 * chance)
    assert found.value == pytest.approx(M(1 - found.circuit.mask().double()).item(), abs=1e-9)
    by_random = Circuit.random(known.graph, n)
    assert found.value > M(1 - by_random.mask().double()).item()
    again = edge_pruning(M, n, n_steps=150)
    assert again.circuit == found.circuit
    # KL is flat at the clean run, so edges are screened by their exact effects.
    effects = activation_patching(M)
    screened = hap(M, n, n + 30, 60, effects)
    assert screened.circuit <= Circuit.top(M, effects, n + 30, signed=False)
    assert overlap(screened.circuit, known).precision > 0.75


def test_hap_screens_by_attribution():
    M = edges_of("llama")
    found = hap(M, 20, 60, 5)
    assert found.circuit <= Circuit.top(M, attribution_patching(M), 60, signed=False)
    assert len(found.circuit) == 20


def test_hard_concrete_masks_are_what_they_should_be():
    log_alpha = torch.tensor([-3.0, 0.0, 2.0]).repeat(20_000, 1)
    generator = torch.Generator().manual_seed(0)
    z = search._hard_concrete(log_alpha, generator)
    assert z.min() == 0 and z.max() == 1
    for i in range(3):
        open_share = (z[:, i] > 0).double().mean().item()
        assert open_share == pytest.approx(search._expected_share(log_alpha[:, i]).item(), abs=0.01)


@pytest.mark.parametrize("stop_at", (5, 40))
def test_an_interrupted_search_keeps_the_best_so_far(monkeypatch, caplog, stop_at):
    M = edges_of("llama")
    calls, run = [], PatchedMetric.__call__

    def interrupted(self, alpha):
        calls.append(1)
        if len(calls) == stop_at:
            raise KeyboardInterrupt
        return run(self, alpha)

    monkeypatch.setattr(PatchedMetric, "__call__", interrupted)
    found = acdc(M, 0.05, together=4)
    assert not found.finished and 0 < len(found.circuit) <= M.n
    assert "ACDC was interrupted" in caplog.text
    calls.clear()
    found = edge_pruning(M, 30, 100)
    assert not found.finished and len(found.circuit) == 30
    assert np.isfinite(found.value)


def test_searches_refuse_what_makes_no_sense(M):
    with pytest.raises(ValueError, match='Use direction="noising"'):
        acdc(edges_of("llama", direction="denoising"), 0.1)
    for threshold in (-1, float("nan")):
        with pytest.raises(ValueError, match="threshold"):
            acdc(M, threshold)
    with pytest.raises(ValueError, match="together"):
        acdc(M, 0.1, together=0)
    with pytest.raises(ValueError, match="between 1 and the 262"):
        edge_pruning(M, 0)
    with pytest.raises(ValueError, match="n_steps"):
        edge_pruning(M, 3, 0)
    with pytest.raises(ValueError, match="between 1 and the 5"):
        hap(M, 6, 5)
    heads = PatchedMetric(tiny_model("llama"), tiny_pair(), "heads", "noising")
    with pytest.raises(ValueError, match='components="edges"'):
        acdc(heads, 0.1)
