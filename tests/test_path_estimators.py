"""Estimators from paths, other curvatures and changed gradients, against slow and known answers."""

import itertools

import numpy as np
import pytest
import reference
import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients
from test_estimators import PARTIAL, last_layer, linear_ending, u_cubed, u_squared  # noqa: F401 (fixtures)
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, N_LAYERS, tiny_model, tiny_pair

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    atp_star,
    attribution_patching,
    gim,
    hvp,
    integrated_gradients,
    integrated_hessians,
    ms_hvp,
    quadratic_term,
)
from hvp_utils.backward_rules import (
    NONLINEARITIES,
    changed_backward,
    gim_rules,
    linearised,
    relp_rules,
)
from hvp_utils.estimators import (
    ESTIMATORS,
    QUADRATURES,
    find_estimator,
    finite_difference_hvp,
    gauss_newton,
    local_curvature,
    local_quadratic_term,
    ms_hvp_median,
    quadratic_without,
    relp,
    third_order,
)


def metric(architecture, kind="heads"):
    return PatchedMetric(tiny_model(architecture), tiny_pair(), kind)


def nodes(n, method):
    """Points and weights on [0, 1], written out."""
    if method == "gausslegendre":
        x, w = np.polynomial.legendre.leggauss(n)
        return [((a + 1) / 2, b / 2) for a, b in zip(x, w, strict=True)]
    if method == "trapezoid":
        return [(k / (n - 1), (0.5 if k in (0, n - 1) else 1) / (n - 1)) for k in range(n)]
    shift = {"left": 0, "midpoint": 0.5, "right": 1}[method]
    return [((k + shift) / n, 1 / n) for k in range(n)]


# --- integrated gradients --------------------------------------------------------------------


@pytest.mark.parametrize("method", QUADRATURES)
@pytest.mark.parametrize("architecture", ("gpt2", "gemma2"))
def test_integrated_gradients_is_a_sum_of_slopes(architecture, method):
    M = metric(architecture)
    for n in (2, 5):
        slow = sum(w * M.along_axes(t, order=1).slope for t, w in nodes(n, method))
        assert_close(integrated_gradients(M, n, method), slow, 1e-12)


CAPTUM = {
    "left": "riemann_left",
    "right": "riemann_right",
    "midpoint": "riemann_middle",
    "trapezoid": "riemann_trapezoid",
    "gausslegendre": "gausslegendre",
}


@pytest.mark.parametrize("method", QUADRATURES)
def test_integrated_gradients_equals_captum(method):
    M, n, some = metric("qwen2"), 6, [0, 5, 11]
    found = []
    for c in some:
        axis = torch.eye(M.n, dtype=torch.float64)[c]
        ig = IntegratedGradients(lambda t, axis=axis: M(t * axis))
        end = torch.ones(1, 1, dtype=torch.float64)
        found.append(ig.attribute(end, 0 * end, n_steps=n, method=CAPTUM[method])[0, 0])
    captum = torch.stack(found)
    if method == "trapezoid":  # captum spaces the points 1/(n-1) apart, and weighs them by 1/n
        captum = captum * n / (n - 1)
    # captum rounds its weights to float32.
    assert_close(integrated_gradients(M, n, method, torch.tensor(some)), captum, 1e-6)


def test_gauss_legendre_reaches_the_truth():
    M = metric("gpt2")
    truth = activation_patching(M)
    assert_close(integrated_gradients(M, 30, "gausslegendre"), truth, 1e-8)
    assert (integrated_gradients(M, 30) - truth).abs().max() > 1e-6 * truth.abs().max()


def test_the_convergence_delta_is_the_error():
    M, some = metric("gpt2"), torch.tensor([7, 1])
    for components in (None, some):
        estimate, delta = integrated_gradients(
            M, 3, components=components, return_convergence_delta=True
        )
        assert torch.equal(estimate, integrated_gradients(M, 3, components=components))
        assert_close(delta, estimate - activation_patching(M, components), 1e-12)


@pytest.mark.parametrize("estimator", (integrated_gradients, integrated_hessians))
def test_rules_that_do_not_exist(estimator):
    M = metric("gpt2")
    with pytest.raises(ValueError, match="method must be one of left, right, midpoint"):
        estimator(M, 4, method="simpson")
    with pytest.raises(ValueError, match="trapezoidal rule needs n_steps of at least 2"):
        estimator(M, 1, method="trapezoid")
    for method in QUADRATURES:
        for n_steps in (0, -1, 2.0, "3"):
            with pytest.raises(ValueError, match="n_steps must be a whole number of at least 1"):
                estimator(M, n_steps, method=method)


# --- integrated Hessians ---------------------------------------------------------------------


def test_integrated_hessians_on_a_quadratic_model(last_layer):  # noqa: F811
    """With g'' constant, the integral of ab g''(ab) is g''/4: half of what is missing."""
    M, which, b, base = last_layer(u_squared)
    linear, quadratic = 2 * base * b, b**2  # g'(0) and g''/2
    half = linear + quadratic / 2
    arguments = {"components": which, "method": "gausslegendre"}
    assert_close(integrated_hessians(M, 2, "grid", **arguments), half, 1e-12)
    complete = integrated_hessians(M, 2, "grid", "complete", **arguments)
    assert_close(complete, linear + quadratic, 1e-12)
    assert_close(hvp(M, which), complete, 1e-12)

    many = integrated_hessians(M, 200, "path", components=which)
    few = integrated_hessians(M, 10, "path", components=which)
    assert_close(many, half, 1e-4)
    assert (few - half).abs().max() > 20 * (many - half).abs().max()
    assert_close(integrated_hessians(M, 200, "path", "complete", components=which), complete, 1e-2)


@pytest.mark.parametrize("method", ("left", "right", "trapezoid"))
def test_rules_with_points_at_the_ends(last_layer, method):  # noqa: F811
    """At 0, where two of these have a point, -ln s is infinite but s ln s is 0."""
    M, which, b, base = last_layer(u_squared)
    n = 5
    points = nodes(n, method)
    grid = sum(w * v * s * t for s, w in points for t, v in points)
    path = sum(-w * s * np.log(s) for s, w in points if s > 0)
    for scheme, quarter in (("grid", grid), ("path", path)):
        found = integrated_hessians(M, n, scheme, method=method, components=which)
        assert_close(found, 2 * base * b + quarter * 2 * b**2, 1e-12)


@pytest.mark.parametrize("scheme", ("path", "grid"))
@pytest.mark.parametrize("part", ("pairwise", "complete"))
def test_integrated_hessians_is_a_sum_of_slopes_and_curvatures(part, scheme):
    M, n = metric("llama"), 3
    points = nodes(n, "midpoint")
    if scheme == "grid":
        points = [(s * t, w * v) for s, w in points for t, v in points]
    else:
        points = [(s, -w * np.log(s)) for s, w in points]
    slow = torch.zeros(M.n, dtype=torch.float64)
    if part == "pairwise":
        slow += attribution_patching(M)
    for s, w in points:
        g = M.along_axes(s)
        slow += w * s * g.curvature + (w * g.slope if part == "complete" else 0)
    assert_close(integrated_hessians(M, n, scheme, part), slow, 1e-12)


def test_the_complete_sum_is_the_truth():
    M = metric("gpt2")
    complete = integrated_hessians(M, 16, "grid", "complete", "gausslegendre")
    assert_close(complete, activation_patching(M), 1e-7)


@pytest.mark.parametrize(
    ("wrong", "message"),
    (
        ({"scheme": "line"}, "scheme must be one of path, grid, not 'line'"),
        ({"part": "half"}, "part must be one of pairwise, complete, not 'half'"),
    ),
)
def test_unknown_integrated_hessians(wrong, message):
    with pytest.raises(ValueError, match=message):
        integrated_hessians(metric("gpt2"), **wrong)


# --- the Taylor series -----------------------------------------------------------------------


def test_the_third_order_is_exact_on_a_cubic_model(last_layer):  # noqa: F811
    M, which, b, base = last_layer(u_cubed)
    truth = (base + b) ** 3 - base**3
    assert_close(third_order(M, which), truth, 1e-12)
    assert_close(truth - hvp(M, which), b**3, 1e-9)  # what the third derivative was needed for


def nested(problem, c, t):
    """g_c'(t), g_c''(t) and g_c'''(t), by differentiating the metric of a whole run three times."""
    t = torch.tensor(t, dtype=torch.float64, requires_grad=True)
    hook = problem.components[c].hook
    derivatives = [problem.run([(hook, lambda live: live + t * problem.delta[c])])]
    for _ in range(3):
        derivatives += torch.autograd.grad(derivatives[-1], t, create_graph=True)
    return torch.stack(derivatives[1:]).detach()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_third_derivatives_are_nested_first_ones(architecture):
    M, some = metric(architecture), torch.tensor([1, 6, 11])
    slow = reference.Problem(M.model, tiny_pair())
    taylor = torch.tensor([1, 1 / 2, 1 / 6], dtype=torch.float64)
    at_0 = torch.stack([nested(slow, c, 0.0) for c in some])
    assert_close(third_order(M, some), at_0 @ taylor)
    g = M.along_axes(0.3, order=3, components=some)
    at_03 = torch.stack([nested(slow, c, 0.3) for c in some])
    for fast, expected in zip(g[1:], at_03.T, strict=True):
        assert_close(fast, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_quadratic_terms_are_half_the_diagonal_of_the_hessian(architecture):
    M = metric(architecture)
    zeros = torch.zeros(M.n, dtype=torch.float64)
    H = torch.autograd.functional.hessian(M, zeros)
    assert_close(quadratic_term(M), H.diagonal() / 2)
    for c in (0, 7):
        axis = torch.eye(M.n, dtype=torch.float64)[c]
        product = torch.autograd.functional.vhp(M, zeros, axis)[1]
        assert_close(quadratic_term(M, torch.tensor([c])), product[[c]] / 2)
    assert_close(hvp(M), attribution_patching(M) + quadratic_term(M))


# --- the quadratic term, operation by operation ----------------------------------------------


@pytest.mark.parametrize("kind", ("heads", "mlp_out"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_contributions_of_all_operations_add_up_to_the_quadratic_term(architecture, kind):
    M = metric(architecture, kind)
    whole = quadratic_term(M)
    contributions = {name: whole - quadratic_without(M, name) for name in NONLINEARITIES}
    assert_close(sum(contributions.values()), whole, 1e-10)
    ungated = "hook_pre_linear" not in " ".join(M.model.hook_dict)
    nothing = {name for name, part in contributions.items() if not part.any()}
    assert nothing == ({"mlp_gating"} if ungated else set())
    assert (quadratic_without(M) == 0).all()
    # Two kinds together lack what each contributes.
    pair = ("norms", "mlp_activation")
    expected = whole - contributions["norms"] - contributions["mlp_activation"]
    assert_close(quadratic_without(M, pair), expected, 1e-10)


def test_the_contributions_of_all_layers_add_up_to_the_quadratic_term():
    M = metric("gemma2")
    whole = quadratic_term(M)
    layers = range(N_LAYERS + 1)  # the last norm and the output are a layer of their own
    parts = [whole - quadratic_without(M, layers=[layer]) for layer in layers]
    assert_close(sum(parts), whole, 1e-10)
    norms = [whole - quadratic_without(M, "norms", layers=[layer]) for layer in layers]
    assert_close(sum(norms), whole - quadratic_without(M, "norms"), 1e-10)
    assert all(part.any() for part in (*parts, *norms))
    # What lies below a component cannot bend its path.
    for layer, part in enumerate(parts):
        above = part[M.layers > layer]
        assert (above.abs() < 1e-12 * whole.abs().max()).all()
    assert torch.equal(quadratic_without(M, layers=layers), quadratic_without(M))
    assert torch.equal(quadratic_without(M, layers=[]), whole)


def test_quadratic_without_by_name_and_of_some_components():
    M, some = metric("qwen2"), torch.tensor([8, 1])
    for kind in NONLINEARITIES:
        found = find_estimator(f"quadratic_without:{kind}")(M)
        with linearised(M.model, kind):
            assert torch.equal(found, quadratic_term(M))
        assert_close(quadratic_without(M, kind, components=some), found[some], 1e-12)
        assert (found != quadratic_term(M)).any()
    with pytest.raises(ValueError, match="kinds must be one of norms"):
        quadratic_without(M, "norm")


def test_finite_differences_tend_to_the_derivative():
    M = metric("gpt2")
    steps = (1e-2, 1e-3, 1e-4)
    errors = [(finite_difference_hvp(M, step) - hvp(M)).abs().max() for step in steps]
    for coarse, fine in itertools.pairwise(errors):
        assert coarse / fine == pytest.approx(10, rel=0.1)
    trapezoid = integrated_gradients(M, 2, "trapezoid")
    assert_close(finite_difference_hvp(M, 1.0), trapezoid, 1e-12)
    slopes = [M.along_axes(t, order=1).slope for t in (0.0, 0.01)]
    assert_close(finite_difference_hvp(M), slopes[0] + 50 * (slopes[1] - slopes[0]), 1e-12)


@pytest.mark.parametrize("step", (0, -0.1, 1.5, float("nan")))
def test_steps_outside_the_path(step):
    with pytest.raises(ValueError, match="step must be above 0 and at most 1"):
        finite_difference_hvp(metric("gpt2"), step)


@pytest.mark.parametrize("architecture", ("gpt2", "llama"))
def test_gauss_newton_keeps_the_curvature_of_the_metric_alone(architecture):
    M = metric(architecture)
    slow = reference.Problem(M.model, tiny_pair())
    of_logits = slow.metric
    slow.metric = lambda logits: logits  # from here on its runs return all logits
    Hm = torch.autograd.functional.hessian(lambda x: of_logits(x[None])[0], slow.run().detach())
    expected = []
    for component, delta, ap in zip(
        slow.components, slow.delta, attribution_patching(M), strict=True
    ):

        def logits(t, hook=component.hook, delta=delta):
            return slow.run([(hook, lambda live: live + t * delta)])

        t = torch.zeros((), dtype=torch.float64)
        j = torch.autograd.functional.jvp(logits, t, torch.ones_like(t))[1]
        expected.append(ap + j @ Hm @ j / 2)
    assert_close(gauss_newton(M), torch.stack(expected))
    assert (gauss_newton(M) - hvp(M)).abs().max() > 1e-3 * hvp(M).abs().max()


def test_the_median_of_three_numbers_of_steps():
    M = metric("gemma3")
    three = torch.stack([ms_hvp(M, k) for k in (5, 10, 20)])
    assert_close(ms_hvp_median(M), three.sort(0).values[1], 1e-12)  # shared points, other batches
    assert len({int(three[:, c].argsort()[1]) for c in range(M.n)}) > 1  # not always the same one
    assert_close(ms_hvp_median(M, (5,)), three[0], 1e-12)


# --- the curvature of the neuron itself ------------------------------------------------------

ACTIVATIONS = {
    "gpt2": lambda z: F.gelu(z, approximate="tanh"),
    "neox": F.gelu,
    "llama": F.silu,
    "qwen2": F.silu,
    "gemma2": lambda z: F.gelu(z, approximate="tanh"),
    "gemma3": lambda z: F.gelu(z, approximate="tanh"),
}


def slow_local_terms(bridge, architecture):
    """Half the sum over positions of act''(z) up delta^2 dM/d(post), by neuron."""
    slow = reference.Problem(bridge, tiny_pair(), "neurons_pre")
    terms = {}
    for layer in range(N_LAYERS):
        mlp, posts = f"blocks.{layer}.mlp", []

        def leaf(live, posts=posts):
            posts.append(live.detach().requires_grad_())
            return posts[0]

        (at_post,) = torch.autograd.grad(slow.run([(f"{mlp}.hook_post", leaf)]), posts)
        z = slow.base[f"{mlp}.hook_pre"].clone().requires_grad_()
        (first,) = torch.autograd.grad(
            ACTIVATIONS[architecture](z).sum(), z, create_graph=True
        )  # elementwise, so the gradient of the sum is the derivative
        (second,) = torch.autograd.grad(first.sum(), z)
        up = 1.0
        if f"{mlp}.hook_pre_linear" in bridge.hook_dict:
            hook = f"{mlp}.hook_pre_linear"
            up = slow._activations(slow.base_tokens, [hook])[hook]
        delta = slow.other[f"{mlp}.hook_pre"] - slow.base[f"{mlp}.hook_pre"]
        term = (second * up * delta**2 * at_post[0]).sum(0) / 2
        terms |= {f"L{layer}N{neuron}": value for neuron, value in enumerate(term)}
    return terms


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_local_terms_are_the_curvature_of_one_activation_function(architecture):
    slow = slow_local_terms(tiny_model(architecture), architecture)
    for kind in ("neurons_pre", "neurons_pre:3"):
        M = metric(architecture, kind)
        expected = torch.stack([slow[label] for label in M.labels])
        assert_close(local_quadratic_term(M), expected)
        assert_close(local_curvature(M), attribution_patching(M) + expected)


@pytest.mark.parametrize("kind", ("heads", "mlp_out", "resid", "neurons_post"))
def test_only_neurons_have_a_curvature_of_their_own(kind):
    M = metric("gpt2", kind)
    for estimator in (local_curvature, local_quadratic_term):
        with pytest.raises(ValueError, match=f'needs components "neurons_pre" .*not {kind!r}'):
            estimator(M)


# --- other gradients -------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gim_and_relp_are_attribution_patching_under_their_rules(architecture):
    M = metric(architecture)
    cases = [
        (gim(M), gim_rules()),
        (relp(M), relp_rules()),
        (relp(M, freeze_patterns=True), relp_rules(True)),
    ]
    for found, rules in cases:
        with changed_backward(M.model, *rules):
            assert torch.equal(found, attribution_patching(M))
    found = [attribution_patching(M), *(estimate for estimate, _ in cases)]
    for i, one in enumerate(found):  # four different estimates
        for other in found[:i]:
            assert (one - other).abs().max() > 1e-3 * one.abs().max()


def slow_pattern_fix(bridge, kind):
    """For each query or key: its layer's pattern with it patched, times the gradient there."""
    slow = reference.Problem(bridge, tiny_pair())
    start = int((slow.base_tokens != slow.other_tokens).nonzero()[0])
    effects = []
    for layer in range(N_LAYERS):
        attention = f"blocks.{layer}.attn"
        hook, seen = f"{attention}.{ {'queries': 'hook_q', 'keys': 'hook_k'}[kind] }", []

        def leaf(live, seen=seen):
            seen.append(live.detach().requires_grad_())
            return seen[0]

        def look(live, seen=seen):
            seen.append(live.detach())
            return live

        value = slow.run([(f"{attention}.hook_pattern", leaf)])
        (G,) = torch.autograd.grad(value, seen)
        base, other = (
            slow._activations(tokens, [hook])[hook]
            for tokens in (slow.base_tokens, slow.other_tokens)
        )
        for pos in range(start, base.shape[0]):
            for head in range(base.shape[1]):
                delta = torch.zeros_like(base)
                delta[pos, head] = other[pos, head] - base[pos, head]
                with torch.no_grad():
                    slow.run(
                        [
                            (hook, lambda live, delta=delta: live + delta),
                            (f"{attention}.hook_pattern", look),
                        ]
                    )
                effects.append(((seen.pop() - seen[0]) * G).sum().detach())
    return torch.stack(effects)


@pytest.mark.parametrize("kind", ("queries", "keys"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_patterns_are_recomputed_for_queries_and_keys(architecture, kind):
    M = metric(architecture, kind)
    assert_close(atp_star(M, grad_drop=False), slow_pattern_fix(M.model, kind))
    assert torch.equal(atp_star(M, qk_fix=False, grad_drop=False), attribution_patching(M))
    assert (M.gradient() - atp_star(M, grad_drop=False)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ("heads", "mlp_out", "neurons_post"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_layers_are_dropped_one_at_a_time(architecture, kind):
    """The mean is over the layers but one: a component's own layer dropped, it has no effect."""
    M = metric(architecture, kind)
    slow = reference.Problem(M.model, tiny_pair(), kind)
    total = 0.0
    for layer in range(N_LAYERS):
        alpha = torch.zeros(slow.n, dtype=torch.float64, requires_grad=True)
        hooks = [
            (component.hook, lambda live, c=c, a=alpha: live + a[c] * slow.delta[c])
            for c, component in enumerate(slow.components)
        ]
        for hook in ("hook_attn_out", "hook_mlp_out"):
            hooks.append((f"blocks.{layer}.{hook}", lambda live: live.detach()))
        (gradient,) = torch.autograd.grad(slow.run(hooks), alpha)
        total = total + gradient.abs() / (N_LAYERS - 1)
    assert_close(atp_star(M), total)
    assert torch.equal(atp_star(M, qk_fix=False), atp_star(M))


# --- names and choices -----------------------------------------------------------------------


NAMES = [PARTIAL.get(name, name) for name in ESTIMATORS]


@pytest.mark.parametrize("name", [*NAMES, "integrated_hessians:2:grid:complete:trapezoid"])
def test_only_some_components(name):
    estimator = find_estimator(name)
    kinds = {
        "local_curvature": ("neurons_pre", "neurons_pre:4", "edges"),
        "local_sketched_hvp": ("neurons_pre", "edges"),
        "atp_star": ("heads", "keys"),
        "eap_ig": ("edges",),
        "eap_gp": ("edges",),
    }
    for kind in kinds.get(name, ("heads",)):
        M = metric("llama", kind)
        everything = estimator(M)
        assert everything.shape == (M.n,)
        some = everything.abs().topk(3).indices[[1, 2, 0]]  # some effects are 0, and equal
        assert len(everything[some].unique()) == 3
        assert_close(estimator(M, components=some), everything[some], 1e-10)


def test_names_with_parameters():
    M = metric("gpt2")
    found = find_estimator("integrated_gradients:4:gausslegendre")(M)
    assert torch.equal(found, integrated_gradients(M, 4, "gausslegendre"))
    found = find_estimator("integrated_gradients:4")(M)
    assert torch.equal(found, integrated_gradients(M, 4))
    found = find_estimator("integrated_hessians:3:grid:complete:left")(M)
    assert torch.equal(found, integrated_hessians(M, 3, "grid", "complete", "left"))
    default = find_estimator("integrated_gradients:10:gausslegendre")
    assert default.keywords == {"n_steps": 10, "method": "gausslegendre"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("integrated_gradients:10:simpson", "method must be one of left, right, midpoint"),
        ("integrated_gradients:gausslegendre", "takes a whole number of n_steps"),
        ("integrated_gradients:10:left:3", "takes only n_steps and method"),
        ("integrated_hessians:5:complete", "scheme must be one of path, grid"),
        ("integrated_hessians:5:grid:", "part must be one of pairwise, complete"),
        ("quadratic_without:norm", "kinds must be one of norms, attention_pattern, .*output"),
        ("quadratic_without:norms:0", "takes only kinds"),
        ("gim:1", "'gim' takes no number"),
        ("third_order:3", "'third_order' takes no number"),
    ],
)
def test_names_that_cannot_be_read(name, message):
    with pytest.raises(ValueError, match=message):
        find_estimator(name)
