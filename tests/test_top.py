"""The largest effects, against brute force on tiny models and on the book's own."""

import math

import numpy as np
import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_model, tiny_pair
from typer.testing import CliRunner

import hvp_utils
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    reference_pair,
    row_screen,
    top,
    top_effects,
)
from hvp_utils.__main__ import app
from hvp_utils.plans import ModelSizes, pass_flops


def brute_force(M, k, n_patched, seed=0):
    """Patch everything, then look only at what may be looked at."""
    truth, screened = activation_patching(M), row_screen(M, seed=seed)
    chosen = sorted(range(M.n), key=lambda c: -screened.size[c])[:n_patched]
    chosen = sorted(chosen, key=lambda c: -abs(truth[c]))[:k]
    return [M.labels[c] for c in chosen], [truth[c].item() for c in chosen]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_a_few_components_are_all_patched(arch):
    M = PatchedMetric(tiny_model(arch), tiny_pair())
    found = top_effects(M, 4)
    truth = activation_patching(M)
    order = truth.abs().argsort(descending=True)[:4]
    assert found.component.tolist() == [M.labels[c] for c in order]
    np.testing.assert_allclose(found.effect, truth[order].cpu(), atol=1e-6)
    assert (found.value == "exact").all() and (found.runs == 1).all() and found.r.isna().all()
    assert found.attrs == {
        "n": M.n,
        "patched": M.n,
        "runs": M.n,
        "percent": 100,
        "doubtful": [],
    }


@pytest.mark.parametrize("arch", ("gpt2", "gemma3"))
@pytest.mark.parametrize("components", ("heads", "neurons_pre", "edges"))
def test_many_components_are_screened(arch, components, monkeypatch):
    monkeypatch.setattr(top, "FEW", 1)
    monkeypatch.setattr(top, "_prices", lambda M: {"gradient": 0.5, "gradient_row": 0.25})
    M = PatchedMetric(tiny_model(arch), tiny_pair(), components)
    found = top_effects(M, 3)
    names, effects = brute_force(M, 3, 6)
    assert found.component.tolist() == names
    np.testing.assert_allclose(found.effect, effects, rtol=1e-9)
    np.testing.assert_allclose(
        found.f_ap, attribution_patching(M)[[M.labels.index(c) for c in names]], rtol=1e-9
    )
    assert found.attrs["patched"] == 6 and found.attrs["runs"] == 6 + 1
    assert found.runs.tolist() == pytest.approx([1 + 1 / M.n] * 3)
    # What was passed over and might be as large is named, and nothing else.
    screened = row_screen(M)
    size = dict(zip(M.labels, screened.size.tolist(), strict=True))
    patched = sorted(size, key=lambda c: -size[c])[:6]
    smallest = abs(effects[-1])
    assert found.attrs["doubtful"] == [
        c for c in sorted(size, key=lambda c: -size[c]) if c not in patched and size[c] > smallest
    ]


def test_three_candidates_for_each_among_very_many(monkeypatch):
    monkeypatch.setattr(top, "FEW", 1)
    monkeypatch.setattr(top, "MANY", 10)
    monkeypatch.setattr(top, "_prices", lambda M: {"gradient": 0.5, "gradient_row": 0.25})
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    assert M.n == 12
    assert top_effects(M, 3).attrs["patched"] == 9


def test_where_a_screen_saves_nothing_all_are_patched(monkeypatch):
    monkeypatch.setattr(top, "FEW", 1)
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    assert top_effects(M, 3).attrs["patched"] == M.n  # three gradients cost more than six runs


def test_fewer_patches_than_effects_leave_estimates():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    found = top_effects(M, 4, n_patched=2)
    size = row_screen(M).size.argsort(descending=True)
    expected = attribution_patching(M)
    expected[size[:2]] = activation_patching(M)[size[:2]]
    order = expected.abs().argsort(descending=True)[:4]
    assert found.component.tolist() == [M.labels[c] for c in order]
    assert found.value.tolist() == [
        "exact" if c in size[:2] else "estimated" for c in order.tolist()
    ]
    at = [M.labels.index(c) for c in found.component]
    truth, first = activation_patching(M)[at], attribution_patching(M)[at]
    for row, f, f_ap in zip(found.itertuples(), truth, first, strict=True):
        assert row.effect == pytest.approx((f if row.value == "exact" else f_ap).item())
    alone = top_effects(M, 4, n_patched=0)
    order = attribution_patching(M).abs().argsort(descending=True)[:4]
    assert alone.component.tolist() == [M.labels[c] for c in order]
    assert (alone.value == "estimated").all()


def test_the_mean_of_many_prompts():
    pairs = [tiny_pair("middle"), tiny_pair("first")]
    M = PatchedMetric(tiny_model("qwen2"), pairs)
    truth = activation_patching(M)
    order = truth.abs().argsort(descending=True)[:2]
    assert top_effects(M, 2).component.tolist() == [M.labels[c] for c in order]
    with pytest.raises(ValueError, match="each"):
        top_effects(M.each)


@pytest.mark.parametrize("k", (0, 13, 2.5, True, "five"))
def test_a_k_that_cannot_be(k):
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    with pytest.raises(ValueError, match=r"k must be a whole number from 1 to the 12 components"):
        top_effects(M, k)


@pytest.mark.parametrize("n", (-1, 13, 2.5, True))
def test_a_number_of_patches_that_cannot_be(n):
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    with pytest.raises(ValueError, match=r"n_patched must be .* 0 to the 12 components"):
        top_effects(M, 2, n)


# --- the book's own model --------------------------------------------------------------------


def test_the_reference_pair(real_model):
    M = PatchedMetric(real_model, reference_pair())
    found = top_effects(M)
    truth = activation_patching(M)
    order = truth.abs().argsort(descending=True)[:5]
    assert found.component.tolist() == [M.labels[c] for c in order]
    np.testing.assert_allclose(found.effect, truth[order].cpu(), atol=1e-4)
    flops = pass_flops(ModelSizes.of(M.model), "heads", M.n_tokens, M.n_run, M.batch_size)
    gradient = flops["gradient"] / flops["forward"]
    assert found.attrs["runs"] == pytest.approx(10 + 3 * gradient)
    assert found.attrs["percent"] < 10 and math.isfinite(found.attrs["percent"])


def test_command_line(real_model, monkeypatch):
    monkeypatch.setattr(hvp_utils, "load_model", lambda name, device=None: real_model)
    done = CliRunner().invoke(app, ["top", "--task", "ioi", "--k", "3"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0].split() == ["component", "layer", "effect", "value", "runs", "f_ap", "r"]
    pairs = hvp_utils.make_prompts("ioi", real_model, 1)
    expected = top_effects(PatchedMetric(real_model, pairs), 3)
    assert [line.split()[0] for line in lines[1:4]] == expected.component.tolist()
    assert "6 of 270 components were patched exactly" in done.output
    own = ["--clean", "The capital of France is", "--corrupted", "The capital of Italy is"]
    done = CliRunner().invoke(app, ["top", *own, "--answer", " Paris", "--wrong", " Rome"])
    assert done.exit_code == 0 and "L23H4" in done.output


def test_half_a_prompt_is_refused():
    done = CliRunner().invoke(app, ["top", "--clean", "The capital of France is"])
    assert done.exit_code == 1 and "needs --corrupted, --answer too" in done.output


def test_half_precision_is_refused():
    M = PatchedMetric(tiny_model("llama", torch.bfloat16), tiny_pair())
    with pytest.raises(TypeError, match="float32"):
        top_effects(M, 2, 4)
