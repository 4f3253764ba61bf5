"""Models larger than one device: layers that lie in several places, and weights that are split."""

import pytest
import torch
import torch.distributed as dist
from accelerate import cpu_offload, dispatch_model
from tiny_models import entropy, tiny_hf_model, tiny_pair
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import distribute_tensor

import hvp_utils
from hvp_utils import PatchedMetric, activation_patching, attribution_patching, hvp, ms_hvp

ESTIMATORS = (activation_patching, attribution_patching, hvp, ms_hvp)
FAMILIES = ("gpt2", "llama", "gemma2")


def metric(model, kind):
    return PatchedMetric(hvp_utils.as_bridge(model), tiny_pair(metric=entropy), kind)


@pytest.mark.parametrize("kind", ("heads", "neurons_pre", "resid"))
@pytest.mark.parametrize("family", FAMILIES)
def test_layers_in_several_places_give_the_same_numbers(family, kind):
    """With accelerate's hooks around each module, as `device_map` puts them; here on one device."""
    whole, placed = tiny_hf_model(family), tiny_hf_model(family)
    places = {name: "cpu" for name, _ in placed.named_children()}
    placed = dispatch_model(placed, places, main_device="cpu", force_hooks=True)
    assert hasattr(placed.get_input_embeddings(), "_hf_hook") or hasattr(placed, "_hf_hook")
    whole, placed = metric(whole, kind), metric(placed, kind)
    some = torch.linspace(0, whole.n - 1, 5).long()
    for estimator in ESTIMATORS:
        found, expected = (estimator(M, components=some) for M in (placed, whole))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_weights_that_are_fetched_while_the_model_runs_are_refused():
    model = cpu_offload(tiny_hf_model("llama"))
    with pytest.raises(ValueError, match=r"LlamaForCausalLM \(llama\) is not wholly in memory"):
        metric(model, "heads")


@pytest.fixture
def mesh(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.parametrize("estimator", (hvp, ms_hvp))
def test_second_derivatives_of_split_weights_are_refused(estimator, mesh):
    model = tiny_hf_model("llama")
    M = metric(model, "heads")
    layer = model.model.layers[1].mlp.down_proj
    layer.weight = torch.nn.Parameter(distribute_tensor(layer.weight.detach(), mesh))
    with pytest.raises(TypeError, match=r"layers\.1\..*down_proj.* is a DTensor"):
        estimator(M)
