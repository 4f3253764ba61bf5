"""What a run will cost, told beforehand, against what is really run.

Operations are counted by PyTorch's own ``FlopCounterMode``, which sees the matrix products that
reach the device, those of vectorised backward passes among them.
"""

import functools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from packaging.version import Version
from tiny_models import ARCHITECTURES, CONFIGS, tiny_model, tiny_pair
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

import hvp_utils
from hvp_utils import PatchedMetric, axes, load_model, model_sizes, plan, reference_pair
from hvp_utils.__main__ import app
from hvp_utils.components import COMPONENT_KINDS, NODE_KINDS, find_sites
from hvp_utils.estimators import ESTIMATORS
from hvp_utils.estimators.names import find
from hvp_utils.models import MODELS
from hvp_utils.plans import ModelSizes, measure_rate, pass_flops, passes
from hvp_utils.prompt_batch import PromptBatch
from hvp_utils.suffix_run import SuffixRun
from hvp_utils.sweeps import SWEPT

each_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES)

# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_sizes_are_those_of_the_loaded_model(name):
    model = load_model(name, device="cpu")
    sizes = model_sizes(name)
    assert sizes == ModelSizes.of(model) == model_sizes(MODELS[name])
    weights = {p.data_ptr(): p.numel() for p in model.original_model.parameters()}
    assert sizes.n_parameters == pytest.approx(sum(weights.values()), rel=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_sizes_need_no_network_and_add_up(name, monkeypatch):
    for auto in (transformers.AutoConfig, transformers.AutoModelForCausalLM):
        monkeypatch.setattr(auto, "from_pretrained", None)
    sizes = model_sizes(name)
    heads, kv = sizes.n_heads * sizes.d_head, sizes.n_kv_heads * sizes.d_head
    block = sizes.d_model * (2 * heads + 2 * kv + (3 if sizes.gated else 2) * sizes.d_mlp)
    embedding = sizes.d_model * sizes.d_vocab
    apart = name.startswith(("pythia", "llama"))  # two matrices, not one used twice
    total = sizes.n_layers * block + (2 if apart else 1) * embedding
    assert total == pytest.approx(sizes.n_parameters, rel=0.01)  # positions, norms and biases


@each_architecture
def test_sizes_from_a_configuration_are_those_of_the_model(architecture, tmp_path):
    config = CONFIGS[architecture]()
    config.save_pretrained(tmp_path)
    sizes = model_sizes(str(tmp_path))
    assert sizes == ModelSizes.of(config) == ModelSizes.of(tiny_model(architecture))
    bridge = tiny_model(architecture)
    assert (sizes.n_layers, sizes.n_heads, sizes.d_mlp, sizes.d_vocab) == (3, 4, 5, 53)
    assert (sizes.d_model, sizes.d_head) == (bridge.cfg.d_model, bridge.cfg.d_head)
    assert sizes.n_kv_heads == (4 if architecture in ("gpt2", "neox") else 2)
    assert sizes.gated == (architecture not in ("gpt2", "neox"))


def test_other_models_must_be_within_reach(tmp_path):
    with pytest.raises(OSError, match="nobody/nothing.*cannot be reached"):
        model_sizes("nobody/nothing")
    transformers.MambaConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot be read"):
        model_sizes(str(tmp_path))


# --- components ----------------------------------------------------------------------------------


@each_architecture
@pytest.mark.parametrize("components", [*NODE_KINDS, "neurons_pre:2", "neurons_post:5"])
def test_components_are_counted_as_they_are_found(components, architecture):
    bridge = tiny_model(architecture)
    sites = find_sites(bridge, components, range(3, 8))
    n = ModelSizes.of(bridge).n_components(components, n_run=5)
    assert n == sum(len(site.labels) for site in sites)


@pytest.mark.parametrize("components", ("nothing", "heads:2", "neurons_pre:0", "neurons_pre:6", ""))
def test_components_that_cannot_be_patched_cannot_be_planned(components):
    bridge = tiny_model("llama")
    with pytest.raises(ValueError) as refused:
        find_sites(bridge, components, range(5))
    with pytest.raises(ValueError) as here:
        ModelSizes.of(bridge).n_components(components, 5)
    assert repr(components) in str(refused.value) and repr(components) in str(here.value)


# --- passes --------------------------------------------------------------------------------------


def what_runs(M, estimator, monkeypatch):
    """The passes that an estimator makes on M, told from the calls it makes."""
    found, rows, products = Counter(), [], []
    along_axes, gradient = M.along_axes, M.gradient
    gradient_and_hessian, hessian_delta = M.gradient_and_hessian, M.hessian_delta
    traced, gradients_at = PromptBatch.traced, PromptBatch.gradients_at
    logits, batched = SuffixRun.logits, axes.batched_derivative

    def spy_along_axes(t=0.0, order=2, components=None):
        m = M.n if components is None else len(components)
        at_0 = int((torch.as_tensor(t).expand(m) == 0).sum())
        moving = M.delta_norm if components is None else M.delta_norm[components]
        assert (moving > 0).all()
        if order == 1:
            found["slope_on_path"] += m - at_0
        elif order == 2:
            found["curvature"] += at_0
            found["curvature_on_path"] += m - at_0
        elif order == 3:
            found["third"] += m
        return along_axes(t, order, components)

    def spy_gradient(alpha=None):
        if alpha is not None:
            found["gradient"] += 1
            found["gradient_row"] += alpha.numel() // M.n - 1
        return gradient(alpha)

    def spy_traced(batch, rows, *args, **kwargs):
        found["gradient"] += len(rows)
        return traced(batch, rows, *args, **kwargs)

    def spy_gradients_at(batch, hooks, rows, *args, **kwargs):
        found["gradient"] += len(rows)
        return gradients_at(batch, hooks, rows, *args, **kwargs)

    def spy_gradient_and_hessian(alpha=None):
        slopes, product = gradient_and_hessian(alpha)

        def spy(V):
            found["matvec"] += V.shape[1]
            found["matvec_batch"] += 1
            return product(V)

        return slopes, spy

    def spy_hessian_delta(t=0.0, components=None):
        found["curvature_on_path"] += M.n if components is None else len(components)
        return hessian_delta(t, components)

    def spy_logits(run, patches, entering, *rest):
        rows.append(sum(entering.values()) or 1)
        return logits(run, patches, entering, *rest)

    def spy_batched(values, by, directions):
        products.append(len(directions[0]))
        return batched(values, by, directions)

    with monkeypatch.context() as patch:
        for name in ("along_axes", "gradient", "gradient_and_hessian", "hessian_delta"):
            patch.setattr(M, name, locals()[f"spy_{name}"])
        for name in ("traced", "gradients_at"):
            patch.setattr(PromptBatch, name, locals()[f"spy_{name}"])
        patch.setattr(SuffixRun, "logits", spy_logits)
        patch.setattr(axes, "batched_derivative", spy_batched)
        find(estimator, SWEPT)(M)
    # Whatever goes through the model and is differentiated is accounted for above.
    differentiated = ("gradient", "gradient_row", "slope_on_path", "curvature_on_path", "third")
    found["forward"] = sum(rows) - sum(found[name] for name in differentiated)
    assert sum(products) == found["curvature"] + found["matvec"]
    return {name: count for name, count in found.items() if count}


WITH_PARAMETERS = (
    "ms_hvp:1",
    "ms_hvp:4",
    "sketched_hvp:4",
    "sketched_hvp:6:3",
    "sketched_hvp:11",  # an odd number, and as many as there are components
    *(f"integrated_gradients:{rule}" for rule in ("1:left", "4:left", "3:trapezoid", "3:right")),
    "integrated_gradients:3:gausslegendre",
    *(f"integrated_hessians:3:path:{part}:left" for part in ("pairwise", "complete")),
    *(f"integrated_hessians:3:grid:pairwise:{rule}" for rule in ("left", "right", "trapezoid")),
    "integrated_hessians:5:grid:complete:right",
    "integrated_hessians:3:grid:complete:gausslegendre",
    "hessian_lipschitz",
    "hessian_eigenvalues",
    "row_norms",
    "row_norms:5",
    "local_sketched_hvp:4",
    "eap_ig:3:left",
    "eap_ig:2:trapezoid:activations",
    "eap_gp:2",
)


@pytest.mark.parametrize("estimator", [*ESTIMATORS, *WITH_PARAMETERS])
def test_a_plan_does_not_lie(estimator, monkeypatch):
    """On every position and only there, so that every component differs between the prompts."""
    components = "neurons_pre" if estimator.startswith("local") else "heads"
    if estimator == "sketched_hvp:11":
        components = "mlp_out"
    if estimator.startswith("eap"):
        components = "edges"
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), components)
    expected = passes(estimator, M.n, 3, components)
    found = what_runs(M, estimator, monkeypatch)
    if estimator.startswith("eap_gp"):  # takes the gradients that make the path by itself
        path = found["forward"] - expected["forward"]
        found |= {"gradient": found["gradient"] + path, "forward": found["forward"] - path}
    assert found == expected


def test_edges_are_counted_as_they_are_found():
    for architecture in ARCHITECTURES:
        M = PatchedMetric(tiny_model(architecture), tiny_pair(), "edges")
        assert ModelSizes.of(tiny_model(architecture)).n_components("edges", 5) == M.n
    assert model_sizes("smollm2-135m").n_components("edges", 5) == 123_211
    assert model_sizes("gemma-3-270m").n_components("edges", 5) == 10_342
    assert model_sizes("gpt2").n_components("edges", 5) == 32_491


@pytest.mark.parametrize("components", ("queries", "keys", "values", "resid"))
def test_a_plan_does_not_lie_about_atp_star(components, monkeypatch):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), components)
    assert what_runs(M, "atp_star", monkeypatch) == passes("atp_star", M.n, 3, components)


def test_what_cannot_be_run_cannot_be_planned():
    for name in ("unknown", "ms_hvp:0", "hvp:2", "integrated_gradients:5:wrong", ""):
        with pytest.raises(ValueError) as refused:
            find(name, SWEPT)
        with pytest.raises(ValueError) as here:
            passes(name, 10, 3)
        assert str(here.value) == str(refused.value)
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    for name in ("sketched_hvp:5", "sketched_hvp:2", "integrated_gradients:1:trapezoid",
                 "local_curvature", "row_norms:1", "eap_ig", "eap_gp:3"):  # fmt: skip
        with pytest.raises(ValueError):
            find(name, SWEPT)(M)
        with pytest.raises(ValueError):
            passes(name, M.n, 3)
    with pytest.raises(ValueError, match="only one"):
        passes("atp_star", 10, 1)


# --- operations ----------------------------------------------------------------------------------


def operations(function):
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def counted(M, which):
    """Operations of one pass of each kind, averaged over some components."""
    orders = ("forward", "slope_on_path", "curvature_on_path", "third")
    found = {
        name: operations(lambda order=order: M.along_axes(0.5, order, which)) / len(which)
        for order, name in enumerate(orders)
    }
    found["gradient"] = operations(M.gradient)
    points = torch.zeros(3, M.n)
    found["gradient_row"] = (operations(lambda: M.gradient(points)) - found["gradient"]) / 2
    at_0 = operations(lambda: M.along_axes(0.0, 2, which))
    found["curvature"] = (at_0 - found["gradient"]) / len(which)
    products, V = M.gradient_and_hessian()[1], torch.ones(M.n, 3, dtype=M.delta_norm.dtype)
    found["matvec"] = operations(lambda: products(V)) / 3
    found["matvec_batch"] = operations(lambda: products(V)) - 3 * operations(
        lambda: products(V[:, :1])
    )
    return found


def without_own_block(sizes, *args):
    """What ``pass_flops`` says, had a component's own block no part in the derivatives."""
    whole = pass_flops(sizes, *args)
    # Two layers less: one block less above a component, on average.
    above = pass_flops(replace(sizes, n_layers=sizes.n_layers - 2), *args)
    below_top = pass_flops(replace(sizes, n_layers=sizes.n_layers - 1), *args)
    block = whole["forward"] - above["forward"]
    return {
        "forward": whole["forward"],
        "gradient": below_top["gradient"] + block,
        "gradient_row": below_top["gradient_row"] + block,
        "curvature": above["curvature"],
        "matvec": below_top["matvec"],
        "matvec_batch": below_top["matvec_batch"],
        **{name: above[name] + block for name in ("slope_on_path", "curvature_on_path", "third")},
    }


@each_architecture
def test_operations_of_every_pass_on_tiny_models(architecture):
    """With three layers a component's own block weighs much, so here it is told apart.

    Nothing of it lies behind an MLP's output. Gemma's windows of attention save it a few per cent
    of what is told, for they are shorter than these prompts. Angles of rotation were a product of
    matrices in older versions of transformers: forty operations here, at most.
    """
    bridge = tiny_model(architecture)
    rounding = 5e-4 if Version(transformers.__version__) < Version("5.20") else 1e-6
    tolerance = 0.05 if architecture.startswith("gemma") else rounding
    for components in ("mlp_out", "heads", "neurons_pre"):
        M = PatchedMetric(bridge, tiny_pair(), components, batch_size=1)
        sizes = components, M.n_tokens, M.n_run
        upper = pass_flops(ModelSizes.of(bridge), *sizes)
        lower = without_own_block(ModelSizes.of(bridge), *sizes)
        found = counted(M, torch.arange(3) * (M.n // 3))  # one of each layer
        assert set(found) == set(upper)
        if components == "mlp_out":
            assert found == pytest.approx(lower, rel=tolerance)
        assert found["forward"] == pytest.approx(upper["forward"], rel=tolerance)
        for kind, value in found.items():
            low, high = (1 - tolerance) * lower[kind], (1 + rounding) * upper[kind]
            assert low <= value <= high, (components, kind)


@pytest.mark.parametrize("components", ("mlp_out", "heads"))
def test_a_batch_of_curvatures_goes_down_to_its_lowest_layer(components):
    bridge = tiny_model("llama")
    found, told = [], []
    for batch_size in (1, 2, 5, 100):
        M = PatchedMetric(bridge, tiny_pair(), components, batch_size=batch_size)
        found.append(operations(lambda M=M: M.along_axes(0.0, 2)) / M.n)
        told.append(pass_flops(ModelSizes.of(bridge), components, M.n_tokens, M.n_run, batch_size))
    assert np.diff(found).max() > 0
    told_curvature = np.array([t["curvature"] for t in told])
    assert np.diff(found) == pytest.approx(np.diff(told_curvature), rel=1e-6)
    for kind in set(told[0]) - {"curvature"}:
        assert len({t[kind] for t in told}) == 1


def test_operations_of_every_pass_on_a_real_model(real_model):
    """Two heads whose layers have the average of all layers."""
    M = PatchedMetric(real_model, reference_pair(), batch_size=1)
    layers = torch.tensor([0, 29])
    found = counted(M, layers * 9)
    assert M.layers[layers * 9].float().mean() == M.layers.float().mean()
    told = pass_flops(model_sizes("smollm2-135m"), "heads", M.n_tokens, M.n_run)
    assert found == pytest.approx(told, rel=0.02)


@pytest.mark.parametrize("n_run", (0, 9))
def test_no_more_tokens_run_than_there_are(n_run):
    with pytest.raises(ValueError, match="n_run must be a whole number from 1 to 8"):
        pass_flops(model_sizes("gpt2"), "heads", 8, n_run)


# --- plans ---------------------------------------------------------------------------------------

SIZES = model_sizes("llama-3.1-8b")


def test_a_plan_is_passes_times_operations():
    (p,) = plan(SIZES, "neurons_pre:2", ["ms_hvp:3"], 20, 10, n_prompts=7, flops_per_second=1e12)
    flops = pass_flops(SIZES, "neurons_pre:2", 20, 10)
    total = flops["gradient"] + 64 * flops["curvature"] + 128 * flops["curvature_on_path"]
    assert p.passes == {"gradient": 1, "curvature": 64, "curvature_on_path": 128}
    assert p.flops == pytest.approx(total)
    assert p.forward_equivalents == pytest.approx(total / flops["forward"])
    assert p.seconds == pytest.approx(7 * total / 1e12)
    assert p.weight_bytes == 4 * SIZES.n_parameters
    (exact,) = plan(SIZES, "heads", ["activation_patching"], 20, 10, 1, 1e12)
    assert exact.forward_equivalents == 1024
    (half,) = plan(SIZES, "heads", ["activation_patching"], 20, 10, 1, 1e12, bytes_per_number=2)
    assert (2 * half.run_bytes, 2 * half.weight_bytes) == (exact.run_bytes, exact.weight_bytes)


@pytest.mark.parametrize("rate", (0, -1.0, float("nan")))
def test_a_plan_needs_a_rate(rate):
    with pytest.raises(ValueError, match="above 0"):
        plan(SIZES, "heads", ["hvp"], 20, 10, 1, rate)


def peak_bytes(function):
    """The most memory that tensors hold at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as prof:
        function()
    events = [e for e in prof.profiler.kineto_results.events() if e.name() == "[memory]"]
    return np.cumsum([e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]).max()


@functools.cache
def small(architecture):
    """Widths more like those of a real model than the tiny ones' are."""
    config = CONFIGS[architecture]()
    config.hidden_size, config.vocab_size = 64, 3000
    setattr(config, "n_inner" if architecture == "gpt2" else "intermediate_size", 256)
    model = transformers.AutoModelForCausalLM.from_config(
        config, attn_implementation="eager", dtype=torch.float32
    )
    return hvp_utils.as_bridge(model)


def memory_of_a_run(M, name):
    """What a further run in the batch takes, told and found."""
    (p,) = plan(ModelSizes.of(M.model), "heads", [name], M.n_tokens, M.n_run, 1, 1e12)
    t, order = RUNS[name]
    one, three = (
        peak_bytes(lambda k=k: M.along_axes(t, order, torch.zeros(k).long())) for k in (1, 3)
    )
    return p.run_bytes, (three - one) / 2


RUNS = {
    "activation_patching": (0.5, 0),
    "integrated_gradients": (0.5, 1),
    "hvp": (0.0, 2),
    "hessian_lipschitz": (0.5, 2),
    "third_order": (0.5, 3),
}


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("architecture", ("gpt2", "llama", "gemma2"))
def test_memory_of_a_run_in_a_small_model(name, architecture):
    """Roughly, and from above for plain runs, which take next to nothing in a narrow model."""
    M = PatchedMetric(small(architecture), tiny_pair(), batch_size=8)
    told, found = memory_of_a_run(M, name)
    assert found / 1.6 < told < (5 if name == "activation_patching" else 1.6) * found


@pytest.mark.parametrize("name", ("activation_patching", "hvp", "hessian_lipschitz"))
def test_memory_of_a_run_in_a_real_model(name, real_model):
    told, found = memory_of_a_run(PatchedMetric(real_model, reference_pair(), batch_size=8), name)
    assert told == pytest.approx(found, rel=0.3)


def test_a_rate_is_measured():
    assert 1e6 < measure_rate("cpu", 64, 128) < 1e18
    with pytest.raises(ValueError, match="cannot be used here"):
        measure_rate("nonsense")


# --- the command line ----------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch):
    def no_loading(*_, **__):
        raise AssertionError("A plan loads nothing.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", no_loading)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})
    return lambda *arguments: runner.invoke(app, ["plan", *arguments])


def test_help_lists_everything(command):
    text = command("--help").output
    for name in (*MODELS, *ESTIMATORS, *COMPONENT_KINDS):
        assert name in text, name
    for option in ("--model", "--components", "--estimators", "--tokens", "--run", "--prompts",
                   "--rate", "--device"):  # fmt: skip
        assert option in text, option


def test_a_plan_on_the_command_line(command):
    names = ("activation_patching", "attribution_patching", "hvp", "sketched_hvp:32")
    done = command("--model", "llama-3.1-8b", "--components", "neurons", "--estimators",
                   ", ".join(names), "--run", "10", "--prompts", "3", "--rate", "4e13",
                   "--device", "cuda")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "llama-3.1-8b, neurons_pre: 458,752 components" in done.output
    assert "32.1 GB" in done.output and "4e+13 FLOP/s" in done.output
    assert "left out" in done.output
    plans = plan(SIZES, "neurons_pre", names, 20, 10, 3, 4e13, batch_size=1638)
    lines = done.output.splitlines()
    for p in plans:
        (line,) = (line for line in lines if line.startswith(f"{p.estimator} "))
        assert f" {p.forward_equivalents:,.1f} " in line
        assert all(f"{count:,} {kind}" in line for kind, count in p.passes.items())
    (hvp,) = (line for line in lines if line.startswith("hvp "))
    assert f"{plans[2].seconds / 3600:.3g} h" in hvp and f"{plans[2].run_bytes / 1e6:.3g} MB" in hvp


def test_neurons_are_those_before_the_activation_function(command):
    outputs = [
        command("--components", kind, "--rate", "1e12").output
        for kind in ("neurons:8", "neurons_pre:8")
    ]
    assert "neurons_pre:8: 240 components" in outputs[0]
    assert outputs[0] == outputs[1]


def test_the_rate_is_measured_where_it_is_not_given(command, monkeypatch):
    asked = []
    monkeypatch.setattr("hvp_utils.plans.measure_rate", lambda *args: asked.append(args) or 123e9)
    done = command("--model", "gpt2", "--device", "cpu")
    assert done.exit_code == 0 and "Measured rate: 1.2e+11 FLOP/s" in done.output
    assert asked == [("cpu", 768, 3072)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--estimators", "unknown"), "Unknown estimator 'unknown'"),
        (("--components", "unknown"), "Unknown components 'unknown'"),
        (("--components", "heads:3"), "only neurons can be sampled"),
        (("--model", "nobody/nothing"), "cannot be reached"),
        (("--tokens", "5", "--run", "6"), "n_run must be a whole number from 1 to 5, not 6"),
        (("--rate", "0"), "above 0"),
        (("--estimators", "local_curvature"), "neurons_pre"),
    ],
)
def test_errors_on_the_command_line(command, arguments, message):
    done = command("--rate", "1e12", *arguments)
    assert done.exit_code == 1
    assert message in done.output and "Traceback" not in done.output
