"""Diagnosis of one component: evidence against slow reference code, criteria at their edges."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_hf_model, tiny_model, tiny_pair

import hvp_utils
from hvp_utils import PatchedMetric, atp_star, attribution_patching, hvp, ms_hvp
from hvp_utils import diagnosis as d
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.estimators import activation_patching, integrated_gradients

KINDS = ("heads", "queries", "keys", "values", "mlp_out", "resid", "neurons_pre", "neurons_post")


def metric(kind="heads", architecture="llama", **options):
    return PatchedMetric(tiny_model(architecture), tiny_pair(), kind, **options)


def some(M, n=5):
    return torch.linspace(0, M.n - 1, n).long().unique().tolist()


def weighted_rule(n):
    """Points and weights that integrate (1 - t) f(t) over [0, 1], by hand for three points."""
    assert n == 3
    # The Jacobi polynomial of degree 3 is orthogonal to 1, t, t^2 under the weight 1 - t.
    moments = [1 / (k + 1) - 1 / (k + 2) for k in range(6)]
    system = np.array([[moments[i + j] for j in range(3)] for i in range(3)])
    low = np.linalg.solve(system, [-moments[i + 3] for i in range(3)])
    points = np.sort(np.roots([1, *low[::-1]]).real)
    powers = np.vander(points, 3, increasing=True).T
    return points, np.linalg.solve(powers, moments[:3])


# --- evidence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_are_those_of_the_estimators(kind):
    M = metric(kind)
    which = some(M)
    found = d.diagnose_each(M, which)
    assert [one.component for one in found] == [M.labels[c] for c in which]
    expected = {
        "truth": activation_patching(M),
        "estimate": attribution_patching(M),
    }
    remedies = {
        "hvp": hvp(M),
        "ms_hvp:5": ms_hvp(M, 5),
        "five slopes": integrated_gradients(M, 5, "gausslegendre"),
        "grad_drop": atp_star(M),
    }
    if kind in ("queries", "keys"):
        remedies["qk_fix"] = atp_star(M, grad_drop=False)
    assert set(found[0].remedies) == set(remedies)
    for c, one in zip(which, found, strict=True):
        for name, values in expected.items():
            assert getattr(one, name) == pytest.approx(values[c].item(), abs=1e-10)
        for name, values in remedies.items():
            assert one.remedies[name] == pytest.approx(values[c].item(), abs=1e-10)
        assert one.direct + one.indirect == pytest.approx(one.truth)
        assert one.direct_estimate + one.indirect_estimate == pytest.approx(one.estimate)


@pytest.mark.parametrize("kind", ["heads", "queries", "neurons_pre"])
def test_parts_are_what_each_kind_of_operation_adds_and_add_up(kind):
    M = metric(kind)
    (c,) = some(M, 3)[1:2]
    one = d.diagnose(M, c, grad_drop=False)
    points, weights = weighted_rule(d.N_CURVATURES)
    curvature = {}
    for without in ((), *NONLINEARITIES):
        with linearised(M.model, without):
            curvature[without] = [
                M.along_axes(float(t), 2, torch.tensor([c])).curvature.item() for t in points
            ]
    rule = weights
    for name in NONLINEARITIES:  # the last one too, which the code gets by difference
        pairs = zip(curvature[()], curvature[name], strict=True)
        part = sum(r * (all_ - less) for r, (all_, less) in zip(rule, pairs, strict=True))
        assert one.parts[name] == pytest.approx(part, abs=1e-8)
    whole = sum(r * x for r, x in zip(rule, curvature[()], strict=True))
    assert sum(one.parts.values()) == pytest.approx(whole)
    assert one.left_over == pytest.approx(one.error - whole)


def test_parts_are_the_error_where_the_path_is_short():
    """Close to the base run the rule is exact, so nothing is left over."""
    model = tiny_model("gpt2")
    clean, corrupted = tiny_pair().clean, tiny_pair().corrupted
    M = PatchedMetric(model, hvp_utils.PromptPair(clean, corrupted, (20, 21), 22), "neurons_pre")
    c = M.delta_norm.masked_fill(M.delta_norm == 0, math.inf).argmin().item()
    one = d.diagnose(M, c, grad_drop=False)
    assert abs(one.left_over) < 1e-4 * abs(one.error)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("kind", ["heads", "mlp_out", "resid"])
def test_direct_effect_is_that_of_a_changed_last_residual_stream(architecture, kind):
    """With all later writes held, a patch adds to the last residual stream what it writes."""
    M = metric(kind, architecture)
    model, batch = M.model, M.batches[0]
    last = f"blocks.{model.cfg.n_layers - 1}.hook_resid_post"
    rows = batch.rows()
    for c in some(M, 4):
        layer = M.layers[c].item()
        out = {"heads": "hook_attn_out", "mlp_out": "hook_mlp_out", "resid": "hook_resid_post"}
        hook = f"blocks.{layer}.{out[kind]}"

        def seen(patches, hook=hook):
            kept = {}
            see = lambda live: kept.setdefault(hook, live)  # noqa: E731
            if hook in patches:
                inner = patches[hook]
                see = lambda live: kept.setdefault(hook, inner(live))  # noqa: E731
            batch.run.logits({**patches, hook: see}, {0: 1}, rows)
            return kept[hook]

        one = torch.tensor([c])
        patches = batch.patches.patch_on_axes(batch.places(one), torch.ones(1).double(), rows)
        written = seen(patches) - seen({})
        moved = batch.run.logits({last: lambda live, w=written: live + w}, {0: 1}, rows)
        expected = batch._metrics[0](moved).item() - M.base
        found = d.diagnose_each(M, [c], grad_drop=False, symptoms_only=True)[0]
        assert found.direct == pytest.approx(expected, abs=1e-9)
        step = 1e-5
        ends = [
            batch._metrics[0](
                batch.run.logits({last: lambda live, w=s * written: live + w}, {0: 1}, rows)
            ).item()
            for s in (step, -step)
        ]
        # A head writes linearly (but for a norm behind the block), so its slope is that of w.
        if not architecture.startswith("gemma") or kind != "heads":
            assert found.direct_estimate == pytest.approx(
                (ends[0] - ends[1]) / (2 * step), abs=1e-6
            )


@pytest.mark.parametrize(("kind", "architecture"), [("heads", "llama"), ("queries", "gemma3")])
def test_reader_is_the_row_that_finite_differences_find(kind, architecture):
    M = metric(kind, architecture)
    batch, n_layers = M.batches[0], M.model.cfg.n_layers
    hooks = [f"blocks.{layer}.attn.hook_pattern" for layer in range(n_layers)]
    G = batch.gradients_at(hooks, batch.rows())

    def patterns(c, t):
        kept = {}
        see = {h: (lambda live, h=h: kept.setdefault(h, live)) for h in hooks}
        one, at = torch.tensor([c]), torch.tensor([t]).double()
        patches = batch.patches.patch_on_axes(batch.places(one), at, batch.rows())
        with torch.no_grad():
            batch.run.logits(patches | see, {0: 1}, batch.rows())
        return kept

    seen = False
    for c in some(M, 6):
        one = d.diagnose_each(M, [c], grad_drop=False, symptoms_only=True)[0]
        p0, p1, up, down = (patterns(c, t) for t in (0.0, 1.0, 1e-5, -1e-5))
        best, saturated, total = (0.0, None), 0.0, 0.0
        for layer, h in enumerate(hooks):
            change = p1[h] - p0[h] - (up[h] - down[h]) / 2e-5
            for head in range(change.shape[1]):
                for q in range(change.shape[2]):
                    part = (change[0, head, q] * G[h][0, head, q]).sum().item()
                    top = p0[h][0, head, q].argmax()
                    row0, row1 = p0[h][0, head, q], p1[h][0, head, q]
                    left = row0[top] >= d.SATURATED and (row1 - row0)[top].abs() >= d.CHANGED
                    saturated, total = saturated + left * abs(part), total + abs(part)
                    if abs(part) > best[0]:
                        best = abs(part), (f"L{layer}H{head}", q, part, row0, row1)
        if one.reader is None:
            assert total < 1e-8
            continue
        head, q, part, row0, row1 = best[1]
        assert (one.reader.head, one.reader.position) == (head, q + M.n_tokens - M.n_run)
        assert one.reader.part == pytest.approx(part, abs=1e-7)
        key = one.reader.key
        assert key == (row1 - row0).abs().argmax()
        assert one.reader.base == pytest.approx(row0[key].item())
        assert one.reader.patched == pytest.approx(row1[key].item())
        assert one.saturated_share == pytest.approx(float(saturated / total), abs=1e-6)
        seen = True
    assert seen


def test_other_run_is_that_of_the_other_prompt():
    M = metric("heads")
    whole = PatchedMetric(M.model, tiny_pair(), "heads", "noising")
    for c in some(M):
        reader = d.diagnose_each(M, [c], grad_drop=False, symptoms_only=True)[0].reader
        if reader is not None:
            layer, head = map(int, reader.head[1:].split("H"))
            hook = f"blocks.{layer}.attn.hook_pattern"
            kept = whole.run.unpatched([hook])[1][hook]  # its base run is the other prompt's
            row = kept[0, head, reader.position - (M.n_tokens - M.n_run)]
            assert reader.other == pytest.approx(row[reader.key].item())
            break
    else:
        pytest.fail("no head moved a pattern")
    zero = PatchedMetric(
        M.model, dataclasses.replace(tiny_pair(), corrupted=None), "heads", "noising"
    )
    assert math.isnan(d.diagnose_each(zero, [0], False, True)[0].reader.other)


def test_sharp_attention_is_seen_as_saturated():
    """Queries scaled up make softmaxes sharp; a patch that turns one over leaves saturation."""
    model = tiny_hf_model("llama")
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 8
    M = PatchedMetric(model, tiny_pair(), "queries")
    truth = activation_patching(M)
    which = truth.abs().topk(8).indices.tolist()
    found = d.diagnose_each(M, which, grad_drop=False)
    sharp = [one for one in found if one.saturated_share > 0.5]
    assert sharp
    assert any(one.reader.base > d.SATURATED for one in sharp)


def test_a_query_of_a_real_model(real_model):
    """The name mover whose sharp attention a single query turns away; the fix is made for it."""
    pair = hvp_utils.make_prompts("ioi_one_template", real_model, 1)[0]
    one = d.diagnose(PatchedMetric(real_model, pair, "queries"), "L24H4P14", grad_drop=False)
    assert one.verdict == d.SATURATION
    assert one.reader.head == "L24H4" and one.reader.base > d.SATURATED > one.reader.patched
    assert abs(one.truth) > 5 * abs(one.estimate)
    assert one.removed("qk_fix") > 0.9 > one.removed("hvp")


# --- criteria ------------------------------------------------------------------------------------


def test_saturation_needs_the_error_and_the_rows():
    assert d.is_saturation(2.0, 1.0, 0.5)
    assert not d.is_saturation(2.0, 0.99, 0.5)
    assert not d.is_saturation(2.0, 1.0, 0.49)
    assert not d.is_saturation(2.0, -1.0, 1.0)  # the patterns work against the error
    assert d.is_saturation(-2.0, -1.0, 0.5)
    assert not d.is_saturation(0.0, 1.0, 1.0)


def test_cancellation_needs_opposite_signs_a_small_sum_and_a_small_error():
    assert d.is_cancellation(5.0, -4.8, 0.3)  # the tutorial's numbers
    assert d.is_cancellation(-5.0, 4.8, -0.3)
    assert not d.is_cancellation(5.0, 4.8, 0.3)
    assert not d.is_cancellation(5.0, -3.0, 0.3)  # sizes are four times the sum
    assert d.is_cancellation(3.0, -2.0, 0.5)  # five times, and a tenth
    assert not d.is_cancellation(5.0, -4.8, 1.0)  # the parts themselves are misjudged


def test_zero_gradient_is_small_against_the_path():
    assert d.is_zero_gradient(0.1, 1.0) and d.is_zero_gradient(-0.1, 1.0)
    assert not d.is_zero_gradient(0.11, 1.0)
    assert not d.is_zero_gradient(0.0, 0.0)


def a_diagnosis(**changes):
    parts = dict.fromkeys(NONLINEARITIES, 0.0) | {"norms": 1.0}
    given = {
        "component": "L1H2",
        "truth": 2.0,
        "estimate": 1.0,
        "direct": 1.0,
        "direct_estimate": 0.5,
        "slopes": (1.0, 2.0, 2.0, 2.0, 3.0),
        "points": (0.1, 0.3, 0.5, 0.7, 0.9),
        "weights": (0.2,) * 5,
        "parts": parts,
        "reader": None,
        "saturated_share": 0.0,
        "remedies": {"hvp": 1.5, "grad_drop": 1.25},
    }
    return d.Diagnosis(**(given | changes))


def test_verdicts_and_their_order():
    sharp = dict.fromkeys(NONLINEARITIES, 0.0) | {"attention_pattern": 1.0}
    assert a_diagnosis().verdict == d.OTHER
    assert a_diagnosis(estimate=1.81).verdict == d.NO_FAILURE
    assert a_diagnosis(parts=sharp, saturated_share=1.0).verdict == d.SATURATION
    cancels = {"truth": 0.2, "estimate": -0.1, "direct": 5.0}
    assert a_diagnosis(**cancels).verdict == d.CANCELLATION
    flat = {"estimate": 0.1, "slopes": (1.0,) * 5}
    assert a_diagnosis(**flat).verdict == d.ZERO_GRADIENT
    both = flat | {"parts": sharp | {"attention_pattern": 1.9}, "saturated_share": 1.0}
    assert a_diagnosis(**both).verdict == d.SATURATION
    assert sum(a_diagnosis(**both).criteria.values()) == 2


def test_shares_of_the_error():
    one = a_diagnosis()
    assert one.mean_size == pytest.approx(2.0) and one.main_part == "norms"
    assert one.removed("hvp") == pytest.approx(0.5)
    assert one.removed("grad_drop") == pytest.approx(0.25)
    negative = a_diagnosis(truth=-2.0, estimate=-1.0, remedies={"grad_drop": 2.0})
    assert negative.removed("grad_drop") == pytest.approx(1.0)  # scores have no sign
    assert math.isnan(a_diagnosis(truth=1.0).removed("hvp"))
    over = dict.fromkeys(NONLINEARITIES, 0.0) | {"output": -3.0, "norms": 2.0}
    assert a_diagnosis(truth=0.0, parts=over).main_part == "output"


def test_it_reads_as_a_report():
    row = d.Reader("L2H3", 7, 4, 0.97, 0.41, 0.02, 0.3)
    text = str(a_diagnosis(reader=row))
    for piece in (
        "L1H2: none of the three",
        "true effect +2.000, attribution patching +1.000",
        "direct +1.000 (estimated +0.500), indirect +1.000 (estimated +0.500)",
        "100% of the error from norms",
        "L2H3 at token 7 gives token 4 probability 0.97 (patched 0.41, other run 0.02)",
        "50% by hvp",
    ):
        assert piece in text
    assert "error" not in str(a_diagnosis(truth=1.0))


# --- what cannot be diagnosed --------------------------------------------------------------------


def test_bad_input_is_refused():
    model = tiny_model("llama")
    with pytest.raises(ValueError, match="one prompt, and this is M of 2"):
        d.diagnose(PatchedMetric(model, [tiny_pair(), tiny_pair()]), 0)
    with pytest.raises(ValueError, match="not of edges"):
        d.diagnose(PatchedMetric(model, tiny_pair(), "edges"), 0)
    M = metric()
    M.components = object()  # features are given as an object
    with pytest.raises(ValueError, match="not of object"):
        d.diagnose(M, 0)
    M = metric()
    with pytest.raises(ValueError, match="No component is called 'L9H9'"):
        d.diagnose(M, "L9H9")
    with pytest.raises(ValueError, match="no component 12. There are 12"):
        d.diagnose(M, 12)
    with pytest.raises(ValueError, match="components is empty"):
        d.diagnose_each(M, [])


def test_labels_and_indices_are_the_same():
    M = metric()
    assert d.diagnose(M, "L1H2", False) == d.diagnose(M, M.labels.index("L1H2"), False)
