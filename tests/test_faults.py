"""Small mistakes in what a function is given, each of which once ended badly.

Some ended in an error from deep inside that said nothing, some in a result that meant nothing. Now
each is refused by name. ``test_fuzz.py`` looks for more of them.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model, tiny_pair, tiny_task

from hvp_utils import PatchedMetric, _checks, make_prompts, missed_bound, plots, sweep
from hvp_utils.backward_rules import changed_backward, gim_rules, relp_rules
from hvp_utils.circuits import Circuit
from hvp_utils.curvature import low_rank, row_norms
from hvp_utils.estimators import (
    activation_patching,
    atp_star,
    attribution_patching,
    hvp,
    integrated_gradients,
    ms_hvp,
)
from hvp_utils.reliability import hessian_lipschitz, screen


def metric(kind="heads", **options):
    return PatchedMetric(tiny_model("gpt2"), tiny_pair(**options), kind)


# --- components, alpha, batch_size ---------------------------------------------------------------


@pytest.mark.parametrize("estimator", (activation_patching, attribution_patching, hvp, ms_hvp))
@pytest.mark.parametrize(
    ("components", "error", "message"),
    [
        (["heads"], TypeError, "components must be numbers of components, not \\['heads'\\]"),
        ("heads", TypeError, "components must be numbers of components, not 'heads'"),
        ([0.5], TypeError, "components must be whole numbers"),
        ([True, False], TypeError, "components must be .* truth values"),
        (3, ValueError, "components must be a list of numbers, not the single 3"),
        ([-1], ValueError, "components: there is no component -1. There are 12, from 0 to 11"),
        ([0, 12], ValueError, "components: there is no component 12. There are 12, from 0 to 11"),
    ],
)
def test_components_that_do_not_exist(estimator, components, error, message):
    with pytest.raises(error, match=message):
        estimator(metric(), components=components)


@pytest.mark.parametrize("components", ([2, 0, 2], (2, 0, 2), np.array([2, 0, 2]), []))
def test_components_as_any_list_in_any_order(components):
    M = metric()
    expected = attribution_patching(M)[list(components)]
    assert torch.equal(attribution_patching(M, components), expected)


def test_strengths_as_a_list():
    M = metric()
    listed = [0.25 * (i % 3) for i in range(M.n)]
    alpha = torch.tensor(listed, dtype=torch.float64)
    torch.testing.assert_close(M(listed), M(alpha))
    torch.testing.assert_close(M.gradient(listed), M.gradient(alpha))
    torch.testing.assert_close(M.hvp(listed, listed), M.hvp(alpha, alpha))


@pytest.mark.parametrize("alpha", ("heads", ["heads"], None, [None], 1j))
def test_strengths_that_are_no_numbers(alpha):
    with pytest.raises(TypeError, match="alpha must be a tensor or a list of numbers"):
        metric()(alpha)


@pytest.mark.parametrize("batch_size", (1.5, 0, -1, True, "4", math.nan))
def test_a_batch_size_that_is_no_count(batch_size):
    said = "batch_size must be a whole number of at least 1, not "
    with pytest.raises(ValueError, match=said):
        PatchedMetric(tiny_model("gpt2"), tiny_pair(), batch_size=batch_size)
    M = metric()
    with pytest.raises(ValueError, match=said):
        M.batch_size = batch_size


# --- sweeps --------------------------------------------------------------------------------------


def swept(**options):
    return sweep(tiny_model("gpt2"), tiny_task, **{"estimators": ["hvp"], "n_prompts": 1} | options)


@pytest.mark.parametrize(
    ("estimators", "error", "message"),
    [
        ([], ValueError, "estimators is empty"),
        ("hvp", TypeError, "estimators must be a list of names.*not 'hvp'"),
        (None, TypeError, "estimators must be a list of names"),
        ([hvp], TypeError, "estimators must be a list of names"),
    ],
)
def test_a_sweep_of_no_estimators(estimators, error, message):
    with pytest.raises(error, match=message):
        swept(estimators=estimators)


def test_a_store_that_is_a_file(tmp_path):
    file = tmp_path / "results"
    file.write_text("mine")
    for store in (file, str(file), file / "deeper"):
        with pytest.raises(NotADirectoryError, match="store must be a folder, but .*results"):
            swept(store=store)
    assert file.read_text() == "mine"


# --- a metric that cuts the graph ----------------------------------------------------------------

CUT = {
    "detach": lambda logits: logits.detach()[:, 1],
    "no_grad": torch.no_grad()(lambda logits: logits[:, 1]),
    "item": lambda logits: torch.tensor([row[1].item() for row in logits]).to(logits),
    "NumPy": lambda logits: torch.from_numpy(logits.detach().numpy()[:, 1]),
    "argmax": lambda logits: logits.argmax(-1).double(),
    "constant": lambda logits: torch.ones(len(logits), dtype=logits.dtype),
}
BY_GRADIENTS = {
    "attribution_patching": attribution_patching,
    "hvp": hvp,
    "ms_hvp": ms_hvp,
    "integrated_gradients": integrated_gradients,
    "gradient": PatchedMetric.gradient,
    "low_rank": lambda M: low_rank(M, 2),
    "row_norms": row_norms,
    "screen": screen,
}


@pytest.mark.parametrize("use", BY_GRADIENTS.values(), ids=BY_GRADIENTS)
@pytest.mark.parametrize("cut", CUT.values(), ids=CUT)
def test_a_metric_without_a_derivative(cut, use):
    M = metric(metric=cut)
    with pytest.raises(ValueError, match="metric .* has no derivative"):
        use(M)


@pytest.mark.parametrize("kind", ("edges", "neurons_pre", "resid"))
def test_a_metric_without_a_derivative_of_other_components(kind):
    M = metric(kind, metric=CUT["detach"])
    with pytest.raises(ValueError, match="metric .* has no derivative"):
        attribution_patching(M)


def test_values_of_such_a_metric_can_be_had():
    expected = activation_patching(metric(metric=lambda logits: logits[:, 1]))
    assert expected.abs().max() > 0
    for cut in ("detach", "no_grad", "item", "NumPy"):
        torch.testing.assert_close(activation_patching(metric(metric=CUT[cut])), expected)


def test_a_metric_that_no_component_moves_is_no_mistake():
    """It leads back to the logits, by a path on which nothing changes."""
    M = metric(metric=lambda logits: logits[:, 1] - logits[:, 1])
    assert not attribution_patching(M).any() and not hvp(M).any()


# --- the checks themselves -----------------------------------------------------------------------

ODD = st.one_of(st.none(), st.booleans(), st.text(), st.complex_numbers(), st.binary())


@given(st.integers(), st.integers(-5, 5), st.integers(-5, 5))
def test_whole_numbers(value, least, most):
    if least <= value <= most:
        assert _checks.whole("k", value, least, most) == value
    else:
        with pytest.raises(ValueError, match=f"k must be a whole number from {least} to {most}"):
            _checks.whole("k", value, least, most)


@given(st.one_of(ODD, st.floats()))
def test_what_is_no_whole_number(value):
    with pytest.raises(ValueError, match="k must be a whole number of at least 0"):
        _checks.whole("k", value, 0)


@given(st.floats())
def test_numbers_within_bounds(value):
    if 0 < value <= 1:
        assert _checks.number("p", value, above=0, most=1) == value
    else:
        with pytest.raises(ValueError, match="p must be above 0 and at most 1"):
            _checks.number("p", value, above=0, most=1)


@given(ODD)
def test_what_is_no_number(value):
    with pytest.raises(ValueError, match="p must be a finite number"):
        _checks.number("p", value)


@pytest.mark.parametrize("value", (True, False, np.bool_(True)))
def test_truth_values(value):
    assert _checks.truth("signed", value) is bool(value)


@pytest.mark.parametrize("value", (1, 0, None, "yes", torch.tensor(True), np.ones(2), []))
def test_what_is_no_truth_value(value):
    with pytest.raises(TypeError, match="signed must be True or False, not "):
        _checks.truth("signed", value)


def test_items():
    assert _checks.items("points", (0, 1), "numbers") == [0, 1]
    assert _checks.items("points", (i for i in "ab"), "numbers") == ["a", "b"]
    assert _checks.items("points", torch.arange(2), "numbers") == [0, 1]
    for value in (3, None, torch.tensor(3), np.array(3)):
        with pytest.raises(TypeError, match="points must be numbers, not "):
            _checks.items("points", value, "numbers")


@pytest.mark.parametrize(
    ("name", "use"),
    (
        ("grad_drop", lambda: atp_star(metric(), grad_drop=np.arange(2))),
        ("qk_fix", lambda: atp_star(metric(), qk_fix=torch.ones(3))),
        ("return_convergence_delta", lambda: integrated_gradients(metric(), 2, "left", None, "no")),
        ("signed", lambda: Circuit.above(M := metric("edges"), M.delta_norm, 0.1, "yes")),
        ("whole_prompts", lambda: PatchedMetric(tiny_model("gpt2"), tiny_pair(), whole_prompts=1)),
        ("patch_shown", lambda: missed_bound(metric(), patch_shown=torch.ones(2))),
    ),
)
def test_arguments_that_must_be_true_or_false(name, use):
    with pytest.raises(TypeError, match=f"{name} must be True or False, not "):
        use()


def test_h_delta_of_no_components():
    M = metric()
    assert M.hessian_delta(components=[]).shape == (0, M.hessian_delta(components=[0]).shape[1])
    assert hessian_lipschitz(M, components=[]).shape == (0,)


def test_a_task_that_takes_other_arguments():
    with pytest.raises(TypeError, match=r"task must take \(model, n, seed=0\) .* does not: "):
        make_prompts(len, tiny_model("gpt2"), 1)


def test_an_error_is_short_however_large_the_value():
    for value in (torch.zeros(1000, 1000), "x" * 10_000, list(range(10_000))):
        with pytest.raises(ValueError) as error:
            _checks.whole("k", value)
        assert len(str(error.value)) < 200


# --- what is given in place of a measurement -----------------------------------------------------


def test_derivatives_of_too_low_an_order_or_of_others():
    M = metric()
    with pytest.raises(ValueError, match="at_base has no curvature: ask along_axes for order=2"):
        ms_hvp(M, 3, at_base=M.along_axes(order=1))
    with pytest.raises(ValueError, match=r"at_base has derivatives of shape \(12,\), .* \(2,\)"):
        ms_hvp(M, 3, [0, 1], at_base=M.along_axes())


def test_a_control_that_is_no_tensor():
    M = metric()
    with pytest.raises(TypeError, match="control must be a name, a tensor or None, not an array"):
        missed_bound(M, [0], n_subsets=400, control=np.zeros(M.n))


def test_a_curve_of_prompts_side_by_side():
    M = PatchedMetric(tiny_model("gpt2"), tiny_task(tiny_model("gpt2"), 2))
    with pytest.raises(ValueError, match=r"give M, the mean, in place of M\.each"):
        plots.axis_curve(M.each, M.labels[0])


@pytest.mark.parametrize("rules", (gim_rules, relp_rules))
def test_a_norm_whose_scale_cannot_be_frozen(rules):
    M = PatchedMetric(tiny_model("olmo"), tiny_pair())
    with pytest.raises(NotImplementedError, match="scale of OlmoLayerNorm cannot be frozen"):
        with changed_backward(M.model, *rules()):
            M.gradient()


def test_all_tokens_run_in_batches_of_the_same_size():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), batch_size=3)
    assert M.whole().batch_size == 3
