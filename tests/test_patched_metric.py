"""M(alpha) and its derivatives: the fast engine against the slow reference, and its manners."""

import collections
import itertools
import math

import pytest
import reference
import torch
from tiny_models import (
    ARCHITECTURES,
    METRICS,
    N_HEADS,
    N_LAYERS,
    PROMPTS,
    entropy,
    tiny_hf_model,
    tiny_model,
    tiny_pair,
)
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hvp_utils import PatchedMetric, PromptPair, activation_patching
from hvp_utils.components import NODE_KINDS
from hvp_utils.suffix_run import full_precision

KINDS = tuple(NODE_KINDS)
DIRECTIONS = ("denoising", "noising")
WHERE = ("middle", "first", "last")


def assert_close(fast, slow, tolerance=1e-9):
    """Equal relative to the largest entry: small ones carry the rounding of large ones."""
    assert fast.shape == slow.shape
    scale = slow.abs().max()
    assert scale > 0
    assert (fast - slow).abs().max() <= tolerance * scale


# --- fast equals slow ------------------------------------------------------------------------

# Six architectures, five kinds of component, two directions, three prompts and four metrics: the
# full product takes minutes, so these 30 cases are a covering of it. Each case meets every
# architecture with every kind; directions, prompts and metrics go round at different speeds.
CASES = [
    pytest.param(
        architecture,
        kind,
        DIRECTIONS[i % 2],
        WHERE[i % 3],
        METRICS[i // 2 % 4],
        id=f"{architecture}-{kind}",
    )
    for i, (architecture, kind) in enumerate(itertools.product(ARCHITECTURES, KINDS))
]


@pytest.mark.parametrize(("architecture", "kind", "direction", "where", "metric"), CASES)
def test_everything_equals_the_slow_reference(architecture, kind, direction, where, metric, random):
    bridge, pair = tiny_model(architecture), tiny_pair(where, metric)
    M = PatchedMetric(bridge, pair, kind, direction)
    slow = reference.Problem(bridge, pair, kind, direction)

    assert M.n == slow.n
    assert M.labels == tuple(component.label for component in slow.components)
    layers = [int(component.hook.split(".")[1]) for component in slow.components]
    assert M.layers.tolist() == layers
    assert_close(M.delta_norm, torch.stack([delta.norm() for delta in slow.delta]))
    assert M.base == pytest.approx(slow.run().item(), rel=1e-12)
    assert M.other == pytest.approx(slow.run(tokens=slow.other_tokens).item(), rel=1e-12)

    for t in (0.0, 0.5, 1.0):
        for fast, expected in zip(M.along_axes(t)[:3], reference.along_axes(slow, t), strict=True):
            assert_close(fast, expected)

    zero, alpha, V = torch.zeros(M.n, dtype=torch.float64), random(M.n), random(M.n, 2)
    assert_close(M(alpha), slow.M(alpha))
    assert_close(M.gradient(), reference.gradient(slow, zero))
    assert_close(M.gradient(alpha), reference.gradient(slow, alpha))
    assert_close(M.hessian_matvec(V), reference.hessian_products(slow, V, zero))
    assert_close(M.hessian_matvec(V, alpha), reference.hessian_products(slow, V, alpha))


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_heads_equal_the_slow_reference_each_at_its_own_t(architecture, direction, where, random):
    bridge, pair = tiny_model(architecture), tiny_pair(where)
    M = PatchedMetric(bridge, pair, "heads", direction)
    slow = reference.Problem(bridge, pair, "heads", direction)
    t = random(M.n)
    expected = [reference.along_axis(slow, c, t[c].item()) for c in range(M.n)]
    for fast, one_by_one in zip(M.along_axes(t)[:3], zip(*expected, strict=True), strict=True):
        assert_close(fast, torch.stack(one_by_one))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tiny_models_bend(architecture):
    """Were they nearly linear, the tests above could not tell wrong curvature from right."""
    for kind in KINDS:
        g = PatchedMetric(tiny_model(architecture), tiny_pair(), kind).along_axes(0.0)
        assert (g.curvature / 2).abs().max() > 0.01 * g.slope.abs().max()


def test_float32_equals_the_slow_reference_in_float64(random):
    pair = tiny_pair()
    M = PatchedMetric(tiny_model("llama", torch.float32), pair)
    slow = reference.Problem(tiny_model("llama"), pair)
    assert M.along_axes(0.5).curvature.dtype == torch.float32
    for fast, expected in zip(M.along_axes(0.5)[:3], reference.along_axes(slow, 0.5), strict=True):
        assert_close(fast.double(), expected, 1e-4)
    V, zero = random(M.n, 2), torch.zeros(M.n, dtype=torch.float64)
    expected = reference.hessian_products(slow, V, zero)
    assert_close(M.hessian_matvec(V).double(), expected, 1e-4)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_float64_model_computes_in_float64_throughout(architecture):
    """Norms and softmaxes written for half precision say float32; here they must not be."""
    M = PatchedMetric(tiny_model(architecture), tiny_pair())
    seen = collections.Counter()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.is_floating_point():
                seen[out.dtype, out.requires_grad] += 1
            return out

    with Watch():
        M.gradient()
    narrow = [key for key in seen if key[0] != torch.float64]
    assert seen
    # Rotary frequencies are a float32 table in the model; reading it is not arithmetic on
    # activations.
    assert not [key for key in narrow if key[1]]


# --- zero ablation ---------------------------------------------------------------------------


def zero_pair(metric="log_prob"):
    """A prompt without a corrupted one: components are patched with zeros."""
    return PromptPair(PROMPTS["middle"][0], None, (20, 21), 22, metric=metric, name="zeroed")


ZERO_CASES = [
    pytest.param(architecture, kind, METRICS[i % 4], id=f"{architecture}-{kind}")
    for i, (architecture, kind) in enumerate(
        [(a, "heads") for a in ARCHITECTURES]
        + [("gemma2", "mlp_out"), ("llama", "resid"), ("neox", "neurons_post"), ("qwen2", "keys")]
    )
]


@pytest.mark.parametrize(("architecture", "kind", "metric"), ZERO_CASES)
def test_zero_ablation_equals_the_slow_reference(architecture, kind, metric, random):
    bridge, pair = tiny_model(architecture), zero_pair(metric)
    M = PatchedMetric(bridge, pair, kind, "noising")
    slow = reference.Problem(bridge, pair, kind, "noising")
    assert M.labels == tuple(component.label for component in slow.components)
    assert M.base == pytest.approx(slow.run().item(), rel=1e-12)
    assert_close(activation_patching(M), reference.activation_patching(slow))
    for fast, expected in zip(M.along_axes(0.5)[:3], reference.along_axes(slow, 0.5), strict=True):
        assert_close(fast, expected)
    alpha, V = 0.5 * random(M.n), random(M.n, 1)
    assert_close(M.gradient(alpha), reference.gradient(slow, alpha))
    assert_close(M.hessian_matvec(V, alpha), reference.hessian_products(slow, V, alpha))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_ablation_takes_away_the_clean_activations(kind):
    bridge, pair = tiny_model("gemma3"), zero_pair()
    M = PatchedMetric(bridge, pair, kind, "noising")
    tokens = torch.tensor(PROMPTS["middle"][0])
    assert (M.n_tokens, M.n_run) == (len(tokens), len(tokens))  # nothing is shared with another run
    assert math.isnan(M.other)
    with torch.no_grad(), full_precision(torch.float64):
        logits, cache = bridge.run_with_cache(tokens[None])
    for site, delta in zip(M.sites, M.deltas, strict=True):
        assert_close(delta, -cache[site.hook][0], 1e-12)
    assert M.base == pytest.approx(pair.resolve(bridge).metric(logits[:, -1]).item(), rel=1e-12)


# Where an architecture keeps the weights that read a head, and on which side of the matrix.
OUTPUT_WEIGHTS = {
    "gpt2": ("transformer.h.{}.attn.c_proj", 0),  # GPT-2's Conv1D is [in, out]
    "neox": ("gpt_neox.layers.{}.attention.dense", 1),
    "llama": ("model.layers.{}.self_attn.o_proj", 1),
    "qwen2": ("model.layers.{}.self_attn.o_proj", 1),
    "gemma2": ("model.layers.{}.self_attn.o_proj", 1),
    "gemma3": ("model.layers.{}.self_attn.o_proj", 1),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_ablation_of_a_head_is_a_model_that_does_not_read_it(architecture):
    """No hooks at all: the weights by which the head enters the residual stream are set to 0."""
    pair = zero_pair()
    M = PatchedMetric(tiny_model(architecture), pair, direction="noising")
    metric = pair.resolve(M.model).metric
    tokens = torch.tensor([PROMPTS["middle"][0]])
    expected = []
    for layer, head in itertools.product(range(N_LAYERS), range(N_HEADS)):
        model = tiny_hf_model(architecture).eval()  # without dropout
        name, side = OUTPUT_WEIGHTS[architecture]
        weight = model.get_submodule(name.format(layer)).weight
        with torch.no_grad(), full_precision(torch.float64):
            weight.unflatten(side, (N_HEADS, -1)).select(side, head).zero_()
            expected.append(metric(model(tokens).logits[:, -1])[0] - M.base)
    assert_close(activation_patching(M), torch.stack(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_zero_ablation_has_no_corrupted_run_to_start_from(kind):
    bridge = tiny_model("gpt2")
    for arguments in ({"direction": "denoising"}, {}):
        with pytest.raises(ValueError, match="'zeroed' has no corrupted.*Use direction=.noising"):
            PatchedMetric(bridge, zero_pair(), kind, **arguments)


# --- many points at once ---------------------------------------------------------------------


def test_many_alphas_at_once_are_single_alphas(random):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), "resid")
    alphas = random(2, 3, M.n)
    values, gradients = M(alphas), M.gradient(alphas)
    assert values.shape == (2, 3)
    assert gradients.shape == alphas.shape
    for i, j in itertools.product(range(2), range(3)):
        assert values[i, j].item() == pytest.approx(M(alphas[i, j]).item(), rel=1e-12)
        assert_close(gradients[i, j], M.gradient(alphas[i, j]), 1e-12)


def test_alpha_of_another_dtype_is_cast(random):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    alpha = random(M.n).float()
    assert M(alpha).dtype == torch.float64
    assert M(alpha).item() == M(alpha.double()).item()
    assert M(torch.zeros(M.n)).item() == pytest.approx(M.base, rel=1e-14)


def test_a_whole_layer_of_residual_stream_carries_the_whole_difference():
    """Patching every position after one layer leaves nothing of the base run."""
    for direction, where in itertools.product(DIRECTIONS, WHERE):
        M = PatchedMetric(tiny_model("gemma2"), tiny_pair(where), "resid", direction)
        assert M.base != pytest.approx(M.other, rel=1e-3)
        for layer in range(N_LAYERS):
            whole_layer = (M.layers == layer).double()
            assert M(whole_layer).item() == pytest.approx(M.other, rel=1e-12)


def test_directions_are_each_other_with_the_prompts_exchanged():
    bridge, pair = tiny_model("neox"), tiny_pair()
    swapped = type(pair)(pair.corrupted, pair.clean, pair.answer, pair.wrong_answer)
    M, N = PatchedMetric(bridge, pair), PatchedMetric(bridge, swapped, direction="noising")
    assert (M.base, M.other) == (N.base, N.other)
    assert torch.equal(M.along_axes(0.3).curvature, N.along_axes(0.3).curvature)


def test_some_components_in_any_order_and_repeated():
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    everything = M.along_axes(0.25)
    which = torch.tensor([7, 0, 11, 7, 3])
    for part, whole in zip(M.along_axes(0.25, components=which)[:3], everything[:3], strict=True):
        assert_close(part, whole[which], 1e-12)
    t = torch.tensor([0.25, 0.5, 1.0, 0.0, 0.25])
    part = M.along_axes(t, order=1, components=which)
    assert part.curvature is None
    for i, c in enumerate(which):
        expected = M.along_axes(t[i].item(), order=1).slope[c]
        assert part.slope[i].item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("order", (0, 1, 2, 3))
def test_order_says_how_many_derivatives_come_back(order):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    found = [d is not None for d in M.along_axes(0.5, order)]
    assert found == [k <= order for k in range(4)]
    assert not any(d.requires_grad for d in M.along_axes(0.5, order) if d is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_identical_prompts_give_exactly_nothing(kind):
    M = PatchedMetric(tiny_model("llama"), tiny_pair("same"), kind)
    assert M.base == M.other
    assert (M.delta_norm == 0).all()
    g = M.along_axes(torch.linspace(0, 1, M.n))
    assert (g.value == M.base).all()
    assert (g.slope == 0).all() and (g.curvature == 0).all()
    assert (M.gradient() == 0).all()
    assert (M.hessian_matvec(torch.eye(M.n)) == 0).all()


# --- M is a differentiable function ----------------------------------------------------------


@pytest.mark.skipif(torch.__version__ < "2.10", reason="PyTorch could not do it yet; M.hvp can")
@pytest.mark.parametrize(("architecture", "kind"), [("llama", "heads"), ("gemma2", "mlp_out")])
def test_forward_over_reverse_equals_double_backward(architecture, kind, random):
    M = PatchedMetric(tiny_model(architecture), tiny_pair(), kind)
    for alpha in (torch.zeros(M.n, dtype=torch.float64), random(M.n)):
        v = random(M.n)
        gradient, product = torch.func.jvp(torch.func.grad(M), (alpha,), (v,))
        assert_close(gradient, M.gradient(alpha))
        assert_close(product, M.hvp(v, alpha))
        slope = torch.func.jvp(M, (alpha,), (v,))[1]
        assert slope.item() == pytest.approx((gradient @ v).item(), rel=1e-9)


def test_gradcheck():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair("last"), "mlp_out")
    alpha = torch.tensor([0.3, 0.0, -0.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(M, (alpha,))
    assert torch.autograd.gradgradcheck(M, (alpha,))


@pytest.mark.parametrize("kind", KINDS)
def test_the_hessian_is_symmetric_and_its_diagonal_is_the_curvature(kind):
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair(), kind)
    H = M.hessian_matvec(torch.eye(M.n))
    assert_close(H, H.T)
    g = M.along_axes(0.0)
    assert_close(H.diagonal(), g.curvature)
    assert_close(M.gradient(), g.slope)
    assert (H - H.diagonal().diag()).abs().max() > 0.01 * H.abs().max()  # heads do interact


def test_the_model_is_left_without_gradients():
    bridge = tiny_model("gpt2")
    M = PatchedMetric(bridge, tiny_pair())
    M.hessian_matvec(torch.eye(M.n)[:, :2])
    assert all(p.grad is None and not p.requires_grad for p in bridge.parameters())


# --- batches ---------------------------------------------------------------------------------


def _all_results(M, random_alphas):
    return [
        *M.along_axes(0.5, order=3),
        *M.along_axes(0.0)[:3],
        M.hessian_delta(0.5),
        M(random_alphas),
        M.gradient(random_alphas),
        M.hessian_matvec(random_alphas.T),
    ]


@pytest.mark.parametrize("kind", ("heads", "resid"))
@pytest.mark.parametrize("architecture", ("gemma3", "neox"))
def test_the_batch_size_changes_nothing(architecture, kind, random):
    results = []
    for batch_size in (None, 1, 3, 10_000):
        M = PatchedMetric(tiny_model(architecture), tiny_pair(), kind, batch_size=batch_size)
        alphas = random(5, M.n) if not results else alphas
        results.append(_all_results(M, alphas))
    for others in results[1:]:
        for one, other in zip(results[0], others, strict=True):
            assert_close(other, one, 1e-11)


OUT_OF_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "DefaultCPUAllocator: can't allocate memory: you tried to allocate 17179869184 bytes.",
)


class Machine:
    """A metric on a machine whose memory holds only so many runs together."""

    def __init__(self, room, message=OUT_OF_MEMORY[0]):
        self.room, self.message, self.failures = room, message, []

    def __call__(self, logits):
        if len(logits) > self.room:
            self.failures.append(len(logits))
            raise RuntimeError(self.message)
        return entropy(logits)


@pytest.mark.parametrize("message", OUT_OF_MEMORY)
def test_batches_shrink_when_memory_runs_out(message, random):
    bridge, machine = tiny_model("gpt2"), Machine(2, message)
    large = PatchedMetric(bridge, tiny_pair(metric=entropy), batch_size=10)
    small = PatchedMetric(bridge, tiny_pair(metric=machine), batch_size=10)
    alphas = random(5, large.n)
    before = _traces(bridge)
    for one, other in zip(_all_results(small, alphas), _all_results(large, alphas), strict=True):
        assert_close(one, other, 1e-11)
    assert (large.batch_size, small.batch_size) == (10, 2)
    assert machine.failures == [10, 5]  # 10 -> 5 -> 2, and never again after that
    assert _traces(bridge) == before


def test_a_batch_larger_than_the_work_shrinks_from_the_work(random):
    machine = Machine(2)
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(metric=machine), batch_size=10_000)
    M(random(5, M.n))
    assert machine.failures == [5]
    assert M.batch_size == 2


def test_running_out_of_memory_with_one_row_is_an_error():
    machine = Machine(1)
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(metric=machine), batch_size=4)
    machine.room = 0
    with pytest.raises(RuntimeError, match="out of memory"):
        M.gradient()
    assert M.batch_size == 4  # a single row was asked for: nothing to make smaller
    with pytest.raises(RuntimeError, match="out of memory"):
        M.along_axes(1.0, order=0)
    assert M.batch_size == 1
    assert machine.failures == [1, 4, 2, 1]


def test_other_errors_are_not_taken_for_lack_of_memory():
    machine = Machine(2, "mat1 and mat2 shapes cannot be multiplied")
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(metric=machine), batch_size=10)
    with pytest.raises(RuntimeError, match="cannot be multiplied"):
        M.along_axes(0.5)
    assert machine.failures == [10]
    assert M.batch_size == 10


# --- nothing is left behind, and nothing is run in vain --------------------------------------


def _traces(bridge):
    """All that a run could forget to clean up."""
    modules = {name: module for name, module in bridge.named_modules()}
    return {
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in modules.items()
        },
        "listed": {
            name: (len(point.fwd_hooks), len(point.bwd_hooks))
            for name, point in bridge.hook_dict.items()
        },
        "shadowed": [name for name, m in modules.items() if "forward" in vars(m)],
        "tf32": torch.get_float32_matmul_precision(),
        "modes": torch._C._len_torch_function_stack(),
        "training": bridge.training,
    }


def _use_everything(M):
    M.along_axes(0.5)
    M.gradient()
    M.hessian_matvec(torch.eye(M.n)[:, :2])
    M(torch.ones(2, M.n))


@pytest.mark.parametrize("kind", KINDS)
def test_no_hook_and_no_shadow_stays_behind(kind):
    bridge = tiny_model("llama")
    torch.set_float32_matmul_precision("high")
    try:
        before = _traces(bridge)
        assert before["tf32"] == "high"
        _use_everything(PatchedMetric(bridge, tiny_pair(), kind))
        assert _traces(bridge) == before
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize("kind", ("heads", "resid"))
@pytest.mark.parametrize("after", (0, 1, 3))
def test_nor_after_an_exception_in_the_metric(kind, after):
    """`after` evaluations that go well: it breaks while M is being made, or later."""
    bridge, calls = tiny_model("llama"), itertools.count()

    def breaks(logits):
        if next(calls) >= after:
            raise ZeroDivisionError("from inside the metric")
        return logits[:, 0]

    before = _traces(bridge)
    with pytest.raises(ZeroDivisionError, match="inside the metric"):
        _use_everything(PatchedMetric(bridge, tiny_pair(metric=breaks), kind, batch_size=5))
    assert _traces(bridge) == before


class Interrupted(BaseException):
    """Like Ctrl-C, but not for pytest."""


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
def test_nor_after_an_exception_inside_the_model(dtype):
    bridge = tiny_model("llama", dtype)
    M = PatchedMetric(bridge, tiny_pair())
    torch.set_float32_matmul_precision("medium")
    try:
        before = _traces(bridge)

        def interrupt(*_):
            raise Interrupted

        # The highest layer: everything below it is shadowed by then, and every hook in place.
        handle = bridge.blocks[2].mlp.register_forward_pre_hook(interrupt)
        try:
            with pytest.raises(Interrupted):
                M.along_axes(0.5, components=torch.tensor([M.n - 1]))
        finally:
            handle.remove()
        assert _traces(bridge) == before
    finally:
        torch.set_float32_matmul_precision("highest")


def test_hooks_of_the_readers_own_survive():
    bridge = tiny_model("qwen2")
    seen = []
    bridge.hook_dict["blocks.2.attn.hook_z"].add_hook(lambda act, hook: seen.append(act.shape))
    try:
        before = _traces(bridge)
        _use_everything(PatchedMetric(bridge, tiny_pair()))
        assert _traces(bridge) == before
        assert seen
    finally:
        bridge.reset_hooks()


def test_no_tf32_inside():
    bridge = tiny_model("llama", torch.float32)
    inside = []
    handle = bridge.unembed.register_forward_pre_hook(
        lambda *_: inside.append(torch.get_float32_matmul_precision())
    )
    torch.set_float32_matmul_precision("high")
    try:
        PatchedMetric(bridge, tiny_pair()).gradient()
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")
        handle.remove()
    assert inside and set(inside) == {"highest"}


def test_float64_mode_ends_with_the_run():
    with pytest.raises(KeyError), full_precision(torch.float64):
        assert torch.zeros(1).float().dtype == torch.float64
        raise KeyError
    assert torch.zeros(1).float().dtype == torch.float32
    with full_precision(torch.float32):
        assert torch.zeros(1, dtype=torch.float64).float().dtype == torch.float32


def _tokens_run_by_each_block(bridge, action):
    """For each block, how many tokens it really processed during `action()`."""
    counts = [0] * N_LAYERS
    handles = [
        block.mlp.register_forward_hook(
            # The input may be 2-D or 3-D; its last dimension is d_model.
            lambda module, args, out, i=i: counts.__setitem__(
                i, counts[i] + out.numel() // out.shape[-1]
            )
        )
        for i, block in enumerate(bridge.blocks)
    ]
    try:
        action()
    finally:
        for handle in handles:
            handle.remove()
    return counts


def test_only_the_needed_layers_and_tokens_are_run():
    bridge = tiny_model("llama")
    M = PatchedMetric(bridge, tiny_pair("middle"))
    assert (M.n_tokens, M.n_run) == (8, 5)
    for layer in range(N_LAYERS):
        which = (M.layers == layer).nonzero()[:, 0]
        counts = _tokens_run_by_each_block(
            bridge, lambda which=which: M.along_axes(0.5, components=which)
        )
        rows = len(which) * M.n_run
        assert counts == [0] * layer + [rows] * (N_LAYERS - layer)
    # All in one batch: a row enters where its component is, and the batch grows on the way up.
    M.batch_size = M.n
    heads = M.n // N_LAYERS
    everything = _tokens_run_by_each_block(bridge, lambda: M.along_axes(0.5))
    assert everything == [heads * M.n_run, 2 * heads * M.n_run, 3 * heads * M.n_run]
    dense = _tokens_run_by_each_block(bridge, lambda: M(torch.ones(M.n)))
    assert dense == [M.n_run] * N_LAYERS
    top = torch.where(M.layers == 2, 1.0, 0.0)
    assert _tokens_run_by_each_block(bridge, lambda: M(top)) == [0, 0, M.n_run]


def test_components_that_do_not_differ_are_not_run():
    bridge = tiny_model("llama")
    M = PatchedMetric(bridge, tiny_pair("same"))
    counts = _tokens_run_by_each_block(bridge, lambda: M.along_axes(0.5))
    assert counts == [0] * N_LAYERS


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_runs_do_not_wear_out_the_prefix_cache(architecture):
    """Each run appends its keys and values to a copy of the cache, never to the cache itself."""
    M = PatchedMetric(tiny_model(architecture), tiny_pair())
    alpha = torch.full((M.n,), 0.5)
    first = M(alpha).item()
    M.along_axes(0.5)
    M(torch.ones(7, M.n))
    assert M(alpha).item() == first


def test_outer_function_modes_still_apply():
    """A reader's own `TorchFunctionMode` (a profiler, say) sees the calls of a float64 run."""
    seen = []

    class Spy(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            seen.append(function)
            return function(*args, **(kwargs or {}))

    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    with Spy():
        M(torch.ones(M.n))
    assert torch.nn.functional.softmax in seen or torch.Tensor.softmax in seen


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", (torch.bfloat16, torch.float16))
def test_half_precision_has_no_curvature(dtype):
    M = PatchedMetric(tiny_model("gpt2", dtype), tiny_pair())
    name = str(dtype)
    with pytest.raises(TypeError, match=f"{name}.*\n?.*dtype=torch.float32"):
        M.along_axes(0.0, order=2)
    with pytest.raises(TypeError, match=name):
        M.along_axes(0.0)
    with pytest.raises(TypeError, match=name):
        M.hessian_matvec(torch.eye(M.n))
    with pytest.raises(TypeError, match=name):
        M.hvp(torch.ones(M.n))
    slope = M.along_axes(0.0, order=1).slope
    assert slope.dtype == dtype
    assert torch.isfinite(slope).all() and slope.abs().max() > 0
    exact = PatchedMetric(tiny_model("gpt2"), tiny_pair()).gradient()
    assert_close(M.gradient().double(), exact, 0.1)


def not_a_number(logits):
    return logits[:, 0] * torch.nan


def infinite_in_batches(logits):
    return logits[:, 0] / (len(logits) == 1)


def test_a_metric_must_be_finite():
    bridge = tiny_model("gpt2")
    with pytest.raises(ValueError, match=r"not finite") as refused:
        PatchedMetric(bridge, tiny_pair(metric=not_a_number, name="my pair"))
    assert "my pair" in str(refused.value) and "not_a_number" in str(refused.value)
    M = PatchedMetric(bridge, tiny_pair(metric=infinite_in_batches))
    with pytest.raises(ValueError, match="not finite"):
        M.along_axes(0.0, order=0)
    with pytest.raises(ValueError, match="not finite"):
        M(torch.ones(2, M.n))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"direction": "upwards"}, "direction must be one of denoising, noising, not 'upwards'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"components": "eyes"}, "Unknown components 'eyes'.*heads.*mlp_out.*resid"),
        ({"components": "neurons_pre:9"}, "between 1 and 5"),
        ({"components": "neurons_pre:0"}, "between 1 and 5"),
        ({"components": "neurons_pre:x"}, "between 1 and 5"),
        ({"components": "heads:2"}, "only neurons can be sampled; use 'heads'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PatchedMetric(tiny_model("gpt2"), tiny_pair(), **arguments)


def test_wrong_shapes_are_refused():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    n = M.n
    for wrong in (torch.ones(n + 1), torch.ones(n, 2), torch.tensor(1.0)):
        with pytest.raises(ValueError, match=f"must have {n} entries in their last dimension"):
            M(wrong)
        with pytest.raises(ValueError, match=f"must have {n} entries"):
            M.gradient(wrong)
        with pytest.raises(ValueError, match=f"must have {n} entries"):
            M.hessian_matvec(torch.eye(n), alpha=wrong)
    for wrong in (torch.ones(n + 1, 2), torch.ones(n), torch.ones(2, n)):
        with pytest.raises(ValueError, match=rf"V must be \[n, k\] with n = {n}"):
            M.hessian_matvec(wrong)
    with pytest.raises(ValueError, match=rf"one per component: \({n - 1},\) given, {n}"):
        M.along_axes(torch.zeros(n - 1))
    with pytest.raises(ValueError, match="t must be one number or one per component"):
        M.along_axes(torch.zeros(n), components=torch.tensor([0, 1]))
    with pytest.raises(ValueError, match="order must be 0, 1, 2 or 3, not 4"):
        M.along_axes(0.0, order=4)


def test_one_point_is_wanted_for_a_hessian():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    with pytest.raises(ValueError, match="one point"):
        M.hessian_matvec(torch.eye(M.n), alpha=torch.ones(2, M.n))
