"""The study of chapter 4: tables against loops, on constructed data and small models."""

import functools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
import xarray as xr
from matplotlib.figure import Figure
from tiny_models import tiny_hf_model, tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, attribution_patching, hvp, quadratic_term
from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.estimators import gauss_newton, quadratic_without
from hvp_utils.stats import bootstrap_ci, top_k_relative_error
from studies import common
from studies import curvature_gap as study

MODELS = ("a", "gemma-b")
RESULTS = Path(__file__).parents[1] / "notebooks" / "results"


def dataset(values):
    """A sweep of arrays [prompt, component]."""
    n = next(iter(values.values())).shape[1]
    return xr.Dataset(
        {name: (("prompt", "component"), array) for name, array in values.items()},
        coords={
            "label": ("component", [f"L{c // 8}N{c}" for c in range(n)]),
            "layer": ("component", np.arange(n) // 8),
        },
        attrs={"quantisation": "none"},
    )


def neuron_sweeps(downstream=0.1, local=1.0, extra=0.0, hvp_extra=None, n_prompts=4, n=40, seed=0):
    """Neurons with local and downstream parts of given sizes; what is beyond q has size ``extra``.

    ``hvp_extra`` makes the truth what HVP says and so much more; by default what q says.
    """
    found = {}
    for i, model in enumerate(MODELS):
        rng = np.random.default_rng(seed + i)
        own, behind, ap, rest = rng.normal(size=(4, n_prompts, n))
        own, behind, ap = local * own, downstream * behind, 10 * ap
        q = own + behind
        truth = ap + (q if hvp_extra is None else hvp_extra * q) + extra * rest
        values = {"activation_patching": truth, "attribution_patching": ap}
        values |= {"hvp": ap + q, "local_curvature": ap + own}
        found[model, "ioi"] = dataset(values)
    return found


@pytest.fixture(scope="module")
def gap():
    return study.neurons(neuron_sweeps(extra=0.3))


# --- neurons -------------------------------------------------------------------------------------


def test_neurons_are_what_was_swept():
    sweeps = neuron_sweeps()
    sweeps["a", "ioi"].activation_patching[1, 3] = 0.001
    table = study.neurons(sweeps)
    assert len(table) == 2 * 4 * 40
    data = sweeps["a", "ioi"]
    row = table[(table.model == "a") & (table.prompt == 1)].iloc[3]
    ap = float(data.attribution_patching[1, 3])
    assert row.q == pytest.approx(float(data.hvp[1, 3]) - ap)
    assert row.local == pytest.approx(float(data.local_curvature[1, 3]) - ap)
    assert (row.component, row.layer, row.truth) == ("L0N3", 0, 0.001)
    for model in MODELS:
        truth = np.abs(sweeps[model, "ioi"].activation_patching.values)
        counts = table[table.model == model].counts.to_numpy().reshape(truth.shape)
        for one, kept in zip(truth, counts, strict=True):
            assert kept.tolist() == [f >= 0.01 * max(one) for f in one]
    assert not row.counts
    source = study.origin(table, sweeps).iloc[0]
    assert (source.prompts, source.layers, source["neurons a layer"]) == (4, 5, 8)
    assert source["count, a prompt"] == table[table.model == "a"].counts.sum() / 4


def test_agreement_is_that_of_scipy(gap):
    each = study.per_prompt(gap).set_index(["model", "neurons", "prompt"])
    for model, which, prompt in each.index:
        part = gap[(gap.model == model) & (gap.prompt == prompt)]
        part = part[part.counts] if which != "all" else part
        row = each.loc[(model, which, prompt)]
        assert row.pearson == pytest.approx(scipy.stats.pearsonr(part.q, part.local).statistic)
        assert row.spearman == pytest.approx(scipy.stats.spearmanr(part.q, part.local).statistic)
        assert row.ratio == pytest.approx(np.median(np.abs(part.q / part.local)))
        assert row.own == pytest.approx(sum(abs(part.local)))
        assert row.downstream == pytest.approx(sum(abs(part.q - part.local)))


def test_local_share_is_pooled_over_prompts():
    columns = ["model", "task", "neurons", "own", "downstream"]
    each = pd.DataFrame(
        [("a", "ioi", "all", 3.0, 1.0), ("a", "ioi", "all", 0.0, 4.0)], columns=columns
    )
    share = study.local_share(each).share.iloc[0]
    assert share.estimate == pytest.approx(100 * 3 / 8)
    assert (share.low, share.high) == (0, 75)


def test_a_neuron_without_curvature_of_its_own_has_no_ratio():
    sweeps = neuron_sweeps()
    for data in sweeps.values():
        data.local_curvature[:, :30] = data.attribution_patching[:, :30]
    table = study.neurons(sweeps)
    each = study.per_prompt(table)
    assert np.isfinite(each.ratio).all()
    spread = study.spread(table)
    assert np.isfinite(spread[["5 %", "95 %"]]).all(axis=None)
    assert (spread["5 %"] < spread["95 %"]).all()
    plain = study.per_prompt(study.neurons(neuron_sweeps()))
    assert (each.own.to_numpy() < plain.own.to_numpy()).all()


def test_spread_is_that_of_all_prompts_together(gap):
    row = study.spread(gap).iloc[1]
    part = gap[(gap.model == row.model) & gap.counts] if row.neurons != "all" else gap
    part = part[part.model == row.model]
    low, high = np.quantile(np.abs(part.q / part.local), [0.05, 0.95])
    assert (row["5 %"], row["95 %"]) == (pytest.approx(low), pytest.approx(high))


def test_corrections_are_judged_by_the_truth(gap):
    errors = study.corrected(gap)
    terms = {"none": 0, "local curvature": "local", "HVP": "q"}
    for row in errors.sample(10, random_state=0).itertuples():
        part = gap[(gap.model == row.model) & (gap.prompt == row.prompt)]
        term = terms[row.method]
        estimate = part.ap + (part[term] if term else 0)
        wrong = [abs(e - f) for e, f in zip(estimate, part.truth, strict=True)]
        largest = sorted(range(len(wrong)), key=lambda c: -abs(part.truth.iloc[c]))[:5]
        span = part.truth.max() - part.truth.min()
        assert row.top5 == pytest.approx(100 * np.mean([wrong[c] for c in largest]) / span)
        assert row.mean == pytest.approx(1e3 * np.mean(wrong))
    table = study.corrections_table(errors, "mean").set_index(["model", "correction"])
    means = errors.groupby(["model", "method"])["mean"].mean()
    row = table.loc[("a", "HVP")]
    assert row.error.estimate == pytest.approx(means["a", "HVP"])
    assert row["less none"] == pytest.approx(means["a", "HVP"] - means["a", "none"])
    assert row["lower on"] == "4 of 4"
    short = study.corrections_summary(errors)
    assert len(short) == 6 and short["lower on "].tolist()[1:3] == ["4 of 4", "4 of 4"]
    assert short["mean error, 10⁻³ nats"][2] == pytest.approx(means["a", "HVP"])


def test_what_clearly_lower_means():
    few = study.Difference([1, 1, 1, 1], [2, 2, 2, 2])
    assert few.clear and np.isnan(few.p) and "lower on 4 of 4" in str(few)
    assert not study.Difference([1, 1, 1, 3], [2, 2, 2, 2]).clear
    b = np.full(30, 2.0)
    wave = np.tile([0.5, -0.5], 15)
    assert study.Difference(b - 1 + wave, b).clear
    assert not study.Difference(b + 1 + wave, b).clear
    assert not study.Difference(b - 0.01 + wave, b).clear
    assert "p ≤ 0.002" in str(study.Difference(b - 1 + wave, b))


@pytest.mark.parametrize("architecture", ["llama", "gemma3", "neox"])
def test_surgery_finds_the_local_curvature(architecture):
    split = study.split_by_surgery(tiny_model(architecture), tiny_pair(), 1, 4)
    assert len(split) == 4 and split.component.str.startswith("L1N").all()
    np.testing.assert_allclose(split.own, split.local, atol=1e-10)
    assert split.local.abs().max() > 1e-3
    assert (split.q - split.own).abs().max() > 1e-4  # the network behind bends too


def test_curvature_without_gradient_is_that_of_finite_differences():
    pair = tiny_pair()
    M = PatchedMetric(tiny_model("llama"), pair, "neurons_pre")
    hf, inputs = tiny_hf_model("llama"), {}
    for layer, block in enumerate(hf.model.layers):
        block.mlp.act_fn.register_forward_hook(
            lambda act, args, out, layer=layer: inputs.setdefault(layer, []).append(args[0][0])
        )
    with torch.no_grad():
        for tokens in (pair.corrupted, pair.clean):
            hf(torch.tensor([tokens]))
    expected, h = [], 1e-4
    for z, clean in inputs.values():
        bend = (torch.nn.functional.silu(z + s * h) for s in (1, 0, -1))
        up, here, down = bend
        expected.append((((up - 2 * here + down) / h**2) * (clean - z) ** 2 / 2).sum(0))
    found = study.curvature_without_gradient(M)
    np.testing.assert_allclose(found, torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_leaving_out_the_gradient():
    table = study.neurons(neuron_sweeps(extra=0.0))
    errors = study.corrected(table)
    local = {m: table[table.model == m].local.to_numpy().reshape(4, -1) for m in MODELS}
    same = study.gradient_left_out(table, local)
    assert (same.pearson[0], same.error[2]) == (same.pearson[1], same.error[3])
    assert not study.papers_pattern(same, errors)
    rng = np.random.default_rng(5)
    noise = {m: 300 * rng.normal(size=x.shape) for m, x in local.items()}
    found = study.gradient_left_out(table, noise)
    assert found.gradient.tolist() == ["with", "without"] * 2
    ranks, wrong = [], []
    for term, (_, part) in zip(
        noise["a"], table[table.model == "a"].groupby("prompt"), strict=True
    ):
        ranks.append(scipy.stats.spearmanr(term, part.q).statistic)
        wrong.append(top_k_relative_error(part.ap.to_numpy() + term, part.truth.to_numpy()))
    assert found.spearman[1].estimate == pytest.approx(np.mean(ranks))
    assert found.error[1].estimate == pytest.approx(np.mean(wrong))
    assert study.papers_pattern(found, errors)
    assert max(abs(found.spearman[i].estimate) for i in (1, 3)) < 0.2
    harmless = {m: 1e-9 * x for m, x in noise.items()}
    assert not study.papers_pattern(study.gradient_left_out(table, harmless), errors)


# --- heads ---------------------------------------------------------------------------------------


def head_sweeps(weights, n_prompts=12, n=10, followed=8, gauss=None, beyond=0.0, seed=0):
    """Heads whose parts have given sizes, by kind and for each model in turn; q is their sum.

    ``gauss`` is the factor of the output's part in Gauss–Newton's correction, 1 by default.
    """
    found = {}
    for i, (model, sizes) in enumerate(zip(MODELS, weights, strict=True)):
        rng = np.random.default_rng(seed + i)
        parts = rng.normal(size=(n_prompts, n, 6)) * np.asarray(sizes)
        ap = rng.normal(size=(n_prompts, n)) + 5
        q = parts.sum(-1)
        truth = ap + q + beyond * rng.normal(size=q.shape)
        left_out = np.argsort(-np.abs(truth), axis=1)[:, followed:]
        values = {"activation_patching": truth, "attribution_patching": ap, "hvp": ap + q}
        values["gauss_newton"] = ap + (1 if gauss is None else gauss) * parts[..., 5]
        for j, kind in enumerate(NONLINEARITIES):
            values[f"quadratic_without:{kind}"] = q - parts[..., j]
        for name, array in values.items():
            if name not in ("activation_patching", "attribution_patching"):
                np.put_along_axis(array, left_out, np.nan, 1)
        found[model, "ioi"] = dataset(values)
    return found


EVEN = ([1] * 6, [1] * 6)


@pytest.fixture(scope="module")
def heads():
    return study.heads(head_sweeps(([1, 2, 3, 1, 1, 1], [3, 1, 1, 0.1, 0.1, 2]), beyond=0.5))


def test_heads_are_what_was_swept():
    sweeps = head_sweeps(EVEN)
    table = study.heads(sweeps)
    data = sweeps["gemma-b", "ioi"]
    part = table[table.model == "gemma-b"]
    for kind in NONLINEARITIES:
        expected = data.hvp - data.attribution_patching - data[f"quadratic_without:{kind}"]
        np.testing.assert_allclose(part[kind], expected.values.ravel())
    assert part.followed.sum() == 12 * 8


def test_checks_see_a_part_that_is_missing():
    sweeps = head_sweeps(EVEN)
    good = study.checks(study.heads(sweeps))
    assert (good["gap of the sum"] < 1e-12).all() and (good["gap of Gauss–Newton"] < 1e-12).all()
    assert good.followed.tolist() == [8, 8] and good["heads"].tolist() == [10, 10]
    sweeps["a", "ioi"]["quadratic_without:norms"] += 0.5
    sweeps["a", "ioi"]["gauss_newton"] -= 0.25
    bad = study.checks(study.heads(sweeps))
    assert bad["gap of the sum"].tolist() == pytest.approx([0.5, 0], abs=1e-12)
    assert bad["gap of Gauss–Newton"].tolist() == pytest.approx([0.25, 0], abs=1e-12)


def test_shares_are_those_of_a_loop(heads):
    shares = study.shares(heads)
    for model in MODELS:
        signed, sizes, total = np.zeros(6), np.zeros(6), 0.0
        for row in heads[(heads.model == model) & heads.followed].itertuples():
            parts = np.array([getattr(row, kind) for kind in NONLINEARITIES])
            signed += parts * np.sign(row.q)
            sizes += abs(parts)
            total += abs(row.q)
        part = shares[shares.model == model]
        assert [i.estimate for i in part.signed] == pytest.approx(100 * signed / total)
        assert [i.estimate for i in part.sizes] == pytest.approx(100 * sizes / sizes.sum())
        assert sum(i.estimate for i in part.signed) == pytest.approx(100)
        assert study.cancellation(heads)[model].estimate == pytest.approx(sizes.sum() / total)
        norms = study.of_kind(shares, "norms", "signed")[model]
        assert norms.estimate == pytest.approx(100 * signed[0] / total)


def test_which_kind_leads_and_where_models_differ(heads):
    shares = study.shares(heads)
    assert {m: kind for m, (kind, _) in study.leading(shares).items()} == {
        "a": "attention_mixing",
        "gemma-b": "norms",
    }
    assert {"norms", "mlp_gating"} <= set(study.apart(shares))
    assert study.apart(study.shares(study.heads(head_sweeps(EVEN, n_prompts=4)))) == []
    assert study.apart(shares[shares.model == "a"]) == []


def test_who_is_misled(heads):
    worse = study.misled(heads)
    for row in worse.sample(8, random_state=1).itertuples():
        part = heads[(heads.model == row.model) & (heads.prompt == row.prompt) & heads.followed]
        count = 0
        for head in part.itertuples():
            parts = [getattr(head, kind) for kind in NONLINEARITIES]
            term = max(parts, key=abs) if row.method == "largest part" else sum(parts)
            count += abs(head.truth - head.ap - term) > abs(head.truth - head.ap)
        assert (row.worse, row.followed) == (count, 8)
        assert row.percent == pytest.approx(100 * count / 8)
    table = study.misled_table(worse).set_index("model")
    pooled = worse.groupby(["model", "method"]).worse.sum() / (12 * 8) * 100
    for model in MODELS:
        both = pooled[model, "largest part"], pooled[model, "all parts"]
        row = table.loc[model]
        assert row["largest part"].estimate == pytest.approx(both[0])
        assert row["all parts"].estimate == pytest.approx(both[1])
        assert row.difference.estimate == pytest.approx(both[0] - both[1])


def test_largest_heads(heads):
    table = study.largest_heads(heads, 3)
    assert table.model.tolist() == ["a"] * 3 + ["gemma-b"] * 3
    for model in MODELS:
        one = heads[(heads.model == model) & heads.followed]
        sizes = {c: p.q.abs().mean() for c, p in one.groupby("component") if len(p) >= 6}
        expected = sorted(sizes, key=lambda c: -sizes[c])[:3]
        assert table[table.model == model].component.tolist() == expected
    row = table.iloc[0]
    part = heads[(heads.model == "a") & heads.followed & (heads.component == row.component)]
    assert row.prompts == len(part)
    assert row.q.estimate == pytest.approx(part.q.mean())
    assert row.norms == pytest.approx(part.norms.mean())
    assert row.q.estimate == pytest.approx(sum(row[kind] for kind in NONLINEARITIES))


def test_heads_that_are_seldom_followed_are_not_shown():
    sweeps = head_sweeps(EVEN, followed=5)
    for data in sweeps.values():
        data["hvp"][5:, 2] = np.nan
        data["hvp"][:5, 2] = 1000.0
    table = study.heads(sweeps)
    assert "L0N2" in set(table[table.followed].component)
    assert "L0N2" not in set(study.largest_heads(table, 10).component)


def test_errors_of_heads(heads):
    errors = study.errors(heads)
    part = heads[(heads.model == "a") & (heads.prompt == 2)]
    truth = part.truth.to_numpy()
    for method, estimate in (
        ("attribution patching", part.ap),
        ("Gauss–Newton", part.gauss_newton),
        ("HVP", part.ap + part.q),
    ):
        one = errors[(errors.model == "a") & (errors.prompt == 2) & (errors.method == method)]
        expected = top_k_relative_error(estimate.to_numpy(), truth)
        assert one.top5.tolist() == pytest.approx([expected])
    table = study.errors_table(errors)
    assert table.difference[0] == "" and table.p[0] == ""
    means = errors.groupby(["model", "method"]).top5.mean()
    assert table.difference[2].estimate == pytest.approx(
        means["a", "HVP"] - means["a", "attribution patching"]
    )
    assert (table["p, Holm"].dropna() <= 1).all() and table["p, Holm"].notna().sum() == 4


# --- places, on small models ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def small():
    return {"llama": tiny_model("llama"), "gemma": tiny_model("gemma3")}


@pytest.fixture(scope="module")
def anatomy(small):
    return study.by_layer(small, tiny_pair(), 3)


def test_places_add_up(small, anatomy):
    for name, model in small.items():
        M = PatchedMetric(model, tiny_pair())
        q = quadratic_term(M)
        part = anatomy[anatomy.model == name]
        top = sorted(range(M.n), key=lambda c: -abs(q[c]))[:3]
        assert list(dict.fromkeys(part.component)) == [M.labels[c] for c in top]
        assert part.all_q.unique() == pytest.approx([float(q.abs().sum())])
        sums = part.groupby("component").part.sum()
        assert [sums[M.labels[c]] for c in top] == pytest.approx(q[top].tolist())
        chosen = torch.tensor(top[:1])
        kinds = ["attention_pattern", "attention_mixing"]
        left = quadratic_without(M, kinds, layers=[2], components=chosen)
        row = part[(part.group == "attention") & (part.layer == 2)].iloc[0]
        assert row.part == pytest.approx(float(q[top[0]] - left))
        assert set(part[part.end].group) == {"norms", "output"}
        assert set(part[~part.end].group) == {"norms", "attention", "MLP"}


def test_concentration_of_real_places(anatomy):
    assert (study.concentration(anatomy).gap < 1e-9).all()


def test_everything_straight_has_no_curvature(small, anatomy):
    followed = {m: part.component.unique() for m, part in anatomy.groupby("model")}
    assert max(study.frozen(small, tiny_pair(), followed).values()) < 1e-10


def known_places(
    sizes=((5, "MLP", 4.5), (6, "norms", -1.0), (7, "norms", 2.0), (8, "output", 0.5)),
):
    rows = [
        ("a", "L5H0", 5, q, group, layer, layer == 8, part * factor, 24.0)
        for q, factor in ((6.0, 1),)
        for layer, group, part in sizes
    ]
    rows += [
        ("a", "L6H1", 6, -6.0, group, layer, layer == 8, part, 24.0)
        for layer, group, part in ((5, "MLP", 0.0), (6, "norms", -5.0), (7, "norms", 0.0))
    ]
    rows.append(("a", "L6H1", 6, -6.0, "output", 8, True, -1.0, 24.0))
    columns = ["model", "component", "head_layer", "q", "group", "layer", "end", "part", "all_q"]
    return pd.DataFrame(rows, columns=columns)


def test_known_places():
    places = known_places()
    cells = study.cells(places).set_index(["group", "layer"]).percent
    assert cells.sum() == pytest.approx(100)
    assert cells["MLP", 5] == pytest.approx(100 * 4.5 / 12)
    assert cells["norms", 6] == pytest.approx(100 * (-1 + 5) / 12)
    found = study.concentration(places).iloc[0]
    assert (found["heads"], found.of, found.share) == (2, 4, 50)
    assert found.places == 2  # 38 of 38 + 33 + 17 + 12 is not half of it
    assert found.near == pytest.approx(100 * (4.5 + 1 + 5) / (4.5 + 1 + 2 + 0.5 + 5 + 1))
    assert found.gap == 0
    top = study.largest_places(places, 1)
    assert top.place.tolist() == ["MLP in layer 5"]
    assert "output at the end" in study.largest_places(places).place.tolist()
    wrong = study.concentration(places.assign(part=2 * places.part)).iloc[0]
    assert wrong.gap == pytest.approx(6)


def test_models_keep_their_order():
    places = known_places()
    two = pd.concat([places.assign(model="z"), places.assign(model="b")])
    assert study.largest_places(two, 1).model.tolist() == ["z", "b"]
    assert study.concentration(two).model.tolist() == ["z", "b"]


# --- the whole error -----------------------------------------------------------------------------


def test_error_along_a_known_path():
    # g(t) = t + 3 t^2 - 2 t^5 bends by 6 - 40 t^3, and its error at 1 is 3 - 2.
    found = study.error_along_path(lambda t: np.stack([6 - 40 * t**3, 2 + 0 * t], axis=1))
    assert found == pytest.approx([1, 1])


def test_whole_errors_add_up(small):
    whole = study.whole_errors(small, tiny_pair(), 2)
    M = PatchedMetric(small["llama"], tiny_pair())
    error = activation_patching(M) - attribution_patching(M)
    part = whole[whole.model == "llama"]
    top = sorted(range(M.n), key=lambda c: -abs(error[c]))[:2]
    assert part.component.tolist() == [M.labels[c] for c in top]
    assert part.error.tolist() == pytest.approx(error[top].tolist())
    assert part.q.tolist() == pytest.approx((hvp(M) - attribution_patching(M))[top].tolist())
    gaps = study.whole_error_gaps(whole)
    assert (gaps.parts < 1e-9).all()
    shares = study.whole_error_shares(whole)
    for row, (_, one) in zip(shares.itertuples(), whole.groupby("model", sort=False), strict=True):
        expected = 100 * (one.norms * np.sign(one.error)).sum() / one.error.abs().sum()
        assert row.norms == pytest.approx(expected)
    few = study.whole_error_gaps(whole.assign(integral=whole.integral + 1))
    assert (few.parts > 0.9).all()


def test_the_logit_difference_has_no_curvature_unless_it_is_capped():
    models = {"llama": tiny_model("llama"), "capped": tiny_model("gemma2")}
    table = study.by_metric(models, tiny_pair()).set_index(["model", "metric"])
    assert table.output["llama", "logit_diff"] < 1e-12 < table.output["llama", "log_prob"]
    assert table.output["capped", "logit_diff"] > 1e-4
    M = PatchedMetric(models["llama"], tiny_pair())
    top = activation_patching(M).abs().topk(5).indices
    output = gauss_newton(M, top) - attribution_patching(M, top)
    assert table.output["llama", "log_prob"] == pytest.approx(float(output.abs().mean()))


# --- figures -------------------------------------------------------------------------------------


def test_figures(gap, heads, anatomy):
    drawn = study.scatter(gap, "A title", {m: f"of {m}" for m in MODELS})
    assert isinstance(drawn, Figure) and len(drawn.axes) == 2
    assert drawn.get_suptitle() == "A title"
    for ax, model in zip(drawn.axes, MODELS, strict=True):
        assert f"of {model}" in [text.get_text() for text in ax.texts]
        points = ax.collections[0].get_offsets()
        kept = gap[(gap.model == model) & gap.counts]
        assert len(points) == len(kept)
        assert abs(points[0][0]) <= 1
    shares = study.shares(heads)
    drawn = study.kinds_figure(shares, "A title")
    assert len(drawn.axes) == 2
    assert len(study.kinds_figure(shares, "A title", ("sizes",)).axes) == 1
    widths = [bar.get_width() for bar in drawn.axes[1].containers[1]]
    expected = [i.estimate for i in shares[shares.model == "a"].sizes]
    assert widths == pytest.approx(expected)
    drawn = study.layers_figure(anatomy, "A title")
    assert len(drawn.axes) == 2 * 2 + 1
    drawn = study.head_figure(anatomy, "A title")
    heights = [bar.get_height() for bar in drawn.axes[0].patches]
    part = anatomy[anatomy.model == "llama"]
    assert sum(heights) == pytest.approx(part.q.iloc[0])


# --- claims --------------------------------------------------------------------------------------

STRAIGHT, BENT = [0.1, 1, 1, 1, 1, 1], [3, 1, 1, 0.05, 0.05, 1]
TO_PAPER = dict(downstream=30.0, local=0.05)


@functools.cache
def _told(neurons, heads):
    gap = study.neurons(neuron_sweeps(**dict(neurons)))
    table = study.heads(head_sweeps(**dict(heads)))
    found = study.claims(gap, table)
    assert len({claim.claim for claim in found}) == len(found) == 10
    return found


def verdict_of(start, neurons=None, heads=None):
    heads = {"weights": (tuple(STRAIGHT), tuple(STRAIGHT))} | (heads or {})
    found = _told(tuple((neurons or {}).items()), tuple(heads.items()))
    (claim,) = [claim for claim in found if claim.claim.startswith(start)]
    return claim.verdict


@pytest.mark.parametrize(
    ("start", "holding", "failing"),
    [
        ("The network's quadratic", dict(neurons=TO_PAPER), {}),
        ("The two are next", dict(neurons=TO_PAPER | {"n": 400}), {}),
        (
            "Correcting with local",
            dict(neurons=dict(downstream=0.0, hvp_extra=-1.0)),
            dict(neurons=dict(downstream=0.0)),
        ),
        ("So does the dominant", dict(neurons=TO_PAPER), {}),
        ("Most of the downstream", {}, dict(heads={"weights": (tuple(BENT), tuple(BENT))})),
        (
            "HVP reduces",
            dict(neurons=dict(extra=0.01)),
            dict(neurons=dict(hvp_extra=-1.0)),
        ),
        ("Gated activations", {}, dict(heads={"weights": (tuple(STRAIGHT), tuple(BENT))})),
        (
            "Gauss–Newton",
            dict(heads={"weights": ((0.1,) * 5 + (3,),) * 2}),
            dict(heads={"weights": ((0.1,) * 5 + (3,),) * 2, "gauss": -1}),
        ),
    ],
)
def test_a_claim_can_come_out_either_way(start, holding, failing):
    assert verdict_of(start, **holding) == "holds"
    assert verdict_of(start, **failing) == "does not hold here"


@pytest.mark.parametrize(
    ("start", "heads"),
    [
        ("Most of the downstream", {"weights": (tuple(STRAIGHT), tuple(BENT))}),
        ("Gated activations", {"weights": (tuple(BENT), (1, 1, 1, 0.3, 0.3, 1))}),
    ],
)
def test_a_claim_can_hold_in_part(start, heads):
    assert verdict_of(start, heads=heads) == "holds partly"


def test_what_is_true_by_construction_and_what_cannot_be_tested():
    assert verdict_of("The dominant error of heads") == "holds"
    assert verdict_of("The values of Figure 2") == "cannot be tested here"


def test_the_claim_on_gemma_is_of_a_gemma():
    gap = study.neurons(neuron_sweeps())
    table = study.heads(head_sweeps((BENT, STRAIGHT)))
    swapped = table.replace({"model": {"a": "gemma-b", "gemma-b": "a"}})
    one, other = (
        next(c for c in study.claims(gap, t) if c.claim.startswith("Gated"))
        for t in (table, swapped)
    )
    assert (one.verdict, other.verdict) == ("holds", "does not hold here")
    without = table.replace({"model": {"gemma-b": "c"}})
    assert len(study.claims(gap, without)) == 9


def test_published_claims_are_those_of_the_stored_sweeps():
    models = ("smollm2-135m", "gemma-3-270m")
    options = dict(store=RESULTS)
    of_neurons = common.load(
        models, ["ioi"], study.OF_NEURONS, 4, components="neurons_pre:256", **options
    )
    of_heads = common.load(models, ["ioi"], study.OF_HEADS, 20, top=study.N_FOLLOWED, **options)
    found = study.claims(study.neurons(of_neurons), study.heads(of_heads))
    written = json.loads((RESULTS / "claims" / "04_curvature_gap.json").read_text())
    assert [(c.claim, c.here, c.verdict) for c in found] == [
        (c["claim"], c["here"], c["verdict"]) for c in written
    ]


def test_intervals_are_the_packages(gap):
    each = study.per_prompt(gap)
    row = study.agreement(each, "pearson").iloc[0]
    part = each[(each.model == row.model) & (each.neurons == row.neurons)]
    assert row.pearson == bootstrap_ci(part.pearson)
