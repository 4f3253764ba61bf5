"""Scores, bounds and Screen-Flag-Fix: on paths whose Lipschitz constant is known, and on models."""

import itertools
import math
from dataclasses import dataclass

import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_costs import COSTS
from test_patched_metric import DIRECTIONS, WHERE, assert_close
from tiny_models import ARCHITECTURES, METRICS, tiny_model, tiny_pair

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    error_bounds,
    hvp,
    ms_hvp,
    quadratic_term,
    reliability_score,
    row_screen,
    screen_flag_fix,
)
from hvp_utils.curvature import diagonal, row_norms
from hvp_utils.patched_metric import AxisDerivatives
from hvp_utils.reliability import flag, hessian_lipschitz, screen, screening, selective_bound, slack

KINDS = ("heads", "mlp_out", "resid", "neurons_pre", "neurons_post")
FIXES = {
    "hvp": hvp,
    "ms_hvp": lambda M: ms_hvp(M, 3),
    "activation_patching": activation_patching,
}


def tensor(*values):
    return torch.tensor(values, dtype=torch.float64)


# --- paths that are known ----------------------------------------------------------------------


@dataclass(frozen=True)
class Path:
    """g(t) = a t + b t^2/2 + c t^3/6 + the sum of A sin(w t + p), and the size of its patch."""

    a: float
    b: float
    c: float
    waves: tuple[tuple[float, float, float], ...] = ()
    delta: float = 1.0

    def derivative(self, k: int, t: float) -> float:
        """The k-th derivative of g at t."""
        coefficients = (0.0, self.a, self.b, self.c)
        total = sum(
            coefficients[j] * t ** (j - k) / math.factorial(j - k) for j in range(k, 4) if j >= k
        )
        for A, w, p in self.waves:
            total += A * w**k * math.sin(w * t + p + k * math.pi / 2)
        return total

    @property
    def steepest(self) -> float:
        """A bound on |g'''|: L_H |delta|^3."""
        return abs(self.c) + sum(abs(A * w**3) for A, w, _ in self.waves)


class KnownMetric:
    """Stands in for a ``PatchedMetric``: each component is a number, and moves along a `Path`."""

    def __init__(self, paths):
        self.paths, self.n = paths, len(paths)
        self.base, self.prompt_dims = 0.0, ()
        self.delta_norm = tensor(*(abs(path.delta) for path in paths))
        self.L_H = tensor(*(path.steepest for path in paths)) / self.delta_norm**3

    def along_axes(self, t=0.0, order=2, components=None):
        which = range(self.n) if components is None else components.tolist()
        t = torch.as_tensor(t, dtype=torch.float64).expand(len(which)).tolist()
        rows = [
            [self.paths[c].derivative(k, s) for c, s in zip(which, t, strict=True)]
            for k in range(order + 1)
        ]
        start = tensor(*(self.paths[c].derivative(0, 0.0) for c in which))
        return AxisDerivatives(tensor(*rows[0]) - start, *(tensor(*row) for row in rows[1:]))

    def effects(self, values):
        return values - self.base

    def gradient(self):
        return self.along_axes(0.0, 1).slope

    def hessian_delta(self, t=0.0, components=None):
        which = torch.arange(self.n) if components is None else components
        deltas = tensor(*(self.paths[c].delta for c in which.tolist()))
        return (self.along_axes(t, 2, which).curvature / deltas)[:, None]


# Rounded, so that zero is common and no number is too small to be divided by.
coefficient = st.floats(-3, 3).map(lambda x: round(x, 3))
size = st.floats(0.1, 10).map(lambda x: round(x, 3))
wave = st.tuples(coefficient, st.floats(-4, 4).map(lambda x: round(x, 3)), coefficient)
cubics = st.builds(Path, coefficient, coefficient, coefficient, delta=size)
waves = st.builds(Path, st.just(0.0), st.just(0.0), st.just(0.0), st.tuples(wave), size)
sums = st.builds(
    Path, coefficient, coefficient, coefficient, st.lists(wave, max_size=3).map(tuple), size
)


def metrics(paths):
    return st.lists(paths, min_size=1, max_size=8).map(KnownMetric)


known = metrics(st.one_of(cubics, waves, sums))
many = settings(max_examples=150, deadline=None)


def rounding(M):
    """What rounding may do to sums of terms as large as these."""
    g = M.along_axes(0.0, 2)
    amplitudes = tensor(*(sum(abs(A) for A, _, _ in path.waves) for path in M.paths))
    cubic = M.L_H * M.delta_norm**3
    return 1e-13 * (1 + amplitudes + g.slope.abs() + g.curvature.abs() + cubic)


def bounds_of(M):
    return error_bounds(attribution_patching(M), quadratic_term(M), M.delta_norm, M.L_H)


@many
@given(known)
def test_proposition_1(M):
    first, bounds, spare = attribution_patching(M), bounds_of(M), rounding(M)
    error = (activation_patching(M) - first).abs()
    assert (error <= bounds.attribution_patching + spare).all()
    relative = error / first.abs()
    spare = spare / first.abs()
    some = first != 0
    assert (relative <= bounds.relative_upper + spare)[some].all()
    assert (relative >= bounds.relative_lower - spare)[some].all()
    assert (bounds.relative_lower >= 0).all()


@many
@given(known)
def test_bounds_are_score_and_slack(M):
    """(1 + eta) R and (1 - eta) R, and eta |q| is the cubic bound."""
    first, q, bounds = attribution_patching(M), quadratic_term(M), bounds_of(M)
    cubic = tensor(*(path.steepest / 6 for path in M.paths))
    R, eta = reliability_score(first, q), slack(q, M.delta_norm, M.L_H)
    torch.testing.assert_close(bounds.slack, eta, rtol=0, atol=0)
    torch.testing.assert_close(bounds.hvp, cubic)
    some = q != 0
    torch.testing.assert_close((eta * q.abs())[some], cubic[some])
    some &= first != 0
    torch.testing.assert_close((R * first.abs())[some], q.abs()[some])
    # Where eta is near 1, what is left is a difference of near equals.
    torch.testing.assert_close(bounds.relative_upper[some], ((1 + eta) * R)[some])
    gap = bounds.relative_lower - ((1 - eta) * R).clamp_min(0)
    assert (gap.abs() <= 1e-12 * (1 + eta) * R)[some].all()


@many
@given(known, st.integers(1, 12))
def test_corollary_1(M, n_steps):
    residual = (activation_patching(M) - ms_hvp(M, n_steps)).abs()
    assert (residual <= bounds_of(M).hvp / n_steps**2 + rounding(M)).all()


@many
@given(metrics(cubics), st.integers(1, 12))
def test_a_cubic_attains_all_bounds(M, n_steps):
    truth, bounds, spare = activation_patching(M), bounds_of(M), rounding(M)
    error = (truth - attribution_patching(M)).abs()
    residual = (truth - ms_hvp(M, n_steps)).abs()
    assert ((residual - bounds.hvp / n_steps**2).abs() <= spare).all()
    signs = tensor(*(path.b * path.c for path in M.paths))
    assert ((error - bounds.attribution_patching).abs() <= spare)[signs >= 0].all()
    lower = bounds.relative_lower * attribution_patching(M).abs()
    tight = (signs < 0) & (bounds.slack < 1) & (attribution_patching(M) != 0)
    assert ((error - lower).abs() <= spare)[tight].all()


def test_the_worked_example_of_a_cubic():
    M = KnownMetric([Path(1.0, 0.8, 0.6, delta=2.0), Path(1.0, 0.8, -0.6, delta=0.5)])
    bounds = bounds_of(M)
    torch.testing.assert_close(bounds.slack, tensor(0.25, 0.25))
    torch.testing.assert_close(bounds.relative_lower, tensor(0.3, 0.3))
    torch.testing.assert_close(bounds.relative_upper, tensor(0.5, 0.5))
    torch.testing.assert_close(bounds.attribution_patching, tensor(0.5, 0.5))
    torch.testing.assert_close(bounds.hvp, tensor(0.1, 0.1))
    relative = (activation_patching(M) - attribution_patching(M)).abs() / attribution_patching(M)
    torch.testing.assert_close(relative, tensor(0.5, 0.3))


taus = st.one_of(st.just(0.0), st.just(0.1), st.floats(0, 5))


@many
@given(known, taus)
def test_proposition_2_and_corollary_2(M, tau):
    found = screen_flag_fix(M, tau, costs=COSTS)
    bound = selective_bound(attribution_patching(M), quadratic_term(M), M.delta_norm, M.L_H, tau)
    spare = rounding(M).sum().item()
    total = found.estimates.sum()
    assert abs(activation_patching(M).sum() - total) <= bound.total + spare
    # What all corrections would have added, to the sign.
    assert abs(hvp(M).sum() - total - bound.gap) <= spare
    assert abs(bound.gap) <= bound.gap_bound + spare
    assert bound.gap_bound <= bound.total + spare
    assert 0 <= bound.cancellation <= 1 + 1e-12
    torch.testing.assert_close(found.flagged, found.score > tau)


def test_the_selective_bound_by_hand():
    first, q = tensor(1.0, -2.0, 4.0, 1.0), tensor(0.3, -0.4, 0.5, 5.0)
    norm, L_H = tensor(1.0, 2.0, 1.0, 0.5), tensor(0.6, 0.3, 0.0, 4.8)
    bound = selective_bound(first, q, norm, L_H, tau=0.3)  # only the last is flagged
    assert bound.total == pytest.approx(0.3 * 7 + 0.1 + 0.4 + 0.0 + 0.1)
    assert bound.cubic == pytest.approx(0.1 + 0.4 + 0.0 + 0.1)
    assert bound.gap == pytest.approx(0.4)
    assert bound.cancellation == pytest.approx(0.4 / 1.2)
    assert bound.gap_bound == pytest.approx(0.4 / 1.2 * 0.3 * 7)
    # tau = R exactly is still trusted; below it, nothing is left to be off by but cubic terms.
    none = selective_bound(first, q, norm, L_H, tau=0.0)
    assert none.total == pytest.approx(0.6)
    assert (none.gap, none.gap_bound, none.cancellation) == (0.0, 0.0, 1.0)


def test_proposition_2_is_attained():
    """All trusted, all scores equal to tau, nothing cancels: the bound is the error."""
    M = KnownMetric([Path(1.0, 0.5, 0.6), Path(2.0, 1.0, 0.3, delta=3.0)])
    bound = selective_bound(
        attribution_patching(M), quadratic_term(M), M.delta_norm, M.L_H, tau=0.25
    )
    found = screen_flag_fix(M, 0.25, costs=COSTS)
    assert not found.flagged.any()
    assert bound.total == pytest.approx((activation_patching(M) - found.estimates).sum().item())
    assert bound.gap_bound == pytest.approx(bound.gap) and bound.cancellation == 1


# --- zeros -------------------------------------------------------------------------------------


def test_zeros():
    inf = math.inf
    #               f_ap  q    L_H   R    eta  upper  lower  AP   HVP
    table = [
        (0.0, 2.0, 6.0, inf, 0.5, inf, inf, 3.0, 1.0),
        (0.0, 1.0, 12.0, inf, 2.0, inf, 0.0, 3.0, 2.0),
        (0.0, 2.0, 0.0, inf, 0.0, inf, inf, 2.0, 0.0),
        (4.0, 0.0, 6.0, 0.0, inf, 0.25, 0.0, 1.0, 1.0),
        (4.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
        (0.0, 0.0, 6.0, 0.0, inf, inf, 0.0, 1.0, 1.0),
        (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    ]
    for signs in itertools.product((1, -1), repeat=2):
        columns = tensor(*(value for row in table for value in row)).reshape(len(table), -1).T
        first, q, L_H, R, eta, upper, lower, ap, residual = columns
        first, q, norm = signs[0] * first, signs[1] * q, torch.ones_like(q)
        bounds = error_bounds(first, q, norm, L_H)
        assert reliability_score(first, q).equal(R)
        assert slack(q, norm, L_H).equal(eta) and bounds.slack.equal(eta)
        assert bounds.relative_upper.equal(upper)
        assert bounds.relative_lower.equal(lower)
        assert bounds.attribution_patching.equal(ap)
        assert bounds.hvp.equal(residual)


def test_flag():
    score = tensor(0.0, 0.1, 0.2, math.inf)
    assert flag(score, 0.1).tolist() == [False, False, True, True]
    assert flag(score, 0).tolist() == [False, True, True, True]
    assert flag(score, math.inf).tolist() == [False] * 4
    for tau in (-1e-9, -math.inf, math.nan):
        with pytest.raises(ValueError, match="tau must be at least 0"):
            flag(score, tau)
        with pytest.raises(ValueError, match="tau must be at least 0"):
            selective_bound(score, score, score, score, tau)


@pytest.mark.parametrize("kind", KINDS)
def test_identical_prompts(kind):
    M = PatchedMetric(tiny_model("llama"), tiny_pair("same"), kind)
    zero = torch.zeros(M.n, dtype=torch.float64)
    L_H = hessian_lipschitz(M)
    assert L_H.equal(zero)
    assert M.hessian_delta(0.5).count_nonzero() == 0
    first, q = attribution_patching(M), quadratic_term(M)
    assert reliability_score(first, q).equal(zero)
    for bound in error_bounds(first, q, M.delta_norm, L_H):
        assert bound.equal(zero)
    assert selective_bound(first, q, M.delta_norm, L_H, 0.1) == (0.0, 0.0, 0.0, 0.0, 1.0)
    for fix in FIXES:
        found = screen_flag_fix(M, 0.0, fix, costs=COSTS)
        assert found.estimates.equal(zero) and found.score.equal(zero)
        assert not found.flagged.any()


# --- the Lipschitz constant --------------------------------------------------------------------


@many
@given(known)
def test_the_observed_constant_is_a_lower_bound(M):
    points = (0.0, 0.25, 0.5, 1.0)
    observed = hessian_lipschitz(M, points) * M.delta_norm**3
    assert (observed <= M.L_H * M.delta_norm**3 + 10 * rounding(M)).all()
    more = hessian_lipschitz(M, (*points, 0.875)) * M.delta_norm**3
    assert (more >= observed).all()


@many
@given(metrics(cubics))
def test_and_the_constant_itself_for_a_cubic(M):
    torch.testing.assert_close(hessian_lipschitz(M), M.L_H, rtol=1e-9, atol=1e-9)
    backwards = torch.arange(M.n).flip(0)
    torch.testing.assert_close(
        hessian_lipschitz(M, (1.0, 0.25), backwards), M.L_H.flip(0), rtol=1e-9, atol=1e-9
    )


def slow_products(problem, t, n_run):
    """H delta of every component at a + t delta, one at a time, where its own activation is."""
    rows = []
    for c, component in enumerate(problem.components):
        _, product = reference.gradient_and_hessian_product(problem, c, moved=t)
        own = torch.zeros_like(product)
        own[component.where] = product[component.where]
        rows.append(own[-n_run:].flatten())  # the tokens that both runs share are not patched
    return torch.stack(rows)


# Every architecture once, every kind; directions, prompts and metrics go round.
CASES = [
    pytest.param(
        architecture,
        KINDS[i % 5],
        DIRECTIONS[i % 2],
        WHERE[i % 3],
        METRICS[i % 4],
        id=f"{architecture}-{KINDS[i % 5]}",
    )
    for i, architecture in enumerate(ARCHITECTURES)
]


@pytest.mark.parametrize(("architecture", "kind", "direction", "where", "metric"), CASES)
def test_hessian_delta_and_its_constant_equal_the_slow_reference(
    architecture, kind, direction, where, metric
):
    bridge, pair = tiny_model(architecture), tiny_pair(where, metric)
    M = PatchedMetric(bridge, pair, kind, direction)
    problem = reference.Problem(bridge, pair, kind, direction)
    points = (0.0, 0.5, 1.0)
    slow = {t: slow_products(problem, t, M.n_run) for t in points}
    for t in points:
        assert_close(M.hessian_delta(t), slow[t])
    rates = []
    for c in range(M.n):
        size = problem.delta[c].norm()
        rates.append(
            max(
                (slow[s][c] - slow[t][c]).norm() / (abs(s - t) * size**2)
                for s, t in itertools.combinations(points, 2)
            )
        )
    assert_close(hessian_lipschitz(M), torch.stack(rates))


@pytest.mark.parametrize("kind", KINDS)
def test_hessian_delta_along_delta_is_the_curvature(kind, random):
    """And each component may be at a point of its own, in any order and any batches."""
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair(), kind)
    which, t = torch.arange(M.n).flip(0)[: M.n - 1], random(M.n - 1)
    products = M.hessian_delta(t, which)
    deltas = torch.cat(
        [
            (site.spread(torch.eye(len(site.labels), dtype=torch.float64)) * delta).flatten(1)
            for site, delta in zip(M.sites, M.deltas, strict=True)
        ]
    )
    assert_close((products * deltas[which]).sum(-1), M.along_axes(t, 2, which).curvature)
    M.batch_size = 2
    assert_close(M.hessian_delta(t, which), products, 1e-11)


def test_the_constant_of_some_components():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    which = torch.tensor([7, 2, 11])
    assert_close(hessian_lipschitz(M, (0.0, 1.0), which), hessian_lipschitz(M, (0.0, 1.0))[which])


@pytest.mark.parametrize("points", ((), (0.5,), (0.5, 0.5)))
def test_one_point_has_no_rate(points):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    with pytest.raises(ValueError, match="two different points"):
        hessian_lipschitz(M, points)


# --- Screen-Flag-Fix ---------------------------------------------------------------------------

PIPELINES = [
    pytest.param(architecture, fix, KINDS[i % 5], id=f"{architecture}-{fix}-{KINDS[i % 5]}")
    for i, (architecture, fix) in enumerate(itertools.product(("gpt2", "llama", "gemma3"), FIXES))
]


@pytest.mark.parametrize(("architecture", "fix", "kind"), PIPELINES)
def test_what_is_flagged_is_fixed_and_nothing_else(architecture, fix, kind):
    M = PatchedMetric(tiny_model(architecture), tiny_pair(), kind)
    first, q = attribution_patching(M), quadratic_term(M)
    # Some residual positions reach nothing: no slope, no curvature.
    score = torch.where(q == 0, 0.0, (q / first).abs())
    tau = score[score > 0].median().item()
    found = screen_flag_fix(M, tau, fix, n_steps=3, costs=COSTS)
    assert_close(found.score, score)
    m = int(found.flagged.sum())
    assert 0 < m < M.n
    assert found.flagged.equal(found.score > tau)
    expected = torch.where(found.flagged, FIXES[fix](M), first)
    assert (expected - first).abs().max() > 1e-3 * first.abs().max()
    assert_close(found.estimates, expected, 1e-11)
    extra = {
        "hvp": {},
        "ms_hvp": {"curvature_on_path": 2 * m},
        "activation_patching": {"forward": m},
    }
    assert found.passes == {"gradient": 1, "curvature": M.n} | extra[fix]
    assert found.cost == COSTS.price(found.passes)
    assert found.cost == 2 + 3 * M.n + {"hvp": 0, "ms_hvp": 14 * m, "activation_patching": m}[fix]


@pytest.mark.parametrize("fix", FIXES)
def test_the_two_ends_of_the_threshold(fix):
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair())
    everything = screen_flag_fix(M, 0.0, fix, n_steps=3, costs=COSTS)
    assert everything.flagged.equal(quadratic_term(M) != 0) and everything.flagged.all()
    assert_close(everything.estimates, FIXES[fix](M), 1e-11)
    nothing = screen_flag_fix(M, math.inf, fix, n_steps=3, costs=COSTS)
    assert not nothing.flagged.any()
    assert_close(nothing.estimates, attribution_patching(M), 1e-11)
    assert nothing.passes == {"gradient": 1, "curvature": M.n}
    assert nothing.cost == 2 + 3 * M.n


@pytest.mark.parametrize("fix", FIXES)
def test_flat_and_stationary_components(fix):
    """A straight path is never flagged; one that starts level always is."""
    straight, level = Path(2.0, 0.0, 0.0), Path(0.0, 1.0, 0.6)
    M = KnownMetric([straight, level])
    found = screen_flag_fix(M, 0.0, fix, n_steps=3, costs=COSTS)
    assert found.score.tolist() == [0.0, math.inf]
    assert screen_flag_fix(M, 1e12, fix, costs=COSTS).flagged.tolist() == [False, True]
    after = {"hvp": 0.5, "ms_hvp": 0.6 - 0.1 / 9, "activation_patching": 0.6}[fix]
    torch.testing.assert_close(found.estimates, tensor(2.0, after))


def test_one_step_of_ms_hvp_is_hvp_at_the_same_price():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    one, other = (screen_flag_fix(M, 0.05, fix, 1, COSTS) for fix in ("hvp", "ms_hvp"))
    assert one.flagged.any()
    assert_close(one.estimates, other.estimates, 1e-11)
    assert one.cost == other.cost


def test_a_screen_is_exact_or_sketched():
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), "neurons_pre")
    first, q = attribution_patching(M), quadratic_term(M)
    exact, sketched = screen(M, None), screen(M, 10, seed=3)
    assert_close(exact.first_order, first)
    assert_close(exact.quadratic, q)
    assert (exact.error == 0).all() and exact.passes == {"gradient": 1, "curvature": M.n}
    assert_close(sketched.first_order, first)
    of_diagonal = diagonal(M, "xdiag", 10, seed=3)
    assert_close(sketched.quadratic, of_diagonal.values / 2, 1e-12)
    assert_close(sketched.error, of_diagonal.error / 2, 1e-12)
    assert sketched.passes == {"gradient": 1, "matvec": 10, "matvec_batch": 2}
    for found in (exact, sketched):
        assert_close(found.score, reliability_score(found.first_order, found.quadratic))
        sizes = [abs(f) + abs(h) for f, h in zip(*found[:2], strict=True)]
        assert_close(found.size, torch.stack(sizes))


@pytest.mark.parametrize("fix", FIXES)
def test_a_sketched_screen(fix):
    """What is flagged follows the sketch; what replaces it by ms_hvp or patching does not."""
    M = PatchedMetric(tiny_model("gemma3"), tiny_pair(), "neurons_pre")
    sketch = screen(M, 10, seed=1)
    tau = sketch.score.median().item()
    found = screen_flag_fix(M, tau, fix, 3, COSTS, screen="sketch", n_matvecs=10, seed=1)
    assert found.flagged.equal(sketch.score > tau)
    assert_close(found.score, sketch.score, 1e-12)
    exact = quadratic_term(M)
    assert (sketch.quadratic - exact).abs().max() > 1e-3 * exact.abs().max()  # a sketch indeed
    fixed = sketch.first_order + sketch.quadratic if fix == "hvp" else FIXES[fix](M)
    expected = torch.where(found.flagged, fixed, sketch.first_order)
    assert_close(found.estimates, expected, 1e-11)
    m = int(found.flagged.sum())
    extra = {
        "hvp": {},
        "ms_hvp": {"gradient": 2, "curvature": m, "curvature_on_path": 2 * m},
        "activation_patching": {"forward": m},
    }
    assert found.passes == {"gradient": 1, "matvec": 10, "matvec_batch": 2} | extra[fix]
    assert found.cost == COSTS.price(found.passes)


@pytest.mark.parametrize("fix", FIXES)
def test_a_screen_by_rows(fix):
    """What is flagged follows the rows; no fix takes their norms for quadratic terms."""
    M = PatchedMetric(tiny_model("gemma3"), tiny_pair(), "neurons_pre")
    rows, screened = row_norms(M, seed=1), row_screen(M, seed=1)
    assert_close(screened.first_order, attribution_patching(M))
    assert_close(screened.quadratic, rows.values / 2, 1e-12)
    assert_close(screened.error, rows.error / 2, 1e-12)
    found = screen_flag_fix(M, math.inf, fix, 3, COSTS, screen="rows", seed=1, largest=3)
    size = attribution_patching(M).abs() + rows.values / 2
    assert set(found.flagged.nonzero()[:, 0].tolist()) == set(size.argsort()[-3:].tolist())
    expected = torch.where(found.flagged, FIXES[fix](M), attribution_patching(M))
    assert_close(found.estimates, expected, 1e-11)
    extra = {
        "hvp": {"gradient": 2, "curvature": 3},
        "ms_hvp": {"gradient": 2, "curvature": 3, "curvature_on_path": 6},
        "activation_patching": {"forward": 3},
    }
    assert screened.passes == {"gradient": 1, "gradient_row": 2}
    assert found.passes == screened.passes | extra[fix]
    assert found.cost == COSTS.price(found.passes)
    score = row_screen(M, 6, seed=1).score
    tau = score.median().item()
    more = screen_flag_fix(M, tau, fix, 3, COSTS, screen="rows", n_matvecs=6, seed=1)
    assert more.flagged.equal(score > tau) and 0 < more.flagged.sum() < M.n
    assert more.passes["gradient_row"] == 6


def test_no_quadratic_term_exceeds_half_its_row():
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair(), "neurons_pre")
    found = row_screen(M, 400).quadratic
    bound = M.hessian_matvec(torch.eye(M.n)).norm(dim=1) / 2
    assert (quadratic_term(M).abs() <= bound).all()
    assert ((found - bound).abs() <= 0.2 * bound + 1e-9).all()


def test_each_screen_has_a_number_of_its_own(monkeypatch):
    """48 products of a sketch, 2 gradients of rows; an exact screen cannot be made coarser."""
    M, asked = PatchedMetric(tiny_model("gpt2"), tiny_pair()), []
    exact = screen(M, None)
    for name, (_, default) in screening._SCREENS.items():
        record = (lambda M, n, seed: asked.append(n) or exact), default
        monkeypatch.setitem(screening._SCREENS, name, record)
    for name in ("exact", "sketch", "rows"):
        screen_flag_fix(M, math.inf, costs=COSTS, screen=name)
        screen_flag_fix(M, math.inf, costs=COSTS, screen=name, n_matvecs=6)
    assert asked == [None, None, 48, 6, 2, 6]


@pytest.mark.parametrize(
    ("largest", "n"), ((0.0, 0), (0.1, 2), (0.5, 6), (1.0, 12), (0, 0), (1, 1), (5, 5), (12, 12))
)
def test_the_largest_are_flagged_whatever_their_score(largest, n):
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair())
    assert M.n == 12
    size = screen(M, None).size
    by_size = screen_flag_fix(M, math.inf, "activation_patching", costs=COSTS, largest=largest)
    assert set(by_size.flagged.nonzero()[:, 0].tolist()) == set(size.argsort()[M.n - n :].tolist())
    expected = torch.where(by_size.flagged, activation_patching(M), attribution_patching(M))
    assert_close(by_size.estimates, expected, 1e-11)
    # Both rules together flag what either flags.
    both = screen_flag_fix(M, 0.2, costs=COSTS, largest=largest)
    assert both.flagged.equal(by_size.flagged | screen_flag_fix(M, 0.2, costs=COSTS).flagged)


def test_what_does_not_move_is_never_flagged():
    M = PatchedMetric(tiny_model("llama"), tiny_pair("same"))
    found = screen_flag_fix(M, 0.0, "activation_patching", costs=COSTS, largest=1.0)
    assert not found.flagged.any() and "forward" not in found.passes


def test_prices_are_measured_when_none_are_given(monkeypatch):
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    seen = []
    monkeypatch.setattr(screening, "measure_costs", lambda M: seen.append(M) or COSTS)
    assert screen_flag_fix(M, math.inf).cost == 2 + 3 * M.n
    assert seen == [M]
    screen_flag_fix(M, math.inf, costs=COSTS)
    assert seen == [M]


def test_what_cannot_be_is_refused():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    with pytest.raises(ValueError, match="fix must be.*'prayer'"):
        screen_flag_fix(M, fix="prayer", costs=COSTS)
    with pytest.raises(ValueError, match="screen must be.*'smoke'"):
        screen_flag_fix(M, screen="smoke", costs=COSTS)
    for share in (-0.1, 1.1, math.nan, -1, 13):
        said = "finite number" if math.isnan(share) else "number of the 12 components"
        with pytest.raises(ValueError, match=f"largest must be a {said}"):
            screen_flag_fix(M, costs=COSTS, largest=share)
    with pytest.raises(ValueError, match="even number"):
        screen_flag_fix(M, costs=COSTS, screen="sketch", n_matvecs=5)
    for tau in (-0.1, math.nan):
        with pytest.raises(ValueError, match="tau must be at least 0"):
            screen_flag_fix(M, tau, costs=COSTS)
