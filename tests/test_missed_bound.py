"""The bound on what was missed: against a dense matrix and SciPy, and where all is known."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, t, ttest_ind
from test_patched_metric import assert_close
from tiny_models import tiny_model, tiny_pair

from hvp_utils import PatchedMetric, activation_patching, attribution_patching
from hvp_utils.reliability import MissedBound, missed, missed_bound, screen, subsets_needed

KINDS = ("heads", "mlp_out", "neurons_pre", "neurons_post", "edges")


class Made:
    """An M that is any function of points, of components that all differ."""

    prompt_dims, base = (), 0.5

    def __init__(self, function, n):
        self._f, self.n, self.delta_norm = function, n, torch.ones(n, dtype=torch.float64)
        self.labels = tuple(f"c{i}" for i in range(n))
        self.points = []

    def __call__(self, alpha):
        self.points.append(alpha.clone())
        return self.base + self._f(alpha)

    def gradient(self):
        alpha = torch.zeros(self.n, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad(self._f(alpha), alpha)[0]


class Watched:
    """An M that keeps the points it was asked for."""

    def __init__(self, M):
        self._M, self.points = M, []

    def __getattr__(self, name):
        return getattr(self._M, name)

    def __call__(self, alpha):
        self.points.append(alpha.clone())
        return self._M(alpha)


def linear(f):
    return Made(lambda alpha: alpha @ f, len(f))


def slow(A, Y, control, shown, confidence):
    """All of it from the whole matrix, component by component, Welch's test being SciPy's."""
    n, size = A.shape[1], int(A[0].sum())
    Y = Y - A @ control
    found = np.full((4, n), np.nan)
    for c in range(n):
        inside = A[:, c] == 1
        if not inside.any():
            continue
        test = ttest_ind(Y[inside], (size - 1) / size * Y[~inside], equal_var=False)
        difference = Y[inside].mean() - (size - 1) / size * Y[~inside].mean()
        error, estimate = difference / test.statistic, difference + control[c]
        upper = abs(estimate) + error * t.ppf(confidence, test.df)
        found[:, c] = upper, estimate, error, test.df
    unseen = ~np.isnan(found[0])
    unseen[shown] = False
    return found, found[0][unseen].max()


@pytest.mark.parametrize("control", (None, "attribution_patching", "sketch", "a tensor"))
@pytest.mark.parametrize("patch_shown", (False, True))
@pytest.mark.parametrize(
    ("architecture", "kind"),
    [*zip(("gpt2", "neox", "llama", "qwen2", "gemma2"), KINDS, strict=True), ("gemma3", "edges")],
)
def test_against_the_whole_matrix(architecture, kind, patch_shown, control):
    M = Watched(PatchedMetric(tiny_model(architecture), tiny_pair(), kind))
    few = M.n < 5
    shown = [] if few else [1, M.n - 2]
    if control == "a tensor":
        control = torch.linspace(-1, 2, M.n, dtype=torch.float64)
    estimates = {
        None: torch.zeros(M.n, dtype=torch.float64),
        "attribution_patching": attribution_patching(M),
    }
    if control == "sketch":
        estimates[control] = sum(screen(M, 48, 3)[:2])
    expected_control = estimates.get(control, control) if not torch.is_tensor(control) else control
    b = missed_bound(M, shown, 60, 0.4 if few else 0.2, 0.9, control, patch_shown, seed=3)
    A = torch.cat(M.points)
    assert set(A.unique().tolist()) == {0.0, 1.0} and (A.sum(1) == b.size).all()
    Y = M(A) - M.base
    expected, bound = slow(A.numpy(), Y.numpy(), expected_control.numpy(), shown, 0.9)
    still = M.delta_norm == 0
    for field, values in zip(("upper", "estimates", "error", "dof"), expected, strict=True):
        got = getattr(b, field).clone()
        assert (got[still] == 0).all()
        got[still] = torch.nan
        np.testing.assert_allclose(got.numpy(), values, rtol=1e-6, atol=1e-9, err_msg=field)
    assert b.bound == pytest.approx(bound, rel=1e-6)
    assert b.bound == b.upper[b.component] and b.component not in shown
    assert b.inclusions.equal(A.sum(0).long())
    assert (A[:, shown].sum() > 0) == (patch_shown and bool(shown))
    assert b.passes["point"] == 60
    assert ("gradient" in b.passes) == isinstance(control, str)


def test_where_nothing_bends_the_bound_is_the_largest_missed():
    """With attribution patching taken out nothing is left that varies."""
    f = torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    M = linear(f)
    shown = f.abs().topk(7).indices
    b = missed_bound(M, shown, 30, 0.1)
    rest = f.clone()
    rest[shown] = 0
    assert b.bound == pytest.approx(rest.abs().max().item(), rel=1e-12)
    assert M.labels[b.component] == f"c{rest.abs().argmax()}"
    unseen = rest != 0
    assert_close(b.estimates[unseen], f[unseen], 1e-12)
    assert (b.error[unseen] < 1e-12).all()
    # A constant in the control does not matter for what is estimated, only for how it varies.
    off = missed_bound(M, shown, 30, 0.1, control=f + 1.0)
    assert_close(off.estimates[unseen], f[unseen], 1e-12)


@pytest.mark.parametrize("control", (None, "attribution_patching"))
def test_subsets_of_one_are_exact_patches(control):
    M = PatchedMetric(tiny_model("qwen2"), tiny_pair())
    assert M.n == 12
    truth = activation_patching(M)
    b = missed_bound(M, [0], 22, 1e-6, control=control)
    assert b.size == 1 and (b.inclusions[1:] == 2).all()
    assert_close(b.estimates[1:], truth[1:], 1e-10)
    assert b.bound == pytest.approx(truth[1:].abs().max().item(), rel=1e-6)


def test_what_is_estimated_is_the_average_effect_in_a_subset():
    """The mean of many draws is A - (k - 1)/k B, from all subsets there are; f where M adds up."""
    n, size = 6, 3
    random = torch.Generator().manual_seed(5)
    f = 1 + torch.randn(n, generator=random, dtype=torch.float64)
    H = torch.randn(n, n, generator=random, dtype=torch.float64)
    for bends in (0.0, 1.0):
        H_ = bends * (H + H.T)
        M = Made(lambda a, H_=H_: a @ f + ((a @ H_) * a).sum(-1) / 2, n)
        every = torch.zeros(20, n, dtype=torch.float64)
        for row, members in enumerate(itertools.combinations(range(n), size)):
            every[row, list(members)] = 1.0
        Y = M(every) - M.base
        inside = every.bool()
        expected = torch.stack(
            [Y[inside[:, c]].mean() - (size - 1) / size * Y[~inside[:, c]].mean() for c in range(n)]
        )
        effects = f + H_.diagonal() / 2
        for c in range(n):
            others = [d for d in range(n) if d != c]
            pairs = [H_[d, e].item() for d, e in itertools.combinations(others, 2)]
            bias = (size - 1) * (H_[c, others].mean().item() - np.mean(pairs) / 2)
            assert expected[c].item() == pytest.approx(effects[c].item() + bias)
            assert bends or bias == 0
        draws = torch.stack(
            [missed_bound(M, (), 40, 0.5, control=None, seed=s).estimates for s in range(150)]
        )
        z = (draws.mean(0) - expected) / draws.std(0) * math.sqrt(len(draws))
        assert (z.abs() < 4).all()
        # With a control the same is estimated: it is an offset, whatever its values.
        ap = torch.stack([missed_bound(M, (), 40, 0.5, seed=s).estimates for s in range(150)])
        assert ((ap.mean(0) - expected).abs() < 4 * ap.std(0) / 150**0.5 + 1e-9).all()


@pytest.mark.parametrize(
    ("interacting", "control"), ((0.0, None), (0.0, "noisy"), (0.01, "attribution_patching"))
)
def test_the_largest_missed_lies_below_as_often_as_promised(interacting, control):
    """Over many draws; and its own bound not much more often than promised.

    Its average effect on top of a subset, that is, which is its effect where nothing interacts.
    """
    n, n_seeds, confidence = 150, 300, 0.95
    random = torch.Generator().manual_seed(2)
    f = torch.randn(n, generator=random, dtype=torch.float64) ** 3
    H = interacting * torch.randn(n, n, generator=random, dtype=torch.float64)
    H = H + H.T
    H.fill_diagonal_(0.0)
    M = Made(lambda a: a @ f + ((a @ H) * a).sum(-1) / 2, n)
    if control == "noisy":
        control = f + 0.3 * torch.randn(n, generator=random, dtype=torch.float64)
    shown = f.abs().topk(15).indices
    rest = f.abs().clone()
    rest[shown] = 0.0
    star = int(rest.argmax())
    # What interactions make of its effect, on average over the subsets of those not shown.
    others = [c for c in range(n) if c != star and rest[c] > 0]
    size = math.ceil(0.06 * (len(others) + 1))
    pairs = H[others][:, others].sum().item() / (len(others) * (len(others) - 1))
    bias = (size - 1) * (H[star, others].mean().item() - pairs / 2)
    missed_most = abs(f[star].item() + bias)
    assert (bias != 0) == (interacting > 0)
    found = [missed_bound(M, shown, 240, 0.06, confidence, control, seed=s) for s in range(n_seeds)]
    own = sum(bool(b.upper[star] >= missed_most) for b in found)
    held = sum(b.bound >= missed_most for b in found)
    assert binomtest(own, n_seeds, confidence).pvalue > 1e-3
    assert held >= own and held >= confidence * n_seeds
    # No empty promise: between once and three times what it bounds.
    assert 1 <= np.median([b.bound for b in found]) / missed_most < 3


def test_a_better_control_gives_a_tighter_bound():
    random = torch.Generator().manual_seed(4)
    f = torch.randn(200, generator=random, dtype=torch.float64)
    noise = torch.randn(200, generator=random, dtype=torch.float64)
    M = linear(f)
    shown = f.abs().topk(20).indices
    controls = (None, f + 0.5 * noise, f + 0.1 * noise, f)
    errors = [missed_bound(M, shown, 200, 0.05, control=c).error[0].item() for c in controls]
    assert errors == sorted(errors, reverse=True) and errors[3] < 1e-9 < errors[2]
    # So does leaving out what was shown.
    both = [
        missed_bound(M, shown, 200, 0.05, control=None, patch_shown=patched).bound
        for patched in (True, False)
    ]
    assert both[1] < both[0]


@pytest.mark.parametrize(
    ("n", "size", "n_subsets"),
    ((50, 7, 60), (10, 10, 3), (10, 1, 25), (9, 5, 30), (7, 6, 20), (100, 10, 20)),
)
def test_subsets(n, size, n_subsets):
    drawn = torch.cat(list(missed._subsets(n, size, n_subsets, 4, seed=1)))
    assert drawn.shape == (n_subsets, size) and drawn.min() >= 0 and drawn.max() < n
    assert all(len(set(row)) == size for row in drawn.tolist())
    counts = drawn.flatten().bincount(minlength=n)
    assert counts.min() >= n_subsets * size // n and counts.max() <= counts.min() + 1
    # Neither chunks nor later subsets change the first ones; another seed does.
    again = torch.cat(list(missed._subsets(n, size, n_subsets + 5, 100, seed=1)))
    assert again[:n_subsets].equal(drawn)
    if size < n:
        assert not torch.cat(list(missed._subsets(n, size, n_subsets, 4, seed=2))).equal(drawn)


def test_each_component_and_each_two_meet_as_often_as_others():
    n, size, rounds = 8, 3, 4000
    drawn = torch.cat(
        [torch.cat(list(missed._subsets(n, size, 8, 8, seed=s))) for s in range(rounds)]
    )
    A = torch.zeros(len(drawn), n).scatter_(1, drawn, 1.0)
    together = A.T @ A
    expected = len(drawn) * size * (size - 1) / (n * (n - 1))
    off = together[~torch.eye(n, dtype=torch.bool)] - expected
    assert off.abs().max() < 5 * math.sqrt(expected)


def test_how_many_subsets_are_needed():
    for n, p, times in ((270, 0.02, 2), (46_080, 0.02, 12), (100, 0.5, 3), (17, 0.3, 2)):
        m, size = subsets_needed(n, p, times), math.ceil(p * n)
        drawn = torch.cat(list(missed._subsets(n, size, m, 64, seed=0)))
        assert drawn.flatten().bincount(minlength=n).min() >= times
        assert (m - 1) * size < times * n
    M = linear(torch.arange(1.0, 101.0, dtype=torch.float64))
    assert missed_bound(M, (), subsets_needed(100, 0.1, 2), 0.1).inclusions.eq(2).all()
    M.points.clear()
    with pytest.raises(ValueError, match=r"leave one in 1\. Take n_subsets = 120, for 12"):
        missed_bound(M, (), subsets_needed(100, 0.1, 2) - 1, 0.1)
    assert not M.points  # nothing is run in vain


def test_points_are_made_in_parts(monkeypatch):
    """Never a whole matrix, and the result is the same."""
    M = PatchedMetric(tiny_model("llama"), tiny_pair(), "edges")
    at_once = Watched(M)
    expected = missed_bound(at_once, (), 60, 0.1)
    assert len(at_once.points) == 1
    monkeypatch.setattr(missed, "_STRENGTHS", 7 * M.n)
    in_parts = Watched(M)
    found = missed_bound(in_parts, (), 60, 0.1)
    assert [len(p) for p in in_parts.points] == [7] * 8 + [4]
    assert_close(found.upper, expected.upper, 1e-10)


def test_labels_are_numbers_too():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    by_number = missed_bound(M, [3, 7], 40, 0.2)
    for shown in ([M.labels[3], M.labels[7]], torch.tensor([3, 7]), (3, 7), np.array([3, 7])):
        assert missed_bound(M, shown, 40, 0.2).upper.equal(by_number.upper.nan_to_num(-1)) or (
            missed_bound(M, shown, 40, 0.2).bound == by_number.bound
        )
    assert missed_bound(M, M.labels[3], 40, 0.2).bound == missed_bound(M, [3], 40, 0.2).bound
    assert isinstance(by_number, MissedBound) and by_number.upper[[3, 7]].isnan().all()


def test_many_prompts_are_their_mean():
    pairs = [tiny_pair("middle"), tiny_pair("last")]
    M = PatchedMetric(tiny_model("qwen2"), pairs)
    b = missed_bound(M, [2], 22, 1e-6)
    truth = activation_patching(M)
    truth[2] = 0
    assert b.bound == pytest.approx(truth.abs().max().item(), rel=1e-6)
    with pytest.raises(ValueError, match=r"not M\.each"):
        missed_bound(M.each)


def test_where_nothing_can_be_missed():
    M = PatchedMetric(tiny_model("llama"), tiny_pair("same"))
    b = missed_bound(M)
    assert b.bound == 0 and b.component == -1 and b.passes == {} and not b.upper.any()
    M = Watched(PatchedMetric(tiny_model("llama"), tiny_pair()))
    b = missed_bound(M, range(M.n))
    assert b.bound == 0 and not M.points and b.upper.isnan().all()


def test_half_precision_is_enough():
    M = PatchedMetric(tiny_model("gpt2", torch.bfloat16), tiny_pair())
    b = missed_bound(M, (), 60, 0.2)
    assert math.isfinite(b.bound) and b.upper.dtype == torch.bfloat16
    with pytest.raises(TypeError, match="float32"):
        missed_bound(M, (), 60, 0.2, control="sketch")


def test_what_cannot_be_is_refused():
    M = PatchedMetric(tiny_model("gpt2"), tiny_pair())
    for p in (0, 1, -0.1, math.nan, 2):
        with pytest.raises(ValueError, match="p is the share"):
            missed_bound(M, p=p)
    for confidence in (0.5, 1, 0, 95, math.nan):
        with pytest.raises(ValueError, match="confidence must be above 0.5 and below 1"):
            missed_bound(M, confidence=confidence)
    for n_subsets in (3, 0, -1, 10.0, True):
        with pytest.raises(ValueError, match="n_subsets must be a whole number"):
            missed_bound(M, n_subsets=n_subsets)
    with pytest.raises(ValueError, match="No component is called 'L9H9'"):
        missed_bound(M, ["L9H9"])
    for shown in (-1, 12):
        with pytest.raises(ValueError, match=f"shown: .* no component {shown}.* from 0 to 11"):
            missed_bound(M, [shown])
    with pytest.raises(TypeError, match="shown must be whole numbers of components, not"):
        missed_bound(M, [0.5])
    with pytest.raises(TypeError, match="shown must be numbers .* these are truth values"):
        missed_bound(M, torch.tensor([True] * 12))
    with pytest.raises(ValueError, match="control must be"):
        missed_bound(M, control="prayer")
    with pytest.raises(TypeError, match="control must be a name, a tensor or None, not 3"):
        missed_bound(M, control=3)
    for control in (torch.zeros(3), torch.full((12,), torch.nan)):
        with pytest.raises(ValueError, match="12 finite estimates"):
            missed_bound(M, control=control)
    with pytest.raises(ValueError, match="Subsets of 12 of 12 components leave none out"):
        missed_bound(M, p=0.95)
    with pytest.raises(ValueError, match="left out of two subsets"):
        missed_bound(M, n_subsets=6, p=0.9)
    with pytest.raises(ValueError, match="Each component must be in two subsets"):
        missed_bound(M, n_subsets=4)
