"""The Hessian of M, known by its products: operator, diagonal, rows, leading eigenvalues.

H holds the curvature of every component on its diagonal, q_c = H_cc / 2, and their interactions
off it. One product with H serves all components together, so a few products that say enough about
H are cheaper than one curvature for each component.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, cast, get_args

import numpy as np
import torch
from jaxtyping import Float
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from hvp_utils import _checks
from hvp_utils.patched_metric import PatchedMetric, of_metric

if TYPE_CHECKING:
    from curvlinops._torch_base import PyTorchLinearOperator

__all__ = [
    "Diagonal",
    "LowRank",
    "RowNorms",
    "diagonal",
    "hessian_operator",
    "low_rank",
    "row_norms",
    "spectrum",
]

Method = Literal["exact", "hutchinson", "xdiag"]
Products = Callable[[Float[Tensor, "n k"]], Float[Tensor, "n k"]]
_COLUMNS = 256  # unit vectors made at a time
_LARGEST = 5000  # components whose whole Hessian is still worth having


class Diagonal(NamedTuple):
    """The diagonal of a Hessian, as far as it is known.

    Attributes:
        values: H_cc, twice the quadratic term of component c.
        error: Standard error of each; 0 where the value is exact.
        n_matvecs: Products with H that it took.
        slopes: The gradient of M at the same point, which comes with the products.
    """

    values: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    n_matvecs: int
    slopes: Float[Tensor, " n"]


@of_metric
def diagonal(
    M: PatchedMetric,
    method: Method = "xdiag",
    n_matvecs: int = 32,
    seed: int = 0,
    alpha: Float[Tensor, " n"] | None = None,
) -> Diagonal:
    """The diagonal of the Hessian of M: twice the quadratic terms of all components.

    Args:
        M: The metric.
        method: ``"xdiag"`` removes the leading subspace that its probes find and estimates only
            the rest at random; ``"hutchinson"`` estimates all of it at random; ``"exact"`` takes
            one product for each component that differs between the two runs.
        n_matvecs: Products with H; an even number for ``"xdiag"``, which spends half of them on
            random probes and half on the subspace. Not used by ``"exact"``.
        seed: Seed of the random signs.
        alpha: Where the Hessian is taken; 0 by default.

    Raises:
        ValueError: An unknown method, or a number of products that the method cannot use.
        TypeError: The model runs in half precision.

    Source:
        Bekas et al. (2007) for Hutchinson's diagonal; Epperly, Tropp & Webber (2024) for XDiag.
    """
    _checks.one_of("method", method, get_args(Method))
    _checks.whole("n_matvecs", n_matvecs)
    _checks.seed(seed)
    moving = M.delta_norm > 0
    most = int(moving.sum(-1).max())
    if method == "exact" or n_matvecs >= most:
        # With as many products as components, each may as well have its own.
        slopes, values = _exact(M, moving, alpha)
        return Diagonal(values, torch.zeros_like(values), most, slopes)
    least, step = (4, 2) if method == "xdiag" else (2, 1)
    if n_matvecs < least or n_matvecs % step:
        raise ValueError(
            f"{method} needs {'an even number of' if step == 2 else 'a number of'} products of at "
            f"least {least}, not n_matvecs = {n_matvecs}."
        )
    probes = _random_signs(M, n_matvecs // step, seed) * moving[..., None]
    slopes, products = M.gradient_and_hessian(alpha)
    estimates = (_xdiag if method == "xdiag" else _hutchinson)(products, probes)
    error = estimates.std(dim=-1) / estimates.shape[-1] ** 0.5
    return Diagonal(estimates.mean(dim=-1), error, n_matvecs, slopes)


def _exact(M: PatchedMetric, moving: Tensor, alpha: Tensor | None) -> tuple[Tensor, Tensor]:
    """Slopes and curvatures."""
    if alpha is None:
        g = M.along_axes(0.0, order=2)
        return g.slope, g.curvature
    slopes, products = M.gradient_and_hessian(alpha)
    values = torch.zeros_like(M.delta_norm)
    moving = moving.reshape(-1, M.n).any(0)
    for part in moving.nonzero()[:, 0].split(_COLUMNS):
        axes = torch.zeros(M.n, len(part), dtype=values.dtype, device=values.device)
        axes[part, torch.arange(len(part))] = 1.0
        values[..., part] = products(axes)[..., part, torch.arange(len(part))]
    return slopes, values


def _hutchinson(products: Products, probes: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """One unbiased estimate of the diagonal for each probe w: w * H w."""
    return probes * products(probes)


def _xdiag(products: Products, probes: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """One unbiased estimate for each probe, the subspace being that of all the others.

    With Q an orthonormal basis of the products with the other probes, H = Q Q^T H + (the rest): of
    the first the diagonal is known, of the rest the one probe left out gives Hutchinson's estimate.
    """
    products_of_probes = products(probes)
    Q, R = torch.linalg.qr(products_of_probes)
    HQ = products(Q)
    estimates = []
    for i in range(probes.shape[-1]):
        # The basis without probe i lies in the span of Q: only its coordinates are needed.
        C = torch.linalg.qr(torch.cat([R[..., :i], R[..., i + 1 :]], dim=-1)).Q
        basis, image = Q @ C, HQ @ C
        w = probes[..., i : i + 1]
        rest = products_of_probes[..., i : i + 1] - basis @ (image.mT @ w)
        estimates.append((basis * image).sum(dim=-1) + (w * rest)[..., 0])
    return torch.stack(estimates, dim=-1)


def _random_signs(M: PatchedMetric, k: int, seed: int) -> Float[Tensor, "n k"]:
    # On the CPU, so that a seed means the same on every device.
    signs = torch.randint(0, 2, (M.n, k), generator=torch.Generator().manual_seed(seed))
    return (2 * signs - 1).to(M.delta_norm)


class RowNorms(NamedTuple):
    """The Euclidean norms of a Hessian's rows, as far as they are known.

    Attributes:
        values: ``|H_c|``, how fast the slope of component c changes when all patches change.
        error: Standard error of each.
        slopes: The gradient of M at 0, which comes with them.
    """

    values: Float[Tensor, " n"]
    error: Float[Tensor, " n"]
    slopes: Float[Tensor, " n"]


@of_metric
def row_norms(M: PatchedMetric, n_probes: int = 2, step: float = 0.01, seed: int = 0) -> RowNorms:
    """Norms of the rows of the Hessian of M at 0, from a single batch of gradients.

    For random signs w the squared entries of H w are, on average, the squared norms of the rows.
    Here H w is the difference of two gradients, (g(step w) - g(0)) / step: that is good to a few
    digits only, but all gradients go in one batch (if it has room), where products with H need a
    second pass, and a diagonal a third.

    Args:
        M: The metric.
        n_probes: Random directions; the squared norms are their means. Two will do to sort
            components by, not to know the norms.
        step: How far all patch strengths are moved. On two real models 0.01 made products that
            were good to a few percent or better, in float32 too.
        seed: Seed of the random signs.

    Raises:
        ValueError: Fewer than two probes, or a step outside (0, 1].
        TypeError: The model runs in half precision.
    """
    if _checks.steps("n_probes", n_probes) < 2:
        raise ValueError(f"Row norms need at least 2 probes, not n_probes = {n_probes}.")
    step = _checks.number("step", step, above=0, most=1)
    _checks.seed(seed)
    M.require_full_precision()
    signs = _random_signs(M, n_probes, seed).T
    points = torch.cat([torch.zeros_like(signs[:1]), step * signs])
    # Each prompt, where they are kept apart, goes to the same points.
    slopes = M.gradient(points.reshape(-1, *[1] * len(M.prompt_dims), M.n))
    squares = ((slopes[1:] - slopes[0]) / step).square()
    values = squares.mean(0).sqrt()
    # The root of a mean moves by half of what the mean does, over the root.
    error = squares.std(0) / n_probes**0.5 / (2 * values)
    return RowNorms(values, error.nan_to_num(0.0), slopes[0])


class LowRank(NamedTuple):
    """H by its leading eigenvalues: H is about ``vectors @ diag(values) @ vectors.T``.

    Attributes:
        values: Eigenvalues, the largest in magnitude first, ``[rank]``.
        vectors: Their eigenvectors as columns, ``[n, rank]``.
        n_matvecs: Products with H that it took.
    """

    values: Float[Tensor, " rank"]
    vectors: Float[Tensor, "n rank"]
    n_matvecs: int

    def diagonal(self) -> Float[Tensor, " n"]:
        """H_cc of every component."""
        return self.vectors.square() @ self.values

    def rows(self, components: Tensor) -> Float[Tensor, "m n"]:
        """Interactions of some components with all others."""
        components = _checks.indices("components", components, len(self.vectors))
        return self.vectors[components.to(self.vectors.device)] * self.values @ self.vectors.T

    def quadratic(self, alpha: Float[Tensor, "*batch n"]) -> Float[Tensor, "*batch"]:
        """The quadratic part of M at alpha: alpha^T H alpha / 2."""
        alpha = _checks.tensor("alpha", alpha, finite=True, truth_values=True).to(self.vectors)
        if alpha.ndim == 0 or alpha.shape[-1] != len(self.vectors):
            raise ValueError(
                f"alpha must have {len(self.vectors)} entries in its last dimension, not the shape "
                f"{tuple(alpha.shape)}."
            )
        return (alpha @ self.vectors).square() @ self.values / 2


@of_metric
def low_rank(
    M: PatchedMetric, rank: int = 8, seed: int = 0, alpha: Float[Tensor, " n"] | None = None
) -> LowRank:
    """The leading eigenvalues of the Hessian of M, by Lanczos iteration.

    Args:
        M: The metric.
        rank: How many, largest in magnitude.
        seed: Seed of the starting vector.
        alpha: Where the Hessian is taken; 0 by default.

    Raises:
        ValueError: ``rank`` is not between 1 and the number of components less one, or M is
            ``each`` of many prompts.
        TypeError: The model runs in half precision.

    Source:
        Lanczos (1950); ARPACK, through ``scipy.sparse.linalg.eigsh``.
    """
    require_one_metric(M)
    _checks.whole("rank", rank, 1, M.n - 1)
    _checks.seed(seed)
    (_, products), n_matvecs = M.gradient_and_hessian(alpha), 0

    def product(v: np.ndarray | Tensor) -> np.ndarray:
        nonlocal n_matvecs
        v = torch.from_numpy(np.asarray(v, dtype=np.float64).reshape(M.n, -1))
        n_matvecs += v.shape[1]
        return products(v.to(M.delta_norm)).double().cpu().numpy()

    # SciPy has no types: the class makes one of its subclasses, and a tolerance may be a float.
    operator = cast("Callable[..., LinearOperator]", LinearOperator)(
        (M.n, M.n), matvec=product, matmat=product, dtype=np.float64
    )
    start = np.random.default_rng(seed).standard_normal(M.n)
    # Beyond the rounding of the products there is nothing to converge to.
    tolerance = 10 * torch.finfo(M.delta_norm.dtype).eps
    values, vectors = eigsh(operator, rank, which="LM", v0=start, tol=cast("Any", tolerance))
    order = np.argsort(-np.abs(values))
    return LowRank(
        torch.from_numpy(values[order]).to(M.delta_norm),
        torch.from_numpy(np.ascontiguousarray(vectors[:, order])).to(M.delta_norm),
        n_matvecs,
    )


def require_one_metric(M: PatchedMetric) -> None:
    """Raise ValueError for the metrics of many prompts side by side."""
    if M.prompt_dims:
        raise ValueError(
            "This is made for one metric: take M of one prompt or the mean of many, not M.each."
        )


@of_metric
def spectrum(M: PatchedMetric, alpha: Float[Tensor, " n"] | None = None) -> Float[Tensor, " n"]:
    """All eigenvalues of the Hessian of M, the largest in magnitude first; n products.

    Raises:
        ValueError: So many components that the whole Hessian is no small matrix any more.
        TypeError: The model runs in half precision.
    """
    if M.n > _LARGEST:
        raise ValueError(
            f"The whole Hessian of {M.n} components takes {M.n} products and "
            f"{M.n**2 * 8 / 1e9:.1f} GB. Use low_rank for its leading eigenvalues."
        )
    H = M.hessian_matvec(torch.eye(M.n), alpha).double().cpu()
    values = torch.linalg.eigvalsh((H + H.mT) / 2)
    return values.gather(-1, values.abs().argsort(-1, descending=True)).to(M.delta_norm)


@of_metric
def hessian_operator(
    M: PatchedMetric, alpha: Float[Tensor, " n"] | None = None
) -> PyTorchLinearOperator:
    """The Hessian of M as a linear operator of curvlinops, for its algorithms and for SciPy's.

    Products with many vectors are made together: ``hessian_operator(M) @ V``.

    Raises:
        ModuleNotFoundError: curvlinops is not installed.
        TypeError: The model runs in half precision.
        ValueError: M is ``each`` of many prompts.
    """
    require_one_metric(M)
    try:
        from curvlinops._torch_base import PyTorchLinearOperator
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "hessian_operator needs curvlinops: pip install --no-deps curvlinops-for-pytorch "
            "einops einconv backpack-for-pytorch. The other functions of this module do not."
        ) from None
    _, products = M.gradient_and_hessian(alpha)

    class HessianOfM(PyTorchLinearOperator):
        SELF_ADJOINT = True
        # Properties there, which only raise until a subclass has values for them.
        device, dtype = M.delta_norm.device, M.delta_norm.dtype  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

        def _matmat(self, X: list[Tensor]) -> list[Tensor]:
            return [products(X[0])]

    return HessianOfM([(M.n,)], [(M.n,)])
