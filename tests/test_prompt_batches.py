"""M of many prompts: the same as one prompt at a time, whatever runs together."""

import itertools
import math

import pytest
import torch
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, METRICS, PROMPTS, tiny_model

from hvp_utils import PatchedMetric, PromptPair, curvature, screen_flag_fix
from hvp_utils.components import NODE_KINDS
from hvp_utils.curvature import diagonal, low_rank, row_norms, spectrum
from hvp_utils.estimators import ESTIMATORS, find_estimator
from hvp_utils.over_prompts import by_shape
from hvp_utils.reliability import hessian_lipschitz
from hvp_utils.suffix_run import Rows

# Two shapes, prompts of both mixed, with metrics and answers of their own.
PAIRS = [
    PromptPair(clean, corrupted, answer, wrong, metric=METRICS[i % 4], name=f"pair {i}")
    for i, (clean, corrupted, answer, wrong) in enumerate(
        [
            ((1, 2, 3, 4, 5, 6), (1, 2, 9, 4, 5, 6), 20, 21),
            ((1, 2, 3, 4, 5), (1, 2, 3, 4, 8), (22, 23), 24),
            ((7, 2, 8, 4, 5, 1), (7, 2, 9, 4, 5, 3), 25, (26, 20)),
            ((11, 12, 3, 14, 5, 6), (11, 12, 9, 4, 15, 6), 27, 28),
            ((8, 2, 3, 4, 5), (8, 2, 3, 4, 11), 29, 20),
        ]
    )
]
# For kinds with a component at each position, all of one shape.
ONE_SHAPE = [PAIRS[0], PAIRS[2], PAIRS[3]]
DIRECTIONS = ("denoising", "noising")


def pairs_for(kind):
    return ONE_SHAPE if kind in ("queries", "keys", "values", "resid") else PAIRS


def one_by_one(bridge, pairs, kind="heads", direction="denoising"):
    return [PatchedMetric(bridge, pair, kind, direction) for pair in pairs]


CASES = [
    pytest.param(a, kind, DIRECTIONS[i % 2], id=f"{a}-{kind}")
    for i, (a, kind) in enumerate(itertools.product(ARCHITECTURES, ("heads", "keys", "edges")))
] + [
    pytest.param(ARCHITECTURES[i % 6], kind, DIRECTIONS[i % 2], id=kind)
    for i, kind in enumerate(NODE_KINDS)
    if kind not in ("heads", "keys")
]


@pytest.mark.parametrize(("architecture", "kind", "direction"), CASES)
def test_everything_is_that_of_one_prompt_at_a_time(architecture, kind, direction, random):
    bridge, pairs = tiny_model(architecture), pairs_for(kind)
    M = PatchedMetric(bridge, pairs, kind, direction)
    single = one_by_one(bridge, pairs, kind, direction)
    n, P = M.n, len(pairs)
    assert (M.n_prompts, n, M.labels) == (P, single[0].n, single[0].labels)
    assert len(M.batches) == len({(m.n_tokens, m.n_run) for m in single})

    def same(of_many, of_one):
        """What `each` gives prompt by prompt, and what the mean gives."""
        expected = torch.stack([of_one(m, i) for i, m in enumerate(single)])
        assert_close(of_many(M.each), expected)
        assert_close(of_many(M), expected.mean(0))

    same(lambda m: m.delta_norm, lambda m, _: m.delta_norm)
    assert_close(M.each.base, torch.tensor([m.base for m in single], dtype=torch.float64))
    assert_close(M.each.other, torch.tensor([m.other for m in single], dtype=torch.float64))
    assert M.base == pytest.approx(sum(m.base for m in single) / P, rel=1e-12)

    alpha = 0.5 * random(n)
    same(lambda m: m(alpha), lambda m, _: m(alpha))
    same(lambda m: m.gradient(), lambda m, _: m.gradient())
    same(lambda m: m.gradient(alpha), lambda m, _: m.gradient(alpha))
    V = random(n, 3)
    same(lambda m: m.hessian_matvec(V), lambda m, _: m.hessian_matvec(V))
    same(lambda m: m.hessian_matvec(V, alpha), lambda m, _: m.hessian_matvec(V, alpha))
    same(lambda m: m.hvp(V[:, 0]), lambda m, _: m.hvp(V[:, 0]))
    which = torch.randperm(n, generator=torch.Generator().manual_seed(1))[:7]
    for t, order in ((0.0, 1), (0.0, 2), (0.6, 2), (torch.linspace(0, 1, len(which)), 3)):
        for name in ("value", "slope", "curvature", "third")[: order + 1]:
            same(
                lambda m, t=t, order=order, name=name: getattr(m.along_axes(t, order, which), name),
                lambda m, _, t=t, order=order, name=name: getattr(
                    m.along_axes(t, order, which), name
                ),
            )


@pytest.mark.parametrize("kind", ("heads", "edges"))
def test_strengths_directions_and_components_of_each_prompt(kind, random):
    bridge = tiny_model("llama")
    M, single = PatchedMetric(bridge, PAIRS, kind).each, one_by_one(bridge, PAIRS, kind)
    n, P = M.n, len(PAIRS)
    alphas = 0.3 * random(2, 4, P, n)  # any number of points
    values, slopes = M(alphas), M.gradient(alphas)
    assert values.shape == (2, 4, P) and slopes.shape == alphas.shape
    V = random(P, n, 2)
    products = M.hessian_matvec(V, alphas[0, 0])
    which = torch.stack([torch.randperm(n)[:5] for _ in PAIRS])
    t = torch.rand(P, 5, dtype=torch.float64)
    t[:, 2] = 0
    g = M.along_axes(t, 2, which)
    for i, m in enumerate(single):
        assert_close(values[:, :, i], m(alphas[:, :, i]))
        assert_close(slopes[:, :, i], m.gradient(alphas[:, :, i]))
        assert_close(products[i], m.hessian_matvec(V[i], alphas[0, 0, i]))
        for found, expected in zip(g[:3], m.along_axes(t[i], 2, which[i])[:3], strict=True):
            assert_close(found[i], expected)


@pytest.mark.parametrize("batch_size", (1, 2, 3, 7, 1000))
def test_neither_grouping_nor_batch_size_changes_anything(batch_size, random):
    """Also the order of the prompts, and prompts that are there twice."""
    bridge = tiny_model("gemma3")
    M = PatchedMetric(bridge, PAIRS)
    order = [3, 1, 0, 0, 4, 2]
    other = PatchedMetric(bridge, [PAIRS[i] for i in order], batch_size=batch_size)
    alpha, V = 0.5 * random(M.n), random(M.n, 5)
    for of in (
        lambda m: m(alpha)[:, None],
        lambda m: m.gradient(alpha),
        lambda m: m.hessian_matvec(V, alpha),
        lambda m: m.along_axes(0.0).curvature,
        lambda m: m.along_axes(0.4).curvature,
        lambda m: m.delta_norm,
    ):
        assert_close(of(other.each), of(M.each)[order])
    expected = M.each.gradient()[order].mean(0)
    assert_close(other.gradient(), expected)


SAMPLE = {
    "ms_hvp_median": None,  # minutes
    "atp_star": ("heads", "queries", "keys"),
    "local_curvature": ("neurons_pre",),
    "local_sketched_hvp": ("neurons_pre",),
    "eap_ig": ("edges",),
    "eap_gp": ("edges",),
}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_works_on_many_prompts(name):
    kinds = SAMPLE.get(name, ("heads",))
    # Without any nonlinearity the quadratic term is zero.
    name = "quadratic_without:norms" if name == "quadratic_without" else name
    if kinds is None:
        pytest.skip("as ms_hvp")
    bridge = tiny_model("llama")
    # Sketches of the mean Hessian are no means of sketches.
    linear = name not in ("sketched_hvp", "local_sketched_hvp")
    for kind in kinds:
        pairs = pairs_for(kind)
        M, estimate = PatchedMetric(bridge, pairs, kind), find_estimator(name)
        expected = torch.stack([estimate(m) for m in one_by_one(bridge, pairs, kind)])
        assert_close(estimate(M.each), expected)
        if linear:
            assert_close(estimate(M), expected.mean(0))
        # Some of them, the same of all prompts or others of each.
        assert_close(estimate(M.each, components=torch.tensor([3, 1])), expected[:, [3, 1]])
        own = torch.stack([torch.randperm(M.n)[:4] for _ in pairs])
        assert_close(estimate(M.each, components=own), expected.gather(1, own))


@pytest.mark.parametrize("kind", ("heads", "neurons_post", "edges"))
def test_sketches_and_spectra_of_many_prompts(kind):
    bridge = tiny_model("gpt2")
    M, single = PatchedMetric(bridge, PAIRS, kind), one_by_one(bridge, PAIRS, kind)
    for method, k in (("hutchinson", 5), ("xdiag", 6)):
        found = diagonal(M.each, method, k, seed=2)
        expected = [diagonal(m, method, k, seed=2) for m in single]
        for name in ("values", "error", "slopes"):
            assert_close(
                getattr(found, name), torch.stack([getattr(one, name) for one in expected])
            )
    rows = row_norms(M.each, 3)
    expected = [row_norms(m, 3) for m in single]
    for name in ("values", "error", "slopes"):
        # Differences of gradients: rounding is magnified.
        stacked = torch.stack([getattr(one, name) for one in expected])
        assert_close(getattr(rows, name), stacked, 1e-9)
    if M.n < 50:
        assert_close(spectrum(M.each), torch.stack([spectrum(m) for m in single]))
        # Of the mean: its own Hessian.
        H = torch.stack([m.hessian_matvec(torch.eye(m.n)) for m in single]).mean(0)
        values = torch.linalg.eigvalsh(H)
        assert_close(spectrum(M), values[values.abs().argsort(descending=True)])
        assert_close(diagonal(M, "exact").values, H.diagonal())
        alpha = torch.full((M.n,), 0.2, dtype=torch.float64)
        at = torch.stack([m.hessian_matvec(torch.eye(m.n), alpha) for m in single])
        assert_close(diagonal(M, "exact", alpha=alpha).values, at.mean(0).diagonal())
        assert_close(diagonal(M.each, "exact", alpha=alpha).values, at.diagonal(dim1=1, dim2=2))
        leading = low_rank(M, 3)
        assert_close(leading.values, values[values.abs().argsort(descending=True)][:3], 1e-6)


def test_the_constant_of_the_hessian_of_many_prompts():
    bridge = tiny_model("llama")
    M = PatchedMetric(bridge, PAIRS)
    expected = torch.stack([hessian_lipschitz(m) for m in one_by_one(bridge, PAIRS)])
    assert_close(hessian_lipschitz(M.each), expected)
    with pytest.raises(ValueError, match="take M.each"):
        hessian_lipschitz(M)


def test_the_workflow_on_the_mean():
    bridge = tiny_model("llama")
    M = PatchedMetric(bridge, PAIRS)
    truth = torch.stack(
        [m.along_axes(1.0, 0).value - m.base for m in one_by_one(bridge, PAIRS)]
    ).mean(0)
    found = screen_flag_fix(M, math.inf, "activation_patching", screen="rows", largest=1.0)
    assert_close(found.estimates, truth)


def test_prompts_of_one_shape_are_one_batch():
    resolved = [pair.resolve(tiny_model("gpt2")) for pair in PAIRS]
    assert by_shape(resolved, None, False) == [[0, 2, 3], [1, 4]]
    assert by_shape(resolved, 2, False) == [[0, 2], [3], [1, 4]]
    assert by_shape(resolved, 1, False) == [[0], [2], [3], [1], [4]]
    assert by_shape(resolved, None, True) == [[0, 2, 3], [1, 4]]


def test_many_prompts_take_as_few_runs_as_there_are_shapes(monkeypatch):
    """Three prompts in one batch: prefix, base and other run, and one more for the gradient."""
    bridge, runs = tiny_model("gpt2"), []
    handle = bridge.original_model.register_forward_pre_hook(lambda *_: runs.append(1))
    try:
        M = PatchedMetric(bridge, ONE_SHAPE)
        assert len(runs) == 3
        M.gradient()
        assert len(runs) == 4
        M.hessian_matvec(torch.eye(M.n))
        assert len(runs) == 5
    finally:
        handle.remove()


def test_rows_know_their_prompts():
    stored = torch.arange(6).reshape(3, 2)
    rows = Rows(torch.tensor([2, 0, 0, 1]), 3)
    assert rows.of(stored).tolist() == [[4, 5], [0, 1], [0, 1], [2, 3]]
    assert rows.of(stored, 3, 1).tolist() == [[0, 1], [0, 1]]
    every = Rows(torch.arange(3), 3)
    assert every.of(stored).data_ptr() == stored.data_ptr()
    one = Rows(torch.zeros(5, dtype=torch.long), 1)
    assert one.of(stored[:1], 4).shape == (4, 2)
    assert one.of(stored[:1], 4).data_ptr() == stored.data_ptr()


def test_m_of_many_prompts_is_differentiable(random):
    M = PatchedMetric(tiny_model("gpt2"), PAIRS)
    alpha = (0.3 * random(M.n)).requires_grad_()
    assert torch.autograd.gradcheck(M, alpha, atol=1e-6)
    per_prompt = (0.3 * random(len(PAIRS), M.n)).requires_grad_()
    (slopes,) = torch.autograd.grad(M.each(per_prompt).sum(), per_prompt)
    assert_close(slopes, M.each.gradient(per_prompt))


@pytest.mark.parametrize(
    ("pairs", "kind", "error", "message"),
    [
        ([], "heads", ValueError, "no prompt: pairs is empty"),
        ([PAIRS[0], "a prompt"], "heads", TypeError, "must be a PromptPair or a list"),
        (PAIRS, "resid", ValueError, "same components.*12.*3.*line up only for prompts of one"),
        (
            [PAIRS[0], PromptPair(PROMPTS["middle"][0], None, 20, name="zeroed")],
            "heads",
            ValueError,
            "'zeroed' has no corrupted prompt",
        ),
    ],
)
def test_prompts_that_cannot_be_used(pairs, kind, error, message):
    with pytest.raises(error, match=message):
        PatchedMetric(tiny_model("llama"), pairs, kind)


def test_a_bad_metric_is_named():
    def broken(logits):
        return logits[:, 0] * torch.nan

    pairs = [PAIRS[0], PromptPair((1, 2, 3, 4, 5, 6), (1, 2, 9, 4, 5, 6), 20, metric=broken)]
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4, 5, 6\) is not finite"):
        PatchedMetric(tiny_model("llama"), pairs)


def test_what_exists_for_one_prompt_only():
    M = PatchedMetric(tiny_model("llama"), PAIRS)
    for name in ("run", "sites", "pair", "deltas"):
        with pytest.raises(ValueError):
            getattr(M, name)
    with pytest.raises(ValueError, match="each prompt must be"):
        M.each(torch.zeros(2, M.n))
    with pytest.raises(ValueError, match="at one point"):
        M.hessian_matvec(torch.eye(M.n), torch.zeros(2, M.n))
    with pytest.raises(ValueError, match="V must be"):
        M.each.hessian_matvec(torch.zeros(3, M.n, 1))
    with pytest.raises(ValueError, match="V must be"):
        M.each.hessian_matvec(torch.zeros(2, 3, M.n, 1))


def test_what_is_made_for_one_metric():
    M = PatchedMetric(tiny_model("llama"), PAIRS)
    for use in (lambda: low_rank(M.each, 3), lambda: screen_flag_fix(M.each)):
        with pytest.raises(ValueError, match="made for one metric.*not M.each"):
            use()


def test_zero_ablation_beside_other_prompts():
    bridge = tiny_model("llama")
    pairs = [PAIRS[0], PromptPair(PROMPTS["middle"][0], None, 20, name="zeroed")]
    M = PatchedMetric(bridge, pairs, direction="noising")
    single = one_by_one(bridge, pairs, direction="noising")
    assert_close(M.each.gradient(), torch.stack([m.gradient() for m in single]))
    assert M.each.other.isnan().tolist() == [False, True] and math.isnan(M.other)


def test_float32_agrees_to_five_digits():
    bridge = tiny_model("gemma2", torch.float32)
    M, single = PatchedMetric(bridge, PAIRS), one_by_one(bridge, PAIRS)
    for of in (lambda m: m.gradient(), lambda m: m.along_axes(0.0).curvature):
        assert_close(of(M.each), torch.stack([of(m) for m in single]), 1e-5)


def test_labels_find_their_components():
    M = PatchedMetric(tiny_model("llama"), PAIRS[0], "edges")
    labels = ["L0H1->L1H0.k", "embed->L2.mlp", "L2.mlp->logits"]
    assert [M.labels[i] for i in M.index(labels)] == labels
    assert M.index("embed->L0H0.q").tolist() == [0]
    with pytest.raises(ValueError, match="No component is called 'L9H9'"):
        M.index(["L9H9"])


def test_seeds_mean_the_same_for_every_prompt():
    """A sketch of one prompt is the sketch that a sweep stores for it, whoever stands beside it."""
    M = PatchedMetric(tiny_model("llama"), PAIRS)
    signs = curvature._random_signs(M, 4, seed=3)
    assert torch.equal(signs, curvature._random_signs(M.each, 4, seed=3))
