"""Prices in forward equivalents: the arithmetic, and that they can be measured at all."""

import dataclasses
import math

import pytest
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric
from hvp_utils.costs import Costs, measure_costs

# Primes, so that no price can pass for another.
COSTS = Costs(
    gradient=2.0,
    gradient_row=19.0,
    curvature=3.0,
    slope_on_path=5.0,
    curvature_on_path=7.0,
    third=11.0,
    matvec=13.0,
    matvec_batch=17.0,
    seconds=1000.0,
)


def test_a_price_is_a_sum_over_passes():
    assert COSTS.price({}) == 0
    assert COSTS.price({"forward": 11}) == 11
    assert COSTS.price({"gradient": 1, "gradient_row": 4}) == 78
    assert COSTS.price({"gradient": 1, "curvature": 10}) == 32
    assert COSTS.price({"forward": 1, "slope_on_path": 4, "curvature_on_path": 2}) == 35
    assert COSTS.price({"gradient": 1, "matvec": 4, "matvec_batch": 2}) == 88


@pytest.mark.parametrize("unknown", ("backward", "seconds", "price"))
def test_unknown_passes_are_refused(unknown):
    with pytest.raises(ValueError, match=rf"{unknown}.*forward.*curvature_on_path"):
        COSTS.price({"forward": 1, unknown: 1})


def test_costs_are_measured_on_every_layer_but_not_on_everything(monkeypatch):
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    asked = []
    along_axes = M.along_axes

    def spy(t, order, components):
        asked.append((t, order, components.tolist()))
        return along_axes(t, order, components)

    monkeypatch.setattr(M, "along_axes", spy)
    costs = measure_costs(M, sample=4, repeats=2)
    for field in dataclasses.fields(costs):
        price = getattr(costs, field.name)
        # Some are differences of two times, here of microseconds.
        assert price >= 0 and math.isfinite(price), field.name
        differences = ("gradient_row", "curvature", "matvec", "matvec_batch")
        assert price > 0 or field.name in differences
    assert costs.price({"forward": 1, "curvature": 1}) == 1 + costs.curvature
    # Every kind of run twice, and all of them on the same components, but for third derivatives.
    kinds = [(t, order) for t, order, _ in asked]
    assert sorted(kinds) == sorted(2 * [(0.5, 0), (0.0, 2), (0.5, 1), (0.5, 2), (0.0, 3)])
    components, few = (
        {tuple(components) for _, order, components in asked if (order == 3) == third}
        for third in (False, True)
    )
    assert len(components) == len(few) == 1
    (components,), (few,) = components, few
    assert set(few) < set(components)
    assert len(set(components)) == len(components) == 4
    # Two pairs of neighbours, as deep on average as all.
    assert components == (2, 3, 8, 9) and M.n == 12
    assert M.layers[list(components)].double().mean() == M.layers.double().mean()


def test_what_is_shared_is_counted_once(monkeypatch):
    """On a clock of our own: a shared run takes 10 s and a curvature 3 s; so for other batches."""
    M = PatchedMetric(tiny_model("llama"), tiny_pair())
    clock = [0.0]
    monkeypatch.setattr("hvp_utils.costs.time.perf_counter", lambda: clock[0])

    def along_axes(t, order, components):
        clock[0] += 10 + 3 * len(components) if (t, order) == (0.0, 2) else len(components)

    def gradient_and_hessian():
        clock[0] += 10
        return None, lambda vectors: clock.__setitem__(0, clock[0] + 5 + 2 * vectors.shape[1])

    monkeypatch.setattr(M, "along_axes", along_axes)
    monkeypatch.setattr(M, "gradient_and_hessian", gradient_and_hessian)

    def gradient(alpha=None):
        clock[0] += 7 if alpha is None else 3 + 4 * len(alpha)

    monkeypatch.setattr(M, "gradient", gradient)
    assert measure_costs(M, sample=8) == Costs(
        gradient=7.0,
        gradient_row=4.0,
        curvature=3.0,
        slope_on_path=1.0,
        curvature_on_path=1.0,
        third=1.0,
        matvec=2.0,
        matvec_batch=5.0,
        seconds=1.0,
    )


def test_a_sample_larger_than_the_model_is_the_model():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair(), "mlp_out")
    assert M.n == 3
    costs = measure_costs(M, sample=60, repeats=1)
    assert all(price >= 0 for price in dataclasses.astuple(costs)) and costs.third > 0
