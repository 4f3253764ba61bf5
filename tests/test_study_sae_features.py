"""The study of chapter 13: tables against loops, on constructed data and a small model."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from test_sae_features import random_sae, write_sae_lens
from tiny_models import tiny_model, tiny_task

from hvp_utils import (
    PatchedMetric,
    SAEFeatures,
    activation_patching,
    attribution_patching,
    hvp,
    integrated_gradients,
    make_prompts,
    model_sizes,
    ms_hvp,
    plots,
)
from hvp_utils.curvature import diagonal
from hvp_utils.plans import ModelSizes
from hvp_utils.stats import Interval, spearman, top_k_overlap, top_k_relative_error
from studies import common, prices
from studies import sae_features as study
from studies.sae_features import measuring, precision

LAYERS = (1, 2)
NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
BOOK = "smollm2-135m"


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama")


@pytest.fixture(scope="module")
def tiny_prompts():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "make_prompts", lambda task, model, n, seed: tiny_task(model, n))
        patch.setattr(measuring, "LARGEST", 4)
        patch.setattr(measuring, "PRODUCTS", (4, 6))
        yield


def sae_of(layer):
    return random_sae(f"blocks.{layer}.hook_resid_pre", activation="topk", k=6)


@pytest.fixture(scope="module")
def stored(model, tiny_prompts):
    return {n: study.measure(model, sae_of(n), 3, 2, 1, store=None) for n in LAYERS}


@pytest.fixture(scope="module")
def rows(stored):
    return study.rows_of(stored)


def made(n_prompts=6, n=30, ap=0.2, second=0.02, seed=0, layers=(12, 22)):
    """Rows as of ``rows_of`` with errors in proportion to the effects."""
    rng, parts = np.random.default_rng(seed), []
    for layer in layers:
        for prompt in range(n_prompts):
            truth = rng.normal(size=n) * 10.0 ** rng.uniform(-5, 0, size=n)
            part = {"layer": layer, "prompt": prompt, "feature": [*range(n - 1), -1]}
            part |= {"truth": truth, "AP": truth * (1 + ap * rng.normal(size=n))}
            part["HVP"] = truth * (1 + second * rng.normal(size=n))
            part |= {"sketch_16": part["HVP"] - part["AP"], "screen": np.abs(truth) / 2}
            part |= {"MS-HVP": truth, "slopes": truth * 1.01, "length": 1.0}
            parts.append(pd.DataFrame(part))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(error=rows.feature == -1)


# --- dictionaries --------------------------------------------------------------------------------


def put(root, model, layer, **report):
    folder = study.folder(model, layer, root)
    folder.mkdir(parents=True)
    hook = f"blocks.{layer}.hook_resid_pre"
    write_sae_lens(folder, hook_name=hook, architecture="topk", k=5)
    if report:
        (folder / "report.json").write_text(json.dumps(report))


def test_saes_are_found_by_their_folders(tmp_path):
    put(tmp_path, "a/b", 22)
    put(tmp_path, "a/b", 3, l0=5.0, variance_explained=0.75, dead_share=0.125)
    put(tmp_path, "a", 7)
    (study.folder("a/b", 3, tmp_path) / "top_tokens.json").write_text('{"7": ["x ⟦y⟧"]}')
    assert study.layers_of("a/b", tmp_path) == [3, 22]
    saes, note = study.find("a/b", tmp_path)
    assert list(saes) == [3, 22] and saes[22].hook == "blocks.22.hook_resid_pre"
    assert "layers 3 and 22" in note and "5 active a token" in note
    assert study.contexts("a/b", 3, tmp_path) == {7: ["x ⟦y⟧"]}
    assert study.contexts("a/b", 22, tmp_path) == study.report("a/b", 22, tmp_path) == {}
    quality = study.quality("a/b", tmp_path)
    assert quality.layer.tolist() == [3, 22] and quality.variance[0] == 75
    assert quality.L0[0] == 5 and quality.dead[0] == 12.5 and quality.loss.isna().all()


def test_a_model_without_an_sae_gets_random_directions_and_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="No SAE of smollm2-135m lies in"):
        study.layers_of("smollm2-135m", tmp_path)
    saes, note = study.find("smollm2-135m", tmp_path)
    assert note.startswith("**No SAE of smollm2-135m") and "random" in note
    assert list(saes) == [12, 22]  # at the depths of the paper's layers 5 and 9 of 12
    sae = saes[12]
    x = torch.randn(3, 576)
    assert ((sae.encode(x) != 0).sum(-1) <= 32).all()
    assert torch.allclose(sae.W_dec.norm(dim=-1), torch.ones(sae.n))


def test_random_directions_are_as_long_and_as_active():
    sae = sae_of(1)
    wild = study.random_directions(sae)
    assert torch.allclose(wild.W_dec.norm(dim=-1), sae.W_dec.norm(dim=-1))
    x = torch.randn(5, 32).double()
    assert torch.equal(wild.encode(x), sae.encode(x)) and wild.W_dec.dtype == torch.float64
    cosine = torch.cosine_similarity(wild.W_dec, sae.W_dec)
    assert cosine.abs().mean() < 0.3
    assert not torch.equal(wild.W_dec, study.random_directions(sae, seed=1).W_dec)


def test_a_digest_tells_saes_apart():
    one, again, other = sae_of(1), sae_of(1), random_sae(activation="topk", k=6, seed=1)
    assert study.digest(one) == study.digest(again)
    others = [other, sae_of(2), study.random_directions(one)]
    assert len({study.digest(s) for s in (one, *others)}) == 4


def test_many_random_directions_write_out_an_activation(model):
    sizes, x = ModelSizes.of(model), torch.randn(4, 32)
    off = [
        ((study.frame(sizes, "blocks.1.hook_resid_pre", n).reconstruct(x) - x).norm() / x.norm())
        for n in (400, 40_000)
    ]
    assert off[1] < 0.1 < 0.2 < off[0]


# --- measuring -----------------------------------------------------------------------------------


def test_what_is_stored_is_what_the_package_says(model, stored, rows):
    for layer in LAYERS:
        for prompt, pair in enumerate(tiny_task(model, 3)):
            M = PatchedMetric(model, pair, SAEFeatures(sae_of(layer)))
            part = rows[(rows.layer == layer) & (rows.prompt == prompt)]
            labels = [f"L{layer}F{f}" if f >= 0 else f"L{layer}.error" for f in part.feature]
            assert labels == list(M.labels) and part.error.tolist() == [False] * (M.n - 1) + [True]

            def same(name, value, where=slice(None), part=part):
                np.testing.assert_allclose(
                    part[name].to_numpy()[where], value, rtol=1e-5, atol=1e-6
                )

            truth = activation_patching(M)
            same("truth", truth)
            same("AP", attribution_patching(M))
            same("HVP", hvp(M))
            same("length", M.delta_norm)
            if prompt < 2:
                same("sketch_6", diagonal(M, "xdiag", 6).values / 2)
            assert part.screen.notna().all() == (prompt < 2)
            size = truth.abs().tolist()
            chosen = sorted(range(M.n - 1), key=lambda c: -size[c])[:4]
            chosen = sorted([*chosen, M.n - 1])
            on_path = part["MS-HVP"].notna().to_numpy().nonzero()[0].tolist()
            assert on_path == (chosen if prompt == 0 else [])
            if prompt == 0:
                same("MS-HVP", ms_hvp(M, 5)[chosen], chosen)
                same("slopes", integrated_gradients(M, 5, "gausslegendre")[chosen], chosen)
            at = stored[layer].isel(prompts=prompt)
            alpha = torch.ones(M.n).double()
            alpha[-1] = 0
            assert float(at.explained) == pytest.approx(M(alpha).item() - M.base)
            assert (float(at.base), float(at.other)) == pytest.approx((M.base, M.other))
            assert (int(at.n), int(at.n_tokens), int(at.n_run)) == (M.n, M.n_tokens, M.n_run)


def test_files_are_read_again_and_belong_to_one_sae(model, tiny_prompts, tmp_path, monkeypatch):
    first = study.measure(model, sae_of(1), 1, 0, 0, store=tmp_path)
    (path,) = tmp_path.glob("*.nc")
    assert "blocks.1.hook_resid_pre__features-1" in path.name

    def never(*args):
        raise AssertionError("measured again")

    with monkeypatch.context() as patch:
        patch.setattr(measuring, "one_prompt", never)
        again = study.measure(model, sae_of(1), 1, 0, 0, store=tmp_path)
        pd.testing.assert_frame_equal(study.rows_of({1: again}), study.rows_of({1: first}))
        with pytest.raises(AssertionError, match="measured again"):
            study.measure(model, study.random_directions(sae_of(1)), 1, 0, 0, store=tmp_path)


def test_positions_apart(model, tiny_prompts, rows):
    data = study.measure_positions(model, sae_of(2), 2, store=None)
    apart, together = study.rows_of({2: data}), rows[rows.layer == 2]
    found = study.positions(together, apart)
    for prompt, pair in enumerate(tiny_task(model, 2)):
        M = PatchedMetric(model, pair, SAEFeatures(sae_of(2), per_position=True))
        truth, ap = activation_patching(M), attribution_patching(M)
        by_feature, sizes, off = {}, [], []
        for c, label in enumerate(M.labels):
            if "error" in label:
                continue
            by_feature.setdefault(int(label.split("F")[1].split("P")[0]), []).append(
                truth[c].item()
            )
            sizes.append(abs(truth[c].item()))
            off.append(abs(ap[c].item() - truth[c].item()))
        row, whole = found.iloc[prompt], together[(together.prompt == prompt) & ~together.error]
        assert row.n == len(sizes)
        assert row.AP == pytest.approx(100 * sum(off) / sum(sizes), rel=1e-4)
        order = whole.feature.tolist()
        assert sorted(order) == sorted(by_feature)
        sums = [sum(by_feature[f]) for f in order]
        assert row.sums == pytest.approx(np.corrcoef(sums, whole.truth)[0, 1], abs=1e-5)
        tops = [max(abs(v) for v in by_feature[f]) for f in order]
        expected = 100 * top_k_overlap(tops, whole.truth.to_numpy(), min(10, len(order)))
        assert row.overlap == pytest.approx(expected)


def test_a_wide_dictionary_is_sampled(model, tiny_prompts, tmp_path):
    hook = "blocks.1.hook_resid_pre"
    data = study.measure_wide(model, hook, (60, 90), 5, 7, (4, 8), store=tmp_path)
    assert data.sketch.shape == (2, 2, 12) and data.largest.values.sum(1).tolist() == [5, 5]
    sae = study.frame(ModelSizes.of(model), hook, 90)
    M = PatchedMetric(model, tiny_task(model, 1)[0], SAEFeatures(sae))
    ap = attribution_patching(M)[:-1]
    top = ap.abs().argsort(descending=True)[:5]
    one = data.isel(dictionary=1)
    np.testing.assert_allclose(one.AP.values[:5], ap[top], rtol=1e-5)
    np.testing.assert_allclose(one.truth.values[:5], activation_patching(M)[top], rtol=1e-5)
    np.testing.assert_allclose(
        one.curvature.values[:5], (hvp(M)[:-1] - ap)[top], rtol=1e-5, atol=1e-9
    )
    assert int(one.n) == M.n
    table = study.wide_table(data, ModelSizes.of(model), 1)
    row = table.iloc[-1]
    exact, sketch = one.curvature.values, one.sketch.values[1]
    assert row.off == pytest.approx(
        100 * np.abs(sketch - exact)[5:].sum() / np.abs(exact)[5:].sum(), rel=1e-5
    )
    active = sum("error" not in label for label in M.labels)
    assert (row.features, row.active, row.products) == (90, active, 8)
    # The price of a sketch is that of its products, that of HVP grows with the features.
    wide, narrow = (table[table.features == n].set_index("products") for n in (90, 60))
    assert wide.runs[8] == pytest.approx(narrow.runs[8]) and wide.runs[8] > wide.runs[4]
    assert wide.runs_hvp[8] > 1.3 * narrow.runs_hvp[8]


def test_rounding_is_told_from_errors(model, stored, tiny_prompts, monkeypatch):
    monkeypatch.setattr(precision, "make_prompts", lambda task, model, n, seed: tiny_task(model, n))
    saes = {n: sae_of(n) for n in LAYERS}
    found = study.rounding("tiny", saes, stored, model).set_index("layer")
    assert (found.noise < 1e-6).all() and (found.AP > 1e-3).all()
    shifted = stored[1].assign(truth=stored[1].truth + 0.25)
    again = study.rounding("tiny", {1: saes[1]}, {1: shifted}, model)
    assert again.noise[0] == pytest.approx(0.25, rel=1e-4)


# --- tables --------------------------------------------------------------------------------------


def test_errors_are_those_of_a_loop():
    rows = made()
    found = study.errors(rows).set_index(["layer", "set", "measure", "prompt", "method"]).error
    for name, part in (
        ("features", rows[(rows.feature >= 0)]),
        (study.WITH_ERROR, rows),
    ):
        part = part[(part.layer == 22) & (part.prompt == 3)]
        offs, relative = [], []
        for row in part.itertuples():
            if abs(row.truth) >= 1e-4:
                offs.append(abs(row.AP - row.truth))
                relative.append(100 * offs[-1] / abs(row.truth))
        assert 5 < len(offs) < len(part)  # some are trivial
        assert found[22, name, "mean error", 3, "AP"] == pytest.approx(np.mean(offs))
        assert found[22, name, "median error", 3, "AP"] == pytest.approx(np.median(relative))
        top = top_k_relative_error(part.HVP, part.truth)
        assert found[22, name, "top 5", 3, "HVP"] == pytest.approx(top)


def test_agreement_is_that_of_numpy():
    rows = made()
    found = study.agreement(rows).set_index(["layer", "set", "method"])
    for name, part in (("features", rows[~rows.error]), (study.WITH_ERROR, rows)):
        part = part[(part.layer == 12) & (part.truth.abs() >= study.NONTRIVIAL)]
        row = found.loc[12, name, "AP"]
        assert row.pearson.estimate == pytest.approx(np.corrcoef(part.AP, part.truth)[0, 1])
        assert row.pearson.low <= row.pearson.estimate <= row.pearson.high
        groups = [p for _, p in part.groupby("prompt")]
        assert row.spearman.estimate == pytest.approx(
            np.mean([spearman(p.AP, p.truth) for p in groups])
        )
        assert row.overlap.estimate == pytest.approx(
            100 * np.mean([top_k_overlap(p.AP, p.truth, 10) for p in groups])
        )
    perfect = study.agreement(rows.assign(AP=rows.truth)).set_index(["layer", "set", "method"])
    assert perfect.pearson[22, "features", "AP"].estimate == pytest.approx(1)
    turned = study.agreement(rows.assign(AP=-rows.truth)).set_index(["layer", "set", "method"])
    assert turned.pearson[22, "features", "AP"].estimate == pytest.approx(-1)


def test_errors_by_size():
    rows = made()
    found = study.by_size(rows)
    for row in found.itertuples():
        part = rows[(rows.layer == row.layer) & (rows.feature >= 0)]
        part = part[(part.truth.abs() >= row.low) & (part.truth.abs() < row.high)]
        assert row.n == len(part)
        expected = 100 * (part.AP - part.truth).abs().sum() / part.truth.abs().sum()
        assert row.AP.estimate == pytest.approx(expected)
        assert row.HVP.estimate < row.AP.estimate
    assert found.groupby("layer").n.sum().tolist() == [
        (rows[(rows.layer == n) & ~rows.error].truth.abs() >= 1e-4).sum() for n in (12, 22)
    ]


def test_errors_by_place():
    rows = made()
    found = study.by_rank(rows, (1, 5, 10**9)).set_index(["layer", "places"])
    assert found.n[12].to_dict() == {"1": 6, "2 to 5": 24, "6 on": 6 * 24}
    off = size = 0.0
    for _, part in rows[(rows.layer == 22) & (rows.feature >= 0)].groupby("prompt"):
        for row in part.sort_values("truth", key=lambda t: -t.abs()).iloc[1:5].itertuples():
            off, size = off + abs(row.AP - row.truth), size + abs(row.truth)
    assert found.AP[22, "2 to 5"].estimate == pytest.approx(100 * off / size)
    cut = study.cut_by_place(study.by_rank(rows, (1, 5, 10**9)))
    left = found.HVP[22, "2 to 5"].estimate / found.AP[22, "2 to 5"].estimate
    assert cut["2 to 5"][1] == pytest.approx(100 * (1 - left)) and len(cut["1"]) == 2
    assert found.effect[22, "2 to 5"] == pytest.approx(size / 24)
    relative = []  # of nontrivial effects, which in "6 on" are not all
    for _, part in rows[(rows.layer == 22) & (rows.feature >= 0)].groupby("prompt"):
        for row in part.sort_values("truth", key=lambda t: -t.abs()).iloc[5:].itertuples():
            if abs(row.truth) >= 1e-4:
                relative.append(100 * abs(row.HVP - row.truth) / abs(row.truth))
    typical = found["HVP median"][22, "6 on"]
    assert len(relative) < 6 * 24 and typical.estimate == pytest.approx(np.median(relative))
    assert 0 < typical.low < typical.estimate < typical.high < 4


def test_thresholds():
    rows = made()
    found = study.thresholds(rows).set_index(["layer", "threshold"])
    part = rows[(rows.layer == 12) & ~rows.error & (rows.truth.abs() >= 1e-3)]
    row = found.loc[12, 1e-3]
    assert row.n == len(part) and row.AP == pytest.approx((part.AP - part.truth).abs().mean())
    assert row["pearson HVP"] == pytest.approx(np.corrcoef(part.HVP, part.truth)[0, 1])
    assert row.reduction == pytest.approx(100 * (1 - row.HVP / row.AP))
    assert found.n[12, 0.0] == 6 * 29


def test_features_that_matter():
    rows = made()
    rows = rows[(rows.feature != 5) | (rows.prompt < 2)].copy()
    rows.loc[rows.feature == 5, "truth"] = -100.0
    found = study.most_used(rows, {12: {5: ["a ⟦b⟧", "c"]}}, k=3)
    first = found.iloc[0]
    assert (first.layer, first.feature, first.prompts) == (12, 5, 2)
    assert first.effect == pytest.approx(200 / 6) and first.signed == pytest.approx(-200 / 6)
    assert first.text == "a ⟦b⟧" and found[found.layer == 22].text.tolist() == [""] * 3
    assert len(found) == 6 and (found.feature >= 0).all()


def test_the_error_component(stored, rows, model):
    shares = study.by_prompt(stored)
    M = PatchedMetric(model, tiny_task(model, 2)[1], SAEFeatures(sae_of(2)))
    truth = activation_patching(M)
    row = shares[(shares.layer == 2) & (shares.prompt == 1)].iloc[0]
    assert row.total == pytest.approx(M.other - M.base)
    assert row.error == pytest.approx(truth[-1].item(), rel=1e-5)
    assert row.largest == pytest.approx(truth[:-1].abs().max().item(), rel=1e-5)
    assert row.sum_effects == pytest.approx(truth.sum().item(), rel=1e-4)
    assert row.AP == pytest.approx(attribution_patching(M)[-1].item(), rel=1e-5)
    table = study.of_error(shares).set_index("layer")
    part = shares[shares.layer == 2]
    assert table.features[2].estimate == pytest.approx(
        100 * part.features.mean() / part.total.mean()
    )
    expected = 100 * (part.AP - part.error).abs().mean() / part.error.abs().mean()
    assert table.AP[2].estimate == pytest.approx(expected)
    assert table.larger[2].estimate == pytest.approx((part.error.abs() / part.largest).median())
    on_path = study.on_path(rows).set_index(["layer", "set", "method"]).off
    assert on_path[2, "error", "slopes"].estimate < on_path[2, "error", "AP"].estimate


def test_sketches_and_screens():
    rows = made()
    exact = study.sketched(rows, (16,)).set_index(["layer", "products"])
    assert exact.off[12, "16"].estimate == pytest.approx(0, abs=1e-9)
    assert exact.left[12, "16"].estimate == pytest.approx(exact.left[12, "exact"].estimate)
    none = study.sketched(rows.assign(sketch_16=0.0), (16,)).set_index(["layer", "products"])
    assert none.off[12, "16"].estimate == pytest.approx(100)
    assert none.left[12, "16"].estimate == pytest.approx(100)
    found = study.screened(rows, k=10, patched=20).set_index(["layer", "rule"]).found
    assert found[12, "|AP|"].estimate > 9
    # AP says nothing, and the other term all.
    blind = rows.assign(AP=0.0, screen=rows.truth.abs())
    found = study.screened(blind, k=10, patched=10).set_index(["layer", "rule"]).found
    assert found[12, "|AP| + r"].estimate == 10 > found[12, "|AP|"].estimate


def test_prices_are_those_of_the_layer():
    sizes = model_sizes("smollm2-135m")
    data = {
        n: xr.Dataset(
            {
                k: ("prompts", v)
                for k, v in (("n", [40, 40, 60]), ("n_tokens", [15] * 3), ("n_run", [5] * 3))
            }
        )
        for n in (12, 22)
    }
    found = study.price_table(sizes, data, ["attribution_patching", "hvp"])
    found = found.set_index(["layer", "method"])
    assert found.n[12, "hvp"] == pytest.approx(140 / 3)
    own = [prices.counted(sizes, ["hvp"], 15, 5, np.full(n, 22)).runs[0] for n in (40, 40, 60)]
    assert found.runs[22, "hvp"] == pytest.approx(np.mean(own)) and found.runs[22, "hvp"] > 50
    assert found.runs[12, "attribution_patching"] < 5


# --- what a page shows ---------------------------------------------------------------------------


def test_snippets():
    assert study.snippet("a  b\n⟦c⟧ d") == "a b ⟦c⟧ d"
    long = "x" * 100 + " ⟦here⟧ " + "y" * 100
    short = study.snippet(long)
    assert "⟦here⟧" in short and short.startswith("…x") and short.endswith("y…")
    assert len(short) < 60 and study.snippet("") == ""


def test_a_listing(model):
    M = PatchedMetric(model, tiny_task(model, 1)[0], SAEFeatures(sae_of(1)))
    f, ap, second = activation_patching(M), attribution_patching(M), hvp(M)
    feature = int(M.labels[2].split("F")[1])
    found = study.listing(M, [2, M.n - 1], f, ap, second, {feature: ["a ⟦b⟧"]})
    assert found.component.tolist() == [M.labels[2], "L1.error"]
    assert found["most active on"].tolist() == ["a ⟦b⟧", "–"]
    assert found.true.tolist() == [f[2].item(), f[-1].item()]


def test_the_feature_that_stands_out():
    rows = made(n_prompts=2, n=3, layers=(12,))
    rows["truth"], rows["AP"] = [3.0, 1.0, 9.0] * 2, [2.0, 1.25, 9.0] * 2
    rows["HVP"] = [2.5, 1.0, 9.0] * 2
    wild = rows.assign(truth=[0.5, 1.0, 9.0] * 2, AP=[1.0, 1.0, 9.0] * 2, HVP=[0.6, 1.0, 9.0] * 2)
    one = study.without_largest(rows, wild)
    assert (one["layer"], one["feature"]) == (12, 0)
    assert (one["effect"], one["random_effect"]) == (3, 0.5)
    assert one["length"] == one["random_length"] == 1
    assert (one["effects"], one["errors"]) == pytest.approx((75, 80))
    # 1.25 of error become 0.5; without the feature 0.25 become 0; of random ones 0.5 become 0.1.
    found = [one[name] for name in ("less", "less_without", "less_random")]
    assert found == pytest.approx([60, 100, 80])
    said = study.standing_out(rows, wild)
    assert said.startswith("In layer 12 one feature, L12F0, has 75 % of all effects")
    assert "80 % of AP's error" in said and "takes away 100 %" in said
    assert "it is 200 % of the difference" in said
    share = study.share_of_largest(rows.assign(HVP=rows.truth + 1), k=1)
    assert share.AP[12] == pytest.approx(80) and share.HVP[12] == pytest.approx(50)


def test_where_hvp_repairs():
    columns = ["component", "true", "AP", "HVP"]
    rows = [("a", 1.0, 2.0, 1.1), ("b", 1.0, 1.2, 0.5), ("c", 1.0, 1.2, 1.5), ("e", -2.0, 0, -1)]
    said = study.repaired(pd.DataFrame(rows, columns=columns))
    assert said.startswith("HVP is closer to the truth on 2 of the 4.")
    assert "On b it overshoots" in said and "On c it errs on" in said
    assert said.endswith("The error component's effect exceeds every feature's.")
    said = study.repaired(pd.DataFrame([rows[0], ("e", 0.5, 0, 0.5)], columns=columns))
    assert said == (
        "HVP is closer to the truth on 2 of the 2. "
        "The error component's effect is below the largest feature's."
    )


def test_how_many_are_found():
    assert study.out_of("ten", [10.0, 10.0], 10) == "all ten"
    assert study.out_of("ten", [9.75, 10.0], 10) == "9.8 to 10.0 on average"


def test_learned_against_random():
    rows, wild = made(), made(ap=0.5, seed=1)
    found = study.against_random(rows, wild).set_index(["layer", "directions"])
    part = wild[(wild.layer == 22) & ~wild.error & (wild.truth.abs() >= 1e-4)]
    medians = [
        100 * ((p.AP - p.truth).abs() / p.truth.abs()).median() for _, p in part.groupby("prompt")
    ]
    assert found.AP[22, "random"].estimate == pytest.approx(np.mean(medians))
    assert found.AP[22, "random"].estimate > 1.5 * found.AP[22, "learned"].estimate
    said = study.side_by_side(study.against_random(rows, wild), "AP", ".1f")
    one = [f"{found.AP[12, name].estimate:.1f}" for name in ("learned", "random")]
    assert said.startswith(f"{one[0]} against {one[1]} % (layer 12) and ")
    means = [
        p.groupby("prompt").off.mean().mean()
        for p in (part.assign(off=(part[m] - part.truth).abs()) for m in ("HVP", "AP"))
    ]
    assert found.less[22, "random"].estimate == pytest.approx(100 * (1 - means[0] / means[1]))


def test_figures(rows, stored):
    plots.use_style()
    constructed = made()
    drawn = study.size_figure(study.by_size(constructed), "A title")
    assert len(drawn.axes) == 2 and drawn.get_suptitle() == "A title"
    places = study.by_rank(constructed)
    for median, column in ((False, "HVP"), (True, "HVP median")):
        axes = study.rank_figure(places, "A title", median).axes
        drawn = axes[0].containers[1].lines[0].get_ydata()
        expected = study.estimates(places[places.layer == 12][column])
        np.testing.assert_allclose(drawn, list(expected))
        assert len(axes) == 2 and ("median" in axes[0].get_ylabel()) == median
    assert len(study.scatter_figure(rows, "A title").axes) == 2
    shares = study.by_prompt(stored)
    drawn = study.error_figure(shares, "A title")
    widths = [bar.get_width() for bar in drawn.axes[0].patches]
    part = shares[shares.layer == 1]
    assert widths[0] == pytest.approx(part.total.abs().mean())
    assert widths[4] == pytest.approx((part.AP - part.error).abs().mean())
    compared = study.compare(study.errors(constructed), ("layer", "set", "measure"))
    both = study.controls({"SAE": compared, "random directions": compared})
    drawn = study.control_figure(both, "A title")
    assert [t.get_text() for t in drawn.axes[0].get_yticklabels()] == list(both.measure.unique())
    wide = {"features": [90, 90], "active": [70, 70], "products": [16, 32], "off": [200.0, 100.0]}
    wide = pd.DataFrame(wide)
    drawn = study.sketch_figure(wide, study.sketched(constructed, (16,)), "A title")
    assert len(drawn.axes[0].lines) == 4  # two layers, a dictionary, and 100 %
    assert "70 of 90 random directions" in [t.get_text() for t in drawn.legends[0].get_texts()]


# --- claims --------------------------------------------------------------------------------------


def judged(cut=80.0, ap=0.999, hvp=0.9999, overlap=95.0, median=5.0, wild=80.0, error=70.0):
    def one(x):
        return Interval(x, x - 1, x + 1)

    compared, agreed = [], []
    for layer in (12, 22):
        for name, value in (("features", cut), (study.WITH_ERROR, error)):
            for measure in ("mean error", "median error", "top 5"):
                compared.append((layer, name, measure, one(median), one(1.0), one(value)))
            for method, r in (("AP", ap), ("HVP", hvp)):
                agreed.append((layer, name, method, one(r), one(0.9), one(overlap)))
    compared = pd.DataFrame(compared, columns=["layer", "set", "measure", "AP", "HVP", "reduction"])
    agreed = pd.DataFrame(
        agreed, columns=["layer", "set", "method", "pearson", "spearman", "overlap"]
    )
    other = compared.assign(reduction=[one(wild)] * len(compared))
    control = study.controls({"SAE": compared, "random directions": other})
    return study.claims(compared, agreed, control)


@pytest.mark.parametrize(
    ("start", "partly", "failing"),
    [
        ("HVP takes away", {"cut": 50.5}, {"cut": 0.5}),
        ("AP's effects", {"ap": 0.98}, {"hvp": 0.998}),
        ("On features AP", {"median": 11.0}, {"overlap": 80.0}),
        ("The correction works", {"error": 40.0}, {"wild": -3.0}),
    ],
)
def test_a_claim_can_come_out_any_way(start, partly, failing):
    def verdict_of(**changes):
        (claim,) = [c for c in judged(**changes) if c.claim.startswith(start)]
        return claim.verdict

    assert verdict_of() == "holds"
    assert verdict_of(**partly) == "holds partly"
    assert verdict_of(**failing) == "does not hold here"


def test_the_papers_model_is_not_here():
    *rest, last = judged()
    assert last.verdict == "cannot be tested here" and len(rest) == 4
    assert "80.0 % (79.0 to 81.0)" in rest[0].here


# --- what the book publishes ---------------------------------------------------------------------


@pytest.fixture(scope="module")
def published():
    """The book's SAEs, and what is stored of them; nothing is measured."""
    saes, _ = study.find(BOOK, NOTEBOOKS / "saes")

    def never(*args):
        raise AssertionError("what the book publishes is not stored")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(common, "load_model", never)
        store = NOTEBOOKS / "results" / "saes"
        wild = {n: study.random_directions(s) for n, s in saes.items()}
        yield (
            saes,
            {n: study.measure(BOOK, s, store=store) for n, s in saes.items()},
            {n: study.measure(BOOK, s, 20, 0, 0, "random", store) for n, s in wild.items()},
        )


def test_published_claims_follow_from_what_is_stored(published):
    _, features, random = published
    rows, by = study.rows_of(features), ("layer", "set", "measure")
    compared = study.compare(study.errors(rows), by)
    few = study.compare(study.errors(rows[rows.prompt < 20]), by)
    wild = study.compare(study.errors(study.rows_of(random)), by)
    control = study.controls({"SAE": few, "random directions": wild})
    again = study.claims(compared, study.agreement(rows), control)
    path = NOTEBOOKS / "results" / "claims" / "13_sae_features.json"
    claims = {c["claim"]: c for c in json.loads(path.read_text(encoding="utf-8"))}
    assert len(claims) == len(again)
    for claim in again:
        assert claims[claim.claim]["here"] == claim.here
        assert claims[claim.claim]["verdict"] == claim.verdict


def test_stored_effects_come_out_again(published, real_model):
    saes, features, _ = published
    layer = max(saes)
    rows = study.rows_of({layer: features[layer]})
    part = rows[rows.prompt == 0].reset_index(drop=True)
    pair = make_prompts("ioi", real_model, 1)[0]
    M = PatchedMetric(real_model, pair, SAEFeatures(saes[layer]))
    assert M.n == len(part)
    some = torch.tensor([*part.truth.abs().nlargest(4).index, M.n - 1])
    stored = part.iloc[some.tolist()]
    estimators = {"truth": activation_patching, "AP": attribution_patching, "HVP": hvp}
    for name, estimator in estimators.items():
        again = estimator(M, components=some)
        np.testing.assert_allclose(stored[name], again, rtol=1e-3, atol=1e-4)


def test_what_the_solutions_say_of_stored_effects(published):
    rows = study.rows_of(published[1])
    for _, part in rows[~rows.error].groupby("layer"):
        large = part.truth.abs() >= 0.1
        assert 0.07 < large.mean() < 0.13
        assert (part.truth[large] ** 2).sum() > 0.88 * (part.truth**2).sum()
    along = study.thresholds(rows).groupby("layer")["pearson AP"]
    assert (along.max() - along.min()).max() < 0.005


def test_what_the_solutions_say_of_half_patches_and_noising(published, real_model):
    saes, features, _ = published
    layer = min(saes)
    part = study.rows_of({layer: features[layer]}).query("prompt == 0").reset_index(drop=True)
    truth, ap, second = (torch.tensor(part[m].to_numpy()) for m in ("truth", "AP", "HVP"))
    pair = make_prompts("ioi", real_model, 1)[0]
    M = PatchedMetric(real_model, pair, SAEFeatures(saes[layer]))
    half = M.effects(M.along_axes(0.5, order=0).value)
    for whole, estimate, factor in (
        (ap, 0.5 * ap, 4),
        (second, 0.5 * ap + 0.25 * (second - ap), 8),
    ):
        fall = (whole - truth)[:-1].abs().sum() / (estimate - half)[:-1].abs().sum()
        assert fall == pytest.approx(factor, rel=0.1)
    M = PatchedMetric(real_model, pair, SAEFeatures(saes[layer]), direction="noising")
    noised = activation_patching(M)[:-1]
    assert top_k_overlap(noised, truth[:-1], 10) == pytest.approx(0.6)


def test_what_the_solutions_say_of_pieces_of_the_error(published, real_model):
    saes, features, _ = published
    layer = min(saes)
    sae, rows = saes[layer], study.rows_of({layer: features[layer]})
    for prompt, pair in enumerate(make_prompts("ioi", real_model, 2)):
        tokens = pair.resolve(real_model)
        x, y = (
            real_model.run_with_cache(t[None], names_filter=sae.hook)[1][sae.hook][0]
            for t in (tokens.corrupted, tokens.clean)
        )
        error = (y - x) - (sae.encode(y) - sae.encode(x)) @ sae.W_dec

        drawn = torch.Generator().manual_seed(0)
        places = torch.randint(32, error.shape, generator=drawn)
        pieces = [error * (places == i) for i in range(32)]
        added = torch.stack([torch.zeros_like(error), error, *pieces])  # all runs at once
        runs, hooks = tokens.corrupted.expand(34, -1), [(sae.hook, lambda z, hook, a=added: z + a)]
        with torch.no_grad():
            values = tokens.metric(real_model.run_with_hooks(runs, fwd_hooks=hooks)[:, -1])
        whole, pieces = (values[1] - values[0]).item(), (values[2:] - values[0]).sum().item()
        stored = rows[(rows.prompt == prompt) & rows.error].iloc[0]
        assert whole == pytest.approx(stored.truth, rel=1e-2)
        if prompt == 0:
            assert pieces == pytest.approx(stored.truth, rel=0.15)
            assert stored.AP / pieces > 1.5 and stored.AP / stored.truth > 1.5
        else:
            assert abs(pieces - stored.AP) < abs(pieces - stored.truth) / 4
            assert stored.truth > 2 * pieces
