"""Effects of SAE features and what the estimators make of them, prompt by prompt, kept in files.

What is decided before anything is looked at stands here in capitals.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import (
    PatchedMetric,
    SAEFeatures,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    make_prompts,
    ms_hvp,
    row_screen,
)
from hvp_utils.curvature import diagonal
from hvp_utils.plans import ModelSizes
from hvp_utils.saes import SAE
from hvp_utils.stats import Interval, bootstrap_ci, top_k_relative_error
from hvp_utils.sweeps import provenance

from .. import common
from .dictionaries import digest, frame

__all__ = [
    "LARGEST",
    "PRODUCTS",
    "WIDE",
    "WIDE_PRODUCTS",
    "measure",
    "measure_positions",
    "measure_wide",
    "of_heads",
    "one_prompt",
]

TASK, SEED = "ioi", 0
#: Products with the Hessian in a sketch.
PRODUCTS = (16, 32, 64)
#: So many of a prompt's features, those with the largest true effects, get estimators that need
#: several points on the path; the error does too.
LARGEST = 20
#: Directions of the wide random dictionary: as many as the paper's SAEs have features.
WIDE = 24_576
WIDE_PRODUCTS = (16, 32, 64, 128)
#: Of these so many are measured one by one: the largest by attribution patching, and some at random.
WIDE_LARGEST, WIDE_RANDOM = 50, 150
_FORMAT = 1


def one_prompt(M: PatchedMetric, sketched: bool, on_path: bool) -> dict[str, np.ndarray]:
    """All that is stored of one prompt, an array [component] each.

    ``truth``, ``AP``, ``HVP`` and ``length`` (of the patch) of every component; if ``sketched``,
    ``sketch_k``, the quadratic term from k products, and ``screen``, what ``row_screen`` says of its
    size; if ``on_path``, ``MS-HVP`` (five steps) and ``slopes`` (five, Gauss-Legendre) of the
    largest and of the error, NaN elsewhere.
    """
    truth, at_base = activation_patching(M), M.along_axes(0.0, order=2)
    found = {"truth": truth, "AP": at_base.slope, "HVP": at_base.slope + at_base.curvature / 2}
    found["length"] = M.delta_norm
    if sketched:
        for k in PRODUCTS:
            found[f"sketch_{k}"] = diagonal(M, "xdiag", k).values / 2
        found["screen"] = row_screen(M).quadratic
    if on_path:
        errors = torch.tensor([label.partition(".")[2] != "" for label in M.labels])
        size = truth.abs().cpu().masked_fill(errors, torch.inf)
        chosen = size.argsort(descending=True)[: LARGEST + int(errors.sum())].sort().values
        for name, value in {
            "MS-HVP": ms_hvp(M, 5, components=chosen),
            "slopes": integrated_gradients(M, 5, "gausslegendre", components=chosen),
        }.items():
            found[name] = torch.full_like(truth, torch.nan)
            found[name][chosen] = value
    return {name: value.float().cpu().numpy() for name, value in found.items()}


def _numbers(M: PatchedMetric) -> np.ndarray:
    """The feature of every component; -1 for the error."""
    names = [label.partition("P")[0] for label in M.labels]
    return np.array([int(n.partition("F")[2]) if "F" in n else -1 for n in names], dtype=np.int32)


def _joined(
    parts: list[tuple[PatchedMetric, dict[str, np.ndarray]]],
) -> tuple[dict[str, tuple], dict[str, tuple]]:
    """Components of all prompts one after another, and what is known of each prompt."""
    names = list(dict.fromkeys(name for _, part in parts for name in part))
    rows = {
        name: (
            "row",
            np.concatenate([p.get(name, np.full(M.n, np.nan, np.float32)) for M, p in parts]),
        )
        for name in names
    }
    rows["prompt"] = (
        "row",
        np.concatenate([np.full(M.n, i, np.int16) for i, (M, _) in enumerate(parts)]),
    )
    rows["feature"] = "row", np.concatenate([_numbers(M) for M, _ in parts])
    each = {
        name: ("prompts", np.array([getattr(M, name) for M, _ in parts]))
        for name in ("base", "other", "n", "n_tokens", "n_run")
    }
    return rows, each


def measure(
    model: str | TransformerBridge,
    sae: SAE,
    n_prompts: int = 50,
    n_sketched: int = 20,
    n_on_path: int = 10,
    kind: str = "features",
    store: str | Path | None = "results/saes",
    device: str | None = None,
) -> xr.Dataset:
    """The features of an SAE on prompts of indirect object identification, denoising.

    Args:
        model: A name, or a model.
        sae: The SAE.
        n_prompts: How many prompts.
        n_sketched: On so many of them curvatures are sketched too.
        n_on_path: On so many of them there are estimators with several points.
        kind: Of the dictionary, for the name of the file.
        store: Folder of the files, or None.
        device: Where to load a model that is given by name.

    Returns:
        [row], a row for each prompt and component: ``prompt``, ``feature`` (-1: the error) and what
        ``one_prompt`` returns. [prompts]: ``base``, ``other``, ``n``, ``n_tokens``, ``n_run``, and
        ``explained``, the effect of all features together without the error.
    """
    path, identity = _place(model, sae, f"{kind}-{n_prompts}", store)
    identity |= {"n_prompts": n_prompts, "n_sketched": n_sketched, "n_on_path": n_on_path}

    def run() -> xr.Dataset:
        bridge = common.loaded(model, device)
        pairs, parts, explained = make_prompts(TASK, bridge, n_prompts, seed=SEED), [], []
        for i, pair in enumerate(tqdm(pairs, desc=f"{kind}, {sae.hook}")):
            M = PatchedMetric(bridge, pair, SAEFeatures(sae))
            parts.append((M, one_prompt(M, i < n_sketched, i < n_on_path)))
            features = torch.from_numpy(_numbers(M) >= 0).to(M.delta_norm)
            explained.append(M(features).item() - M.base)
        rows, each = _joined(parts)
        each["explained"] = "prompts", np.array(explained)
        return xr.Dataset(rows | each, attrs=provenance(bridge))

    return common.kept(path, identity, run)


def measure_positions(
    model: str | TransformerBridge,
    sae: SAE,
    n_prompts: int = 5,
    store: str | Path | None = "results/saes",
    device: str | None = None,
) -> xr.Dataset:
    """The same with a component for each feature and position; ``truth``, ``AP``, ``HVP``."""
    path, identity = _place(model, sae, f"positions-{n_prompts}", store)
    identity |= {"n_prompts": n_prompts}

    def run() -> xr.Dataset:
        bridge = common.loaded(model, device)
        parts = []
        for pair in tqdm(make_prompts(TASK, bridge, n_prompts, seed=SEED), desc="positions"):
            M = PatchedMetric(bridge, pair, SAEFeatures(sae, per_position=True))
            parts.append((M, one_prompt(M, False, False)))
        rows, each = _joined(parts)
        return xr.Dataset(rows | each, attrs=provenance(bridge))

    return common.kept(path, identity, run)


def measure_wide(
    model: str | TransformerBridge,
    hook: str,
    sizes: tuple[int, ...] = (4096, WIDE),
    n_largest: int = WIDE_LARGEST,
    n_random: int = WIDE_RANDOM,
    products: tuple[int, ...] = WIDE_PRODUCTS,
    store: str | Path | None = "results/saes",
    device: str | None = None,
) -> xr.Dataset:
    """Tens of thousands of features at once: random dictionaries, most of which are active.

    On the first prompt. Curvatures and effects are exact for the largest by attribution patching
    and some at random.

    Returns:
        [dictionary, sample]: ``truth``, ``AP``, ``curvature`` (half of g''), ``largest`` (whether
        it is there for its size); [dictionary, products, sample]: ``sketch``; [dictionary]: ``n``,
        the components.
    """
    path, identity = _place(model, None, f"wide__{hook}", store)
    identity |= {"sizes": " ".join(map(str, sizes)), "products": " ".join(map(str, products))}
    identity |= {"n_largest": n_largest, "n_random": n_random}

    def run() -> xr.Dataset:
        bridge = common.loaded(model, device)
        pair = make_prompts(TASK, bridge, 1, seed=SEED)[0]
        names = ("truth", "AP", "curvature", "largest", "sketch", "n", "screen")
        found: Mapping[str, list] = {name: [] for name in names}
        for n in sizes:
            sae = frame(ModelSizes.of(bridge), hook, n)
            M = PatchedMetric(bridge, pair, SAEFeatures(sae))
            ap = attribution_patching(M)[:-1]
            order = ap.abs().argsort(descending=True).cpu()
            rest = order[n_largest:]
            rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(SEED))]
            which = torch.cat([order[:n_largest], rest[:n_random]])
            found["truth"].append(activation_patching(M, which))
            found["AP"].append(ap[which])
            found["curvature"].append(M.along_axes(0.0, 2, which).curvature / 2)
            found["largest"].append(torch.arange(len(which)) < n_largest)
            sketches = [diagonal(M, "xdiag", k).values[which] / 2 for k in products]
            found["sketch"].append(torch.stack(sketches))
            found["screen"].append(row_screen(M).quadratic[which])
            found["n"].append(M.n)
        stacked = {k: torch.stack(v).cpu().numpy() for k, v in found.items() if k != "n"}
        dims = ("dictionary", "sample")
        return xr.Dataset(
            {k: (dims, v) for k, v in stacked.items() if k != "sketch"}
            | {"sketch": (("dictionary", "products", "sample"), stacked["sketch"])}
            | {"n": ("dictionary", found["n"])},
            coords={"dictionary": list(sizes), "products": list(products)},
            attrs=provenance(bridge) | {"n_tokens": M.n_tokens, "n_run": M.n_run},
        )

    return common.kept(path, identity, run)


def of_heads(model: str, n_prompts: int = 50, device: str | None = None) -> dict[str, Interval]:
    """For comparison: the top-5 relative error of AP and HVP on the heads of the same prompts.

    From the stored sweep of the task; in percent, means over prompts with intervals.
    """
    named = {"AP": "attribution_patching", "HVP": "hvp"}
    methods = ["activation_patching", *named.values()]
    sweeps = common.load([model], [TASK], methods, n_prompts, device=device)
    data = sweeps[model, TASK]
    truth = data.activation_patching.values.astype(float)
    return {
        name: bootstrap_ci(top_k_relative_error(data[method].values.astype(float), truth))
        for name, method in named.items()
    }


def _place(
    model: str | TransformerBridge, sae: SAE | None, kind: str, store: str | Path | None
) -> tuple[Path | None, dict[str, object]]:
    """Where a result lies, and what its file has to say of itself."""
    name = common.name_of(model)
    identity = {"format": _FORMAT, "model": name, "task": TASK, "seed": SEED, "kind": kind}
    file = f"{name.replace('/', '--')}__{kind}.nc"
    if sae is not None:
        identity |= {"hook": sae.hook, "sae": digest(sae)}
        file = f"{name.replace('/', '--')}__{sae.hook}__{kind}.nc"
    return None if store is None else Path(store) / file, identity
