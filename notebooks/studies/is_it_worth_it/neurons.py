"""All neurons of a prompt: too many to patch, and few enough products serve them all.

True effects are known for a sample of each layer, from stored sweeps. A screen runs over *all*
neurons, and what it says of the sample is stored in ``results/worth``; ``screens`` computes what is
not there, in seconds a prompt. To compute a file anew, delete it and call ``screens``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from numpy import ndarray

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    load_model,
    make_prompts,
    model_sizes,
    row_screen,
)
from hvp_utils.reliability import screen
from hvp_utils.stats import top_k_relative_error
from hvp_utils.sweeps import provenance, sweep

from .. import common, prices
from .rules import patched, ratio

#: Products of a sketch; the first is cheap, the last good enough for R.
PRODUCTS = (8, 48)
#: The error is that on so many of the largest true effects of the sample.
TOP = 50
#: Shares of all neurons that are patched.
SHARES = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1)

KNOWN = ("activation_patching", "attribution_patching", "hvp", "local_curvature")
FOLLOWED = {
    "MS-HVP": ("ms_hvp:2", "ms_hvp:5"),
    "IG, midpoint": ("integrated_gradients:5:midpoint",),
    "IG, Gauss–Legendre": ("integrated_gradients:5:gausslegendre",),
}
#: Neurons before their activation function.
KIND = "neurons_pre"


@dataclass(frozen=True)
class Neurons:
    """A sample of the neurons of some prompts.

    Attributes:
        model: Its name.
        n: All neurons that were screened.
        held: Percent of the squared size of H in its eight largest eigenvalues, first prompt.
        values: By name, ``[prompt, neuron of the sample]``: f, f_ap, hvp, q, r, local (AP and the
            curvature of the neuron alone), q:8, q:48, and the methods of many steps, which are
            known for the largest true effects only.
    """

    model: str
    n: int
    held: float
    values: Mapping[str, ndarray]

    def __getitem__(self, name: str) -> ndarray:
        return self.values[name]


def measure(
    models: Sequence[str],
    n_prompts: int,
    n_per_layer: int,
    loaded: Mapping[str, object] | None = None,
    store: str = "results",
    device: str | None = None,
) -> list[Neurons]:
    """Everything that is known of a sample of neurons on the first IOI prompts.

    Args:
        models: Names.
        n_prompts: Prompts.
        n_per_layer: Neurons of each layer in the sample.
        loaded: Loaded models by name; those that are not there are loaded if something is missing.
        store: Folder of stored sweeps; that of the screens is ``worth`` in it.
        device: Where to load models.
    """
    found = []
    for name in models:
        options = dict(
            n_prompts=n_prompts, components=f"{KIND}:{n_per_layer}", store=store, device=device
        )
        known = sweep(name, "ioi", KNOWN, **options)
        many = [method for group in FOLLOWED.values() for method in group]
        few = sweep(name, "ioi", ("activation_patching", *many), top=TOP, **options)
        labels = known.label.values.astype(str)
        model = (loaded or {}).get(name)
        screened = screens(name, labels, n_prompts, model, Path(store) / "worth", device)
        values = {
            "f": known.activation_patching.values.astype(float),
            "f_ap": known.attribution_patching.values.astype(float),
            "hvp": known.hvp.values.astype(float),
            "local": known.local_curvature.values.astype(float),
        }
        values["q"] = values["hvp"] - values["f_ap"]
        values |= {key: screened[key].values.astype(float) for key in screened.data_vars}
        values |= {method: few[method].values.astype(float) for method in many}
        found.append(Neurons(name, int(screened.attrs["n"]), float(screened.attrs["held"]), values))
    return found


def screens(
    name: str,
    labels: Sequence[str],
    n_prompts: int,
    model: object | None = None,
    store: str | Path | None = "results/worth",
    device: str | None = None,
) -> xr.Dataset:
    """What screens of all neurons say of a sample, ``[prompt, neuron]``: q:8, q:48 and r.

    Args:
        name: The model.
        labels: Labels of the sample.
        n_prompts: IOI prompts.
        model: The model if it is loaded already.
        store: Folder of the files; None to store nothing.
        device: Where to load the model.
    """
    path = store and Path(store) / f"{name}__neurons__{n_prompts}.nc".replace("/", "--")
    identity = {"model": name, "prompts": n_prompts, "sample": len(labels)}

    def measured() -> xr.Dataset:
        loaded = model or load_model(name, device=device)
        rows, about = [], {}
        for i, pair in enumerate(make_prompts("ioi", loaded, n_prompts)):
            M = PatchedMetric(loaded, pair, KIND)
            place = {label: j for j, label in enumerate(M.labels)}
            sample = torch.tensor([place[label] for label in labels])
            found = {f"q:{k}": screen(M, k) for k in PRODUCTS} | {"r": row_screen(M)}
            rows.append({key: s.quadratic.cpu()[sample].numpy() for key, s in found.items()})
            if i == 0:
                about = {"n": M.n, "held": squared_size_held(M)}
        return xr.Dataset(
            {
                key: (("prompt", "component"), np.stack([row[key] for row in rows]))
                for key in rows[0]
            },
            coords={"label": ("component", np.asarray(labels, dtype=str))},
            attrs=dict(provenance(loaded)) | about,
        )

    return common.kept(path or None, identity, measured)


def squared_size_held(
    M: PatchedMetric, k: int = 8, n_inside: int = 24, n_outside: int = 16
) -> float:
    """Percent of the squared size of H in its k largest eigenvalues, from products.

    The leading subspace comes from ``n_inside`` products made together; what lies outside it is
    estimated from random signs.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (M.n, n_inside + n_outside), generator=generator)
    signs = (2 * signs - 1).to(M.delta_norm.dtype)
    V = torch.linalg.qr(M.hessian_matvec(signs[:, :n_inside]).cpu()).Q
    image = M.hessian_matvec(V).cpu()
    inner = V.T @ image
    squares = torch.linalg.eigvalsh((inner + inner.T) / 2).square().sort(descending=True).values
    outside = signs[:, n_inside:] - V @ (V.T @ signs[:, n_inside:])
    rest = M.hessian_matvec(outside).square().sum(0).mean().item()
    return 100 * squares[:k].sum().item() / (image.square().sum().item() + rest)


def errors_of_terms(measured: Sequence[Neurons]) -> pd.DataFrame:
    """Errors of quadratic terms on the sample, and how well R from a sketch finds what R finds.

    Returns:
        Columns model, neurons, an error for each way to get q (2-norm, percent, mean over prompts),
        held (percent of the squared size of H in eight eigenvalues), recall and precision of
        R > 0.1 among neurons with at least 1 % of the largest effect, in percent.
    """
    rows = []
    for run in measured:
        ways = {f"error, {k} products": run[f"q:{k}"] for k in PRODUCTS}
        ways["error, neuron alone"] = run["local"] - run["f_ap"]
        matters = np.abs(run["f"]) >= 0.01 * np.abs(run["f"]).max(1, keepdims=True)
        exact, guess = (ratio(run, run[key]) > 0.1 for key in ("q", f"q:{PRODUCTS[-1]}"))
        hits = (exact & guess & matters).sum()
        rows.append(
            {
                "model": run.model,
                "neurons": run.n,
                **{
                    way: np.mean(
                        100
                        * np.linalg.norm(q - run["q"], axis=1)
                        / np.linalg.norm(run["q"], axis=1)
                    )
                    for way, q in ways.items()
                },
                "held": run.held,
                "recall": 100 * hits / (exact & matters).sum(),
                "precision": 100 * hits / (guess & matters).sum(),
            }
        )
    return pd.DataFrame(rows)


FIRST = "AP, then patch the largest |f_AP|"
SKETCHED = f"{PRODUCTS[0]} products, then patch the largest |f_AP| + |q|"
ROWS = "2 differences, then patch the largest |f_AP| + r"
LOCAL = "AP + curvature of the neuron alone, then patch the largest"


def front(measured: Sequence[Neurons], shares: Sequence[float] = SHARES) -> pd.DataFrame:
    """Error on the largest neurons of the sample against the price for all neurons.

    Returns:
        Columns model, task, series, point (share patched, or the method), percent (counted
        operations, of patching every neuron), prompt, error (percent of the range).
    """
    rows = []
    for run in measured:
        sizes = model_sizes(run.model)
        plain = {
            "AP": (("attribution_patching", run["f_ap"]),),
            f"AP + sketched q, {PRODUCTS[0]} to {PRODUCTS[-1]} products": tuple(
                (f"sketched_hvp:{k}", run["f_ap"] + run[f"q:{k}"]) for k in PRODUCTS
            ),
            "AP + curvature of the neuron alone": (("local_curvature", run["local"]),),
            "HVP": (("hvp", run["hvp"]),),
            **{
                series: tuple((method, run[method]) for method in group)
                for series, group in FOLLOWED.items()
            },
        }
        first = np.abs(run["f_ap"])
        sorting = {
            FIRST: ("attribution_patching", first),
            SKETCHED: (f"sketched_hvp:{PRODUCTS[0]}", first + np.abs(run[f"q:{PRODUCTS[0]}"])),
            ROWS: ("row_norms:2", first + run["r"]),
            LOCAL: ("local_curvature", first + np.abs(run["local"] - run["f_ap"])),
        }
        methods = {method for group in plain.values() for method, _ in group} | {
            method for method, _ in sorting.values()
        }
        counts = prices.counted(sizes, sorted(methods), components=KIND).set_index("method")
        for series, points in plain.items():
            for method, estimate in points:
                errors = top_k_relative_error(estimate, run["f"], TOP)
                rows += _points(run.model, series, method, counts.percent[method], errors)
        for series, (method, size) in sorting.items():
            for share in shares:
                m = math.ceil(share * size.shape[1])
                errors = top_k_relative_error(patched(run, size, m), run["f"], TOP)
                percent = counts.percent[method] + 100 * share
                rows += _points(run.model, series, share, percent, errors)
    columns = ["model", "task", "series", "point", "percent", "prompt", "error"]
    return pd.DataFrame(rows, columns=columns)


def _points(model: str, series: str, point: object, percent: float, errors: ndarray) -> list[tuple]:
    return [
        (model, "ioi", series, str(point), percent, prompt, error)
        for prompt, error in enumerate(errors)
    ]


def timing(
    model: object, pair: object, repeats: int = 2, sample: int = 128
) -> tuple[pd.DataFrame, int]:
    """Seconds of screens of all neurons, and of patching some of them exactly.

    Returns:
        What ``prices.timed`` gives, "patching all" being the seconds of ``sample`` neurons times
        the number of such samples; and how many neurons there are.
    """
    M = PatchedMetric(model, pair, KIND)
    some = torch.linspace(0, M.n - 1, min(sample, M.n)).long()
    measured = prices.timed(
        {
            "activation_patching": lambda: activation_patching(M, some),
            "attribution_patching": M.gradient,
            "row_norms:2": lambda: row_screen(M),
            f"sketched_hvp:{PRODUCTS[-1]}": lambda: screen(M, PRODUCTS[-1]),
        },
        repeats,
        warm_up=False,
    )
    all_of_them = measured.method == "activation_patching"
    for column in ("seconds", "fastest", "slowest"):
        measured.loc[all_of_them, column] *= M.n / len(some)
    return measured, M.n


def front_title(points: pd.DataFrame, share: float = 0.02) -> str:
    """What the figure says: the error after some patches, of the model where it is largest."""
    worst = points[points.point == str(share)].groupby(["series", "model"]).error.mean()
    worst = worst.groupby("series").max()
    return (
        f"{100 * share:g} % of all neurons patched: {worst[ROWS]:.2f} % error with a second term, "
        f"{worst[FIRST]:.2f} % without"
    )
