"""Everything runs on whatever device the model is on, seen without a GPU.

`elsewhere` is a second device made of the CPU's numbers, which raises as a GPU would when tensors
of two devices meet. What runs there without an error moves its tensors where they belong, and its
numbers are those of the CPU. It cannot tell anything about kernels, speed or memory of a GPU.
(`diagnose` is not here, and not the edges of Gemma 2, whose norms after heads are differentiated
forwards: forward-mode derivatives of such tensors end in a crash of PyTorch.)
"""

import dataclasses
import functools

import pytest
import torch
from elsewhere import Elsewhere, second_device, send
from test_sae_features import random_sae
from tiny_models import tiny_hf_model, tiny_model, tiny_pair, tiny_task
from torch import Tensor
from transformer_lens.utilities import quantization

import hvp_utils
from hvp_utils import PatchedMetric, SAEFeatures, circuits, curvature, estimators, reliability
from hvp_utils.backward_rules import changed_backward, gim_rules, linearised, relp_rules
from hvp_utils.costs import Costs

ARCHITECTURES = ("gpt2", "llama", "gemma2")
some = torch.tensor([0, 2])


@pytest.fixture(autouse=True)
def _readable(monkeypatch):
    """TransformerLens and this package refuse weights on `meta`, which commonly have no numbers."""
    found = quantization.unreadable_weight_reason
    monkeypatch.setattr(
        quantization,
        "unreadable_weight_reason",
        lambda weight: None if isinstance(weight, Elsewhere) else found(weight),
    )
    monkeypatch.setattr("hvp_utils.patched_metric.require_loaded", lambda model: None)


@functools.cache
def elsewhere_model(architecture):
    hf_model = tiny_hf_model(architecture)
    send(hf_model)
    with second_device():
        return hvp_utils.as_bridge(hf_model)


def numbers(x) -> list:
    """All tensors and numbers in a result, in order, on the CPU."""
    if isinstance(x, Tensor):
        assert isinstance(x, Elsewhere) or x.device.type == "cpu"
        return [x.numbers if isinstance(x, Elsewhere) else x]
    if isinstance(x, float | int | bool):
        return [torch.tensor(float(x))]
    if isinstance(x, dict):
        return [y for value in x.values() for y in numbers(value)]
    if isinstance(x, tuple | list):
        return [y for value in x for y in numbers(value)]
    if hasattr(x, "__dict__"):
        return numbers(vars(x))
    return []


def assert_same(here, there):
    here, there = numbers(here), numbers(there)
    assert len(here) == len(there) > 0
    for a, b in zip(here, there, strict=True):
        torch.testing.assert_close(b.double(), a.double(), rtol=1e-9, atol=1e-9, equal_nan=True)


PRICES = Costs(*[1.0] * 8, seconds=1.0)  # measured ones differ from run to run
NODES = {
    "value": lambda M: M(0.3 * torch.ones(M.n, dtype=torch.float64)),
    "gradient": lambda M: M.gradient(0.3 * torch.ones(M.n, dtype=torch.float64)),
    "hvp of a vector": lambda M: M.hvp(torch.ones(M.n)),
    "axes": lambda M: M.along_axes(0.5, 3, some),
    "hessian_delta": lambda M: M.hessian_delta(0.5, some),
    "activation_patching": lambda M: estimators.activation_patching(M, some),
    "attribution_patching": lambda M: estimators.attribution_patching(M, some),
    "hvp": lambda M: estimators.hvp(M, some),
    "ms_hvp": lambda M: estimators.ms_hvp(M, 3, some),
    "ms_hvp_median": lambda M: estimators.ms_hvp_median(M, (2, 3), some),
    "third_order": lambda M: estimators.third_order(M, some),
    "finite_difference_hvp": lambda M: estimators.finite_difference_hvp(M, components=some),
    "gauss_newton": lambda M: estimators.gauss_newton(M, some),
    "integrated_gradients": lambda M: estimators.integrated_gradients(M, 3, components=some),
    "integrated_hessians": lambda M: estimators.integrated_hessians(M, 3, components=some),
    "sketched_hvp": lambda M: estimators.sketched_hvp(M, 6, components=some),
    "gim": lambda M: estimators.gim(M, some),
    "relp": lambda M: estimators.relp(M, components=some),
    "atp_star": lambda M: estimators.atp_star(M, components=some),
    "diagonal": lambda M: curvature.diagonal(M, n_matvecs=6),
    "exact diagonal": lambda M: curvature.diagonal(M, "exact"),
    "row_norms": lambda M: curvature.row_norms(M),
    "low_rank": lambda M: curvature.low_rank(M, 4).values.abs(),
    "spectrum": lambda M: curvature.spectrum(M),
    "operator": lambda M: curvature.hessian_operator(M) @ M.gradient(),
    "error_bounds": lambda M: reliability.error_bounds(
        M.gradient(), 0.1 * M.gradient(), M.delta_norm, reliability.hessian_lipschitz(M)
    ),
    "hessian_lipschitz": lambda M: reliability.hessian_lipschitz(M),
    "screen": lambda M: reliability.screen(M, 6),
    "row_screen": lambda M: reliability.row_screen(M),
    "screen_flag_fix": lambda M: reliability.screen_flag_fix(M, screen="sketch", costs=PRICES),
    "missed_bound": lambda M: hvp_utils.missed_bound(M, [0, 1], n_subsets=400, p=0.1),
    "missed_bound, sketch": lambda M: hvp_utils.missed_bound(
        M, [0, 1], n_subsets=400, p=0.1, control="sketch", patch_shown=True
    ),
    "top_effects": lambda M: hvp_utils.top_effects(M, k=3)["effect"].tolist(),
}


def compared(architecture, components, pairs, function, direction="denoising", own=lambda c: c):
    here = function(PatchedMetric(tiny_model(architecture), pairs, components, direction))
    with second_device():
        model = elsewhere_model(architecture)
        there = function(PatchedMetric(model, pairs, own(components), direction))
    assert_same(here, there)


@pytest.mark.parametrize("name", NODES)
def test_heads(name):
    compared("llama", "heads", tiny_pair(), NODES[name])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ("queries", "values", "mlp_out", "resid", "neurons_pre:3"))
def test_other_nodes(architecture, kind):
    everything = ("activation_patching", "hvp", "sketched_hvp", "value")
    compared(architecture, kind, tiny_pair(), lambda M: [NODES[name](M) for name in everything])


@pytest.mark.parametrize("mean", (True, False))
def test_many_prompts(mean):
    pairs = [*tiny_task(tiny_model("llama"), 3), tiny_pair("middle"), tiny_pair("last")]
    names = ("value", "activation_patching", "hvp", "ms_hvp", "sketched_hvp", "row_norms", "axes")
    if mean:
        names = (*names, "missed_bound")
    compared(
        "llama",
        "heads",
        pairs,
        lambda M: [NODES[name](M if mean else M.each) for name in names],
    )


@pytest.mark.parametrize("architecture", ("gpt2", "llama"))
def test_edges(architecture):
    def everything(M):
        circuit = circuits.Circuit.top(M, estimators.attribution_patching(M), 40)
        return [
            estimators.activation_patching(M, some),
            estimators.hvp(M, torch.tensor([0, 30, M.n - 1])),
            M(0.3 * torch.ones(M.n, dtype=torch.float64)),
            estimators.eap_ig(M, 2),
            estimators.eap_gp(M, 2),
            estimators.local_curvature(M, some),
            curvature.row_norms(M),
            circuits.faithfulness(M, circuit),
            circuits.cpr(M, estimators.attribution_patching(M)),
            circuits.acdc(M, 0.5, together=200).value,
            circuits.edge_pruning(M, 20, n_steps=2).value,
        ]

    compared(architecture, "edges", tiny_pair(), everything, "noising")


@pytest.mark.parametrize("there", ("here", "elsewhere"))
def test_sae_features(there):
    """The features of a sparse autoencoder, wherever its weights lie."""

    def own(components):
        if there == "here":
            return components
        sae = components.sae
        return SAEFeatures(
            dataclasses.replace(
                sae, **{k: v.to("meta") for k, v in vars(sae).items() if isinstance(v, Tensor)}
            )
        )

    compared(
        "llama",
        SAEFeatures(random_sae()),
        tiny_pair(),
        lambda M: [NODES[n](M) for n in ("activation_patching", "hvp", "sketched_hvp", "value")],
        own=own,
    )


@pytest.mark.parametrize("rules", (gim_rules, relp_rules))
def test_changed_backward_passes(rules):
    def gradient(M):
        with changed_backward(M.model, *rules()):
            return M.gradient()

    compared("gemma2", "heads", tiny_pair(), gradient)


def test_linearised():
    def gradient(M):
        with linearised(M.model):
            return [M.gradient(), M.hvp(torch.ones(M.n))]

    compared("llama", "heads", tiny_pair(), gradient)


def test_a_sweep(tmp_path):
    names = ("activation_patching", "hvp", "row_norms", "hessian_lipschitz")
    options = {"n_prompts": 3, "estimators": names, "task": tiny_task, "dtype": torch.float64}
    here = hvp_utils.sweep(tiny_model("llama"), **options)
    with second_device():
        there = hvp_utils.sweep(elsewhere_model("llama"), **options)
    assert there.attrs["device"].startswith("meta")
    for name in names:
        assert abs(here[name] - there[name]).max() < 1e-9


def test_the_second_device_notices():
    """Were it to let tensors of two devices meet, the tests above would say nothing."""
    with second_device():
        there, here = torch.ones(3, device="meta"), torch.ones(3)
        for mixed in (
            lambda: there + here,
            lambda: torch.cat([there, here]),
            lambda: here[there.long()],
            lambda: here.index_put((there.long(),), there),
            lambda: torch.randn(3, device="meta", generator=torch.Generator()),
        ):
            with pytest.raises(RuntimeError, match="device"):
                mixed()
        assert (there + 1).tolist() == [2, 2, 2] and there[here.long()].device.type == "meta"
        assert type(there.cpu()) is Tensor and isinstance(here.to("meta"), Elsewhere)
