"""Prices: operations against the package's plan, seconds only where repeats agree."""

import itertools

import pandas as pd
import pytest

from hvp_utils import model_sizes, plan
from studies import prices

SIZES = model_sizes("smollm2-135m")


def test_operations_are_those_of_the_plan():
    methods = ["activation_patching", "attribution_patching", "row_norms:2"]
    found = prices.counted(SIZES, methods, n_patched={"row_norms:2": 10}).set_index("method")
    assert found.percent["activation_patching"] == pytest.approx(100)
    plans = {p.estimator: p for p in plan(SIZES, "heads", methods, 15, 5, 1, 1.0, batch_size=32)}
    assert found.runs["row_norms:2"] == plans["row_norms:2"].forward_equivalents + 10
    gradient = plans["attribution_patching"]
    assert found.tflop["attribution_patching"] == pytest.approx(gradient.flops / 1e12)
    assert found.percent["attribution_patching"] == pytest.approx(
        100 * gradient.flops / plans["activation_patching"].flops
    )


def clock(monkeypatch, durations):
    """Each call of a function takes the next of these seconds."""
    now, left = [0.0], iter(durations)
    monkeypatch.setattr(prices.time, "perf_counter", lambda: now[0])

    def function():
        now[0] += next(left)

    return function


def test_repeats_that_agree_are_shown(monkeypatch):
    function = clock(monkeypatch, [9, 1.0, 1.1, 5.0])  # to warm up, and one that was disturbed
    measured = prices.timed({"hvp": function}, repeats=3)
    assert measured.seconds.tolist() == [pytest.approx(1.1)] and prices.steady(measured)
    table, text = prices.to_show(prices.counted(SIZES, ["hvp"]), measured)
    assert table.seconds.tolist() == [pytest.approx(1.1)] and "medians" in text


def test_repeats_that_disagree_are_not(monkeypatch):
    function = clock(monkeypatch, itertools.cycle([1.0, 1.5, 2.0]))
    measured = prices.timed({"hvp": function}, repeats=3, warm_up=False)
    assert not prices.steady(measured)
    table, text = prices.to_show(prices.counted(SIZES, ["hvp"]), measured)
    assert "seconds" not in table and "disturbed (hvp)" in text


def test_nothing_timed():
    table, text = prices.to_show(prices.counted(SIZES, ["hvp"]))
    assert isinstance(table, pd.DataFrame) and "nothing was timed" in text
