"""All curvatures from a few products: is the Hessian of low rank, and how far off is a sketch?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr

from hvp_utils import PatchedMetric, activation_patching, sweep
from hvp_utils.curvature import Diagonal, diagonal
from hvp_utils.sweeps import provenance

from .. import common
from .rules import PRODUCTS, TASKS, Scored

#: Where spectra are stored: task, components and direction, by the name on the page.
PLACES = {
    "heads, IOI": ("ioi", "heads", "denoising"),
    "heads, IOI, noising": ("ioi", "heads", "noising"),
    "heads, Greater-Than": ("greater_than_01", "heads", "denoising"),
    "heads, Factual": ("factual", "heads", "denoising"),
    "MLP outputs, IOI": ("ioi_one_template", "mlp_out", "denoising"),
    "residual stream, IOI": ("ioi_one_template", "resid", "denoising"),
}


def spectra(
    models: Sequence[str],
    n_prompts: int,
    most: int = 32,
    store: str = "results",
    device: str | None = None,
) -> pd.DataFrame:
    """Squared size of H that lies in its k largest eigenvalues.

    Returns:
        Columns model, place, prompt, k, held (percent).
    """
    rows = []
    for model in models:
        for place, (task, components, direction) in PLACES.items():
            data = sweep(
                model,
                task,
                ("hessian_eigenvalues",),
                n_prompts=n_prompts,
                components=components,
                direction=direction,
                store=store,
                device=device,
            )
            for prompt, held in enumerate(held_by_largest(data.hessian_eigenvalues.values, most)):
                rows += [(model, place, prompt, k, share) for k, share in enumerate(held, start=1)]
    return pd.DataFrame(rows, columns=["model", "place", "prompt", "k", "held"])


def held_by_largest(eigenvalues: np.ndarray, most: int) -> np.ndarray:
    """Percent of the squared size in the first 1, 2, ... eigenvalues, ``[prompt, k]``."""
    squares = np.asarray(eigenvalues, dtype=float) ** 2
    beyond = squares.sum(1, keepdims=True) - squares.cumsum(1)[:, :most]
    return 100 - 100 * np.maximum(beyond, 0) / squares.sum(1, keepdims=True)


def spectra_table(found: pd.DataFrame, ks: Sequence[int] = (1, 2, 4, 8, 16)) -> pd.DataFrame:
    """Medians over prompts for some k, and the worst prompt for eight."""
    part = found[found.k.isin(ks)]
    table = part.pivot_table(
        index=["model", "place"], columns="k", values="held", aggfunc="median", sort=False
    )
    worst = found[found.k == 8].groupby(["model", "place"], sort=False).held.min()
    return table.assign(**{"8, worst prompt": worst}).reset_index()


# --- the reference pair: the whole Hessian -------------------------------------------------------


class KnownHessian:
    """A matrix in the place of a metric: what ``diagonal`` asks for, and nothing else."""

    def __init__(self, H: torch.Tensor):
        self.H, self.n, self.delta_norm = H, len(H), torch.ones(len(H), dtype=H.dtype)

    def gradient_and_hessian(self, alpha=None):
        """A gradient of 0, and products with the matrix."""
        return torch.zeros(self.n, dtype=self.H.dtype), lambda V: self.H @ V


class Known(NamedTuple):
    """What is known of every component of one metric, in double precision on the CPU.

    Attributes:
        H: The whole Hessian at 0.
        truth: Exact effects.
        slope: First-order effects.
        q: Quadratic terms.
    """

    H: torch.Tensor
    truth: torch.Tensor
    slope: torch.Tensor
    q: torch.Tensor


def hessian(M: PatchedMetric) -> torch.Tensor:
    """The whole Hessian of a metric at 0, from n products."""
    H = M.hessian_matvec(torch.eye(M.n)).double().cpu()
    return (H + H.T) / 2


def everything(name: str, M: PatchedMetric, store: str | Path | None = "results/worth") -> Known:
    """The whole Hessian and all effects of the reference pair, stored; delete the file to redo it.

    Args:
        name: The model.
        M: The metric of the reference pair.
        store: Folder of the files; None to store nothing.
    """
    path = store and Path(store) / f"{name}__reference_pair.nc".replace("/", "--")
    identity = {"model": name, "components": ",".join(M.labels)}

    def measured() -> xr.Dataset:
        at_0 = M.along_axes(0.0)
        found = {
            "truth": activation_patching(M),
            "slope": at_0.slope,
            "q": at_0.curvature / 2,
        }
        variables = {key: ("component", v.float().cpu().numpy()) for key, v in found.items()}
        variables["H"] = (("component", "other"), hessian(M).float().numpy())
        return xr.Dataset(variables, attrs=dict(provenance(M.model)))

    data = common.kept(path or None, identity, measured)
    return Known(*(torch.tensor(data[key].values).double() for key in Known._fields))


def sketches(
    H: torch.Tensor,
    ks: Sequence[int] = PRODUCTS,
    methods: Sequence[str] = ("hutchinson", "xdiag"),
    n_seeds: int = 10,
    more: Mapping[int, int] | None = None,
) -> dict[tuple[str, int], list[Diagonal]]:
    """Sketches of a known matrix over seeds, by method and number of products.

    ``more`` gives another number of seeds for some numbers of products; by default 20 for 48.
    """
    more = {48: 20} if more is None else more
    return {
        (method, k): [
            diagonal(KnownHessian(H), method, k, seed) for seed in range(more.get(k, n_seeds))
        ]
        for method in methods
        for k in ks
    }


def relative_error(values: torch.Tensor, exact: torch.Tensor) -> float:
    """In the 2-norm, in percent."""
    return (100 * (values - exact).norm() / exact.norm()).item()


def over_seeds(
    hessians: Mapping[str, torch.Tensor], found: Mapping[str, Mapping[tuple[str, int], list]]
) -> pd.DataFrame:
    """Error of each sketch, and how many of its values lie within two of its standard errors.

    Args:
        hessians: By model.
        found: What ``sketches`` returns, by model.

    Returns:
        Columns model, method, k, seed, error (2-norm, percent), inside (percent of components).
    """
    rows = []
    for model, H in hessians.items():
        exact = H.diagonal()
        for (method, k), made in found[model].items():
            for seed, s in enumerate(made):
                inside = ((s.values - exact).abs() <= 2 * s.error).double().mean().item()
                error = relative_error(s.values, exact)
                rows.append((model, method, k, seed, error, 100 * inside))
    return pd.DataFrame(rows, columns=["model", "method", "k", "seed", "error", "inside"])


def flags_found(known: Known, made: Sequence[Diagonal], tau: float = 0.1) -> tuple[float, float]:
    """Median recall and precision of R > tau from sketches, among components that matter.

    A component matters if its effect is at least 1 % of the largest.
    """
    matters = known.truth.abs() >= 0.01 * known.truth.abs().max()
    flags = known.q.abs() > tau * known.slope.abs()
    seen = []
    for s in made:
        guess = (s.values / 2).abs() > tau * known.slope.abs()
        hits = (guess & flags & matters).sum().item()
        of, among = (flags & matters).sum().item(), (guess & matters).sum().item()
        seen.append((hits / max(of, 1), hits / max(among, 1)))
    recall, precision = np.median(seen, axis=0)
    return float(recall), float(precision)


def difference_error(M: PatchedMetric, H: torch.Tensor, w: torch.Tensor, step: float = 0.01):
    """How far a difference of gradients is from the product H w: 2-norm, percent."""
    at_start, there = M.gradient(torch.stack([0 * w, step * w]))
    return relative_error((there - at_start).double().cpu() / step, H @ w.double())


def hidden_from_score(labels: Sequence[str], known: Known, tau: float = 0.1) -> dict:
    """The component with the largest error of AP among those that R does not flag.

    Returns:
        head, truth, AP, error (percent of the truth), q, R, its places by R and by |f_AP| + |q|,
        and how many there are.
    """
    _, truth, slope, q = known
    score = (q.abs() / slope.abs()).nan_to_num(0.0)
    worst = int(((truth - slope).abs() * (score < tau)).argmax())
    by_R, by_size = (
        size.argsort(descending=True).tolist().index(worst) + 1
        for size in (score, slope.abs() + q.abs())
    )
    return {
        "head": labels[worst],
        "truth": truth[worst].item(),
        "AP": slope[worst].item(),
        "error": (100 * (slope - truth).abs() / truth.abs())[worst].item(),
        "q": q[worst].item(),
        "R": score[worst].item(),
        "by R": by_R,
        "by size": by_size,
        "heads": len(labels),
    }


# --- many prompts --------------------------------------------------------------------------------


def stored_errors(runs: Sequence[Scored], ks: Sequence[int] = PRODUCTS) -> pd.DataFrame:
    """Errors of stored sketches, one seed a prompt.

    Returns:
        Columns model, task, prompt, k, error (2-norm over all heads, percent).
    """
    rows = []
    for run in runs:
        size = np.linalg.norm(run["q"], axis=1)
        for k in ks:
            errors = 100 * np.linalg.norm(run[f"q:{k}"] - run["q"], axis=1) / size
            rows += [(run.model, run.task, i, k, error) for i, error in enumerate(errors)]
    return pd.DataFrame(rows, columns=["model", "task", "prompt", "k", "error"])


def stored_errors_table(found: pd.DataFrame) -> pd.DataFrame:
    """Median (and largest) error of each setting, a column for each number of products."""
    cells = found.groupby(["model", "task", "k"], sort=False).error.agg(
        lambda errors: f"{errors.median():.1f} ({errors.max():.0f})"
    )
    table = cells.unstack("k", sort=False).reset_index()
    return table.replace({"task": TASKS})
