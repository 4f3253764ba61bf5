"""Edges: against slow, obvious code, TransformerLens, and a model with a known circuit."""

import functools

import pytest
import reference
import torch
from scipy.stats import rankdata
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, N_HEADS, N_LAYERS, PROMPTS, tiny_model, tiny_pair
from transformer_lens.tools.analysis import attribution_patching as peer
from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    eap_ig,
    gim,
    hvp,
    integrated_gradients,
    ms_hvp,
    sketched_hvp,
)
from hvp_utils.components import edge_graph, edge_model
from hvp_utils.curvature import diagonal, row_norms
from hvp_utils.estimators import (
    eap_gp,
    local_curvature,
    local_quadratic_term,
    local_sketched_hvp,
    relp,
    third_order,
)
from hvp_utils.models import as_bridge
from hvp_utils.planted import _that_can_matter, planted_model
from hvp_utils.reliability import hessian_lipschitz

DIRECTIONS = ("denoising", "noising")
each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)
# For what takes long: every architecture, and both directions.
each_in_a_direction = pytest.mark.parametrize(
    ("architecture", "direction"), list(zip(ARCHITECTURES, DIRECTIONS * 3, strict=True))
)
each_direction = pytest.mark.parametrize("direction", DIRECTIONS)


def metric(architecture, direction="denoising", where="middle", **kwargs):
    return PatchedMetric(tiny_model(architecture), tiny_pair(where, **kwargs), "edges", direction)


@functools.cache
def slow_edges(architecture, direction="denoising"):
    """The reference, which takes seconds to set up and for every point."""
    return reference.EdgeProblem(tiny_model(architecture), tiny_pair(), direction)


def sample(M, n=12, seed=0):
    """Some edges of every kind of reader, the first and the last among them."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randperm(M.n, generator=generator)[: n - 2]
    return torch.cat([torch.tensor([0, M.n - 1]), drawn])


# --- the graph -------------------------------------------------------------------------------


def test_edges_are_counted_as_in_the_paper():
    """GPT-2 and Qwen2.5-0.5B, from tiny models of the same depth and heads (Table 14)."""
    assert edge_graph(12, 12).n_edges == 32_491
    assert edge_graph(24, 14).n_edges == 179_749
    shapes = {
        32_491: GPT2Config(vocab_size=53, n_embd=24, n_inner=5, n_layer=12, n_head=12),
        179_749: Qwen2Config(
            vocab_size=53,
            hidden_size=28,
            intermediate_size=5,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
        ),
    }
    for n, config in shapes.items():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
        M = PatchedMetric(model, PromptPair((1, 2, 3), (1, 2, 4), 5), "edges")
        assert M.n == n == len(set(M.labels))
        assert M(torch.ones(n)).item() == pytest.approx(M.other, abs=1e-4)


def test_labels_and_layers():
    M = metric("llama")
    assert M.n == 262
    assert M.labels[0] == "embed->L0H0.q" and M.labels[-1] == "L2.mlp->logits"
    assert "L0H1->L0.mlp" in M.labels and "L0.mlp->L0.mlp" not in M.labels
    for label, layer in zip(M.labels, M.layers.tolist(), strict=True):
        reader = label.partition("->")[2]
        assert layer == (2 if reader == "logits" else int(reader[1]))
    parallel = metric("neox")
    assert "L0H1->L0.mlp" not in parallel.labels
    assert parallel.n == 262 - N_LAYERS * N_HEADS


# --- M over edges ----------------------------------------------------------------------------


@each_in_a_direction
def test_m_equals_the_slow_reference(architecture, direction, random):
    """Every input of every reader computed anew, one run at a time, block by block."""
    M = metric(architecture, direction)
    slow = slow_edges(architecture, direction)
    assert slow.labels == M.labels
    alpha = 0.7 * random(M.n)
    assert M(alpha).item() == pytest.approx(slow.M(alpha).item(), rel=1e-9)


@each_architecture
@each_direction
@pytest.mark.parametrize("where", ("middle", "first", "last"))
def test_all_edges_carry_the_whole_difference(architecture, direction, where):
    M = metric(architecture, direction, where)
    assert M(torch.zeros(M.n)).item() == pytest.approx(M.base, rel=1e-12)
    assert M(torch.ones(M.n)).item() == pytest.approx(M.other, rel=1e-11)
    assert M.base != pytest.approx(M.other, rel=1e-3)


@each_architecture
def test_edges_of_a_writer_add_up_to_the_writer(architecture):
    """To first order, the edges out of a head are the head; with grouped keys and values too."""
    edges = metric(architecture)
    for kind in ("heads", "mlp_out"):
        nodes = PatchedMetric(tiny_model(architecture), tiny_pair(), kind)
        sums = dict.fromkeys(nodes.labels, 0.0)
        for label, slope in zip(edges.labels, attribution_patching(edges), strict=True):
            writer = label.partition("->")[0]
            if writer in sums:
                sums[writer] += slope.item()
        found = torch.tensor(list(sums.values()), dtype=torch.float64)
        assert_close(found, attribution_patching(nodes))


@each_architecture
def test_all_edges_out_of_one_writer_are_that_writer(architecture):
    """Not only to first order: M at the corner where they are 1 is the head patched."""
    edges, nodes = metric(architecture), PatchedMetric(tiny_model(architecture), tiny_pair())
    truth = activation_patching(nodes)
    for c in range(0, nodes.n, 5):
        corner = torch.tensor([label.startswith(f"{nodes.labels[c]}->") for label in edges.labels])
        # The writers behind it change, but their own edges are at rest.
        assert edges(corner.double()).item() - edges.base == pytest.approx(
            truth[c].item(), rel=1e-9, abs=1e-12
        )


@each_in_a_direction
def test_axes_are_axes(architecture, direction):
    """What is quick on an axis equals M itself there, with its derivatives."""
    M = metric(architecture, direction)
    which = sample(M)
    unit = torch.eye(M.n, dtype=torch.float64)[which]
    for t in (0.0, 0.6):
        g = M.along_axes(t, 3, which)
        assert_close(g.value, M(t * unit), 1e-12)
        slopes = M.gradient(t * unit).gather(1, which[:, None])[:, 0]
        assert_close(g.slope, slopes)
        found = []
        for i in (0, 3, 5, 7, 11):
            H = M.hvp(unit[i], t * unit[i])
            found.append((g.curvature[i], H[which[i]]))
        assert_close(*map(torch.stack, zip(*found, strict=True)))
    assert_close(M.gradient(torch.zeros(M.n)), M.gradient())
    step = 1e-4
    third = (M.along_axes(step, 2, which).curvature - M.along_axes(-step, 2, which).curvature) / (
        2 * step
    )
    assert_close(M.along_axes(0.0, 3, which).third, third, 1e-5)


@each_in_a_direction
def test_an_edge_patched_by_hand(architecture, direction):
    """Activation patching and EAP of a few edges, with plain hooks and nothing of ours."""
    M, slow = metric(architecture, direction), slow_edges(architecture, direction)
    which = sample(M, 4, seed=1)
    truth, slope = zip(*(slow.along_axis(int(c)) for c in which), strict=True)
    assert_close(activation_patching(M, which), torch.stack(truth))
    assert_close(attribution_patching(M, which), torch.stack(slope))


@each_architecture
def test_hessian_products_and_sketches(architecture, random):
    M = metric(architecture)
    V, alpha = random(M.n, 2), 0.3 * random(M.n)
    for at in (None, alpha):
        H_V = M.hessian_matvec(V, at)
        # Symmetric, and the derivative of the gradient.
        assert (V[:, 0] @ H_V[:, 1]).item() == pytest.approx((V[:, 1] @ H_V[:, 0]).item(), rel=1e-9)
        start = torch.zeros(M.n) if at is None else at
        step = 1e-5
        difference = (M.gradient(start + step * V[:, 0]) - M.gradient(start - step * V[:, 0])) / (
            2 * step
        )
        assert_close(H_V[:, 0], difference, 1e-5)
    exact = M.along_axes(0.0).curvature
    many = diagonal(M, "xdiag", 200)
    assert (many.values - exact).norm() < 0.3 * exact.norm()


@pytest.mark.parametrize("architecture", ("llama", "gemma3"))
def test_estimators_are_rules_on_m(architecture):
    """Each for a sample of edges, against the same rule written with M's own derivatives."""
    M = metric(architecture)
    which = sample(M)
    unit = torch.eye(M.n, dtype=torch.float64)[which]

    def slope(t):
        return M.gradient(t * unit).gather(1, which[:, None])[:, 0]

    def curvature(t):
        return torch.stack([M.hvp(u, t * u)[c] for u, c in zip(unit, which, strict=True)])

    assert_close(activation_patching(M, which), M(unit) - M.base)
    assert_close(hvp(M, which), slope(0.0) + curvature(0.0) / 2)
    two = (slope(0.0) + slope(0.5)) / 2 + (curvature(0.0) + curvature(0.5)) / 8
    assert_close(ms_hvp(M, 2, which), two)
    assert_close(integrated_gradients(M, 2, "midpoint", which), (slope(0.25) + slope(0.75)) / 2)
    g = M.along_axes(0.0, 3, which)
    assert_close(third_order(M, which), g.slope + g.curvature / 2 + g.third / 6)
    sketch = diagonal(M, "xdiag", 8)
    assert_close(sketched_hvp(M, 8, components=which), (sketch.slopes + sketch.values / 2)[which])
    assert row_norms(M, 4).values.shape == (M.n,)


# --- changed backward passes -----------------------------------------------------------------


@each_architecture
@pytest.mark.parametrize("rule", (gim, relp))
def test_changed_gradients_add_up_too(architecture, rule):
    """GIM and RelP are linear in what is written: edges out of an MLP add up to the MLP.

    The rules scale what flows on from queries, keys and values, not what enters a reader, so the
    sum over readers holds for them as it does for the gradient.
    """
    edges = metric(architecture)
    nodes = PatchedMetric(tiny_model(architecture), tiny_pair(), "mlp_out")
    sums = dict.fromkeys(nodes.labels, 0.0)
    for label, score in zip(edges.labels, rule(edges), strict=True):
        writer = label.partition("->")[0]
        if writer in sums:
            sums[writer] += score.item()
    found = torch.tensor(list(sums.values()), dtype=torch.float64)
    assert_close(found, rule(nodes))
    assert not torch.allclose(rule(edges), attribution_patching(edges), rtol=0.1)


# --- paths of inputs -------------------------------------------------------------------------


# The reference takes seconds for a point: each architecture meets a direction, a grid and a place.
GRIDS = {"right": (0.5, 1.0), "left": (0.0, 0.5)}


@pytest.mark.parametrize(
    ("architecture", "direction", "method", "where"),
    [
        (a, DIRECTIONS[i % 2], ("right", "left")[i // 2 % 2], ("inputs", "activations")[i >= 4])
        for i, a in enumerate(ARCHITECTURES)
    ],
)
def test_eap_ig_by_hand(architecture, direction, method, where):
    slow = slow_edges(architecture, direction)
    expected = slow.eap_ig(GRIDS[method], where)
    assert_close(eap_ig(metric(architecture, direction), 2, method, where), expected)


@each_in_a_direction
def test_eap_gp_by_hand(architecture, direction):
    slow = slow_edges(architecture, direction)
    assert_close(eap_gp(metric(architecture, direction), 2), slow.eap_gp(2), 1e-8)


def test_paths_are_refused_where_they_make_no_sense():
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    for estimate in (eap_ig, eap_gp):
        with pytest.raises(ValueError, match='components="edges", not .heads'):
            estimate(M)
    with pytest.raises(ValueError, match="where must be"):
        eap_ig(metric("llama"), where="outputs")
    with pytest.raises(ValueError, match="Only nodes have activations of their own"):
        hessian_lipschitz(metric("llama"))


# --- local curvature -------------------------------------------------------------------------


@each_in_a_direction
def test_local_curvature_by_hand(architecture, direction):
    """The reader alone: gradient at its output times the second derivative of its output."""
    slow = slow_edges(architecture, direction)
    M = metric(architecture, direction)
    which = torch.cat([sample(M, 4, seed=2), M.index(["L1H0->L2H3.k", "L0.mlp->L1.mlp"])])
    found = local_quadratic_term(M, which)
    expected = torch.stack([slow.local_curvature(int(c)) / 2 for c in which])
    assert_close(found, expected, 1e-8)
    assert_close(local_curvature(M, which), attribution_patching(M, which) + found, 1e-12)


@each_architecture
def test_nothing_comes_behind_the_logits(architecture):
    M = metric(architecture)
    last = torch.tensor([i for i, label in enumerate(M.labels) if label.endswith("->logits")])
    assert_close(local_quadratic_term(M, last), M.along_axes(0.0, 2, last).curvature / 2)


def test_local_and_sketch():
    """The sketch where the two differ by more than two of its errors, the local term elsewhere."""
    M = metric("llama")
    sketch, local = diagonal(M, "xdiag", 16, seed=1), local_quadratic_term(M)
    found = local_sketched_hvp(M, 16, seed=1) - sketch.slopes
    far = (sketch.values / 2 - local).abs() > sketch.error
    assert far.any() and not far.all()
    assert_close(found[far], sketch.values[far] / 2, 1e-12)
    assert_close(found[~far], local[~far], 1e-12)


# --- the copy of the model -------------------------------------------------------------------


@each_architecture
def test_the_copy_computes_the_same_in_the_same_memory(architecture):
    bridge = tiny_model(architecture)
    copied = edge_model(bridge)
    assert edge_model(bridge) is copied and edge_model(copied) is copied
    tokens = torch.tensor([PROMPTS["middle"][0]])
    with torch.no_grad():
        assert torch.allclose(copied(tokens), bridge(tokens), rtol=1e-5, atol=1e-6)
    memory = {p.data_ptr() for p in bridge.original_model.parameters()}
    shared = getattr(bridge.cfg, "n_key_value_heads", None) or N_HEADS
    for name, weight in copied.original_model.named_parameters():
        repeated = shared != N_HEADS and any(
            part in name for part in ("k_proj", "v_proj", ".k.", ".v.")
        )
        if not repeated and not any(f"attn.{part}." in name for part in "qkv"):
            assert weight.data_ptr() in memory or architecture in ("gpt2", "neox"), name
    assert not any(p.requires_grad for p in copied.parameters())
    # The model itself is as it was.
    assert not bridge.cfg.use_split_qkv_input and not bridge.cfg.use_attn_result


# --- TransformerLens -------------------------------------------------------------------------


@each_direction
def test_eap_equals_transformer_lens(direction):
    """Its edge scores on an architecture without grouped heads or norms behind blocks."""
    bridge, pair = tiny_model("gpt2"), tiny_pair("first")
    M = PatchedMetric(bridge, pair, "edges", direction)
    theirs = reference.transformer_lens_edges(peer, bridge, pair, direction)
    ours = dict(zip(M.labels, attribution_patching(M).tolist(), strict=True))
    assert len(theirs) >= 200
    for label, score in theirs.items():
        assert ours[label] == pytest.approx(score, rel=1e-5, abs=1e-8), label


def test_a_circuit_is_a_corner_as_in_transformer_lens():
    """Its ``faithfulness`` runs what we call M(1 - mask), the base run being the clean one."""
    bridge, pair = tiny_model("gpt2"), tiny_pair("first")
    M = PatchedMetric(bridge, pair, "edges", "noising")
    scores = attribution_patching(M).abs()
    for n in (30, 130, 230):
        mask = torch.zeros(M.n, dtype=torch.float64)
        mask[scores.topk(n).indices] = 1
        kept = {label for label, keep in zip(M.labels, mask, strict=True) if keep}
        theirs = reference.transformer_lens_circuit(peer, bridge, pair, kept)
        assert M(1 - mask).item() == pytest.approx(theirs, rel=1e-5)


# --- a model with a known circuit ------------------------------------------------------------


def auroc(scores, truth):
    """Probability that an edge of the circuit scores above one that is not."""
    ranks, n = rankdata(scores.abs().numpy()), int(truth.sum())
    return (ranks[truth.numpy()].sum() - n * (n + 1) / 2) / (n * (len(ranks) - n))


@pytest.fixture(scope="module", params=range(4))
def planted(request):
    made = planted_model(seed=request.param)
    generator = torch.Generator().manual_seed(request.param)
    clean, corrupted = torch.randint(0, 40, (2, 8), generator=generator).tolist()
    M = PatchedMetric(as_bridge(made.model), PromptPair(clean, corrupted, 5), "edges")
    return made, M, torch.tensor([label in made.circuit for label in M.labels])


def test_only_the_circuit_has_effects(planted):
    made, M, on_path = planted
    assert made.circuit < made.edges < set(M.labels)
    truth = activation_patching(M)
    assert truth[~on_path].abs().max() < 1e-9
    assert truth[on_path].abs().max() > 0.1


def test_the_circuit_is_found(planted):
    _, M, on_path = planted
    assert auroc(activation_patching(M), on_path) == 1
    assert auroc(attribution_patching(M), on_path) == 1
    assert auroc(hvp(M), on_path) == 1
    assert auroc(integrated_gradients(M, 3), on_path) == 1


def test_what_lies_outside_the_circuit_can_be_patched_away(planted):
    """A circuit is a point: with all other edges from the other run, M stays what it was."""
    _, M, on_path = planted
    assert M((~on_path).double()).item() == pytest.approx(M.base, abs=1e-9)
    assert M(on_path.double()).item() == pytest.approx(M.other, abs=1e-9)


def test_the_second_term_helps(planted):
    _, M, _ = planted
    truth = activation_patching(M)
    first, second = (
        (estimate(M) - truth).norm().item() for estimate in (attribution_patching, hvp)
    )
    # By how much differs from circuit to circuit; on some the series does not converge.
    assert second < 3 * first


def test_circuits_depend_on_the_seed_alone():
    one, again, other = planted_model(1), planted_model(1), planted_model(2)
    assert one.edges == again.edges != other.edges
    for a, b in zip(one.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_edge_matters_only_on_a_path():
    cases = [
        ({"embed->logits"}, {"embed->logits"}),
        ({"embed->L0.mlp"}, set()),  # leads nowhere
        ({"L0.mlp->logits", "embed->logits"}, {"embed->logits"}),  # comes from nowhere
        ({"embed->L0H0.v", "L0H0->logits"}, {"embed->L0H0.v", "L0H0->logits"}),
        # A query without a key changes nothing, and neither does a pattern over constants.
        (
            {"embed->L0H0.v", "embed->L0H0.q", "L0H0->logits"},
            {"embed->L0H0.v", "L0H0->logits"},
        ),
        ({"embed->L0H0.q", "embed->L0H0.k", "L0H0->logits"}, set()),
    ]
    for edges, expected in cases:
        assert _that_can_matter(set(edges)) == frozenset(expected)
