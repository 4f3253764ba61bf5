"""The study of chapter 7: tables against known errors, a small model and what is stored."""

import functools
import itertools
import json
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, ms_hvp
from hvp_utils.plans import ModelSizes
from hvp_utils.stats import Interval, holm
from studies import k_sweep as study
from studies import prices

RESULTS = Path(__file__).parents[1] / "notebooks" / "results"
N_PROMPTS, N_HEADS = 6, 9


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def a_sweep(ap=2.0, rate=2.0, seed=0, one=None, harmed=()):
    """True effects from 0 to 10, so that errors of 1 are 10 %; MS-HVP is off by ``one / K^rate``.

    On the prompts ``harmed`` one step is off by twice as much as attribution patching.
    """
    rng = np.random.default_rng(seed)
    truth = np.stack([rng.permutation(np.linspace(0, 10, N_HEADS)) for _ in range(N_PROMPTS)])
    followed = np.argsort(-truth, axis=1).argsort(1) < 5
    scale = rng.uniform(0.5, 1.5, (N_PROMPTS, 1))
    found = {"activation_patching": truth, "attribution_patching": truth + ap * scale}
    one = ap / 2 if one is None else one
    for k in study.N_STEPS:
        error = one * scale * np.ones_like(truth) / k**rate
        if k == 1:
            error[list(harmed)] = 2 * ap * scale[list(harmed)]
        found[f"ms_hvp:{k}"] = np.where(followed, truth - error, np.nan)
    return xr.Dataset(
        {name: (("prompt", "component"), values) for name, values in found.items()}
        | {name: ("prompt", np.full(N_PROMPTS, n)) for name, n in (("n_tokens", 9), ("n_run", 4))},
        coords={
            "label": ("component", [f"L{c}H0" for c in range(N_HEADS)]),
            "clean": ("prompt", [f"<s>prompt {p}" for p in range(N_PROMPTS)]),
        },
    )


SWEEPS = {("m", "ioi"): a_sweep(), ("m", "factual"): a_sweep(1.0, 1.0, 1, one=1.5, harmed=(2,))}


@pytest.fixture(scope="module")
def errors():
    return study.errors(SWEEPS)


# --- errors --------------------------------------------------------------------------------------


def test_errors_are_those_of_a_loop(errors):
    assert len(errors) == 2 * N_PROMPTS * 21
    found = errors.set_index(["task", "prompt", "method"]).error
    data = SWEEPS["m", "factual"]
    for p, (method, name) in itertools.product(
        range(N_PROMPTS), (("AP", "attribution_patching"), ("K = 3", "ms_hvp:3"))
    ):
        truth, values = data.activation_patching.values[p], data[name].values[p]
        top = sorted(range(N_HEADS), key=lambda c: -abs(truth[c]))[:5]
        mean = sum(abs(values[c] - truth[c]) for c in top) / 5
        assert found["Factual", p, method] == pytest.approx(100 * mean / 10)


def test_overview():
    (row, _) = study.overview(SWEEPS).itertuples(index=False)
    assert tuple(row) == ("m", "IOI", N_PROMPTS, 9, 4, "prompt 0")


def test_means_and_what_is_enough(errors):
    means = study.at_steps(errors, (0, 4)).set_index(["task", "steps"]).error
    scale = np.random.default_rng(0)
    for _ in range(N_PROMPTS):
        scale.permutation(N_HEADS)
    scale = scale.uniform(0.5, 1.5, N_PROMPTS).mean()
    assert means["IOI", 0].estimate == pytest.approx(20 * scale)
    assert means["IOI", 4].estimate == pytest.approx(10 * scale / 16)
    least = study.enough(errors, below=1.0).set_index("task").steps
    assert least["IOI"] == next(k for k in range(1, 21) if 10 * scale / k**2 < 1)
    assert least["Factual"] > least["IOI"]
    assert study.enough(errors, below=1e-9).steps.isna().all()


def test_the_first_step_and_the_slope(errors):
    table = study.one_step(errors)
    assert table.slope.tolist() == pytest.approx([-2, -1])
    assert table.worse.tolist() == [0, N_PROMPTS] and table.prompts.tolist() == [N_PROMPTS] * 2
    first, second = table.gain
    assert first.low > 0 and second.high < 0  # half the error; and half as much again
    wide = errors[errors.task == "IOI"].pivot(index="prompt", columns="steps", values="error")
    assert first.estimate == pytest.approx((wide[0] - wide[1]).mean())
    assert table.holm.to_numpy() == pytest.approx(holm(table.p))


def test_the_prompt_that_is_harmed_most(errors):
    table = study.worst_prompts(SWEEPS, errors).set_index("task")
    wide = errors[errors.task == "Factual"].pivot(index="prompt", columns="steps", values="error")
    adds = (wide[1] - wide[0]).tolist()
    row = table.loc["Factual"]
    assert row.prompt == adds.index(max(adds)) and row.text == f"prompt {row.prompt}"
    assert row.adds == pytest.approx(max(adds)) == pytest.approx(row["K = 1"] - row.AP)
    assert row["K = 20"] == pytest.approx(wide[20][row.prompt])
    assert table.loc["IOI"].adds < 0  # no prompt is harmed: the least gain is shown


def test_the_median_of_a_falling_error_is_the_middle_one():
    table = study.median_of_several(SWEEPS)
    assert table.middle.tolist() == [100, 100]
    assert table["median"].tolist() == pytest.approx(table["K = 10"].tolist())
    assert all(row.difference.low > 0 for row in table.itertuples())


def test_a_median_can_be_better():
    data = a_sweep()
    truth = data.activation_patching
    wrong = {"ms_hvp:5": truth + 1, "ms_hvp:10": truth - 1.5, "ms_hvp:20": truth + 0.5}
    (row,) = study.median_of_several({("m", "ioi"): data.assign(wrong)}).to_dict("records")
    assert row["middle"] == 0 and row["median"] == pytest.approx(row["K = 20"])
    wrong["ms_hvp:20"], wrong["ms_hvp:5"] = wrong["ms_hvp:5"], wrong["ms_hvp:20"]
    (row,) = study.median_of_several({("m", "ioi"): data.assign(wrong)}).to_dict("records")
    assert row["difference"].high < 0 and row["median"] == pytest.approx(5)


# --- when one step does harm ---------------------------------------------------------------------


def test_the_rule_decides_every_pair():
    rng = np.random.default_rng(0)
    data = a_sweep()
    f = data.activation_patching
    q, rest = rng.normal(size=f.shape), rng.normal(size=f.shape)
    q[:, 0] = 1e-6  # float32 would decide: left out
    noisy = data.assign({"attribution_patching": f - q - rest, "ms_hvp:1": f - rest})
    noisy["ms_hvp:1"][:, 1] = np.nan  # not followed
    (row,) = study.bent_back({("m", "ioi"): noisy}).itertuples()
    chosen = np.zeros(f.shape, bool)
    chosen[:, 2:] = True
    assert row.pairs == row.agree == chosen.sum()
    assert row.worse == (np.abs(rest) > np.abs(q + rest))[chosen].sum() > 0


def test_harm_is_done_to_the_head_whose_error_rises_most():
    data = a_sweep().isel(prompt=0)
    for name in ("attribution_patching", "ms_hvp:1"):
        data[name] = data.activation_patching + 1.0
    data["ms_hvp:1"][4] = data.activation_patching[4] - 3.0
    harm = study.harm(data)
    assert harm.component == "L4H0" and harm.q == pytest.approx(-4)
    assert harm.remainder == pytest.approx(3) and harm.AP == pytest.approx(harm.truth + 1)


# --- a small model -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def M():
    return PatchedMetric(tiny_model("llama"), tiny_pair())


def test_leftovers_are_those_of_the_package_and_are_predicted(M):
    table = study.leftovers(M, ks=(1, 40), top=3)
    truth = activation_patching(M)
    largest = truth.abs().topk(3).indices.tolist()
    assert table.component.tolist() == [M.labels[c] for c in largest for _ in range(2)]
    for (k, c), row in zip(
        ((k, c) for c in largest for k in (1, 40)), table.itertuples(), strict=True
    ):
        assert row.K == k and row.truth == pytest.approx(truth[c].item())
        assert row.error == pytest.approx((truth - ms_hvp(M, k))[c].item(), abs=1e-10)
        bend = M.along_axes(1.0).curvature[c] - M.along_axes(0.0).curvature[c]
        assert row.predicted == pytest.approx(bend.item() / (6 * k**2))
    late = table[table.K == 40]
    close = np.abs(late.error - late.predicted) < 0.2 * np.abs(late.predicted)
    assert close.sum() >= 2  # where the curvatures nearly agree, the next term counts


def test_two_precisions_of_one_are_one(M):
    truth = activation_patching(M)
    top = set(truth.abs().topk(5).indices.tolist())
    names = {"activation_patching": truth} | {f"ms_hvp:{k}": ms_hvp(M, k) for k in (10, 20)}
    kept = [c in top for c in range(M.n)]
    data = xr.Dataset(
        {
            n: ("component", v.numpy() if n[0] == "a" else np.where(kept, v, np.nan))
            for n, v in names.items()
        }
    )
    table = study.precisions(data, M).set_index("precision")
    assert table.loc["float32"].tolist() == pytest.approx(table.loc["float64"].tolist())
    slope = np.log2(table["K = 20"] / table["K = 10"])
    assert table.slope.tolist() == pytest.approx(slope.tolist())
    rounded = data.assign({"ms_hvp:20": data["ms_hvp:20"] + 1.0})
    table = study.precisions(rounded, M).set_index("precision")
    assert table.slope["float32"] > 0 > table.slope["float64"]


def test_prices_are_counted(M):
    sizes = ModelSizes.of(M.model)
    table = study.prices_of_steps(sizes, (1, 5)).set_index("method")
    counted = prices.counted(sizes, ["hvp", "ms_hvp:5"])
    assert table.runs["MS-HVP, K = 1"] == pytest.approx(counted.runs[0])
    assert table.percent["MS-HVP, K = 5"] == pytest.approx(counted.percent[1])
    assert table["per head"]["patching every head"] == pytest.approx(1)
    assert table.index[0] == "attribution patching" and table.percent.iloc[0] < 100


def test_figures_show_what_they_are_given(errors, M):
    means = study.at_steps(errors)
    fig = study.error_figure(means, "A title")
    assert fig.get_suptitle() == "A title"
    named = {line.get_label(): line for line in fig.axes[0].lines}
    part = means[(means.task == "Factual") & (means.steps > 0)]
    assert named["Factual"].get_ydata() == pytest.approx([ci.estimate for ci in part.error])
    fig = study.harm_figure(M, M.labels[2], 4, "A title")
    labels = [text.get_text() for text in fig.axes[0].get_legend().get_texts()]
    assert "MS-HVP, 4 steps" in labels and fig.get_suptitle() == "A title"


# --- claims --------------------------------------------------------------------------------------


def told(sweeps):
    table = study.errors(sweeps)
    means = study.at_steps(table, (0, 1, 10, 20))
    return study.claims(means, study.one_step(table), study.median_of_several(sweeps))


def swept(**changes):
    return {("m", "ioi"): a_sweep(), ("m", "factual"): a_sweep(**changes)}


def bracketed(data):
    """The middle one of K = 5, 10 and 20 is exact, and no other."""
    truth = data.activation_patching
    return data.assign({"ms_hvp:5": truth - 1, "ms_hvp:10": truth + 0.0, "ms_hvp:20": truth + 1})


CASES = [
    (0, swept(one=6.0), swept(harmed=(1,)), swept()),
    (1, swept(rate=0.0), swept(rate=0.75), swept()),
    (
        2,
        {key: bracketed(a_sweep()) for key in SWEEPS},
        {("m", "ioi"): a_sweep(), ("m", "factual"): bracketed(a_sweep())},
        swept(),
    ),
]


@pytest.mark.parametrize(("place", "holding", "partly", "failing"), CASES)
def test_a_claim_can_come_out_three_ways(place, holding, partly, failing):
    with np.errstate(divide="ignore"):
        verdicts = [told(case)[place].verdict for case in (holding, partly, failing)]
    assert verdicts == ["holds", "holds partly", "does not hold here"]


def test_claims_count():
    found = told(swept(harmed=(1, 4)))
    assert found[0].here.endswith(f"the step makes 2 of {2 * N_PROMPTS} prompts worse")
    assert found[3].verdict == "cannot be tested here" and len({c.claim for c in found}) == 4


@functools.cache
def stored():
    return study.load(["smollm2-135m"], 20, store=RESULTS)


def test_what_is_stored_gives_the_published_claims():
    published = json.loads((RESULTS / "claims" / "07_ms_hvp_k_sweep.json").read_text("utf-8"))
    for claim, expected in zip(told(stored()), published, strict=True):
        assert (claim.claim, claim.here, claim.verdict) == tuple(
            expected[key] for key in ("claim", "here", "verdict")
        )


def test_models_may_be_swapped(errors):
    both = {(model, task): data for model in ("x", "y") for (_, task), data in SWEEPS.items()}
    table = study.errors(both)
    for model in ("x", "y"):
        part = table[table.model == model].drop(columns="model").reset_index(drop=True)
        pd.testing.assert_frame_equal(part, errors.drop(columns="model"))
    assert len(study.one_step(table)) == len(study.median_of_several(both)) == 4
    assert isinstance(study.at_steps(table, (1,)).error.iloc[0], Interval)
