"""The four estimators: against the slow reference, and on models whose answer is known."""

import itertools

import pytest
import reference
import torch
from test_patched_metric import DIRECTIONS, KINDS, WHERE, assert_close
from tiny_models import ARCHITECTURES, METRICS, tiny_hf_model, tiny_model, tiny_pair

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    as_bridge,
    attribution_patching,
    hvp,
    ms_hvp,
)
from hvp_utils.estimators import ESTIMATORS, find_estimator

# Every architecture in both directions; kinds, prompts and metrics go round at different speeds.
CASES = [
    pytest.param(
        architecture,
        direction,
        KINDS[i % len(KINDS)],
        WHERE[i % 3],
        METRICS[i // 2 % 4],
        id=f"{architecture}-{direction}",
    )
    for i, (architecture, direction) in enumerate(itertools.product(ARCHITECTURES, DIRECTIONS))
]


@pytest.mark.parametrize(("architecture", "direction", "kind", "where", "metric"), CASES)
def test_estimators_equal_the_slow_reference(architecture, direction, kind, where, metric):
    bridge, pair = tiny_model(architecture), tiny_pair(where, metric)
    M = PatchedMetric(bridge, pair, kind, direction)
    slow = reference.Problem(bridge, pair, kind, direction)
    assert_close(activation_patching(M), reference.activation_patching(slow))
    assert_close(attribution_patching(M), reference.attribution_patching(slow))
    assert_close(hvp(M), reference.hvp(slow))
    assert_close(ms_hvp(M, 3), reference.ms_hvp(slow, 3))


def test_float32_estimators_equal_the_slow_reference_in_float64():
    M = PatchedMetric(tiny_model("gemma2", torch.float32), tiny_pair())
    slow = reference.Problem(tiny_model("gemma2"), tiny_pair())
    assert_close(activation_patching(M).double(), reference.activation_patching(slow), 1e-4)
    assert_close(attribution_patching(M).double(), reference.attribution_patching(slow), 1e-4)
    assert_close(ms_hvp(M, 3).double(), reference.ms_hvp(slow, 3), 1e-4)


# --- closed forms ----------------------------------------------------------------------------


def u(logits):
    """A linear reading of the logits."""
    return logits[:, 20] - logits[:, 22]


def u_squared(logits):
    return u(logits) ** 2


def u_cubed(logits):
    return u(logits) ** 3


@pytest.fixture(scope="module")
def linear_ending():
    """GPT-2 without its last LayerNorm: from the last layer's neurons on, everything is linear."""
    bridge = as_bridge(tiny_hf_model("gpt2"))
    bridge.ln_final.__dict__["forward"] = lambda hidden_states: hidden_states
    return bridge


@pytest.fixture
def last_layer(linear_ending):
    """`(M, which, b)` for a metric: the last layer's neurons, and how far each one moves u."""

    def make(metric, direction="denoising"):
        reading = PatchedMetric(linear_ending, tiny_pair(metric=u), "neurons_post", direction)
        M = PatchedMetric(linear_ending, tiny_pair(metric=metric), "neurons_post", direction)
        which = (M.layers == M.layers.max()).nonzero()[:, 0]
        b = activation_patching(reading, which)
        assert (b != 0).all() and b.abs().max() > 0.1
        return M, which, b, reading.base

    return make


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_attribution_patching_is_exact_on_a_linear_model(last_layer, direction):
    M, which, b, _ = last_layer(u, direction)
    for estimator in (activation_patching, attribution_patching, hvp, ms_hvp):
        assert_close(estimator(M, components=which), b, 1e-12)
    assert (M.along_axes(0.5, components=which).curvature == 0).all()
    H = M.hessian_matvec(torch.eye(M.n))
    assert (H[which][:, which].abs() < 1e-12).all()
    below = M.layers < M.layers.max()  # the Hessian of the rest is not zero: it is a real model
    assert H[below].abs().max() > 0.01


def test_one_hvp_step_is_exact_on_a_quadratic_model(last_layer):
    M, which, b, base = last_layer(u_squared)
    truth = 2 * base * b + b**2  # (base + b)^2 - base^2
    assert_close(activation_patching(M, which), truth, 1e-12)
    assert_close(attribution_patching(M, which), 2 * base * b, 1e-12)
    assert_close(hvp(M, which), truth, 1e-12)
    H = M.hessian_matvec(torch.eye(M.n))[which][:, which]
    assert_close(H, 2 * torch.outer(b, b), 1e-12)


def test_the_error_of_ms_hvp_on_a_cubic_model_falls_as_one_over_k_squared(last_layer):
    """g''' = 6 b^3 everywhere, so K steps leave K * g''' / (6 K^3) = b^3 / K^2."""
    M, which, b, base = last_layer(u_cubed)
    truth = activation_patching(M, which)
    assert_close(truth, (base + b) ** 3 - base**3, 1e-12)
    for n_steps in (1, 2, 3, 5, 10):
        assert_close(truth - ms_hvp(M, n_steps, which), b**3 / n_steps**2, 1e-9)


# --- what they share -------------------------------------------------------------------------


# What some estimators are about, and some that are about everything, edges among it.
ONLY = {
    "local_curvature": ("neurons_pre", "edges"),
    "local_sketched_hvp": ("neurons_pre", "edges"),
    "eap_ig": ("edges",),
    "eap_gp": ("edges",),
}
OF_EDGES = ("activation_patching", "attribution_patching", "hvp", "gim", "sketched_hvp")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name, kind in itertools.product(ESTIMATORS, (*KINDS, "edges"))
        if kind in ONLY.get(name, (*KINDS, *(["edges"] if name in OF_EDGES else [])))
    ],
)
def test_identical_prompts_give_exactly_zero(name, kind):
    M = PatchedMetric(tiny_model("gemma3"), tiny_pair("same"), kind)
    estimate = find_estimator(name)(M)
    assert estimate.shape == (M.n,)
    assert (estimate == 0).all()


# With everything linearised, as it is unless told, this one is 0 everywhere.
PARTIAL = {"quadratic_without": "quadratic_without:norms"}


@pytest.mark.parametrize("name", [*(PARTIAL.get(name, name) for name in ESTIMATORS), "ms_hvp:2"])
def test_only_some_components(name):
    kind = ONLY.get(name, ("heads",))[0]
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), kind)
    which = torch.tensor([10, 2, 5])
    estimator = find_estimator(name)
    assert_close(estimator(M, components=which), estimator(M)[which], 1e-12)


def test_one_step_is_hvp_and_five_are_the_default():
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair())
    assert torch.equal(ms_hvp(M, 1), hvp(M))
    assert torch.equal(ms_hvp(M), ms_hvp(M, 5))
    assert torch.equal(find_estimator("ms_hvp:3")(M), ms_hvp(M, 3))
    assert torch.equal(find_estimator("ms_hvp")(M), ms_hvp(M))


def test_many_steps_come_close_to_the_truth():
    M = PatchedMetric(tiny_model("gemma2"), tiny_pair())
    truth = activation_patching(M)
    worst = [(ms_hvp(M, k) - truth).abs().max().item() for k in (1, 4, 16)]
    assert worst[0] > 4 * worst[1] > 32 * worst[2]
    assert worst[0] > 1e-3  # there was something to correct


@pytest.mark.parametrize("n_steps", (0, -1, 2.0, "3", None))
def test_steps_are_positive_whole_numbers(n_steps):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair("last"), "mlp_out")
    with pytest.raises(ValueError, match="n_steps must be a whole number of at least 1"):
        ms_hvp(M, n_steps)


def test_half_precision_is_first_order_only():
    M = PatchedMetric(tiny_model("gpt2", torch.bfloat16), tiny_pair())
    assert attribution_patching(M).dtype == torch.bfloat16
    for estimator in (hvp, ms_hvp):
        with pytest.raises(TypeError, match=r"torch\.bfloat16"):
            estimator(M)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hpv", "Unknown estimator 'hpv'. Known: activation_patching, attribution_patching, hvp"),
        ("", "Unknown estimator ''"),
        ("hvp:2", "'hvp' takes no number"),
        ("ms_hvp:", "'ms_hvp' takes a whole number of n_steps"),
        ("ms_hvp:0", "'ms_hvp' takes a whole number of n_steps"),
        ("ms_hvp:-2", "'ms_hvp' takes a whole number of n_steps"),
        ("ms_hvp:2.5", "'ms_hvp' takes a whole number of n_steps"),
    ],
)
def test_unknown_estimators(name, message):
    with pytest.raises(ValueError, match=message):
        find_estimator(name)
