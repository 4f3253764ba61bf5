"""Changed backward passes: the forward stays to the last bit, and each rule is its formula."""

import pytest
import reference
import torch
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, N_LAYERS, tiny_model, tiny_pair
from transformer_lens.model_bridge.generalized_components import NormalizationBridge

from hvp_utils import PatchedMetric, ms_hvp
from hvp_utils.backward_rules import (
    NONLINEARITIES,
    _activation,
    changed_backward,
    drop_layer,
    freeze_activation_ratios,
    freeze_norm_scales,
    gim_rules,
    halve_gated_products,
    linearised,
    relp_rules,
    scale_gradients,
    softmax_temperature,
)
from hvp_utils.suffix_run import full_precision

RULE_SETS = {
    "gim": gim_rules(),
    "relp": relp_rules(),
    "relp with frozen patterns": relp_rules(True),
    **{f"drop layer {layer}": (drop_layer(layer),) for layer in range(N_LAYERS)},
}


def metric(architecture, kind="heads"):
    bridge = tiny_model(architecture)
    return bridge, PatchedMetric(bridge, tiny_pair(), kind)


def hessian(M, alpha=None):
    return M.hessian_matvec(torch.eye(M.n, dtype=torch.float64), alpha)


def differs(a, b):
    """By far more than rounding."""
    return (a - b).abs().max() > 1e-3 * b.abs().max()


# --- what all have in common -----------------------------------------------------------------


def points_of(M, random):
    """0 and a random point, with derivatives on: without them some rules would have no work."""
    return torch.stack([torch.zeros(M.n, dtype=torch.float64), random(M.n)]).requires_grad_()


@pytest.mark.parametrize("name", RULE_SETS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_same_values_and_another_gradient(architecture, name, random):
    bridge, M = metric(architecture)
    alpha = points_of(M, random)
    values, gradient = M(alpha), M.gradient(alpha)
    with changed_backward(bridge, *RULE_SETS[name]):
        assert torch.equal(M(alpha), values)
        changed = M.gradient(alpha)
    for row, plain in zip(changed, gradient, strict=True):
        assert differs(row, plain)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_linearised_has_the_same_values_and_gradient_and_another_hessian(architecture, random):
    bridge, M = metric(architecture)
    alpha = points_of(M, random)
    values, gradient, H = M(alpha), M.gradient(alpha), hessian(M)
    for kind in NONLINEARITIES:
        with linearised(bridge, kind):
            assert torch.equal(M(alpha), values)
            assert_close(M.gradient(alpha), gradient, 1e-12)
            has_none = kind == "mlp_gating" and architecture in ("gpt2", "neox")
            assert differs(hessian(M), H) != has_none


def hooks_on(bridge):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in bridge.modules())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_is_left_behind(architecture):
    bridge, M = metric(architecture)
    before, gradient, H = hooks_on(bridge), M.gradient(), hessian(M)
    everything = [rule for rules in RULE_SETS.values() for rule in rules]
    blocks = [lambda: linearised(bridge), lambda: changed_backward(bridge, *everything)]
    for block in blocks:
        with block():
            assert hooks_on(bridge) > before
        assert hooks_on(bridge) == before
        with pytest.raises(KeyError, match="in the middle"), block():
            M.gradient()
            raise KeyError("in the middle")
        assert hooks_on(bridge) == before
        assert torch.equal(M.gradient(), gradient)
        assert torch.equal(hessian(M), H)


def test_a_rule_that_fails_takes_the_others_with_it():
    bridge = tiny_model("gpt2")
    before = hooks_on(bridge)
    rules = (*gim_rules(), drop_layer(N_LAYERS))
    with pytest.raises(ValueError, match="no layer 3"), changed_backward(bridge, *rules):
        pytest.fail("There is no such layer.")
    assert hooks_on(bridge) == before


def test_a_run_that_ends_in_an_error_does_not_confuse_the_next_one():
    """Its operations were entered and never left."""
    bridge, M = metric("llama")

    def fail(activation, hook):
        raise ZeroDivisionError

    with linearised(bridge):
        for hook in ("attn.hook_pattern", "mlp.hook_pre", "ln2.hook_in"):
            with pytest.raises(ZeroDivisionError):
                bridge.run_with_hooks(M.run.suffix, fwd_hooks=[(f"blocks.1.{hook}", fail)])
    H = hessian(M)
    with linearised(bridge, "norms"):
        expected = hessian(M)
    with linearised(bridge, "norms"):
        with pytest.raises(ZeroDivisionError):
            bridge.run_with_hooks(M.run.suffix, fwd_hooks=[("blocks.1.ln2.hook_in", fail)])
        assert torch.equal(hessian(M), expected)
    assert differs(expected, H)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rules_go_with_every_estimator(architecture):
    bridge, M = metric(architecture)
    plain = ms_hvp(M, 2)
    with changed_backward(bridge, *gim_rules()):
        changed = ms_hvp(M, 2)
    assert changed.isfinite().all() and differs(changed, plain)


# --- parts of the network without second derivatives -----------------------------------------


@pytest.mark.parametrize("kind", ("heads", "resid", "neurons_pre"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_nothing_bends_when_everything_is_linearised(architecture, kind, random):
    bridge, M = metric(architecture, kind)
    alpha = 0.5 * random(M.n)
    for point in (None, alpha):
        assert hessian(M, point).abs().max() > 1e-3
        with linearised(bridge):
            assert (hessian(M, point) == 0).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_contributions_add_up_to_the_hessian(architecture, random):
    bridge, M = metric(architecture)
    for point in (None, 0.5 * random(M.n)):
        H = hessian(M, point)

        def contribution(*part, H=H, point=point):
            with linearised(bridge, *part):
                return H - hessian(M, point)

        kinds = [contribution(kind) for kind in NONLINEARITIES]
        layers = [contribution(NONLINEARITIES, [layer]) for layer in range(N_LAYERS + 1)]
        for parts in (kinds, layers):
            assert_close(sum(parts), H, 1e-10)
            assert all(differs(H, part) for part in parts)  # no single one is all of it
        # GPT-NeoX's MLPs run beside attention: no head of layer 0 reaches anything else in layer 0.
        bend = [bool(part.abs().max() > 1e-4 * H.abs().max()) for part in layers]
        assert bend == [architecture != "neox", True, True, True]


def test_unknown_kinds():
    with pytest.raises(
        ValueError, match="kinds must be one of norms, attention_pattern, .*outp.*'norm'"
    ):
        with linearised(tiny_model("gpt2"), ["norms", "norm"]):
            pytest.fail("The block must not be entered.")


# --- single rules ----------------------------------------------------------------------------


def gradient_through(function, x, g):
    """Gradient of sum(g * function(x)) at x, in the model's precision."""
    x = x.clone().requires_grad_()
    with full_precision(torch.float64):
        return torch.autograd.grad((function(x) * g).sum(), x)[0]


def gradients_at(M, *hooks):
    """Activations of the base run at some hooks of the middle layer, and the gradients there."""
    hooks = [f"blocks.1.{hook}" for hook in hooks]
    batch = M.batches[0]
    _, value, seen = batch.traced(batch.rows(), hooks=hooks)
    found = [seen[hook] for hook in hooks]
    return found, torch.autograd.grad(value, found)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_softmax_temperature(architecture, random):
    bridge, M = metric(architecture)

    def formula(scores, g):
        s = (scores / 2).softmax(-1)
        return s * (g - (g * s).sum(-1, keepdim=True))

    def through_the_hooks(scores):
        scores = bridge.hook_dict["blocks.1.attn.hook_attn_scores"](scores)
        pattern = bridge.hook_dict["blocks.1.attn.hook_pattern"](scores.softmax(-1))
        assert torch.equal(pattern, scores.softmax(-1))
        return pattern

    with changed_backward(bridge, softmax_temperature(2.0)):
        x, g = random(2, 3, 4, 4), random(2, 3, 4, 4)
        assert_close(gradient_through(through_the_hooks, x, g), formula(x, g), 1e-12)
        # The same in a run of the model.
        hooks = ("attn.hook_attn_scores", "attn.hook_pattern")
        (scores, _), (at_scores, at_pattern) = gradients_at(M, *hooks)
        assert_close(at_scores, formula(scores, at_pattern), 1e-12)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_softmax_at_temperature_one_is_the_plain_one(architecture):
    bridge, M = metric(architecture)
    gradient = M.gradient()
    with changed_backward(bridge, softmax_temperature(1.0)):
        assert_close(M.gradient(), gradient, 1e-12)


@pytest.mark.parametrize("architecture", ("gpt2", "llama", "gemma2", "gemma3"))
def test_frozen_norms_are_linear(architecture, random):
    """LayerNorm, RMSNorm and Gemma's RMSNorm, whose weights are offsets from 1."""
    bridge = tiny_model(architecture)
    norm = bridge.blocks[1].ln1
    weight = norm.original_component.weight
    x, g = random(1, 5, 32), random(1, 5, 32)
    if architecture == "gpt2":
        scale = (x.var(-1, correction=0, keepdim=True) + 1e-5).rsqrt()
        expected = g * weight * scale
        expected = expected - expected.mean(-1, keepdim=True)
    else:
        scale = (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        expected = g * (weight + 1 if architecture.startswith("gemma") else weight) * scale
    with changed_backward(bridge, freeze_norm_scales):
        assert_close(gradient_through(norm, x, g), expected, 1e-10)
    assert differs(gradient_through(norm, x, g), expected)


@pytest.mark.filterwarnings("ignore:A forward hook edited hook_scale")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_norm_scales_in_the_whole_network(architecture):
    """TransformerLens divides by what a hook makes of a norm's scale: here, a constant."""
    bridge, M = metric(architecture)
    slow = reference.Problem(bridge, tiny_pair())
    norms = [m for m in bridge.modules() if isinstance(m, NormalizationBridge)]
    wrapped = {id(norm.original_component) for norm in norms}
    everywhere = [m for m in bridge.original_model.modules() if type(m).__name__.endswith("Norm")]
    assert everywhere and all(id(m) in wrapped for m in everywhere)

    alpha = torch.zeros(M.n, dtype=torch.float64, requires_grad=True)
    scales = [name for name in bridge.hook_dict if name.endswith(".hook_scale")]
    assert len(scales) == len(wrapped)
    hooks = [(name, lambda scale: scale.detach()) for name in scales]
    for c, component in enumerate(slow.components):
        hooks.append((component.hook, lambda live, c=c: live + alpha[c] * slow.delta[c]))
    (expected,) = torch.autograd.grad(slow.run(hooks), alpha)
    assert differs(M.gradient(), expected)
    with changed_backward(bridge, freeze_norm_scales):
        assert_close(M.gradient(), expected, 1e-9)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_frozen_activation_ratios(architecture, random):
    bridge, M = metric(architecture)
    act = _activation(bridge.blocks[1].mlp)
    z, g = random(1, 3, 4), random(1, 3, 4)
    z[0, 0, :2] = 0.0
    ratio = torch.where(z == 0, 0.5, act(z) / z)  # all of them rise with slope 1/2 at 0
    with changed_backward(bridge, freeze_activation_ratios):
        assert torch.equal(act(z.clone().requires_grad_())[z == 0], torch.zeros(2).double())
        found = gradient_through(act, z, g)
        assert_close(found, g * ratio, 1e-6)
        assert_close(found[z != 0], (g * ratio)[z != 0], 1e-12)
        # The same in a run: act(z) * up has the derivative (act(z)/z) * up = output / z in z.
        (pre, post), (at_pre, at_post) = gradients_at(M, "mlp.hook_pre", "mlp.hook_post")
        assert_close(at_pre, at_post * post / pre, 1e-10)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_scaled_gradients(architecture, random):
    bridge, M = metric(architecture)
    x, g = random(1, 3, 4), random(1, 3, 4)
    with changed_backward(bridge, scale_gradients("hook_attn_out", 0.25)):
        for layer in range(N_LAYERS):
            point = bridge.hook_dict[f"blocks.{layer}.hook_attn_out"]
            assert_close(gradient_through(point, x, g), g / 4, 1e-15)
        quartered = M.gradient()
    last = M.layers == N_LAYERS - 1  # these heads reach the metric through one such hook only
    assert_close(quartered[last], M.gradient()[last] / 4, 1e-12)


def test_the_shares_of_gim(random):
    bridge = tiny_model("llama")
    g = random(1, 3, 4)
    with changed_backward(bridge, *gim_rules()):
        for hook, share in {"attn.hook_q": 0.25, "attn.hook_k": 0.25, "attn.hook_v": 0.5}.items():
            for layer in range(N_LAYERS):
                point = bridge.hook_dict[f"blocks.{layer}.{hook}"]
                assert_close(gradient_through(point, random(1, 3, 4), g), share * g, 1e-15)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gated_products_share_their_gradient(architecture):
    bridge, M = metric(architecture, "neurons_pre")
    gradient, last = M.gradient(), M.layers == N_LAYERS - 1
    gated = architecture not in ("gpt2", "neox")
    assert bool(list(_added(bridge, halve_gated_products))) == gated
    with changed_backward(bridge, halve_gated_products):
        changed = M.gradient()
        if gated:
            # In the last layer a neuron reaches the metric through the product only.
            assert_close(changed[last], gradient[last] / 2, 1e-12)
            hooks = ("mlp.hook_pre_linear", "mlp.hook_post")
            (_, _), (at_up, at_post) = gradients_at(M, *hooks)
            (pre,), _ = gradients_at(M, "mlp.hook_pre")
            act = _activation(bridge.blocks[1].mlp)
            assert_close(at_up, at_post * act(pre) / 2, 1e-10)
        else:
            assert torch.equal(changed, gradient)


def _added(bridge, rule):
    """The handles that a rule puts on a model; they are taken off again."""
    for handle in list(rule(bridge)):
        handle.remove()
        yield handle


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_relp_can_hold_the_patterns(architecture):
    bridge, M = metric(architecture)
    for frozen in (True, False):
        with changed_backward(bridge, *relp_rules(frozen)):
            _, (at_scores,) = gradients_at(M, "attn.hook_attn_scores")
        assert (at_scores == 0).all() == frozen


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_dropped_layer_has_no_effect(architecture):
    bridge, M = metric(architecture)
    for layer in range(N_LAYERS):
        with changed_backward(bridge, drop_layer(layer)):
            gradient = M.gradient()
        here = M.layers == layer
        assert (gradient[here] == 0).all()
        assert (gradient[~here] != 0).all()
