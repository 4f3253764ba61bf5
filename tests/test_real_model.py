"""The engine on a real language model: a known reference point, other libraries, stored numbers.

The oracles share no code with this package: TransformerLens patches one component at a time and
attributes from its own gradient cache; curvlinops differentiates forward over reverse.
"""

import functools
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import reference
import torch
import xarray as xr
from test_curvature import KnownHessian
from transformer_lens import patching
from transformer_lens.tools.analysis import attribution_patching as peer

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    hvp,
    load_model,
    make_prompts,
    ms_hvp,
    quadratic_term,
    reference_pair,
    reliability_score,
    screen_flag_fix,
)
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.curvature import diagonal, row_norms, spectrum
from hvp_utils.estimators.names import find
from hvp_utils.reliability import flag
from hvp_utils.stats import top_k_relative_error
from hvp_utils.sweeps import SWEPT

RESULTS = sorted((Path(__file__).parents[1] / "notebooks" / "results").glob("*.nc"))


@functools.cache
def loaded(name):
    return load_model(name, device="cpu")


@pytest.fixture(scope="module")
def M(real_model):
    return PatchedMetric(real_model, reference_pair())


@pytest.fixture(scope="module")
def truth(M):
    return activation_patching(M)


@pytest.fixture(scope="module")
def hessian(M):
    return M.hessian_matvec(torch.eye(M.n)).double()


# --- the reference point ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "percent"),
    [(attribution_patching, 14.96), (hvp, 9.64)],
    ids=["AP", "HVP"],
)
def test_the_reference_point(estimator, percent, M, truth):
    assert M.n == 270
    error = top_k_relative_error(estimator(M), truth)
    assert error == pytest.approx(percent, abs=0.0051)  # to the digits given


@pytest.mark.parametrize(("n_steps", "percent"), [(2, 1.90), (5, 0.35)])
def test_the_reference_point_of_ms_hvp(n_steps, percent, M, truth):
    largest = truth.abs().topk(5).indices  # the error reads no others
    estimate = torch.full_like(truth, torch.nan)
    estimate[largest] = ms_hvp(M, n_steps, largest)
    assert top_k_relative_error(estimate, truth) == pytest.approx(percent, abs=0.0051)


def test_the_hessian_is_nearly_of_rank_8(hessian):
    eigenvalues = torch.linalg.eigvalsh((hessian + hessian.T) / 2)
    squares = eigenvalues.square().sort(descending=True).values
    share = 100 * (squares[:8].sum() / squares.sum()).item()
    assert share == pytest.approx(99.55, abs=0.01)


def test_the_hessian_is_symmetric_and_its_diagonal_is_the_curvature(hessian, M):
    scale = hessian.abs().max()
    assert (hessian - hessian.T).abs().max() < 1e-4 * scale
    curvature = M.along_axes(0.0).curvature.double()
    assert (hessian.diagonal() - curvature).abs().max() < 1e-4 * scale


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_one_head_by_the_slow_reference(name):
    """Whole prompt, all layers, plain hooks: the largest head, and one at random."""
    M = PatchedMetric(loaded(name), reference_pair())
    slow = reference.Problem(loaded(name), reference_pair())
    for c in (int(activation_patching(M).abs().argmax()), M.n // 3):
        for t in (0.0, 0.5):
            fast = M.along_axes(t, components=torch.tensor([c]))
            for one, other in zip(fast[:3], reference.along_axis(slow, c, t), strict=True):
                assert one.item() == pytest.approx(other.item(), rel=1e-3, abs=1e-5)


@pytest.fixture(scope="module")
def gemma():
    return PatchedMetric(loaded("gemma-3-270m"), reference_pair())


def test_gemma_is_another_architecture(gemma):
    config = gemma.model.original_model.config
    assert (gemma.n, config.num_hidden_layers, config.num_key_value_heads) == (72, 18, 1)
    assert "sliding_attention" in config.layer_types
    assert {"blocks.0.ln1_post.hook_out", "blocks.0.attn.q_norm.hook_out"} <= set(
        gemma.model.hook_dict
    )


def test_gemma_predicts_the_name(gemma):
    assert -0.2 < gemma.other < -0.1  # log p(" Mary") of the clean prompt: p is above 0.8
    assert gemma.base < -4


def test_gemmas_reference_point(gemma):
    truth = activation_patching(gemma)
    errors = [top_k_relative_error(e, truth) for e in (attribution_patching(gemma), hvp(gemma))]
    errors += [top_k_relative_error(ms_hvp(gemma, k), truth) for k in (2, 5)]
    assert errors == pytest.approx([5.731, 6.092, 0.756, 0.123], abs=0.002)
    H = gemma.hessian_matvec(torch.eye(gemma.n)).double()
    squares = torch.linalg.eigvalsh((H + H.T) / 2).square().sort(descending=True).values
    assert 100 * (squares[:8].sum() / squares.sum()).item() == pytest.approx(98.15, abs=0.02)


# --- sketches --------------------------------------------------------------------------------


@functools.cache
def reference_hessian(name):
    """Slopes, Hessian in float64 and true effects of the reference pair, all heads."""
    M = PatchedMetric(loaded(name), reference_pair())
    H = M.hessian_matvec(torch.eye(M.n)).double()
    return M.gradient().double(), (H + H.T) / 2, activation_patching(M).double()


@pytest.mark.parametrize(("name", "most"), (("smollm2-135m", 0.05), ("gemma-3-270m", 0.08)))
def test_32_products_know_all_quadratic_terms(name, most):
    """The error of XDiag, in the 2-norm; and the products that it asks the model for are right."""
    M, (_, H, _) = PatchedMetric(loaded(name), reference_pair()), reference_hessian(name)
    exact = H.diagonal()
    found = diagonal(M, "xdiag", 32, seed=0)
    same = diagonal(KnownHessian(H), "xdiag", 32, seed=0)
    assert torch.allclose(found.values.double(), same.values, atol=1e-3 * exact.abs().max().item())
    errors = {
        method: [
            ((diagonal(KnownHessian(H), method, 32, s).values - exact).norm() / exact.norm()).item()
            for s in range(5)
        ]
        for method in ("xdiag", "hutchinson")
    }
    assert np.median(errors["xdiag"]) <= most
    assert np.median(errors["hutchinson"]) > 2 * np.median(errors["xdiag"])


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_48_products_find_what_not_to_trust(name):
    """R above 0.1, among heads whose effect is at least 1 % of the largest; over 20 seeds."""
    slope, H, truth = reference_hessian(name)
    matters = truth.abs() >= 0.01 * truth.abs().max()
    wanted = flag(reliability_score(slope, H.diagonal() / 2), 0.1) & matters
    assert 5 < wanted.sum() < 0.8 * matters.sum()
    recall, precision = [], []
    for seed in range(20):
        q = diagonal(KnownHessian(H), "xdiag", 48, seed).values / 2
        found = flag(reliability_score(slope, q), 0.1) & matters
        recall.append(((found & wanted).sum() / wanted.sum()).item())
        precision.append(((found & wanted).sum() / found.sum()).item())
    assert np.median(recall) >= 0.9
    assert np.median(precision) >= 0.85


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_rows_choose_what_to_patch(name):
    """Differences in float32 are near the products they stand for, and find the five largest."""
    M, (slope, H, truth) = PatchedMetric(loaded(name), reference_pair()), reference_hessian(name)
    signs = torch.randint(0, 2, (M.n, 2), generator=torch.Generator().manual_seed(0))
    expected = (H @ (2.0 * signs - 1).double()).square().mean(1).sqrt()
    found = row_norms(M)
    assert (found.values.double() - expected).norm() < 0.05 * expected.norm()
    assert torch.allclose(found.slopes.double(), slope, atol=1e-4 * slope.abs().max().item())
    rule = screen_flag_fix(M, float("inf"), "activation_patching", screen="rows", largest=10)
    assert rule.flagged.sum() == 10
    assert rule.flagged[truth.abs().topk(5).indices].all()
    errors = [top_k_relative_error(e.double(), truth) for e in (rule.estimates, found.slopes)]
    assert errors[0] < 1 < errors[1]


# --- parts of the network ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ("smollm2-135m", "gemma-3-270m"))
def test_the_quadratic_term_is_a_sum_over_operations(name):
    M = PatchedMetric(loaded(name), reference_pair())
    largest = activation_patching(M).abs().topk(3).indices.cpu()
    whole = quadratic_term(M, largest)
    parts = []
    for kind in NONLINEARITIES:
        with linearised(M.model, kind):
            parts.append(whole - quadratic_term(M, largest))
    assert torch.allclose(sum(parts), whole, rtol=1e-3, atol=1e-3 * whole.abs().max().item())
    with linearised(M.model):
        assert (quadratic_term(M, largest) == 0).all()


# --- many prompts, and edges -----------------------------------------------------------------


def test_many_prompts_are_one_at_a_time(real_model):
    """Prompts of several shapes; everything to 1e-5 of its range, in float32."""
    pairs = make_prompts("ioi", real_model, 6, seed=0)
    M = PatchedMetric(real_model, pairs).each
    assert 1 < len(M.batches) < 6
    heads = torch.tensor([0, 134, 269])
    single = [PatchedMetric(real_model, pair) for pair in pairs]
    for of in (
        lambda m: m.gradient(),
        lambda m: m.along_axes(0.0, 2, heads).curvature,
        lambda m: m.along_axes(1.0, 0, heads).value,
    ):
        expected = torch.stack([of(m) for m in single])
        assert (of(M) - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.fixture(scope="module", params=("smollm2-135m", "gemma-3-270m"))
def edges(request):
    """Heads that share keys and values; and, in Gemma, norms between heads and stream."""
    model = loaded(request.param)
    return PatchedMetric(model, reference_pair(), "edges"), PatchedMetric(model, reference_pair())


def test_edges_of_a_real_model(edges):
    M, heads = edges
    assert M.n == {30: 123_211, 18: 10_342}[M.model.cfg.n_layers]
    assert M.base == pytest.approx(heads.base, abs=1e-4)
    gap = abs(M.other - M.base)
    assert M(torch.ones(M.n)).item() == pytest.approx(M.other, abs=1e-4 * gap)
    slopes, sums = attribution_patching(M), dict.fromkeys(heads.labels, 0.0)
    for label, slope in zip(M.labels, slopes.tolist(), strict=True):
        writer = label.partition("->")[0]
        if writer in sums:
            sums[writer] += slope
    expected = attribution_patching(heads)
    found = torch.tensor(list(sums.values()))
    assert (found - expected).abs().max() < 1e-4 * expected.abs().max()


def test_the_largest_edges_and_what_is_made_of_them(edges):
    """Exact patches beside EAP: a second term helps, and the derivative is that of the patch."""
    M, _ = edges
    which = attribution_patching(M).abs().topk(12).indices
    slope = attribution_patching(M, which)
    step = 1e-2
    difference = (M.along_axes(step, 0, which).value - M.along_axes(-step, 0, which).value) / (
        2 * step
    )
    assert (slope - difference).abs().max() < 0.02 * slope.abs().max()
    truth = activation_patching(M, which)
    first = (slope - truth).norm()
    assert (ms_hvp(M, 3, which) - truth).norm() < 0.5 * first


# --- TransformerLens -------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ("denoising", "noising"))
def test_activation_patching_equals_transformer_lens(direction, real_model, truth):
    """`transformer_lens.patching`, one head and one run at a time, on a handful of heads."""
    pair = reference_pair()
    resolved = pair.resolve(real_model)
    base, other = resolved.corrupted, resolved.clean
    if direction == "noising":
        base, other = other, base
    largest = truth.abs().topk(5).indices.tolist()
    random = np.random.default_rng(0).choice(270, size=4, replace=False).tolist()
    which = torch.tensor(sorted({*largest, *random}))

    with torch.no_grad():
        _, cache = real_model.run_with_cache(
            other[None], names_filter=lambda name: name.endswith("hook_z")
        )
        patched = patching.generic_activation_patch(
            real_model,
            base[None],
            cache,
            lambda logits: resolved.metric(logits[:, -1])[0],
            patching.layer_head_vector_patch_setter,
            "z",
            index_df=pd.DataFrame(
                [divmod(c, 9) for c in which.tolist()], columns=["layer", "head"]
            ),
        )
    M = PatchedMetric(real_model, pair, direction=direction)
    ours = activation_patching(M, which)
    assert ours.abs().max() > 0.1
    assert torch.allclose(ours, patched - M.base, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("direction", ("denoising", "noising"))
def test_attribution_patching_equals_transformer_lens(direction, real_model):
    """Its scores are per head and position; a head patched everywhere is their sum."""
    pair = reference_pair()
    resolved = pair.resolve(real_model)
    base, other = resolved.corrupted, resolved.clean
    if direction == "noising":
        base, other = other, base
    embedding = real_model.embed.requires_grad_(True)  # it takes gradients from the weights up
    try:
        scores = peer.attribution_patch(
            real_model, other[None], base[None], lambda logits: resolved.metric(logits[:, -1])[0]
        ).node_scores
    finally:
        embedding.requires_grad_(False)
    heads, mlps = torch.zeros(30, 9), torch.zeros(30)
    for node, score in scores.items():
        if node.kind == "attn_head_out":
            heads[node.layer, node.head] += score
        elif node.kind == "mlp_out":
            mlps[node.layer] += score
    for kind, theirs in (("heads", heads.flatten()), ("mlp_out", mlps)):
        ours = attribution_patching(PatchedMetric(real_model, pair, kind, direction))
        assert theirs.abs().max() > 0.1
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max().item())


# --- curvlinops ------------------------------------------------------------------------------


def test_hessian_products_equal_curvlinops(M, monkeypatch):
    """Its Hessian of a "network" whose only parameter is alpha and whose output is M(alpha)."""
    curvlinops = pytest.importorskip("curvlinops")
    v = torch.randn(M.n, generator=torch.Generator().manual_seed(0))
    g, ours = M.gradient(), M.hvp(v)
    # It differentiates forward over reverse, and reverse-mode SiLU has no forward derivative in
    # torch as long as it stays one operation.
    monkeypatch.setattr(torch.nn.functional, "silu", lambda x, inplace=False: x * torch.sigmoid(x))

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.alpha = torch.nn.Parameter(torch.zeros(M.n))

        def forward(self, unused):
            return M(self.alpha).reshape(1, 1)

    network = Network()
    operator = curvlinops.HessianLinearOperator(
        network,
        torch.nn.MSELoss(reduction="sum"),  # (M - y)^2, at y = M(0) - 1/2: Hessian H + 2 g g^T
        [network.alpha],
        [(torch.zeros(1, 1), torch.tensor([[M.base - 0.5]]))],
        check_deterministic=False,
    )
    theirs = operator @ v - 2 * g * (g @ v)
    assert ours.abs().max() > 0.01
    assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-3 * ours.abs().max().item())


# --- stored numbers --------------------------------------------------------------------------


def test_there_are_stored_results():
    assert RESULTS


@functools.cache
def prompts_now(model_name, task, n, seed):
    return make_prompts(task, loaded(model_name), n, seed=seed)


def stored_in(path):
    """A committed sweep, and the prompts that its task makes now."""
    stored = xr.load_dataset(path, engine="h5netcdf")
    about = stored.attrs
    pairs = prompts_now(about["model"], about["task"], stored.sizes["prompt"], int(about["seed"]))
    return stored, pairs


each_stored = pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)


@each_stored
def test_stored_prompts_are_those_that_the_task_makes(path):
    stored, pairs = stored_in(path)
    model = loaded(stored.attrs["model"])
    for i, pair in enumerate(pairs):
        one, resolved = stored.isel(prompt=i), pair.resolve(model)
        assert one.clean.item() == "".join(resolved.str_tokens("clean"))
        assert one.corrupted.item() == "".join(resolved.str_tokens("corrupted"))
        assert one.answer.item() == str(pair.answer)
        assert one.n_tokens.item() == len(resolved)
        assert one.n_run.item() == len(resolved) - resolved.first_difference


@each_stored
def test_stored_numbers_can_be_computed_again(path):
    """One prompt, three components and three variables of every committed sweep.

    They are drawn by the file's name. Equal to 1e-3, or to 1e-3 of that prompt's largest number.
    """
    stored, pairs = stored_in(path)
    about = stored.attrs
    assert about["dtype"] == "float32"
    rng = np.random.default_rng(zlib.crc32(path.name.encode()))
    names = [str(name) for name in stored.data_vars if "component" in stored[name].dims]
    names.remove("delta_norm")
    # Not every variable is there for every prompt: first one of them, then a prompt that has it.
    first = str(rng.choice(names))
    i = int(rng.choice(stored[first].notnull().any("component").values.nonzero()[0]))
    one = stored.isel(prompt=i)
    there = [str(name) for name in rng.permutation(names) if one[name].notnull().any()]
    drawn = dict.fromkeys([first, "activation_patching", *there])
    drawn = [name for name in drawn if name in there][:3]

    M = PatchedMetric(
        loaded(about["model"]),
        pairs[i],
        about["components"],
        about["direction"],
        seed=int(about["seed"]),
    )
    assert list(M.labels) == one.label.values.tolist()
    assert M.layers.tolist() == one.layer.values.tolist()
    before = [one.base.item(), one.other.item()]
    np.testing.assert_allclose([M.base, M.other], before, rtol=1e-3, atol=1e-4, equal_nan=True)
    norms = one.delta_norm.values
    np.testing.assert_allclose(M.delta_norm.numpy(), norms, rtol=1e-3, atol=1e-5 * norms.max())
    for name in drawn:
        values = one[name].values
        known = np.flatnonzero(~np.isnan(values))
        few = about["top"] and name != "activation_patching"  # only these have estimates
        assert len(known) == (min(about["top"], M.n) if few else M.n)
        # The largest of all, and some others: most components do next to nothing.
        largest = known[np.abs(values[known]).argmax()]
        which = np.union1d(largest, rng.choice(known, size=2, replace=False))
        again = recompute(name, M, torch.tensor(which)).numpy()
        tolerance = 1e-3 * np.abs(values[largest])
        np.testing.assert_allclose(
            again, values[which], rtol=1e-3, atol=tolerance, err_msg=f"{name}, prompt {i}"
        )


def recompute(name, M, components):
    if name == "hessian_eigenvalues":
        return spectrum(M)[components]
    return find(name, SWEPT)(M, components=components)
