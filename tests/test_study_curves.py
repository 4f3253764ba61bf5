"""Paths between their knots: against runs of a tiny model, and the estimators that they become."""

import json
from pathlib import Path

import explore_data
import numpy as np
import pytest
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, attribution_patching, hvp, integrated_gradients, ms_hvp
from studies import curves

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def measured():
    model, pairs = tiny_model("llama"), [tiny_pair("middle"), tiny_pair("first")]
    return [PatchedMetric(model, pair) for pair in pairs], curves.measure(model, pairs)


def test_at_the_knots_the_path_is_what_was_measured(measured):
    Ms, data = measured
    for i, M in enumerate(Ms):
        for t in curves.KNOTS:
            d = M.along_axes(t, order=2)
            for order, exact in enumerate((d.value - M.base, d.slope, d.curvature)):
                found = curves.between(data.isel(prompt=i), t, order)[:, 0]
                np.testing.assert_allclose(found, exact.cpu(), atol=1e-10)


def test_derivatives_are_those_of_the_path(measured):
    _, data = measured
    t, h = 0.37, 1e-5
    for order in (0, 1):
        up, down = (curves.between(data, t + s, order) for s in (h, -h))
        np.testing.assert_allclose(
            (up - down) / (2 * h), curves.between(data, t, order + 1), rtol=1e-4, atol=1e-6
        )


def test_at_zero_the_rules_are_the_estimators(measured):
    Ms, data = measured
    M = Ms[0]
    found = curves.predictions(data.isel(prompt=0), 0.0)
    exact = {"AP": attribution_patching(M), "HVP": hvp(M), "MS-HVP": ms_hvp(M, 4)}
    for name, estimate in exact.items():
        np.testing.assert_allclose(found[name], estimate.cpu(), atol=1e-9, err_msg=name)


def test_at_the_end_every_rule_is_right(measured):
    _, data = measured
    for name, said in curves.predictions(data, 0.999).items():
        np.testing.assert_allclose(said, data.g.values[..., -1], atol=0.02, err_msg=name)


def test_the_pages_data_are_what_is_stored():
    file = explore_data.TARGET.read_text(encoding="utf-8")
    assert file == explore_data.text()
    shown = json.loads(file.removeprefix("window.hvpBook = ").removesuffix(";\n"))
    for model, part in shown["models"].items():
        data = curves.stored(model, ROOT / "notebooks" / "results" / "curves")
        assert part["labels"] == data.label.values.tolist()
        g = np.array(part["g"])[..., 0]
        np.testing.assert_allclose(g, data.g.values, rtol=1e-3, atol=1e-9)


def test_stored_paths_are_those_of_the_model(real_model):
    data = curves.stored("smollm2-135m", ROOT / "notebooks" / "results" / "curves")
    pair = curves.prompts(real_model)[0]
    assert str(pair.clean) == data.clean.values[0]
    M = PatchedMetric(real_model, pair)
    which = np.abs(data.g.values[0, :, -1]).argsort()[-3:].tolist()
    at = M.along_axes(0.5, 2, which)
    for name, exact in (("g", at.value - M.base), ("slope", at.slope), ("curvature", at.curvature)):
        np.testing.assert_allclose(
            data[name].values[0, which, 2], exact.cpu(), rtol=0.02, atol=2e-3
        )


def test_between_knots_it_is_near_the_model(real_model):
    """Value and five slopes, on the heads with the largest effects, to half a percent of them."""
    data = curves.stored("smollm2-135m", ROOT / "notebooks" / "results" / "curves").isel(prompt=0)
    M = PatchedMetric(real_model, curves.prompts(real_model)[0])
    which = np.abs(data.g.values[:, -1]).argsort()[-5:].tolist()
    size = np.abs(data.g.values[:, -1]).max()
    for t in (0.12, 0.6, 0.9):
        exact = (M.along_axes(t, 0, which).value - M.base).cpu().numpy()
        assert np.abs(curves.between(data, t)[which, 0] - exact).max() <= 0.005 * size
    five = integrated_gradients(M, 5, "gausslegendre", which).cpu().numpy()
    assert np.abs(curves.predictions(data)["5 slopes"][which] - five).max() <= 0.005 * size
