"""How large an effect can be among the components that nobody looked at.

Random subsets of those components are patched. A component that moves the metric a lot moves it in
every subset that holds it, so subsets with it differ from subsets without it, by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from numbers import Real
from typing import Any, Literal, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from scipy.stats import t as student_t
from torch import Tensor
from tqdm.auto import tqdm

from hvp_utils import _checks
from hvp_utils.curvature import require_one_metric
from hvp_utils.estimators import attribution_patching
from hvp_utils.patched_metric import PatchedMetric, of_metric

from .screening import screen

__all__ = ["MissedBound", "missed_bound", "subsets_needed"]

_STRENGTHS = 2**22  # patch strengths made at a time
_N_MATVECS = 48
_MOST_SUBSETS = 1_000_000


class MissedBound(NamedTuple):
    """What random subsets say of the components that were not looked at.

    Components that are the same in both runs have 0 in every field, and those that were kept out of
    the subsets since they were shown have NaN, and no inclusions.

    Attributes:
        bound: On the largest ``|effect|`` among the components not shown, in units of the metric.
        component: Number of the component that sets it; -1 if there is none.
        upper: ``|estimate| + s t``: the one-sided confidence bound of each component alone.
        estimates: Effect of each component, averaged over what else is patched with it.
        error: Welch's standard error s of each estimate.
        dof: Welch's degrees of freedom.
        inclusions: How many subsets held the component.
        size: Components in a subset.
        passes: What was run, by kind: ``"point"`` is M at one point, a run from the first layer
            on; the others are those of ``Costs``.
    """

    bound: float
    component: int
    upper: Float[Tensor, " n"]
    estimates: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    dof: Float[Tensor, " n"]
    inclusions: Int[Tensor, " n"]
    size: int
    passes: dict[str, int]


@of_metric
def missed_bound(
    M: PatchedMetric,
    shown: Iterable[str] | Sequence[int] | Int[Tensor, " k"] = (),
    n_subsets: int = 600,
    p: float = 0.02,
    confidence: float = 0.95,
    control: Literal["attribution_patching", "sketch"] | Float[Tensor, " n"] | None = (
        "attribution_patching"
    ),
    patch_shown: bool = False,
    seed: int = 0,
) -> MissedBound:
    """An upper bound on the largest effect among the components that were not looked at.

    Subsets S of k = ceil(p n) components are patched, and Y(S) = M(1_S) - M(0) less the sum of the
    control's estimates over S. The estimate of component c is the mean of Y with c, less (k - 1)/k
    times the mean without c, plus the control's estimate of c.

    What is promised: let c be the component not shown with the largest effect; with probability
    ``confidence`` its own one-sided bound, and so the largest of all, lies above its average effect
    on top of a random subset. As this concerns one component, which the draw does not choose, it
    needs no correction for their number. It holds as far as the means are normal, above all the
    mean of the few subsets that hold c. The average effect is the effect alone, M(e_c) - M(0),
    where components do not interact; what interactions make of it shrinks with p, is nothing at
    k = 1, and is not covered by ``confidence``.

    Args:
        M: The metric, of one prompt or the mean of many.
        shown: What has been looked at: labels or numbers of components.
        n_subsets: Subsets that are run. With as many as there are components, patching each
            exactly is better.
        p: Share of the components in a subset. More give each component more inclusions, and let
            them interact more.
        confidence: Of the bound, between 0.5 and 1.
        control: Estimates that are taken out of Y and put back afterwards; whatever they are, what
            is estimated stays the same, and the better they are, the less Y varies. Where they are
            poor, none may be better: the smaller of two ``error`` says which.
            ``"sketch"`` adds sketched quadratic terms to attribution patching; None is the method
            of Kramár et al.
        patch_shown: Let the subsets hold the components that were shown too. Their effects are the
            largest, and make Y vary.
        seed: Seed of the subsets, and of a sketch.

    Returns:
        The bound, and what it is made of.

    Raises:
        ValueError: ``M.each``; an unknown label, number or control; a p, confidence or number of
            subsets that cannot be; or so few subsets that a component would be in, or out of, fewer
            than two: the message says how many are needed.
        TypeError: A sketch of a model in half precision, or a control of another kind.

    Source:
        Kramár et al. (2024), AtP*, diagnostics by subset sampling. The control, the disjoint
        subsets, the factor (k - 1)/k and leaving out what was shown are ours.
    """
    require_one_metric(M)
    _require(confidence, n_subsets, p)
    _checks.seed(seed)
    patch_shown = _checks.truth("patch_shown", patch_shown)
    shown = _numbers(M, shown)
    unseen = M.delta_norm.cpu() > 0
    unseen[shown] = False
    drawn = (M.delta_norm.cpu() > 0) if patch_shown else unseen
    pool = drawn.nonzero()[:, 0]
    control, passes = _control(M, control, seed)
    nothing = torch.full((M.n,), torch.nan, dtype=torch.float64)
    nothing[(M.delta_norm.cpu() == 0)] = 0.0
    nothing[shown] = torch.nan
    fields = [nothing.clone() for _ in range(3)]
    inclusions = torch.zeros(M.n, dtype=torch.int64)
    if not unseen.any():
        size, passes = 0, {}
    else:
        size = math.ceil(p * len(pool))
        if size >= len(pool):
            raise ValueError(
                f"Subsets of {size} of {len(pool)} components leave none out. Take a smaller p "
                f"than {p}, or patch these few exactly."
            )
        _require_two(n_subsets, len(pool), size)
        found, counts = _welch(M, pool, size, n_subsets, control, seed)
        for field, values in zip(fields, found, strict=True):
            field[pool] = values
        inclusions[pool] = counts
        passes = {"point": n_subsets} | passes
    estimates, error, dof = fields
    quantile = torch.from_numpy(student_t.ppf(confidence, dof.clamp(min=1).numpy()))
    upper = estimates.abs() + torch.where(error > 0, error * quantile, error)
    where = int(torch.where(unseen, upper, -1.0).argmax()) if unseen.any() else -1
    return MissedBound(
        upper[where].item() if unseen.any() else 0.0,
        where,
        *cast(
            "tuple[Tensor, Tensor, Tensor, Tensor]",
            (field.to(M.delta_norm) for field in (upper, estimates, error, dof)),
        ),
        inclusions,
        size,
        passes,
    )


def subsets_needed(n: int, p: float = 0.02, inclusions: int = 12) -> int:
    """Subsets of ceil(p n) of n components with which each component is in so many or more.

    Args:
        n: Components that may be drawn.
        p: Share of them in a subset.
        inclusions: How often each is wanted. With two, Student's t at 95 % has one degree of
            freedom and is 6.3; with twelve it is 1.8, with very many 1.6.
    """
    _checks.whole("n", n)
    p = _checks.number("p", p, above=0, most=1)
    return math.ceil(_checks.whole("inclusions", inclusions) * n / math.ceil(p * n))


def _require(confidence: float, n_subsets: int, p: float) -> None:
    for name, value in (("confidence", confidence), ("p", p)):
        _checks.instance(name, value, Real, "a number")
    if not 0.5 < confidence < 1:
        raise ValueError(
            f"confidence must be above 0.5 and below 1, such as 0.95, not {confidence!r}."
        )
    _checks.whole("n_subsets", n_subsets, 4, _MOST_SUBSETS)
    if not 0 < p < 1:
        raise ValueError(
            f"p is the share of the components in a subset: above 0 and below 1, not {p!r}."
        )


def _numbers(M: PatchedMetric, shown: Iterable[Any]) -> Int[Tensor, " k"]:
    """Numbers of the components shown."""
    shown = [shown] if isinstance(shown, str) else shown
    shown = _checks.items("shown", shown, "labels of components or their numbers")
    if shown and all(isinstance(one, str) for one in shown):
        return M.index(shown)
    return _checks.indices("shown", shown, M.n)


def _control(
    M: PatchedMetric, control: str | Tensor | None, seed: int
) -> tuple[Float[Tensor, " n"], dict[str, int]]:
    """Estimates of all effects, and what they cost."""
    _checks.instance("control", control, str | Tensor | None, "a name, a tensor or None")
    if control is None:
        return torch.zeros(M.n, dtype=torch.float64), {}
    passes: dict[str, int] = {}
    if isinstance(control, Tensor):
        estimates = control
        if control.shape != (M.n,) or not torch.isfinite(control).all():
            raise ValueError(
                f"As control there must be {M.n} finite estimates, one per component, not a tensor "
                f"of shape {tuple(control.shape)}."
            )
    elif control == "attribution_patching":
        estimates, passes = attribution_patching(M), {"gradient": 1}
    elif control == "sketch":
        found = screen(M, _N_MATVECS, seed)
        estimates, passes = found.first_order + found.quadratic, found.passes
    else:
        raise ValueError(
            'control must be "attribution_patching", "sketch", estimates of all effects or None, '
            f"not {control!r}."
        )
    return estimates.detach().double().cpu(), passes


def _subsets(
    n: int, size: int, n_subsets: int, chunk: int, seed: int
) -> Iterator[Int[Tensor, "chunk size"]]:
    """Random subsets, by chunks. The same arguments give the same subsets, more give more of them.

    They are cut one after another from a row of random orders, so that two components differ by one
    inclusion at most. The subset on the border of two orders takes from the
    new one only what it does not hold already.
    """
    generator = torch.Generator().manual_seed(seed)
    rest, waiting = torch.zeros(0, dtype=torch.int64), []
    for start in range(0, n_subsets, chunk):
        now = min(chunk, n_subsets - start)
        while len(waiting) < now:
            order = torch.randperm(n, generator=generator)
            first = order[~torch.isin(order, rest)][: size - len(rest)]
            later = order[~torch.isin(order, first)] if len(rest) else order[len(first) :]
            whole = len(later) // size * size
            waiting += [torch.cat([rest, first]), *later[:whole].split(size)][: 1 + whole // size]
            rest = later[whole:]
        yield torch.stack(waiting[:now])
        waiting = waiting[now:]


def _welch(
    M: PatchedMetric,
    pool: Int[Tensor, " n"],
    size: int,
    n_subsets: int,
    control: Float[Tensor, " all"],
    seed: int,
) -> tuple[tuple[Float[Tensor, " n"], ...], Int[Tensor, " n"]]:
    """Estimates, standard errors, degrees of freedom, inclusions of the components in the pool.

    Subsets are drawn twice, once to be run and once to be counted: their values have to be centred
    before squares are summed, and to keep them all would take more room than to draw them again.
    """
    n, own = len(pool), control[pool]
    how = (n, size, n_subsets, max(1, _STRENGTHS // M.n), seed)
    values = []
    with tqdm(total=n_subsets, desc="subsets", unit="run", delay=2, leave=False) as bar:
        for members in _subsets(*how):
            alpha = torch.zeros(len(members), M.n, dtype=M.delta_norm.dtype)
            alpha.scatter_(1, pool[members], 1.0)
            with torch.no_grad():
                effect = M(alpha.to(M.delta_norm.device)).double().cpu() - M.base
            values.append(effect - own[members].sum(1))
            bar.update(len(members))
    Y = torch.cat(values)
    middle = Y.mean()
    Y = Y - middle
    inside = torch.zeros(3, n, dtype=torch.float64)  # how many, their sum, the sum of squares
    for members, y in zip(_subsets(*how), Y.split(how[3]), strict=True):
        for row, power in enumerate((torch.ones_like(y), y, y.square())):
            inside[row] += torch.bincount(
                members.flatten(), power.repeat_interleave(size), minlength=n
            )
    whole = torch.tensor([n_subsets, Y.sum(), Y.square().sum()], dtype=torch.float64)
    (n_in, mean_in, var_in), (n_out, mean_out, var_out) = (
        _moments(sums) for sums in (inside, whole[:, None] - inside)
    )
    # Subsets without c hold one more of the others than subsets with it.
    fewer = (size - 1) / size
    a, b = var_in / n_in, fewer**2 * var_out / n_out
    dof = (a + b).square() / (a.square() / (n_in - 1) + b.square() / (n_out - 1))
    estimates = own + (mean_in + middle) - fewer * (mean_out + middle)
    return (estimates, (a + b).sqrt(), dof.nan_to_num(n_subsets - 2)), n_in.long()


def _moments(sums: Float[Tensor, "3 n"]) -> tuple[Tensor, Tensor, Tensor]:
    """Number, mean and variance from a number, a sum and a sum of squares."""
    number, total, squares = sums
    mean = total / number
    variance = (squares - number * mean.square()).clamp(min=0) / (number - 1)
    return number, mean, variance


def _require_two(n_subsets: int, n: int, size: int) -> None:
    """Complain if a component would be in, or out of, fewer than two subsets."""
    least, most = n_subsets * size // n, math.ceil(n_subsets * size / n)
    if least < 2:
        raise ValueError(
            f"Each component must be in two subsets at least, and {n_subsets} subsets of {size} "
            f"of {n} components leave one in {least}. Take n_subsets = "
            f"{subsets_needed(n, size / n)}, for 12 inclusions each, or a larger p."
        )
    if n_subsets - most < 2:
        raise ValueError(
            f"Each component must be left out of two subsets at least, and {n_subsets} subsets of "
            f"{size} of {n} components leave one out {n_subsets - most} times. Take more subsets, "
            "or a smaller p."
        )
