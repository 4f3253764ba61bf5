"""Sweeps: what is stored, what is computed again, and what survives an accident."""

import getpass
import importlib.metadata
import logging
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from test_patched_metric import assert_close
from tiny_models import D_VOCAB, N_HEADS, N_LAYERS, PROMPTS, tiny_model, tiny_task
from typer.testing import CliRunner

import hvp_utils
from hvp_utils import PatchedMetric, stats, sweep, sweeps
from hvp_utils import store as store_module
from hvp_utils.__main__ import app
from hvp_utils.components import COMPONENT_KINDS
from hvp_utils.curvature import row_norms
from hvp_utils.estimators import ESTIMATORS, find_estimator
from hvp_utils.estimators.names import find
from hvp_utils.models import MODELS
from hvp_utils.reliability import hessian_lipschitz
from hvp_utils.sweeps import provenance
from hvp_utils.tasks import TASKS

ALL = ("activation_patching", "attribution_patching", "hvp", "ms_hvp:2", "ms_hvp:4")


@pytest.fixture(scope="module")
def bridge():
    return tiny_model("llama", torch.float32)


@pytest.fixture
def made(monkeypatch):
    """The prompts for which a PatchedMetric was made, in order."""
    names = []

    class Counted(PatchedMetric):
        def __init__(self, model, pairs, *args, **kwargs):
            names.extend(pair.name for pair in pairs)
            super().__init__(model, pairs, *args, **kwargs)

    monkeypatch.setattr(sweeps, "PatchedMetric", Counted)
    return names


def assert_same_numbers(one, other):
    """Equal but for the rounding of float32, which depends on what runs together."""
    assert set(one.data_vars) == set(other.data_vars)
    for name in set(one.data_vars) - {"seconds"}:
        a, b = one[name].values, other[name].values
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * np.nanmax(np.abs(b)))
        else:
            assert (a == b).all()


def the_file(store):
    (path,) = Path(store).glob("*.nc")
    return path


# --- what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ("denoising", "noising"))
@pytest.mark.parametrize("components", ("heads", "neurons_post:2"))
def test_a_sweep_holds_what_the_estimators_say(components, direction):
    bridge = tiny_model("llama")
    results = sweep(bridge, tiny_task, ALL, 3, seed=4, direction=direction, components=components)
    assert dict(results.sizes) == {"prompt": 3, "component": results.sizes["component"]}
    for i, pair in enumerate(tiny_task(bridge, 3, seed=4)):
        M = PatchedMetric(bridge, pair, components, direction, seed=4)
        assert results.label.values.tolist() == list(M.labels)
        assert results.layer.values.tolist() == M.layers.tolist()
        one = results.isel(prompt=i)
        for name in ALL:
            expected = find_estimator(name)(M)
            assert_close(torch.tensor(one[name].values), expected, 1e-10)
        assert_close(torch.tensor(one.delta_norm.values), M.delta_norm, 1e-12)
        assert (one.base.item(), one.other.item()) == pytest.approx((M.base, M.other), rel=1e-12)
        assert (one.n_tokens.item(), one.n_run.item()) == (M.n_tokens, M.n_run) == (6, 3)
        assert one.answer.item() == str(pair.answer)
        assert one.clean.item() == "".join(str(token) for token in pair.clean)
        assert one.corrupted.item() == "".join(str(token) for token in pair.corrupted)
        assert one.seconds.item() > 0
    assert ("head" in results.coords) == (components == "heads")


def test_heads_have_their_coordinates(bridge):
    results = sweep(bridge, tiny_task, ["attribution_patching"], 2)
    assert results["head"].values.tolist() == list(range(N_HEADS)) * N_LAYERS
    assert results.sel(component=(results.layer == 1) & (results["head"] == 2)).label == "L1H2"


def test_no_point_of_an_axis_is_computed_twice(bridge, monkeypatch):
    """MS-HVP of 1, 2 and 4 steps on one prompt needs t = 0, 1/4, 1/2, 3/4, once each."""
    points, along_axes = [], PatchedMetric.along_axes

    def watched(self, t=0.0, order=2, components=None):
        t = torch.as_tensor(t).expand(self.n if components is None else len(components))
        which = range(self.n) if components is None else components.tolist()
        points.extend((order, c, float(p)) for c, p in zip(which, t.tolist(), strict=True))
        return along_axes(self, t, order, components)

    monkeypatch.setattr(PatchedMetric, "along_axes", watched)
    sweep(bridge, tiny_task, ["hvp", "ms_hvp:2", "ms_hvp:4", "activation_patching"], 1)
    n = N_HEADS * N_LAYERS
    assert len(points) == len(set(points)) == 5 * n
    assert {p for _, _, p in points} == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_the_constant_of_the_hessian_can_be_swept(tmp_path):
    bridge = tiny_model("qwen2")
    names = ["activation_patching", "hessian_lipschitz"]
    full = sweep(bridge, tiny_task, names, 2, store=tmp_path)
    part = sweep(bridge, tiny_task, names, 2, top=3, store=tmp_path)
    for i, pair in enumerate(tiny_task(bridge, 2)):
        expected = hessian_lipschitz(PatchedMetric(bridge, pair)).numpy()
        assert expected.max() > 1e-3
        rounding = dict(rtol=1e-8, atol=1e-12 * expected.max())
        np.testing.assert_allclose(full.hessian_lipschitz[i], expected, **rounding)
        largest = np.abs(full.activation_patching[i].values).argsort()[-3:]
        kept = np.isin(np.arange(len(expected)), largest)
        assert (part.hessian_lipschitz[i].notnull() == kept).all()
        np.testing.assert_allclose(part.hessian_lipschitz[i][kept], expected[kept], **rounding)


def test_the_rows_of_the_hessian_can_be_swept(tmp_path):
    bridge, names = tiny_model("llama"), ["activation_patching", "row_norms", "row_norms:5"]
    full, part = (sweep(bridge, tiny_task, names, 2, store=tmp_path, top=top) for top in (None, 3))
    for i, pair in enumerate(tiny_task(bridge, 2)):
        M = PatchedMetric(bridge, pair)
        expected, more = (row_norms(M, n).values.numpy() for n in (2, 5))
        assert expected.max() > 1e-3
        np.testing.assert_allclose(full.row_norms[i], expected, rtol=1e-10)
        np.testing.assert_allclose(full["row_norms:5"][i], more, rtol=1e-10)
        largest = np.abs(full.activation_patching[i].values).argsort()[-3:]
        assert set(np.flatnonzero(part.row_norms[i].notnull())) == set(largest)
        np.testing.assert_allclose(part.row_norms[i][largest], expected[largest], rtol=1e-10)


def test_the_spectrum_of_the_hessian_can_be_swept(tmp_path):
    bridge = tiny_model("llama")
    found = sweep(bridge, tiny_task, ["hessian_eigenvalues"], 2, store=tmp_path)
    for i, pair in enumerate(tiny_task(bridge, 2)):
        H = PatchedMetric(bridge, pair).hessian_matvec(torch.eye(N_HEADS * N_LAYERS))
        expected = np.linalg.eigvalsh(H.numpy())
        expected = expected[np.argsort(-np.abs(expected))]
        np.testing.assert_allclose(found.hessian_eigenvalues[i], expected, atol=1e-9)
    with pytest.raises(ValueError, match="hessian_eigenvalues.*without top"):
        sweep(bridge, tiny_task, ["activation_patching", "hessian_eigenvalues"], 2, top=3)


def test_parts_of_the_curvature_can_be_swept(tmp_path):
    """Also after the whole curvature: what is remembered is not that of the linearised network."""
    bridge, names = tiny_model("gemma2"), ["hvp", "quadratic_without:norms", "quadratic_without"]
    results = sweep(bridge, tiny_task, names, 2, store=tmp_path)
    again = xr.load_dataset(the_file(tmp_path), engine="h5netcdf")
    for i, pair in enumerate(tiny_task(bridge, 2)):
        M = PatchedMetric(bridge, pair)
        for name in names:
            expected = find_estimator(name)(M)
            np.testing.assert_allclose(results[name][i], expected, rtol=1e-9)
            np.testing.assert_array_equal(again[name][i], results[name][i])
    assert (results.quadratic_without == 0).all()
    assert (results["quadratic_without:norms"] != 0).all()


def test_one_step_of_ms_hvp_is_stored_under_its_own_name(bridge, tmp_path, made):
    results = sweep(bridge, tiny_task, ["ms_hvp:1", "hvp"], 2, store=tmp_path)
    np.testing.assert_array_equal(results["ms_hvp:1"], results.hvp)
    made.clear()
    again = sweep(bridge, tiny_task, ["ms_hvp:1"], 2, store=tmp_path)
    assert made == []
    assert "ms_hvp:1" in again
    alone = sweep(bridge, tiny_task, ["ms_hvp:1"], 2)
    np.testing.assert_allclose(alone["ms_hvp:1"], results.hvp, rtol=1e-5, atol=1e-6)


def zero_task(model, n, seed=0):
    return [
        hvp_utils.PromptPair(pair.clean, None, pair.answer, name=pair.name)
        for pair in tiny_task(model, n, seed)
    ]


def test_zero_ablation_is_stored_with_no_corrupted_text(tmp_path, made):
    bridge, names = tiny_model("llama"), ["activation_patching", "hvp"]
    sweep(bridge, zero_task, names, 1, direction="noising", store=tmp_path)
    results = sweep(bridge, zero_task, names, 3, direction="noising", store=tmp_path)
    assert made == ["tiny 0", "tiny 1", "tiny 2"]  # the stored prompt was recognised
    made.clear()
    again = sweep(bridge, zero_task, names, 3, direction="noising", store=tmp_path)
    assert made == []
    for found in (results, again):
        assert found.corrupted.values.tolist() == [""] * 3
        assert found.other.isnull().all()
        assert found.n_run.values.tolist() == found.n_tokens.values.tolist() == [6] * 3
        for i, pair in enumerate(zero_task(bridge, 3)):
            M = PatchedMetric(bridge, pair, direction="noising")
            assert found.clean[i].item() == "".join(str(token) for token in pair.clean)
            for name in names:
                expected = find_estimator(name)(M)
                assert_close(torch.tensor(found[name][i].values), expected, 1e-10)
    with pytest.raises(ValueError, match='no corrupted prompt.*Use direction="noising"'):
        sweep(bridge, zero_task, names, 1, direction="denoising", store=tmp_path)


# --- only what is missing --------------------------------------------------------------------


def test_a_second_call_computes_nothing(bridge, tmp_path, made):
    first = sweep(bridge, tiny_task, ALL, 3, store=tmp_path)
    assert made == ["tiny 0", "tiny 1", "tiny 2"]
    before = the_file(tmp_path).read_bytes()
    again = sweep(bridge, tiny_task, ALL, 3, store=tmp_path)
    fewer = sweep(bridge, tiny_task, ALL[1:2], 2, store=tmp_path)
    assert len(made) == 3
    assert the_file(tmp_path).read_bytes() == before
    xr.testing.assert_identical(first, again)
    xr.testing.assert_identical(fewer, first.isel(prompt=slice(2)))


def test_prompts_and_estimators_are_added(bridge, tmp_path, made):
    ran = []

    def watch(name, table):
        function = find(name, table)
        return lambda M, **kwargs: ran.append(name) or function(M, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps, "find", watch)
        sweep(bridge, tiny_task, ["attribution_patching"], 2, store=tmp_path)
        assert made == ["tiny 0", "tiny 1"]
        assert ran == ["attribution_patching"]  # both prompts in one batch
        made.clear(), ran.clear()

        sweep(bridge, tiny_task, ["attribution_patching"], 3, store=tmp_path)
        assert made == ["tiny 2"]
        assert ran == ["attribution_patching"]
        made.clear(), ran.clear()

        both = ["attribution_patching", "hvp"]
        results = sweep(bridge, tiny_task, both, 3, store=tmp_path, prompts_per_batch=2)
        assert made == ["tiny 0", "tiny 1", "tiny 2"]
        assert ran == ["hvp"] * 2
        made.clear()

    at_once = sweep(bridge, tiny_task, ["attribution_patching", "hvp"], 3)
    assert_same_numbers(results, at_once)


def longer_and_longer(model, n, seed=0):
    """Every prompt and answer is written with more characters than those before it."""
    clean = PROMPTS["middle"][0]
    grown = [clean[:3], (10, *clean), (11, 12, *clean, 13, 14, 15, 16)]
    answers = [7, 19, (17, 18)]
    return [
        hvp_utils.PromptPair(tokens, (*tokens[:-1], 30), answer, name=f"of {len(tokens)}")
        for tokens, answer in zip(grown, answers, strict=True)
    ][:n]


def test_longer_texts_that_join_a_store_are_not_cut(bridge, tmp_path, made):
    """A file holds texts of a fixed width, that of the longest which it had when it was written."""
    pairs = longer_and_longer(bridge, 3)
    written = {
        "clean": ["".join(str(token) for token in pair.clean) for pair in pairs],
        "corrupted": ["".join(str(token) for token in pair.corrupted) for pair in pairs],
        "answer": [str(pair.answer) for pair in pairs],
    }
    for texts in written.values():
        assert len(texts[0]) < len(texts[1]) < len(texts[2])
    for n in (1, 2, 3):
        results = sweep(bridge, longer_and_longer, ["attribution_patching"], n, store=tmp_path)
        stored = xr.load_dataset(the_file(tmp_path), engine="h5netcdf")
        for name, texts in written.items():
            assert results[name].values.tolist() == stored[name].values.tolist() == texts[:n]
        assert made == [f"of {len(pairs[n - 1].clean)}"]  # and what was there is still known
        made.clear()
    again = sweep(bridge, longer_and_longer, ["attribution_patching", "hvp"], 3, store=tmp_path)
    assert len(made) == 3
    for name, texts in written.items():
        assert again[name].values.tolist() == texts
    assert _set_aside(tmp_path) == []


def test_adding_an_estimator_to_some_of_the_prompts(bridge, tmp_path, made):
    sweep(bridge, tiny_task, ["attribution_patching"], 3, store=tmp_path)
    made.clear()
    some = sweep(bridge, tiny_task, ["hvp"], 1, store=tmp_path)
    assert made == ["tiny 0"]
    assert some.sizes["prompt"] == 1 and some.hvp.notnull().all()
    made.clear()
    # The other prompts kept what they had, and lack only what they never got.
    kept = sweep(bridge, tiny_task, ["attribution_patching"], 3, store=tmp_path)
    assert made == []
    assert kept.attribution_patching.notnull().all()
    everything = sweep(bridge, tiny_task, ["attribution_patching", "hvp"], 3, store=tmp_path)
    assert made == ["tiny 1", "tiny 2"]
    assert_same_numbers(everything, sweep(bridge, tiny_task, ["attribution_patching", "hvp"], 3))


def test_every_combination_has_a_file_of_its_own(bridge, tmp_path):
    variants = [
        {},
        {"seed": 1},
        {"direction": "noising"},
        {"components": "mlp_out"},
        {"components": "neurons_pre:2"},
        {"top": 2, "estimators": ["activation_patching", "attribution_patching"]},
    ]
    for variant in variants:
        sweep(bridge, tiny_task, **{"estimators": ["activation_patching"], **variant}, n_prompts=1,
              store=tmp_path)  # fmt: skip
    sweep(tiny_model("llama"), tiny_task, ["activation_patching"], 1, store=tmp_path)
    files = sorted(path.name for path in tmp_path.glob("*.nc"))
    assert len(files) == len(variants) + 1
    assert "LlamaForCausalLM__tiny_task__heads__denoising__float32__seed0.nc" in files
    assert "LlamaForCausalLM__tiny_task__heads__denoising__float64__seed0.nc" in files
    assert "LlamaForCausalLM__tiny_task__heads__denoising__float32__seed0__top2.nc" in files
    assert not any(":" in path.name for path in tmp_path.iterdir())


def test_a_model_given_by_name_is_loaded_only_when_needed(bridge, tmp_path, monkeypatch):
    loaded = []

    def load(name, device=None, dtype=torch.float32):
        loaded.append((name, device, dtype))
        return bridge

    monkeypatch.setattr(sweeps, "load_model", load)
    arguments = ("some/model", tiny_task, ["activation_patching"], 2)
    first = sweep(*arguments, store=tmp_path, device="cpu")
    assert loaded == [("some/model", "cpu", torch.float32)]
    assert the_file(tmp_path).name.startswith("some--model__tiny_task__")
    xr.testing.assert_identical(sweep(*arguments, store=tmp_path), first)
    assert len(loaded) == 1
    with pytest.raises(ValueError, match="Unknown estimator"):
        sweep("other", tiny_task, ["magic"], 2)
    assert len(loaded) == 1


def test_top(bridge, tmp_path):
    full = sweep(bridge, tiny_task, ALL, 3)
    part = sweep(bridge, tiny_task, ALL[:3], 3, top=4, store=tmp_path)
    part = sweep(bridge, tiny_task, ALL, 3, top=4, store=tmp_path)  # added to what is stored
    assert part.attrs["top"] == 4
    xr.testing.assert_allclose(part.activation_patching, full.activation_patching, rtol=1e-4)
    for i in range(3):
        truth = np.abs(full.activation_patching[i].values)
        largest = truth >= np.sort(truth)[-4]
        assert largest.sum() == 4
        for name in ALL[1:]:
            assert (part[name][i].notnull().values == largest).all()
            np.testing.assert_allclose(
                part[name][i].values[largest], full[name][i].values[largest], rtol=1e-3, atol=1e-6
            )
    everything = sweep(bridge, tiny_task, ALL, 1, top=10_000)
    assert all(everything[name].notnull().all() for name in ALL)


# --- accidents -------------------------------------------------------------------------------


def _set_aside(store):
    return [path for path in Path(store).iterdir() if "set-aside" in path.name]


@pytest.mark.parametrize("size", (0, 8, 0.5, 0.98))
def test_a_damaged_file_is_set_aside(size, bridge, tmp_path, made, caplog):
    first = sweep(bridge, tiny_task, ALL[:2], 2, store=tmp_path)
    path = the_file(tmp_path)
    damaged = path.read_bytes()
    damaged = damaged[: size if isinstance(size, int) else int(size * len(damaged))]
    path.write_bytes(damaged)
    made.clear()
    again = sweep(bridge, tiny_task, ALL[:2], 2, store=tmp_path)
    assert len(made) == 2
    assert_same_numbers(first, again)
    (aside,) = _set_aside(tmp_path)
    assert aside.read_bytes() == damaged
    assert path.name in caplog.text and aside.name in caplog.text
    assert "cannot be read" in caplog.text
    assert str(tmp_path) not in caplog.text
    made.clear()
    sweep(bridge, tiny_task, ALL[:2], 2, store=tmp_path)
    assert made == []


@pytest.mark.parametrize(
    ("key", "value"), [("model", "another"), ("direction", "noising"), ("format", 0), ("seed", 7)]
)
def test_a_foreign_file_is_set_aside(key, value, bridge, tmp_path, made, caplog):
    sweep(bridge, tiny_task, ALL[:2], 1, store=tmp_path)
    path = the_file(tmp_path)
    foreign = xr.load_dataset(path, engine="h5netcdf").assign_attrs({key: value})
    foreign["activation_patching"] += 1
    foreign.to_netcdf(path, engine="h5netcdf")
    made.clear()
    again = sweep(bridge, tiny_task, ALL[:2], 1, store=tmp_path)
    assert made == ["tiny 0"]
    assert_same_numbers(again, sweep(bridge, tiny_task, ALL[:2], 1))
    assert len(_set_aside(tmp_path)) == 1
    assert f"its {key} is {value}, not " in caplog.text


@pytest.mark.parametrize("change", ("prompt", "answer"))
def test_a_task_that_changed_is_computed_again(change, bridge, tmp_path, made, caplog):
    sweep(bridge, tiny_task, ALL[:1], 3, store=tmp_path)
    made.clear()

    def changed_task(model, n, seed=0):
        pairs = tiny_task(model, n, seed)
        old = pairs[1]
        clean = old.clean if change == "answer" else ((old.clean[0] + 1) % D_VOCAB, *old.clean[1:])
        answer = (old.answer + 1) % D_VOCAB if change == "answer" else old.answer
        corrupted = (clean[0], *old.corrupted[1:])
        pairs[1] = hvp_utils.PromptPair(clean, corrupted, answer, name="changed")
        return pairs

    changed_task.__name__ = "tiny_task"
    again = sweep(bridge, changed_task, ALL[:1], 4, store=tmp_path)
    assert made == ["tiny 0", "changed", "tiny 2", "tiny 3"]
    assert_same_numbers(again, sweep(bridge, changed_task, ALL[:1], 4))
    assert len(_set_aside(tmp_path)) == 1
    assert "prompt 1 is not the one that this task makes now" in caplog.text


def test_a_failed_write_leaves_the_old_file(bridge, tmp_path, monkeypatch):
    sweep(bridge, tiny_task, ALL[:2], 2, store=tmp_path)
    before = the_file(tmp_path).read_bytes()

    def disk_full(self, path, **_):
        Path(path).write_bytes(b"half a f")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(xr.Dataset, "to_netcdf", disk_full)
        with pytest.raises(OSError, match="No space left"):
            sweep(bridge, tiny_task, ALL[:2], 3, store=tmp_path)
    assert the_file(tmp_path).read_bytes() == before
    assert sweep(bridge, tiny_task, ALL[:2], 3, store=tmp_path).sizes["prompt"] == 3
    assert {path.suffix for path in tmp_path.iterdir()} == {".nc", ".lock"}


def test_an_interrupted_sweep_keeps_the_batches_before(bridge, tmp_path, made, monkeypatch):
    along_axes = PatchedMetric.along_axes

    def interrupted(self, *args, **kwargs):
        if self.pairs[0].name == "tiny 2":
            raise KeyboardInterrupt
        return along_axes(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(PatchedMetric, "along_axes", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(bridge, tiny_task, ["hvp"], 4, store=tmp_path, prompts_per_batch=2)
    assert xr.load_dataset(the_file(tmp_path), engine="h5netcdf").sizes["prompt"] == 2
    made.clear()
    results = sweep(bridge, tiny_task, ["hvp"], 4, store=tmp_path)
    assert made == ["tiny 2", "tiny 3"]
    assert_same_numbers(results, sweep(bridge, tiny_task, ["hvp"], 4))


def two_shapes(model, n, seed=0):
    """Every other prompt is a token longer than the one before it."""
    pairs = []
    for i, pair in enumerate(tiny_task(model, n, seed)):
        more = (7,) * (i % 2)
        clean, corrupted = (*more, *pair.clean), (*more, *pair.corrupted)
        pairs.append(hvp_utils.PromptPair(clean, corrupted, pair.answer, name=f"tiny {i}"))
    return pairs


def test_prompts_of_one_shape_run_together_and_gaps_are_filled(bridge, tmp_path, made, monkeypatch):
    """Prompts 0, 2, 4 are a batch; killed after it, the store has gaps where the others will be."""
    batch = sweeps._batch

    def interrupted(bridge, pairs, *rest):
        if pairs[0].name == "tiny 1":
            raise KeyboardInterrupt
        return batch(bridge, pairs, *rest)

    expected = sweep(bridge, two_shapes, ["hvp"], 5, prompts_per_batch=1)
    made.clear()
    with monkeypatch.context() as patch:
        patch.setattr(sweeps, "_batch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(bridge, two_shapes, ["hvp"], 5, store=tmp_path)
    with xr.open_dataset(the_file(tmp_path), engine="h5netcdf") as left:
        assert left.prompt.values.tolist() == [0, 2, 4]
    assert made == ["tiny 0", "tiny 2", "tiny 4"]
    made.clear()
    # A single prompt that is there is not computed again, one that is not there is.
    assert sweep(bridge, two_shapes, ["hvp"], 1, store=tmp_path).sizes["prompt"] == 1
    assert made == []
    results = sweep(bridge, two_shapes, ["hvp"], 5, store=tmp_path)
    assert made == ["tiny 1", "tiny 3"]
    assert "prompt" not in results.coords
    assert_same_numbers(results, expected)


WRITER = """
import sys, time
from pathlib import Path
import torch
from hvp_utils import sweep, sweeps
from tiny_models import tiny_model, tiny_task

batch, store = sweeps._batch, Path(sys.argv[1])

def slowly(bridge, pairs, *rest):
    (store / "begun").touch()
    while not (store / "go on").exists():
        time.sleep(0.05)
    return batch(bridge, pairs, *rest)

sweeps._batch = slowly
sweep(tiny_model("llama", torch.float32), tiny_task, ["hvp"], 3, store=store)
"""


def environment():
    tests = Path(__file__).parent
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent)]),
        "OMP_NUM_THREADS": "1",
    }


def test_a_second_process_waits_and_reads(bridge, tmp_path, made, caplog):
    script, store = tmp_path / "writer.py", tmp_path / "store"
    store.mkdir()
    script.write_text(WRITER)
    child = subprocess.Popen([sys.executable, script, store], env=environment())
    try:
        while not (store / "begun").exists():
            assert child.poll() is None
            time.sleep(0.05)
        # Only what is said about waiting lets the child go on, so this would hang if nobody waited.
        with caplog.at_level("WARNING"):
            handler = logging.Handler()
            handler.emit = lambda record: (store / "go on").touch()
            logging.getLogger("hvp_utils.store").addHandler(handler)
            try:
                results = sweep(bridge, tiny_task, ["hvp"], 3, store=store)
            finally:
                logging.getLogger("hvp_utils.store").removeHandler(handler)
        assert child.wait(timeout=60) == 0
    finally:
        child.kill()
    assert "waiting for it to finish" in caplog.text
    assert made == []
    assert_same_numbers(results, sweep(bridge, tiny_task, ["hvp"], 3))


KILLED = """
import os, signal, sys
from pathlib import Path
import torch, xarray as xr
from hvp_utils import sweep, sweeps
from tiny_models import tiny_model, tiny_task

store, when = sys.argv[1:]
batch, to_netcdf = sweeps._batch, xr.Dataset.to_netcdf

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def computing(bridge, pairs, *rest):
    return die() if pairs[0].name == "tiny 2" else batch(bridge, pairs, *rest)

written = []

def writing(self, path, **kwargs):
    to_netcdf(self, path, **kwargs)
    written.append(path)
    if len(written) == 2:  # half of the second batch has reached the disk
        os.truncate(path, os.path.getsize(path) // 2)
        die()

if when == "computing":
    sweeps._batch = computing
else:
    xr.Dataset.to_netcdf = writing
sweep(tiny_model("llama", torch.float32), tiny_task, ["hvp"], 4, store=store,
      prompts_per_batch=2)
"""


def test_kill_minus_nine_loses_one_batch_at_most(bridge, tmp_path, made):
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    stores = {when: tmp_path / when for when in ("computing", "writing")}
    children = [
        subprocess.Popen([sys.executable, script, store, when], env=environment())
        for when, store in stores.items()
    ]
    try:
        for child in children:
            assert child.wait(timeout=500) == -signal.SIGKILL
    finally:
        for child in children:
            child.kill()
    expected = sweep(bridge, tiny_task, ["hvp"], 4)
    for store in stores.values():
        (folder,) = store.glob(".*.parts")
        with xr.open_dataset(the_file(folder), engine="h5netcdf") as left:
            assert left.sizes["prompt"] == 2
        made.clear()
        results = sweep(bridge, tiny_task, ["hvp"], 4, store=store)
        assert made == ["tiny 2", "tiny 3"]
        assert_same_numbers(results, expected)
        assert {path.suffix for path in store.iterdir()} == {".nc", ".lock"}


class Ledger:
    """Which prompts have reached the store, and which were computed after they had."""

    def __init__(self, monkeypatch):
        self.stored, self.again = set(), []
        batch, add_part = sweeps._batch, sweeps.add_part

        def watched_batch(bridge, pairs, *rest):
            self.again += [pair.name for pair in pairs if pair.name in self.stored]
            return batch(bridge, pairs, *rest)

        def watched_part(part, path, number):
            add_part(part, path, number)
            held = part.prompt.values.tolist() if "prompt" in part.coords else [0]
            self.stored |= {f"tiny {n}" for n in held}

        monkeypatch.setattr(sweeps, "_batch", watched_batch)
        monkeypatch.setattr(sweeps, "add_part", watched_part)


class Died(BaseException):
    """The process is gone: nothing catches this, and nothing more is done to the disk."""


def dies_at(patch, step, for_good):
    """Let the disk fail at its n-th operation, and if for good at each one after it.

    Returns:
        A list of what was done to the disk.
    """
    done = []

    def failing(name, do):
        def operation(*args, **kwargs):
            done.append(name)
            n = len(done)
            if n == step or (for_good and n > step):
                if name == "to_netcdf" and n == step:
                    do(*args, **kwargs)  # half a file
                    os.truncate(args[1], os.path.getsize(args[1]) // 2)
                raise Died if for_good else OSError("No space left on device")
            return do(*args, **kwargs)

        return operation

    patch.setattr(xr.Dataset, "to_netcdf", failing("to_netcdf", xr.Dataset.to_netcdf))
    patch.setattr(store_module.os, "fsync", failing("fsync", os.fsync))
    for name in ("replace", "unlink", "rmdir"):
        patch.setattr(Path, name, failing(name, getattr(Path, name)))
    return done


@pytest.mark.parametrize("for_good", (True, False))
@pytest.mark.parametrize("begun", (0, 1))
def test_whatever_fails_on_the_disk_nothing_finished_is_lost(
    begun, for_good, bridge, tmp_path, monkeypatch
):
    """Every operation fails once, in a new store and in one that already holds a prompt."""
    expected = sweep(bridge, tiny_task, ["attribution_patching"], 3)
    arguments = (bridge, tiny_task, ["attribution_patching"])
    for step in range(1, 100):
        store = tmp_path / str(step)
        if begun:
            sweep(*arguments, begun, store=store)
        with monkeypatch.context() as patch:
            ledger = Ledger(patch)
            with monkeypatch.context() as disk:
                done = dies_at(disk, step, for_good)
                try:
                    sweep(*arguments, 3, store=store, prompts_per_batch=1)
                except (Died, OSError):
                    pass
                else:
                    break
            for path in store.glob("*.nc"):  # a reader sees a whole file or none
                xr.load_dataset(path, engine="h5netcdf")
            before = set(ledger.stored)
            results = sweep(*arguments, 3, store=store)
            assert ledger.again == [], (step, done)
        assert_same_numbers(results, expected)
        assert {path.suffix for path in store.iterdir()} <= {".nc", ".lock", ".parts"}
        assert _set_aside(store) == []
        # What has been merged and could not be removed does no harm, and goes next time.
        sweep(*arguments, 4, store=store)
        assert {path.suffix for path in store.iterdir()} == {".nc", ".lock"}
    batches = 3 - begun
    assert len(done) == step - 1 == 3 * (batches + 1) + batches + 1
    assert len(before) == batches


RANDOMLY_KILLED = r"""
import sys
from pathlib import Path
import torch
from hvp_utils import sweep, sweeps
from tiny_models import tiny_model, tiny_task

store, log = (Path(argument) for argument in sys.argv[1:])
batch, add_part = sweeps._batch, sweeps.add_part

def say(*words):
    with log.open("a") as file:
        file.write(" ".join(map(str, words)) + "\n")

def watched_batch(bridge, pairs, *rest):
    say("computes", pairs[0].name.split()[1])
    return batch(bridge, pairs, *rest)

def watched_part(part, *rest):
    add_part(part, *rest)
    say("stored", part.prompt.item() if "prompt" in part.coords else 0)

sweeps._batch, sweeps.add_part = watched_batch, watched_part
model = tiny_model("llama", torch.float32)
say("begins")
sweep(model, tiny_task, ["hvp"], 60, store=store, prompts_per_batch=1)
say("ends")
"""


def test_killed_at_random_moments(bridge, tmp_path):
    """Three times, and then left alone. Meanwhile readers see a whole file or none."""
    script, store, log = (tmp_path / name for name in ("killed.py", "store", "log"))
    script.write_text(RANDOMLY_KILLED)
    log.touch()
    random = np.random.default_rng()  # not seeded: over the years it tries every moment
    delays = random.uniform(0, 2.5, 3)
    for delay in [*delays, None]:
        begun = log.read_text().count("begins")
        child = subprocess.Popen([sys.executable, script, store, log], env=environment())
        try:
            while log.read_text().count("begins") == begun:
                assert child.poll() is None
                time.sleep(0.02)
            if delay is None:
                assert child.wait(timeout=300) == 0
            else:
                time.sleep(delay)
        finally:
            child.kill()
            child.wait()
        for path in store.glob("*.nc"):
            assert 0 < xr.load_dataset(path, engine="h5netcdf").sizes["prompt"] <= 60
    stored = set()
    for line in log.read_text().splitlines():
        what, _, n = line.partition(" ")
        assert not (what == "computes" and n in stored), (line, delays)
        stored |= {n} if what == "stored" else set()
    assert line == "ends" and len(stored) >= 57  # a kill may come between storing and saying so
    results = xr.load_dataset(the_file(store), engine="h5netcdf")
    assert_same_numbers(results, sweep(bridge, tiny_task, ["hvp"], 60))
    assert {path.suffix for path in store.iterdir()} == {".nc", ".lock"}


@pytest.mark.parametrize("n", (5, 20))
def test_a_store_grows_linearly(n, bridge, tmp_path, monkeypatch):
    """A prompt is written twice, as a part and into the file, however many there are."""
    sizes, write = [], store_module.write

    def counted(done, path):
        sizes.append(done.sizes["prompt"])
        write(done, path)

    monkeypatch.setattr(store_module, "write", counted)
    monkeypatch.setattr(sweeps, "write", counted)
    arguments = (bridge, tiny_task, ["attribution_patching"])
    sweep(*arguments, n, store=tmp_path, prompts_per_batch=1)
    assert sizes == [1] * n + [n]
    sizes.clear()
    sweep(*arguments, n + 2, store=tmp_path)
    assert sizes == [2, n + 2]


def test_parts_of_another_sweep_are_set_aside(bridge, tmp_path, made, caplog):
    """A part is trusted no more than a file is."""
    arguments = (bridge, tiny_task, ["attribution_patching"])
    first = sweep(*arguments, 2, store=tmp_path)
    path = the_file(tmp_path)
    whole = xr.load_dataset(path, engine="h5netcdf")
    wrong = whole.assign(attribution_patching=2 * whole.attribution_patching)
    store_module.add_part(wrong.assign_attrs(seed=7), path, 0)
    store_module.add_part(whole.isel(prompt=[1]), path, 1)
    damaged = tmp_path / f".{path.name}.parts" / "000001.nc"
    damaged.write_bytes(damaged.read_bytes()[:100])
    made.clear()
    again = sweep(*arguments, 3, store=tmp_path)
    assert made == ["tiny 2"]
    assert_same_numbers(again.isel(prompt=slice(2)), first)
    assert len(_set_aside(damaged.parent)) == 2
    assert "cannot be read" in caplog.text and "its seed is" in caplog.text


def test_committed_files_are_read_and_left_as_they_are():
    """Those that the notebooks read were written before there were parts."""
    files = sorted((Path(__file__).parents[1] / "notebooks" / "results").glob("*.nc"))
    assert len(files) > 10
    for path in files[:: len(files) // 10]:
        before = path.read_bytes()
        held = store_module.read(path, {"format": 1})
        assert held is not None and sweeps._numbers(held) == [*range(held.sizes["prompt"])]
        assert path.read_bytes() == before


# --- where a number comes from ---------------------------------------------------------------


def test_provenance(bridge, tmp_path):
    sweep(bridge, tiny_task, ALL[:1], 1, seed=2, direction="noising", store=tmp_path)
    attributes = xr.load_dataset(the_file(tmp_path), engine="h5netcdf").attrs
    expected = {
        "model": "LlamaForCausalLM",
        "name": "LlamaForCausalLM",
        "hub_id": "LlamaForCausalLM",
        "quantisation": "none",
        "task": "tiny_task",
        "components": "heads",
        "direction": "noising",
        "seed": 2,
        "dtype": "float32",
        "device": "cpu",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "xarray": xr.__version__,
    }
    assert expected.items() <= {k: v for k, v in attributes.items()}.items()
    for key in ("revision", "git_revision", "transformers", "transformer_lens", "numpy"):
        assert attributes[key], key
    assert attributes["written"].endswith("+00:00")
    assert set(provenance(bridge)) <= set(attributes)


def test_the_file_tells_nothing_about_the_machine(bridge, tmp_path):
    """These files are published: no path, no user and no host may be in them."""
    sweep(bridge, tiny_task, ALL[:2], 1, store=tmp_path)
    content = the_file(tmp_path).read_bytes()
    secrets = {str(tmp_path), str(Path.home()), os.getcwd(), sys.prefix, tmp_path.name}
    secrets |= {platform.node()} if len(platform.node()) > 3 else set()
    try:
        user = getpass.getuser()
    except OSError:
        user = ""
    secrets |= {user} if len(user) > 4 else set()  # "root" is a word like any other
    assert b"tiny_task" in content  # attributes are stored as they are
    for secret in secrets:
        assert secret.encode() not in content, secret


# --- refusals --------------------------------------------------------------------------------


def ragged_task(model, n, seed=0):
    return [
        hvp_utils.PromptPair((1, 2, 3), (1, 4, 3), 5),
        hvp_utils.PromptPair((1, 2, 3, 6), (1, 4, 3, 6), 5),
    ][:n]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"estimators": ["hpv"]}, "Unknown estimator 'hpv'"),
        ({"estimators": ["hvp"], "top": 3}, 'top needs "activation_patching"'),
        ({"n_prompts": 0}, "n_prompts must be a whole number of at least 1, not 0"),
        ({"task": "riddles"}, "unknown task 'riddles'"),
        ({"direction": "sideways"}, "direction must be"),
        ({"components": "eyes"}, "Unknown components 'eyes'"),
        ({"task": ragged_task, "components": "resid"}, "these have 6 and 9.*prompts of one length"),
        ({"task": ragged_task, "n_prompts": 3}, "3 prompts were asked for, but the task holds 2"),
    ],
)
def test_refusals(arguments, message, bridge, tmp_path):
    defaults = {"task": tiny_task, "estimators": ["activation_patching"], "n_prompts": 2}
    with pytest.raises(ValueError, match=message):
        sweep(bridge, **(defaults | arguments), store=tmp_path)


def test_prompts_of_different_lengths_are_fine_for_heads(bridge):
    results = sweep(bridge, ragged_task, ["activation_patching"], 2, components="heads")
    assert results.n_tokens.values.tolist() == [3, 4]


# --- the command line ------------------------------------------------------------------------


@pytest.fixture
def command(bridge, monkeypatch, tmp_path):
    """Run `python -m hvp_utils sweep ...` in this process, on a tiny model and task."""
    monkeypatch.setattr(sweeps, "load_model", lambda name, **_: bridge)
    monkeypatch.setitem(TASKS, "tiny", tiny_task)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1", "TERM": "dumb"})

    def run(*arguments):
        return runner.invoke(app, ["sweep", *arguments])

    return run


def test_help_lists_everything(command):
    text = command("--help").output
    for names in (MODELS, ESTIMATORS, COMPONENT_KINDS, set(TASKS) - {"tiny"}):
        for name in names:
            assert name in text, name
    for option in ("--model", "--task", "--estimators", "--prompts", "--components", "--direction",
                   "--seed", "--top", "--store", "--device"):  # fmt: skip
        assert option in text, option
    bare = CliRunner().invoke(app, [])
    assert "sweep" in bare.output


def test_a_run_on_the_command_line(command, bridge, tmp_path):
    done = command("--task", "tiny", "--prompts", "2", "--store", "out", "--estimators",
                   "activation_patching, attribution_patching,ms_hvp:3")  # fmt: skip
    assert done.exit_code == 0, done.output
    assert "2 prompts, 12 components." in done.output
    results = xr.load_dataset(the_file(tmp_path / "out"), engine="h5netcdf")
    for name in ("attribution_patching", "ms_hvp:3"):
        error = stats.top_k_relative_error(results[name], results.activation_patching).mean()
        assert f"{name}: top-5 relative error {error:6.2f} %" in done.output
    assert "activation_patching:" not in done.output
    again = command("--task", "tiny", "--prompts", "2", "--store", "out")
    assert again.exit_code == 0
    assert "hvp" in xr.load_dataset(the_file(tmp_path / "out"), engine="h5netcdf")


def test_the_command_line_with_few_components(command, tmp_path):
    done = command("--task", "tiny", "--prompts", "1", "--top", "3")
    assert done.exit_code == 0, done.output
    assert "hvp: top-3 relative error" in done.output
    assert the_file(tmp_path / "results").name.endswith("__top3.nc")
    done = command("--task", "tiny", "--prompts", "1", "--components", "mlp_out")
    assert done.exit_code == 0, done.output
    assert "1 prompts, 3 components" in done.output and "top-3 relative error" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--estimators", "hpv"), "Unknown estimator 'hpv'. Known: activation_patching"),
        (("--task", "riddles"), "unknown task 'riddles'. Known tasks: ioi"),
        (("--components", "eyes"), "Unknown components 'eyes'. Known kinds: heads"),
        (("--direction", "sideways"), "direction must be"),
        (("--estimators", "hvp", "--top", "3"), "top needs"),
    ],
)
def test_unknown_names_on_the_command_line(arguments, message, command):
    done = command("--task", "tiny", "--prompts", "1", *arguments)
    assert done.exit_code == 1
    assert "Error: " in done.stderr and message in done.stderr
    assert "Traceback" not in done.output


def test_a_model_out_of_reach_on_the_command_line(command, monkeypatch):
    monkeypatch.setattr(sweeps, "load_model", hvp_utils.load_model)
    done = command("--model", "no-such/model", "--task", "tiny")
    assert done.exit_code == 1
    assert "no-such/model must be fetched from the Hugging Face hub" in done.stderr


def test_changed_backward_rules_are_not_served_from_memory(tmp_path):
    """Gauss-Newton is ``hvp`` of a changed network: it must not get the plain one's derivatives."""
    found = sweep(
        tiny_model("gpt2"),
        tiny_task,
        ("activation_patching", "hvp", "gauss_newton"),
        n_prompts=1,
        components="mlp_out",
    )
    M = PatchedMetric(tiny_model("gpt2"), tiny_task(tiny_model("gpt2"), 1)[0], "mlp_out")
    alone = find_estimator("gauss_newton")(M).numpy()
    assert np.abs(found.hvp.values[0] - alone).max() > 1e-3
    np.testing.assert_allclose(found.gauss_newton.values[0], alone, rtol=1e-9)
