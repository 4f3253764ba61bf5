"""The study of chapter 12: what it measures, its tables against slow loops, claims both ways."""

import itertools
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import xarray as xr
from scipy.integrate import trapezoid
from tiny_models import tiny_model, tiny_pair, tiny_task

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    eap_ig,
    hvp,
    load_model,
    make_prompts,
    sketched_hvp,
)
from hvp_utils.circuits import FRACTIONS, Circuit, faithfulness
from hvp_utils.estimators import local_curvature, local_sketched_hvp
from hvp_utils.tasks import TASKS
from studies import edges_and_mib as study
from studies.edges_and_mib import measuring

N_SCORE, N_EVAL = 2, 3
STORED = sorted((Path(__file__).parents[1] / "notebooks" / "results" / "edges").glob("*.nc"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("results")


@pytest.fixture(scope="module")
def measured(store):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "tiny", tiny_task)
        patch.setattr(measuring, "SEARCH_STEPS", 3)
        data = study.measure(
            tiny_model("llama"),
            "tiny",
            n_score=N_SCORE,
            n_eval=N_EVAL,
            pruned_share=0.1,
            store=store,
        )
    return data


def of(pairs, direction="noising"):
    return PatchedMetric(tiny_model("llama"), pairs, "edges", direction)


def prompts():
    pairs = tiny_task(tiny_model("llama"), N_EVAL + N_SCORE)
    return pairs[:N_EVAL], pairs[N_EVAL:]


def test_scores_are_those_of_the_estimators(measured):
    M = of(prompts()[1])
    expected = {
        "attribution_patching": attribution_patching(M),
        "eap_ig:5": eap_ig(M, 5),
        "from_corrupted": -attribution_patching(of(prompts()[1], "denoising")),
        "sketched_hvp:32": sketched_hvp(M.each, 32).mean(0),
        "local_curvature": local_curvature(M),
        "local_sketched_hvp:32": local_sketched_hvp(M.each, 32).mean(0),
    }
    for name, values in expected.items():
        found = torch.tensor(measured[f"score__{name}"].values)
        assert torch.allclose(found, values.float(), rtol=0.01, atol=1e-5), name
    for name in study.METHODS:
        some = measured[f"some__{name}"].values.mean(0)
        rounded = measured[f"score__{name}"].values[measured.sampled.values]
        assert some == pytest.approx(rounded, rel=0.01, abs=1e-5), name


def test_truth_is_exact_patching(measured):
    M, which = of(prompts()[1]).each, torch.tensor(measured.sampled.values)
    assert measured.truth.values == pytest.approx(activation_patching(M, which).numpy())
    assert measured.hvp.values == pytest.approx(hvp(M, which).numpy())
    assert measured.label.values.tolist() == [M.labels[i] for i in which]


def test_circuits_are_run_on_other_prompts(measured):
    M = of(prompts()[0])
    for name, part in itertools.product(("eap_ig:5", "random"), ("signed", "absolute")):
        effects = torch.tensor(measured[f"score__{name}"].values)
        circuits = [Circuit.top(M, effects, int(f * M.n), part == "signed") for f in FRACTIONS]
        kept = faithfulness(M, circuits)
        assert measured[f"{part}__{name}"].values == pytest.approx(kept.values)
        assert measured["full"].values == pytest.approx(kept.full)
    for name in ("edge_pruning", "hap"):
        numbers = frozenset(measured[f"edges__{name}"].values.tolist())
        circuit = Circuit(M.batches[0].patches.graph, numbers)
        assert len(circuit) == int(0.1 * M.n)
        kept = faithfulness(M, circuit)
        assert measured[f"found__{name}"].values == pytest.approx(kept.values[:, 0])


def test_what_is_stored_is_read(measured, store, monkeypatch):
    monkeypatch.setattr(measuring, "_Work", None)  # nothing may be computed
    again = study.measure(tiny_model("llama"), "tiny", n_score=N_SCORE, n_eval=N_EVAL, store=store)
    xr.testing.assert_equal(again, measured)


def test_a_killed_run_goes_on(tmp_path, monkeypatch, measured):
    monkeypatch.setitem(TASKS, "tiny", tiny_task)
    step, seen = measuring._Work.step, []

    def dies(self, name, done):
        seen.append(name)
        if len(seen) == 4:
            raise KeyboardInterrupt
        return step(self, name, done)

    arguments = (tiny_model("llama"), "tiny", ("attribution_patching", "random"))
    sizes = dict(n_score=N_SCORE, n_eval=N_EVAL, store=tmp_path)
    monkeypatch.setattr(measuring._Work, "step", dies)
    with pytest.raises(KeyboardInterrupt):
        study.measure(*arguments, **sizes)
    before = set(seen[:3])
    found = study.measure(*arguments, **sizes)
    assert before.isdisjoint(seen[4:])  # nothing twice
    for name in found:
        if not name.startswith("seconds"):
            assert found[name].equals(measured[name]), name


def test_the_sample_has_four_strata():
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=5000) for name in ("attribution_patching", "eap_ig:5")}
    numbers, stratum = study.sample(scores, 40)
    assert len(set(numbers)) == 160
    parts = {name: set(numbers[stratum == name]) for name in dict.fromkeys(stratum)}
    eap = np.argsort(-abs(scores["attribution_patching"]))
    ig = np.argsort(-abs(scores["eap_ig:5"]))
    assert parts["top EAP"] == set(eap[:40])
    assert parts["top EAP-IG"] == set([i for i in ig if i not in eap[:40]][:40])
    assert parts["middle"] <= set(eap[:481]) and parts["rest"].isdisjoint(eap[:440])


# --- what is stored -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_numbers_can_be_computed_again(path):
    """Of the first prompts: some exact effects, EAP's scores of them, and two circuits."""
    with xr.open_dataset(path, engine="h5netcdf") as file:
        data = file.load()
    bridge = load_model(data.attrs["model"])
    n_eval = data.attrs["n_eval"]
    pairs = make_prompts(data.attrs["task"], bridge, n_eval + 1, seed=data.attrs["seed"])
    scored = PatchedMetric(bridge, pairs[n_eval], "edges", "noising")
    some = slice(0, None, 23)
    which = torch.tensor(data.sampled.values[some])
    assert data.label.values[some].tolist() == [scored.labels[i] for i in which]
    for name, estimator in (
        ("truth", activation_patching),
        ("some__attribution_patching", attribution_patching),
    ):
        stored = data[name].values[0, some]
        assert stored == pytest.approx(estimator(scored, which).numpy(), rel=1e-3, abs=2e-5), name
    M = PatchedMetric(bridge, pairs[0], "edges", "noising")
    # From a score that was rounded once and for all, so that the circuits are the same.
    effects = torch.tensor(data["score__eap_ig:5"].values)
    for i in (4, 6):
        circuit = Circuit.top(M, effects, int(data.fraction.values[i] * M.n))
        stored = data["signed__eap_ig:5"].values[0, i]
        assert faithfulness(M, circuit).values[0, 0] == pytest.approx(stored, rel=1e-3, abs=1e-4)


# --- tables ---------------------------------------------------------------------------------------


def made(
    cmd=None,
    error=None,
    apart=0.0,
    seconds=None,
    missed=False,
    steps_apart=0.0,
    n=6,
    models=("a", "b"),
    tasks=("ioi", "country_capital"),
):
    """Measurements in which every method has curves and errors of known height.

    Args:
        cmd: How far the curves of a method are below 1, by name; 0.1 by default.
        error: The relative error of a method's scores; 0.1 by default.
        apart: How much higher the curve of EAP-IG is, with the same edges.
        seconds: Seconds of a method; 1 by default.
        missed: Whether EAP gives 0 to edges that matter.
        steps_apart: How much lower the curve of EAP-IG with 20 steps is.
    """
    cmd, error, seconds = cmd or {}, error or {}, seconds or {}
    rng, found = np.random.default_rng(0), {}
    for model, task in itertools.product(models, tasks):
        noise = 0.001 * rng.normal(size=(n, 1))
        truth = rng.normal(size=(4, 60))
        data = {
            "truth": (("scored", "sampled"), truth),
            "label": ("sampled", [f"e{i}" for i in range(60)]),
            "stratum": ("sampled", np.repeat(["top EAP", "rest"], 30)),
            "full": ("prompt", np.ones(n)),
            "empty": ("prompt", np.zeros(n)),
            "fraction": ("fraction", list(FRACTIONS)),
            "hvp": (("scored", "sampled"), 1.1 * truth),
        }
        score = rng.normal(size=1000)
        for i, name in enumerate(study.METHODS):
            height = 1 - cmd.get(name, 0.1) + apart * (name == "eap_ig:5")
            height -= steps_apart * (name == "eap_ig:20")
            curve = np.full((n, len(FRACTIONS)), height) + noise
            for part in ("signed", "absolute"):
                data[f"{part}__{name}"] = (("prompt", "fraction"), curve)
            estimate = truth * (1 + error.get(name, 0.1 + 0.01 * i))
            if missed and name == "attribution_patching":
                estimate = np.where(abs(truth) > 1.2, 1e-6, estimate)
            data[f"some__{name}"] = (("scored", "sampled"), estimate)
            data[f"score__{name}"] = ("edge", score if apart else rng.normal(size=1000))
            data[f"seconds__{name}"] = seconds.get(name, 1.0)
        found[model, task] = xr.Dataset(data)
    return found


def test_areas_by_hand():
    measured = made({"gim": 0.3})
    table = study.areas(measured, n_resamples=50).set_index(["model", "task", "method"])
    curve = measured["a", "ioi"]["signed__gim"].values.mean(0)
    row = table.loc[("a", "ioi", "GIM")]
    assert row.CPR.estimate == pytest.approx(trapezoid(curve, FRACTIONS))
    assert row.CMD.estimate == pytest.approx(trapezoid(1 - curve, FRACTIONS))
    assert row.CMD.low < row.CMD.estimate < row.CMD.high


def test_differences_of_areas():
    table = study.areas_against(made({"gim": 0.3, "relp": 0.05}), n_resamples=200)
    assert "random" not in set(table.method) and "EAP" not in set(table.method)
    width = 1 - FRACTIONS[0]
    for method, change in (("GIM", -0.2), ("RelP", 0.05)):
        rows = table[table.method == method]
        for area, sign in (("CPR", 1), ("CMD", -1)):
            for d in rows[rows.area == area].difference:
                assert d.estimate == pytest.approx(sign * change * width, abs=1e-6)
        assert set(rows.better) == {change > 0}
    assert (table.holm >= table.p).all()
    # The prompts are resampled together: what they share does not blur a difference.
    gim = table[(table.method == "GIM") & (table.area == "CMD")]
    assert all(d.high - d.low < 1e-9 for d in gim.difference)


def test_errors_by_a_slow_loop(measured):
    table = study.errors({("m", "t"): measured}).set_index("method")
    for name, shown in (("gim", "GIM"), ("eap_ig:5", "EAP-IG")):
        error = []
        for truth, estimate in zip(
            measured.truth.values, measured[f"some__{name}"].values, strict=True
        ):
            off = sum(abs(e - t) for e, t in zip(estimate, truth, strict=True))
            error.append(100 * off / sum(abs(t) for t in truth))
        assert table.loc[shown, "error"].estimate == pytest.approx(np.mean(error))
    assert table.loc["HVP, exact", "error"].estimate < 1000
    only = study.errors({("m", "t"): measured}, ["rest"]).set_index("method")
    assert only.loc["GIM", "error"] != table.loc["GIM", "error"]


def test_overlaps_by_counting(measured):
    table = study.overlaps({("m", "t"): measured}, 0.1)
    row = table[(table["first"] == "EAP") & (table["second"] == "GIM")].iloc[0]
    size = int(0.1 * measured.sizes["edge"])
    tops = []
    for name in ("attribution_patching", "gim"):
        values = measured[f"score__{name}"].values
        tops.append(set(sorted(range(len(values)), key=lambda i, v=values: v[i])[:size]))
    assert row.shared == len(tops[0] & tops[1]) / size


def test_found_has_circuits_of_the_same_size(measured):
    table = study.found({("m", "t"): measured}, n_resamples=50)
    assert set(table.method) >= {"edge pruning", "HAP", "EAP, signed", "EAP-IG, absolute"}
    assert table.seconds.min() > 0


def test_better_estimates_or_not():
    names = [m for m in study.METHODS if m != "random"]
    rising = {name: 0.05 * (i + 1) for i, name in enumerate(names)}
    falling = {name: 0.5 - value for name, value in rising.items()}
    for cmd, expected in ((rising, 1), (falling, -1)):
        both = study.estimates_and_circuits(made(cmd, rising), n_resamples=20)
        rank = study.better_estimates_better_circuits(both)
        assert rank["error and CMD"].tolist() == pytest.approx([expected] * 4)


def test_missed_edges():
    by = ["model", "task", "method"]
    good, bad = (study.zero_gradients(made(missed=m)).set_index(by).missed for m in (False, True))
    assert good["a", "ioi", "EAP"].estimate == 0
    assert bad["a", "ioi", "EAP"].estimate == 100 and bad["a", "ioi", "EAP-IG"].estimate == 0


# --- claims and figures ---------------------------------------------------------------------------

HOLDS, PARTLY, NOT = "holds", "holds partly", "does not hold here"


def verdicts(**options):
    found = study.claims(made(**options), n_resamples=100)
    return {claim.claim: claim.verdict for claim in found}


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        (
            "Better estimates of single edges give better circuits.",
            {"cmd": {m: 0.1 + 0.01 * i for i, m in enumerate(study.METHODS)}},
            {"cmd": {m: 0.3 - 0.01 * i for i, m in enumerate(study.METHODS)}},
        ),
        *(
            (
                f"HVP improves on EAP in {area}.",
                {"cmd": {"sketched_hvp:32": 0.05}},
                {"cmd": {"sketched_hvp:32": 0.3}},
            )
            for area in ("CPR", "CMD")
        ),
        (
            "EAP-IG (inputs) does worse than EAP on IOI.",
            {"cmd": {"eap_ig:5": 0.3}},
            {"cmd": {"eap_ig:5": 0.05}},
        ),
        (
            "EAP-IG finds more faithful circuits than EAP.",
            {"cmd": {"eap_ig:5": 0.05}},
            {"cmd": {"eap_ig:5": 0.3}},
        ),
        ("Five steps are enough for EAP-IG.", {"steps_apart": 0.01}, {"steps_apart": 0.2}),
        (
            "EAP-GP finds more faithful circuits than EAP-IG.",
            {"cmd": {"eap_gp:5": 0.05}},
            {"cmd": {"eap_gp:5": 0.3}},
        ),
        (
            "Where its gradient vanishes EAP misses edges that matter, and EAP-IG finds them.",
            {"missed": True},
            {"missed": False},
        ),
        (
            "HVP of all edges costs a few times what EAP costs.",
            {"seconds": {"sketched_hvp:32": 3.0}},
            {"seconds": {"sketched_hvp:32": 30.0}},
        ),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_claim_can_come_out_either_way(claim, good, bad):
    assert verdicts(**good)[claim] == HOLDS
    assert verdicts(**bad)[claim] == NOT


def test_overlap_can_be_faithfulness():
    claim = "Overlap is not faithfulness."
    assert verdicts(apart=0.4)[claim] == PARTLY  # same edges, and far apart
    assert verdicts()[claim] == PARTLY  # other edges, and as faithful
    far = {m: 0.1 + 0.2 * i for i, m in enumerate(study.METHODS)}
    assert verdicts(cmd=far)[claim] == NOT


def test_claims_name_prompts_and_rules():
    found = study.claims(made(), n_resamples=50)
    assert len(found) == 11 and all(claim.rule and claim.source for claim in found)
    assert "6 prompts each for circuits, 4 others for scores" in found[0].here


def test_the_answer_follows_the_numbers():
    def answer(**options):
        measured = made(**options)
        both = study.estimates_and_circuits(measured, n_resamples=20)
        few = study.at_fraction(study.curves(measured, n_resamples=20), 0.002, "signed")
        against = study.areas_against(measured, n_resamples=100)
        return " ".join(study.summary(both, against, few).answer.split())

    better = answer(cmd={"eap_ig:5": 0.02}, error={"eap_ig:5": 0.9})
    assert "in 4 of 4 settings" in better and "EAP-IG by 90 %" in better
    assert "in 0 of 4 settings" in answer(cmd={"eap_ig:5": 0.5})


def test_figures_have_a_panel_for_each_setting():
    measured = made()
    curves = study.curves(measured, n_resamples=20)
    both = study.estimates_and_circuits(measured, n_resamples=20)
    figures = [
        study.curves_figure(curves, ("EAP", "EAP-IG", "random"), "signed", "a title"),
        study.errors_figure(study.errors(measured), ("EAP", "EAP-IG", "HVP, exact"), "a title"),
        study.estimates_figure(both, "a title"),
    ]
    for figure in figures:
        assert len(figure.axes) == 4 and figure.get_suptitle() == "a title"
        assert {ax.get_title() for ax in figure.axes} >= {"a\nIOI", "b\ncountry-capital"}
    plt.close("all")


# --- one prompt -----------------------------------------------------------------------------------


def test_by_size_is_faithfulness(random):
    M = of(tiny_pair())
    effects = {"x": random(M.n), "y": random(M.n)}
    table = study.by_size(M, effects, (10, 100))
    for _, row in table.iterrows():
        for name, e in effects.items():
            circuit = Circuit.top(M, e, int(row.edges))
            assert row[name] == pytest.approx(faithfulness(M, circuit).faithfulness()[0])


def test_the_norms_jacobian_matters_where_there_is_one():
    for architecture, matters in (("gemma3", True), ("llama", False)):
        M = PatchedMetric(tiny_model(architecture), tiny_pair(), "edges")
        labels = study.worst_without_jacobian(M, 5)
        table = study.without_jacobian(M, labels)
        which = M.index(labels)
        assert table.exact.tolist() == pytest.approx(activation_patching(M, which).tolist())
        assert table.slope.tolist() == pytest.approx(attribution_patching(M, which).tolist())
        plain = table["without the norm's Jacobian"]
        if matters:
            assert (plain - table.slope).abs().max() > 0.01
            edges = M.batches[0].patches
            G = M.batches[0].gradients_at([edges.graph.readers[-1].hook], M.batches[0].rows())
            writer = M.labels[which[0]].split("->")[0]
            written = edges.difference[0, edges.graph.writer_labels.index(writer)]
            (gradient,) = G.values()
            assert plain[0] == pytest.approx((written * gradient[0]).sum().item())
        else:
            assert plain.tolist() == pytest.approx(table.slope.tolist())
