"""What can be patched: labels, layouts and samples."""

import pytest
import torch
from tiny_models import D_MLP, N_HEADS, N_LAYERS, tiny_model, tiny_pair

from hvp_utils import PatchedMetric
from hvp_utils.components import NODE_KINDS, Site, find_sites

SIZES = {
    "heads": N_HEADS,
    "queries": 4 * N_HEADS,
    "keys": 4 * N_HEADS,
    "values": 4 * N_HEADS,
    "mlp_out": 1,
    "resid": 4,
    "neurons_pre": D_MLP,
    "neurons_post": D_MLP,
}


def test_every_kind_is_tested():
    assert set(SIZES) == set(NODE_KINDS)


@pytest.mark.parametrize("kind", SIZES)
def test_one_site_a_layer_in_layer_order(kind):
    sites = find_sites(tiny_model("neox"), kind, range(2, 6))
    assert [site.layer for site in sites] == list(range(N_LAYERS))
    for site in sites:
        assert len(site.labels) == SIZES[kind]
        assert site.hook.startswith(f"blocks.{site.layer}.")
        assert all(label.startswith(f"L{site.layer}") for label in site.labels)


def test_labels():
    bridge = tiny_model("neox")

    def labels(kind):
        return find_sites(bridge, kind, range(2, 6))[1].labels

    assert labels("heads") == ("L1H0", "L1H1", "L1H2", "L1H3")
    assert labels("mlp_out") == ("L1.mlp",)
    assert labels("resid") == ("L1P2", "L1P3", "L1P4", "L1P5")
    assert labels("neurons_pre") == ("L1N0", "L1N1", "L1N2", "L1N3", "L1N4")


@pytest.mark.parametrize("kind", SIZES)
def test_components_do_not_overlap_and_leave_nothing_out(kind, random):
    """Strength e_c lights up component c alone; all together light up the whole activation."""
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), kind)
    site, delta = M.sites[1], M.deltas[1]
    n = len(site.labels)
    lit = site.spread(torch.eye(n)).expand(n, *delta.shape)
    assert (lit.sum(0) == 1).all()
    norms = torch.stack([(one * delta).norm() for one in lit])
    assert torch.allclose(site.norms(delta), norms)
    alpha = random(3, n)
    mixed = sum(alpha[:, c].reshape(3, *[1] * delta.ndim) * lit[c] for c in range(n))
    assert torch.allclose(site.spread(alpha).expand(3, *delta.shape), mixed)


@pytest.mark.parametrize("kind", ("neurons_pre", "neurons_post"))
def test_sampled_neurons_are_the_same_neurons(kind, random):
    bridge, pair = tiny_model("llama"), tiny_pair()
    everything = PatchedMetric(bridge, pair, kind)
    sample = PatchedMetric(bridge, pair, f"{kind}:2", seed=3)
    assert sample.n == 2 * N_LAYERS
    assert sample.layers.tolist() == [0, 0, 1, 1, 2, 2]
    where = torch.tensor([everything.labels.index(label) for label in sample.labels])
    assert (where.diff() > 0).all()  # none twice, and in order
    assert torch.equal(sample.delta_norm, everything.delta_norm[where])
    for part, whole in zip(sample.along_axes(0.5)[:3], everything.along_axes(0.5)[:3], strict=True):
        assert torch.allclose(part, whole[where], rtol=1e-10)
    # And as a function of several strengths, the other neurons staying at rest.
    alpha = random(sample.n)
    full = torch.zeros(everything.n, dtype=torch.float64).index_copy(0, where, alpha)
    assert sample(alpha).item() == pytest.approx(everything(full).item(), rel=1e-12)
    assert torch.allclose(sample.gradient(alpha), everything.gradient(full)[where], rtol=1e-10)
    v = random(sample.n)
    spread = torch.zeros(everything.n, dtype=torch.float64).index_copy(0, where, v)
    assert torch.allclose(sample.hvp(v, alpha), everything.hvp(spread, full)[where], rtol=1e-9)


def test_the_sample_depends_on_the_seed_alone():
    def labels(seed, kind="neurons_pre:2"):
        return PatchedMetric(tiny_model("gpt2"), tiny_pair(), kind, seed=seed).labels

    assert labels(0) == labels(0)
    assert len({labels(seed) for seed in range(5)}) > 1
    assert labels(0, f"neurons_pre:{D_MLP}") == labels(1, "neurons_pre")


def test_layers_are_sampled_independently():
    labels = PatchedMetric(tiny_model("gpt2"), tiny_pair(), "neurons_pre:2", seed=1).labels
    neurons = [label.partition("N")[2] for label in labels]
    assert len({tuple(neurons[i : i + 2]) for i in (0, 2, 4)}) > 1


def test_a_hook_that_the_model_lacks_is_named(monkeypatch):
    def ghost(bridge, layer, positions, chosen):
        return Site(f"blocks.{layer}.hook_ghost", layer, (f"L{layer}.ghost",), (1, 1))

    monkeypatch.setitem(NODE_KINDS, "ghosts", ghost)
    with pytest.raises(ValueError, match=r"no hook 'blocks.0.hook_ghost', which 'ghosts' needs"):
        find_sites(tiny_model("gpt2"), "ghosts", range(3))
