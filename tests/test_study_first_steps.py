"""The study of chapters 1 to 3: tables against loops and closed forms, on made data and models."""

import sys
from pathlib import Path

import main_figure
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import patching_picture
import pytest
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_model, tiny_pair

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    hvp,
    model_sizes,
    plan,
)
from hvp_utils.stats import top_k_relative_error
from studies import common
from studies import first_steps as study

MODELS = ("a", "b")


def made(seed=0, n_prompts=6, n=24, bend=0.5, left=0.2, models=MODELS, tasks=("ioi",)):
    """Sweeps whose error has a quadratic term of a given size and a remainder of another."""
    found = {}
    for i, model in enumerate(models):
        for j, task in enumerate(tasks):
            rng = np.random.default_rng([seed, i, j])
            truth = rng.normal(size=(n_prompts, n))
            q, r3 = bend * rng.normal(size=truth.shape), left * rng.normal(size=truth.shape)
            values = {
                "activation_patching": truth,
                "attribution_patching": truth - q - r3,
                "hvp": truth - r3,
            }
            found[model, task] = xr.Dataset(
                {name: (("prompt", "component"), v) for name, v in values.items()}
                | {
                    "n_tokens": ("prompt", [15, 15, 18] * (n_prompts // 3)),
                    "n_run": ("prompt", [6] * n_prompts),
                },
                coords={
                    "label": ("component", [f"L{c // 4}H{c % 4}" for c in range(n)]),
                    "layer": ("component", np.arange(n) // 4),
                },
            )
    return found


@pytest.fixture(scope="module")
def sweeps():
    return made(tasks=("ioi", "factual"))


@pytest.fixture(scope="module")
def M():
    pair = tiny_pair()
    one_answer = PromptPair(pair.clean, pair.corrupted, 20)
    return PatchedMetric(tiny_model("llama"), one_answer)


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# --- one head ------------------------------------------------------------------------------------


def test_factor():
    found = study.factor([1, 2, 0.25, -1, 0, 3], [1, 1, 1, 1, 1, -3])
    assert found.tolist() == [1, 2, 4, np.inf, np.inf, np.inf]


def test_worst_head_is_among_the_largest_and_off_both_ways():
    labels = ["a", "b", "c", "d"]
    truth = torch.tensor([5.0, 4.0, -3.0, 0.1])
    assert study.worst_head(truth, torch.tensor([5.0, 3.9, -1.0, 9.0]), labels, k=3) == "c"
    assert study.worst_head(truth, torch.tensor([5.0, 20.0, -1.0, 9.0]), labels, k=3) == "b"
    assert study.worst_head(truth, torch.tensor([5.0, 20.0, -1.0, 9.0]), labels, k=4) == "d"


def test_on_one_prompt():
    values = {"truth": torch.tensor([1.0, 4.0]), "half": torch.tensor([7.0, 2.0])}
    found = study.on_one_prompt(values, 1)
    assert found.values.tolist() == [["truth", 4.0, 100.0], ["half", 2.0, 50.0]]


def test_the_package_agrees_with_whole_runs(M):
    found = study.against_by_hand(M, k=3)
    assert (found["largest"] > 1e-2).all()
    assert (found["largest difference"] < 1e-9).all()


def test_a_package_that_was_wrong_would_be_seen(M, monkeypatch):
    right = PatchedMetric.along_axes

    def wrong(self, t, order=2, components=None):
        found = right(self, t, order=order, components=components)
        return found if order == 0 else found._replace(curvature=1.01 * found.curvature)

    monkeypatch.setattr(PatchedMetric, "along_axes", wrong)
    found = study.against_by_hand(M, k=3).set_index("quantity")["largest difference"]
    assert found["slope g′(0)"] < 1e-9 and found["curvature g″(0)"] > 1e-4


def test_by_hand_is_the_metric_at_both_ends(M):
    g = study.by_hand(M.model, M.pair, M.labels[0])
    assert g(torch.tensor(0.0)).item() == pytest.approx(M.base)
    effect = activation_patching(M)[0].item()
    assert g(torch.tensor(1.0)).item() == pytest.approx(M.base + effect)


def test_largest_is_that_of_a_loop(sweeps):
    found = study.largest(sweeps, k=5)
    assert len(found) == 4 * 6 * 5
    for (model, task), data in sweeps.items():
        for p in range(6):
            truth = data.activation_patching.values[p]
            chosen = sorted(range(24), key=lambda c: -abs(truth[c]))[:5]
            part = found[(found.model == model) & (found.task == task) & (found.prompt == p)]
            assert set(part.component) == {data.label.values[c] for c in chosen}
            for row in part.itertuples():
                c = data.label.values.tolist().index(row.component)
                assert row.HVP == data.hvp.values[p, c] and row.truth == truth[c]


def test_missed_counts_prompts_heads_and_signs():
    truth = [[4.0, 2.0, 0.1]] * 3
    ap = [[4.0, 2.0, 9.0], [1.9, 2.1, 0.1], [4.1, -2.0, 0.1]]  # right, half, wrong sign
    names = ("activation_patching", "attribution_patching", "hvp")
    data = xr.Dataset(
        {k: (("prompt", "component"), v) for k, v in zip(names, (truth, ap, truth), strict=True)},
        coords={"label": ("component", ["x", "y", "z"]), "layer": ("component", [0, 0, 1])},
    )
    top = study.largest({("a", "ioi"): data}, k=2)
    found = study.missed(top).set_index("method")
    shares = {c: [i.estimate for i in found[c]] for c in ("prompts", "wrong sign", "heads")}
    assert shares["prompts"] == pytest.approx([200 / 3, 0])
    assert shares["wrong sign"] == pytest.approx([100 / 3, 0])
    assert shares["heads"] == pytest.approx([100 * 2 / 6, 0])
    worst = study.worst_of_prompts(top)
    assert worst.AP.tolist() == pytest.approx([1, 4 / 1.9, np.inf]) and (worst.HVP == 1).all()


def test_top_5_errors_are_the_packages(sweeps):
    found = study.top_5_errors(sweeps)
    data = sweeps["b", "ioi"]
    part = found[(found.model == "b") & (found.task == "ioi") & (found.method == "HVP")]
    expected = [
        top_k_relative_error(e, f)
        for e, f in zip(data.hvp.values, data.activation_patching.values, strict=True)
    ]
    assert part.error.tolist() == pytest.approx(expected)


# --- the parts of the error ----------------------------------------------------------------------


def test_parts_add_up(sweeps):
    found = study.parts(sweeps)
    np.testing.assert_allclose(found.E, found.q + found.R3, atol=1e-12)
    np.testing.assert_allclose(found.truth, found.AP + found.E, atol=1e-12)
    assert found.groupby(["model", "task", "prompt"])["size"].max().tolist() == [1.0] * 24


@pytest.mark.parametrize(("bend", "left", "sign"), [(1.0, 0.1, 1), (0.1, 1.0, 0), (1.0, 0.0, 2)])
def test_removed_is_that_of_a_loop(bend, left, sign):
    data = made(bend=bend, left=left)
    for row in study.removed(study.parts(data)).itertuples():
        one = data[row.model, row.task]
        f, ap, second = (
            one[n].values for n in ("activation_patching", "attribution_patching", "hvp")
        )
        shares, totals = [], [0.0, 0.0]
        for p in range(len(f)):
            error = sum(abs(a - b) for a, b in zip(f[p], ap[p], strict=True))
            rest = sum(abs(a - b) for a, b in zip(f[p], second[p], strict=True))
            shares.append(100 * (1 - rest / error))
            totals = [totals[0] + error, totals[1] + rest]
        each, together = row[3], row[4]
        assert each.estimate == pytest.approx(np.mean(shares))
        assert together.estimate == pytest.approx(100 * (1 - totals[1] / totals[0]))
        assert together.low <= together.estimate <= together.high
        assert {0: together.estimate < 20, 1: 50 < together.estimate < 99}.get(
            sign, together.estimate == pytest.approx(100)
        )


def test_the_correction_can_do_harm():
    data = made(bend=0.3, left=0.3)
    for one in data.values():  # what it adds points away from the truth
        one["hvp"] = 2 * one.attribution_patching - one.activation_patching
        one["hvp"] = one.hvp + 0.5 * (one.attribution_patching - one.activation_patching)
    table = study.parts(data)
    assert all(i.high < 0 for i in study.removed(table).together)
    assert (study.head_by_head(table).closer == 0).all()


def test_classes_of_size_hold_every_error_once():
    data = made(n_prompts=30, models=("b", "a"))
    for one in data.values():  # effects of all sizes
        one["activation_patching"] = one.activation_patching * 10.0 ** -(np.arange(24) ** 0.5)
    found = study.by_size(study.parts(data))
    assert found.groupby("model")["of E"].sum().tolist() == pytest.approx([100] * 2)
    assert found["model"].tolist() == ["b"] * 4 + ["a"] * 4
    assert found["size"].tolist() == [name for name, *_ in study.BINS] * 2
    small = study.parts(made(models=("a",)))
    large = study.removed(small[small["size"] >= 0.1])
    own = study.by_size(small).set_index("size").loc["10 % and more"]
    assert own["together"] == large.together.iloc[0]


def test_head_by_head():
    data = made(models=("a",), n_prompts=3, n=6)
    one = data["a", "ioi"]
    truth = np.zeros((3, 6))
    error = np.array([[1.0, 1, 1, 1, 1, 5]] * 3)
    one["activation_patching"] = (("prompt", "component"), truth + 1)
    one["attribution_patching"] = (("prompt", "component"), 1 - error)
    one["hvp"] = (("prompt", "component"), 1 - np.array([[0.1, 0.1, 0.1, 0.1, 2, 2]] * 3))
    (row,) = study.head_by_head(study.parts(data)).itertuples()
    assert row.closer == pytest.approx(100 * 5 / 6)
    assert row.left == pytest.approx(10)
    assert row[5] == pytest.approx(90)


def test_by_layer_sums_heads(sweeps):
    found = study.by_layer(study.parts(sweeps))
    data = sweeps["a", "factual"]
    row = found[(found.model == "a") & (found.task == "factual") & (found.layer == 2)].iloc[0]
    q = np.abs(data.hvp - data.attribution_patching).values[:, 8:12].sum(1)
    assert row.q.estimate == pytest.approx(q.mean())
    rest = np.abs(data.activation_patching - data.hvp).values[:, 8:12].sum(1)
    assert row.R3.estimate == pytest.approx(rest.mean())


def test_of_the_largest_is_the_packages(M):
    found = study.of_the_largest(M, k=3)
    truth = activation_patching(M)
    top = truth.abs().topk(3).indices
    assert found.component.tolist() == [M.labels[c] for c in top]
    assert found.truth.tolist() == pytest.approx(truth[top].tolist())
    assert found.AP.tolist() == pytest.approx(attribution_patching(M)[top].tolist())
    assert (found.AP + found.q).tolist() == pytest.approx(hvp(M)[top].tolist())
    np.testing.assert_allclose(found.truth, found.AP + found.q + found.R3)


def test_a_small_model_falls_with_the_square_and_the_cube(M):
    scales = 2.0 ** -np.arange(0, 12)
    found = study.scaled(M, scales, k=3)
    assert study.power(found, "without", 1 / 256) == pytest.approx(2, abs=0.1)
    assert study.power(found, "with", 1 / 256) == pytest.approx(3, abs=0.1)
    end = study.of_the_largest(M, k=3)
    assert found["without"][0] == pytest.approx(end.E.abs().mean())
    assert found["with"][0] == pytest.approx(end.R3.abs().mean())


def test_scaling_summary_of_known_powers():
    s = 2.0 ** -np.arange(0, 8)
    double = pd.DataFrame({"scale": s, "without": 4 * s**2, "with": 3 * s**3})
    single = double.assign(**{"with": np.maximum(double["with"], 1e-4)})
    found = study.scaling_summary(double, single)
    expected = {"without": 2, "with": 3, "at the end": 3, "removed": 25, "floor": 1e-4}
    assert found == pytest.approx(expected)


def test_three_runs(M):
    curvature = M.along_axes(0.0).curvature
    assert torch.allclose(study.curvature_of_three_runs(M, 1e-4), curvature, rtol=1e-3, atol=1e-4)
    fine = study.three_runs_against(M, 1e-4)["largest difference"]
    coarse = study.three_runs_against(M, 0.3)["largest difference"]
    assert (fine < 1e-3 * coarse).all()


@pytest.fixture(scope="module")
def stored():
    store = str(Path(__file__).parents[1] / "notebooks" / "results")
    return common.load(("smollm2-135m", "gemma-3-270m"), ["ioi"], study.ESTIMATORS, 20, store)


def test_stored_sweeps_say_what_the_lessons_say(stored):
    table = study.parts(stored)
    assert (study.head_by_head(table).closer > 80).all()
    sized = study.by_size(table).set_index(["size", "model"]).together
    for model in table.model.unique():  # the smaller the effect, the more of its error is curvature
        small, large = (sized[study.BINS[i][0], model] for i in (0, -1))
        assert small.low > large.high
    worst = study.worst_of_prompts(study.largest(stored))
    assert 0.5 < (worst.AP >= 2).mean() < 0.95


# --- the second derivative -----------------------------------------------------------------------


def test_ways_agree_and_are_a_row_of_the_hessian(M):
    v = study.axis_vector(M, M.labels[3])
    assert v.tolist() == [float(c == 3) for c in range(M.n)]
    found = study.ways(M, v, step=1e-4)
    hessian = torch.autograd.functional.hessian(lambda a: M(a), torch.zeros_like(v))
    for Hv in found.values():
        torch.testing.assert_close(Hv, hessian[3], rtol=1e-5, atol=1e-6)
    table = study.agreement(found | {"wrong": 2 * hessian[3]}, v).set_index("way")
    assert table["vᵀHv"]["double backward"] == pytest.approx(hessian[3, 3].item())
    assert (table["relative difference"].drop("wrong") < 1e-5).all()
    assert table["relative difference"]["wrong"] == pytest.approx(1)


def test_finite_differences_are_worst_at_both_ends(M):
    single = PatchedMetric(tiny_model("llama", torch.float32), M.pair)
    v = study.axis_vector(
        M, study.worst_head(activation_patching(M), attribution_patching(M), M.labels)
    )
    found = study.by_steps((single, M), v, [1e-6, 1e-3, 1.0])
    low, middle, high = found[found.dtype == "float32"]["finite differences"]
    assert middle < low and middle < high
    double = found[found.dtype == "float64"]
    assert (double["double backward"] == 0).all()
    assert double["finite differences"].iloc[1] < middle


def test_prices_are_those_of_the_plan():
    found = study.price_table(["gpt2", "smollm2-135m", "gpt2"])
    assert found.groupby("model").size().to_dict() == {"gpt2": 5, "smollm2-135m": 5}
    one = found[(found.model == "gpt2") & (found.method == "HVP")].iloc[0]
    (expected,) = plan(model_sizes("gpt2"), "heads", ["hvp"], 15, 5, 1, 1.0, batch_size=32)
    assert one.runs == pytest.approx(expected.forward_equivalents)
    assert one["each"] == pytest.approx(one.runs / 144) and one.percent == pytest.approx(
        100 * one.runs / 144
    )
    assert (found[found.method == "exact patching"].percent == 100).all()


def test_prices_of_prompts_and_what_they_buy():
    data = made(models=("gpt2", "smollm2-135m"))
    prices = study.prices_of_prompts(data).set_index(["model", "method"])
    row = prices.loc[("gpt2", "HVP")]
    both = [
        study.price_table(["gpt2"], n_tokens=n, n_run=6).set_index("method").percent["HVP"]
        for n in (15, 18)
    ]
    assert (row.least, row.most) == pytest.approx((min(both), max(both)))
    assert (row.tokens, row.run) == ("15 to 18", "6")
    bought = study.errors_and_prices(data).set_index(["model", "method"])
    errors = study.top_5_errors(data)
    mean = errors[(errors.model == "smollm2-135m") & (errors.method == "AP")].error.mean()
    assert bought.error[("smollm2-135m", "attribution patching")].estimate == pytest.approx(mean)
    (one,) = study.price_table(["gpt2"]).set_index("method").percent[["HVP"]]
    assert bought.percent[("gpt2", "HVP")] == pytest.approx(one)


def test_span():
    assert study.span(1.371, 1.374) == "1.37" and study.span(14, 18) == "14 to 18"
    assert study.span(1830.9, 1833.8) == "1,831 to 1,834"


# --- figures and their files ---------------------------------------------------------------------


def texts(fig):
    return [text.get_text() for ax in fig.axes for text in ax.texts]


def test_figures_say_their_title(sweeps, M):
    table = study.parts(sweeps)
    ioi = table[table.task == "ioi"]
    s = 2.0 ** -np.arange(0, 4)
    scaled = pd.DataFrame({"scale": s, "without": s**2, "with": s**3})
    steps = study.by_steps((M, M), study.axis_vector(M, M.labels[0]), [1e-3, 1e-1])
    steps = pd.concat([steps, steps.assign(dtype="float32")])
    figures = [
        study.missed_figure(study.largest(sweeps), "what it says"),
        study.density_figure(table, "what it says"),
        study.size_figure(study.by_size(ioi), "what it says"),
        study.layers_figure(study.by_layer(ioi), "what it says"),
        study.scaling_figure(scaled, scaled, "what it says"),
        study.step_figure(steps, "what it says"),
        study.price_figure(study.price_table(["gpt2", "smollm2-135m"]), "what it says"),
    ]
    for fig in figures:
        assert isinstance(fig, Figure)
        titles = [
            fig.get_suptitle(),
            *(ax.get_title(loc) for ax in fig.axes for loc in ("left", "center")),
        ]
        assert "what it says" in titles
        assert all(ax.get_xlabel() for ax in fig.axes)
    assert len(figures[0].axes) == 4 and len(figures[3].axes) == 2


def test_the_picture_moves_one_activation():
    fig = study.patching_picture(metrics=("before", "after?"), head="L1H2")
    assert {"before", "after?", "clean run"} <= set(texts(fig))
    assert any("L1H2" in text for text in texts(fig))
    circles = [p for p in fig.axes[0].patches if type(p).__name__ == "Circle"]
    filled = [p for p in circles if p.get_facecolor() != (1, 1, 1, 1)]
    assert len(circles) == 40 and len(filled) == 2  # one head of each run
    assert len({p.get_center()[1] for p in filled}) == 1


def test_the_picture_is_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    patching_picture.draw(tmp_path / "a.png")
    patching_picture.draw(tmp_path / "b.png")
    content = (tmp_path / "a.png").read_bytes()
    assert content.startswith(b"\x89PNG") and content == (tmp_path / "b.png").read_bytes()


def test_the_books_figure_is_the_curve(tmp_path):
    def cell(source, data):
        output = nbformat.v4.new_output("display_data", data={"image/png": data})
        return nbformat.v4.new_code_cell(source, outputs=[output])

    nb = nbformat.v4.new_notebook()
    nb.cells = [cell("patching_picture()", "AAAA"), cell("plots.axis_curve(M)", "BBBB")]
    nbformat.write(nb, tmp_path / "one.ipynb")
    assert main_figure.main_figure(tmp_path / "one.ipynb") == b"\x04\x10A"
    nb.cells = nb.cells[:1]
    nbformat.write(nb, tmp_path / "none.ipynb")
    with pytest.raises(ValueError, match="holds no curve"):
        main_figure.main_figure(tmp_path / "none.ipynb")
