"""The Hessian of M: operator, diagonal, spectrum, against slow code, known matrices and others'."""

import sys

import curvlinops
import numpy as np
import pytest
import reference
import torch
from curvlinops.diagonal import epperly2024xtrace
from test_patched_metric import assert_close
from tiny_models import ARCHITECTURES, tiny_model, tiny_pair

from hvp_utils import PatchedMetric, attribution_patching, curvature, hvp, sketched_hvp
from hvp_utils.backward_rules import linearised
from hvp_utils.curvature import diagonal, hessian_operator, low_rank, row_norms, spectrum

METHODS = ("xdiag", "hutchinson")


def metric(architecture="llama", kind="heads", where="middle"):
    return PatchedMetric(tiny_model(architecture), tiny_pair(where), kind)


class KnownHessian:
    """Stands in for a PatchedMetric that is a quadratic form, of a given matrix."""

    def __init__(self, H, moving=None):
        self.H, self.n = H, len(H)
        self.delta_norm = torch.ones(self.n, dtype=H.dtype) if moving is None else moving
        self.n_products = self.n_points = 0
        self.prompt_dims = ()

    def gradient_and_hessian(self, alpha=None):
        self.n_points += 1

        def products(V):
            self.n_products += V.shape[1]
            return self.H @ V.to(self.H)

        return torch.zeros_like(self.delta_norm), products

    def hessian_matvec(self, V, alpha=None):
        return self.gradient_and_hessian(alpha)[1](V)

    def gradient(self, alpha):
        self.n_points += len(alpha)
        return 1 + alpha @ self.H

    def require_full_precision(self):
        pass


def known(n=60, rank=None, seed=0, tail=1e-2):
    """A symmetric matrix with both signs, by default of a few large and many small eigenvalues."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64)).Q
    values = tail * torch.randn(n, generator=generator, dtype=torch.float64)
    values[:5] = torch.tensor([3.0, -2.0, 1.0, 0.7, -0.5])
    if rank is not None:
        values[rank:] = 0
    return Q * values @ Q.T


# --- the diagonal ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ("heads", "mlp_out", "resid", "neurons_pre"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_exact_diagonal_equals_the_slow_reference(architecture, kind, random):
    bridge, pair = tiny_model(architecture), tiny_pair()
    M = PatchedMetric(bridge, pair, kind)
    found = diagonal(M, "exact")
    slow = reference.Problem(bridge, pair, kind)
    assert_close(found.values, reference.along_axes(slow, 0.0)[2])
    assert (found.error == 0).all() and found.n_matvecs == M.n
    assert_close(found.slopes, M.gradient())
    alpha = random(M.n)
    H = reference.hessian_products(slow, torch.eye(M.n, dtype=torch.float64), alpha)
    there = diagonal(M, "exact", alpha=alpha)
    assert_close(there.values, H.diagonal())
    assert_close(there.slopes, M.gradient(alpha))


def test_xdiag_equals_curvlinops_with_the_same_probes(monkeypatch):
    H = known()
    probes = []

    def same(n, distribution, device, dtype):
        signs = 2 * torch.randint(0, 2, (60, 8), generator=torch.Generator().manual_seed(3)) - 1
        probes.append(signs[:, len(probes)].to(dtype))
        return probes[-1]

    monkeypatch.setattr(epperly2024xtrace, "random_vector", same)
    theirs = epperly2024xtrace.xdiag(H, 16)
    assert len(probes) == 8
    assert_close(diagonal(KnownHessian(H), "xdiag", 16, seed=3).values, theirs, 1e-9)


@pytest.mark.parametrize("architecture", ("gpt2", "gemma3"))
def test_xdiag_leaves_out_each_probe_in_turn(architecture):
    """Written out: a basis, a projection and a Hutchinson estimate for each probe, all anew."""
    M = metric(architecture, "neurons_pre")
    H = M.hessian_matvec(torch.eye(M.n))
    n_probes = 4
    signs = torch.randint(0, 2, (M.n, n_probes), generator=torch.Generator().manual_seed(5))
    W = (2 * signs - 1).to(H)
    estimates = []
    for i in range(n_probes):
        others = torch.cat([W[:, :i], W[:, i + 1 :]], dim=1)
        Q = torch.linalg.qr(H @ others).Q
        P = Q @ Q.T
        rest = H - P @ H
        estimates.append((P @ H).diagonal() + W[:, i] * (rest @ W[:, i]))
    estimates = torch.stack(estimates)
    found = diagonal(M, "xdiag", 2 * n_probes, seed=5)
    assert M.n > 2 * n_probes
    assert_close(found.values, estimates.mean(0), 1e-8)
    assert_close(found.error, estimates.std(0) / n_probes**0.5, 1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_sketches_are_unbiased(method):
    H = known(n=30, tail=0.1)
    seeds = torch.stack([diagonal(KnownHessian(H), method, 8, s).values for s in range(2000)])
    standard_error = seeds.std(0) / len(seeds) ** 0.5
    assert ((seeds.mean(0) - H.diagonal()).abs() < 5 * standard_error).all()
    assert (standard_error < 0.05 * H.diagonal().abs().max()).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_standard_error_says_how_far_off(method):
    """Its square is the variance over seeds, on average (for XDiag a little more or less)."""
    H = known(n=40, tail=0.1)
    found = [diagonal(KnownHessian(H), method, 20, seed) for seed in range(400)]
    claimed = torch.stack([one.error for one in found]).square().mean().sqrt()
    actual = torch.stack([one.values - H.diagonal() for one in found]).square().mean().sqrt()
    assert 0.6 < claimed / actual < 1.7


def test_xdiag_beats_hutchinson_where_the_rank_is_low():
    H = known()
    error = {
        method: np.median(
            [
                (diagonal(KnownHessian(H), method, 24, s).values - H.diagonal()).norm()
                for s in range(20)
            ]
        )
        for method in METHODS
    }
    assert error["xdiag"] < 0.2 * error["hutchinson"]


@pytest.mark.parametrize("rank", (0, 1, 3))
def test_xdiag_is_exact_below_its_rank(rank):
    H = known(rank=rank)
    found = diagonal(KnownHessian(H), "xdiag", 12)
    torch.testing.assert_close(found.values, H.diagonal(), rtol=0, atol=1e-10)
    assert (found.error < 1e-10).all()


def test_what_does_not_move_has_no_curvature():
    """Such components have no probes of their own, and an error of exactly 0."""
    H = known(n=40)
    moving = (torch.arange(40) % 3 > 0).double()
    H = H * moving * moving[:, None]
    for method in METHODS:
        found = diagonal(KnownHessian(H, moving), method, 12)
        assert (found.values[moving == 0] == 0).all() and (found.error[moving == 0] == 0).all()
        assert (found.values[moving > 0] != 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_number_of_products_and_of_points(method):
    M = KnownHessian(known())
    found = diagonal(M, method, 20)
    assert (M.n_products, M.n_points, found.n_matvecs) == (20, 1, 20)


def test_as_many_products_as_components_make_it_exact():
    M = metric()
    assert M.n == 12
    found = diagonal(M, "xdiag", 12)
    assert_close(found.values, M.along_axes(0.0).curvature)
    assert (found.error == 0).all() and found.n_matvecs == 12
    assert diagonal(M, "xdiag", 10).error.max() > 0


def test_a_seed_means_the_same_again_and_another_something_else():
    M = KnownHessian(known())
    one, same, other = (diagonal(M, seed=seed).values for seed in (0, 0, 1))
    assert one.equal(same) and not one.equal(other)


@pytest.mark.parametrize(
    ("method", "n_matvecs", "message"),
    (
        ("xdiag", 7, "even number of products of at least 4.*7"),
        ("xdiag", 2, "even number of products of at least 4.*2"),
        ("hutchinson", 1, "at least 2.*1"),
        ("guess", 8, "exact, hutchinson, xdiag, not 'guess'"),
    ),
)
def test_refusals(method, n_matvecs, message):
    with pytest.raises(ValueError, match=message):
        diagonal(KnownHessian(known()), method, n_matvecs)


def test_half_precision_is_refused():
    M = PatchedMetric(tiny_model("gpt2", torch.bfloat16), tiny_pair())
    for function in (diagonal, low_rank, row_norms, spectrum, hessian_operator, sketched_hvp):
        with pytest.raises(TypeError, match=r"bfloat16|precision"):
            function(M)


# --- rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ("heads", "neurons_pre"))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_rows_are_those_of_the_hessian(architecture, kind):
    """With the whole Hessian, written down, in the place of differences."""
    M = metric(architecture, kind)
    H = M.hessian_matvec(torch.eye(M.n))
    signs = torch.randint(0, 2, (M.n, 5), generator=torch.Generator().manual_seed(7))
    squares = (H @ (2 * signs - 1).to(H)).square()
    expected = squares.mean(1).sqrt()
    found = row_norms(M, 5, step=1e-6, seed=7)
    assert_close(found.values, expected, 1e-4)
    assert_close(found.error, squares.std(1) / (2 * 5**0.5 * expected), 1e-4)
    assert_close(found.slopes, M.gradient())
    # At the default step still to a few per cent, and with many probes the norms themselves.
    coarse = row_norms(M, 5, seed=7).values
    assert (coarse - expected).norm() < 0.05 * expected.norm()
    norms = H.norm(dim=1)
    assert (row_norms(M, 400, step=1e-6).values - norms).norm() < 0.1 * norms.norm()


def test_rows_are_unbiased_and_know_their_error():
    H = known(n=40, tail=0.1)
    found = [row_norms(KnownHessian(H), 20, seed=seed) for seed in range(500)]
    squares = torch.stack([one.values for one in found]).square()
    standard_error = squares.std(0) / len(squares) ** 0.5
    truth = H.square().sum(1)
    assert ((squares.mean(0) - truth).abs() < 5 * standard_error).all()
    assert (standard_error < 0.05 * truth.max()).all()
    claimed = torch.stack([one.error for one in found]).square().mean().sqrt()
    actual = torch.stack([one.values - truth.sqrt() for one in found]).square().mean().sqrt()
    assert 0.7 < claimed / actual < 1.4


def test_rows_take_one_batch_of_gradients(monkeypatch):
    M = metric("gpt2")
    calls, gradient = [], M.gradient
    monkeypatch.setattr(M, "gradient", lambda alpha: calls.append(alpha) or gradient(alpha))
    row_norms(M, 3, step=0.02)
    (points,) = calls
    assert points.shape == (4, M.n)
    assert points[0].eq(0).all() and points[1:].abs().eq(0.02).all()


def test_no_row_is_no_error():
    M = PatchedMetric(tiny_model("llama"), tiny_pair("same"))
    found = row_norms(M)
    assert (found.values == 0).all() and (found.error == 0).all()


def test_refusals_of_rows():
    with pytest.raises(ValueError, match="at least 2 probes, not n_probes = 1"):
        row_norms(metric(), 1)
    for step in (0.0, -0.1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            row_norms(metric(), step=step)


# --- the estimator ---------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sketched_hvp_is_hvp_with_a_sketched_diagonal(architecture):
    M = metric(architecture, "neurons_post")
    q = diagonal(M, "xdiag", 8, seed=2).values / 2
    which = torch.tensor([3, 0, 7])
    assert_close(sketched_hvp(M, 8, seed=2), attribution_patching(M) + q, 1e-11)
    assert_close(sketched_hvp(M, 8, 2, which), (attribution_patching(M) + q)[which], 1e-11)
    # As many products as components: it is hvp.
    even = M.n + M.n % 2
    assert_close(sketched_hvp(M, even), hvp(M))


def test_a_network_without_curvature():
    M = metric("qwen2")
    with linearised(M.model):
        found = diagonal(M, "xdiag", 8)
    assert (found.values == 0).all() and (found.error == 0).all()


# --- eigenvalues -----------------------------------------------------------------------------


@pytest.mark.parametrize(("architecture", "kind"), (("gpt2", "heads"), ("gemma2", "neurons_pre")))
def test_low_rank_and_spectrum_equal_lapack(architecture, kind, random):
    M = metric(architecture, kind)
    H = M.hessian_matvec(torch.eye(M.n))
    values, vectors = np.linalg.eigh((H + H.T).numpy() / 2)
    order = np.argsort(-np.abs(values))
    assert_close(spectrum(M), torch.tensor(values[order]))
    found = low_rank(M, rank=4)
    assert_close(found.values, torch.tensor(values[order[:4]]), 1e-8)
    leading = torch.tensor(vectors[:, order[:4]] * values[order[:4]] @ vectors[:, order[:4]].T)
    assert_close(found.diagonal(), leading.diagonal(), 1e-8)
    rows = torch.tensor([5, 1])
    assert_close(found.rows(rows), leading[rows], 1e-8)
    alpha = random(3, M.n)
    expected = torch.einsum("bi,ij,bj->b", alpha, leading, alpha) / 2
    assert_close(found.quadratic(alpha), expected, 1e-8)
    assert_close(found.quadratic(alpha[0]), expected[0], 1e-8)


def test_low_rank_elsewhere_than_at_zero(random):
    M = metric("qwen2")
    alpha = random(M.n)
    H = M.hessian_matvec(torch.eye(M.n), alpha)
    assert_close(low_rank(M, 3, alpha=alpha).values, spectrum(M, alpha)[:3], 1e-8)
    assert_close(spectrum(M, alpha).square().sum(), H.square().sum(), 1e-9)
    assert (spectrum(M, alpha) - spectrum(M)).abs().max() > 1e-3


def test_low_rank_counts_its_products():
    M = KnownHessian(known(n=100))
    found = low_rank(M, 3)
    assert found.n_matvecs == M.n_products < 100


@pytest.mark.parametrize("rank", (0, 60, -1))
def test_impossible_ranks(rank):
    with pytest.raises(ValueError, match="rank must be a whole number from 1 to 59"):
        low_rank(KnownHessian(known()), rank)


def test_a_hessian_too_large_to_write_down(monkeypatch):
    monkeypatch.setattr(curvature, "_LARGEST", 59)
    with pytest.raises(ValueError, match=r"60 components takes 60 products.*low_rank"):
        spectrum(KnownHessian(known()))


# --- the operator ----------------------------------------------------------------------------


def test_the_operator_multiplies_and_is_scipys_and_curvlinops(random):
    M = metric("neox")
    operator, V = hessian_operator(M), random(M.n, 3)
    H = M.hessian_matvec(torch.eye(M.n))
    assert_close(operator @ V, H @ V, 1e-10)
    assert_close(operator @ V[:, 0], H @ V[:, 0], 1e-10)
    torch.testing.assert_close(
        torch.tensor(operator.to_scipy() @ V[:, 0].numpy()), H @ V[:, 0], rtol=1e-6, atol=1e-8
    )
    torch.manual_seed(0)
    theirs = curvlinops.hutchpp_trace(operator, num_matvecs=9)
    assert abs(theirs.item() - H.trace().item()) < 2 * H.norm().item()


def test_the_operator_without_curvlinops(monkeypatch):
    monkeypatch.setitem(sys.modules, "curvlinops._torch_base", None)
    with pytest.raises(ModuleNotFoundError, match="pip install --no-deps curvlinops"):
        hessian_operator(metric())
