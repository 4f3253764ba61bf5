"""Bounds on what was missed, and the truth beside them.

What is decided before anything is looked at stands here in capitals.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    make_prompts,
    reference_pair,
)
from hvp_utils.reliability import missed_bound, row_screen
from hvp_utils.sweeps import provenance

from .. import common

__all__ = [
    "CONFIDENCE",
    "CONTROLS",
    "EVERY",
    "HEADS_SHOWN",
    "HEADS_SUBSETS",
    "KINDS",
    "SHARES",
    "SHOWN",
    "SOME",
    "SUBSETS",
    "Remembered",
    "coverage",
    "exact",
    "left_out",
    "measure",
]

CONFIDENCE = 0.95
#: What is taken out of each subset's effect: nothing, as in the source, or attribution patching.
CONTROLS = ("none", "attribution patching")
KINDS = ("neurons_pre", "edges")
#: Of neurons and edges so many are looked at, those that ``row_screen`` takes for the largest.
SHOWN = 100
#: Numbers of subsets. The first of them are those of the smaller numbers.
SUBSETS = (150, 300, 600)
#: Share of the components in a subset: of neurons and edges, and of heads, of which there are few.
SHARES = {"neurons_pre": 0.02, "edges": 0.02, "heads": 0.05}
#: Of heads, on many prompts: this share is looked at, the largest by attribution patching.
HEADS_SHOWN = 0.1
HEADS_SUBSETS = (50, 100, 200)
#: Up to so many components are all patched exactly, to have the truth. Of more: what is shown, the
#: next ``SOME`` largest by the same screen, and ``SOME`` at random. The neurons of the book's model
#: are worth ten minutes, once; with Gemma's vocabulary, five times as large, it would be hours.
EVERY, SOME = 1_000, 500
ALL_THE_SAME = {(common.BOOK_MODEL, "neurons_pre"): 50_000}
_FORMAT = 1


class Remembered:
    """M that runs no point twice.

    The subsets of one seed are the same for every control, and the first ones for every number of
    them.
    """

    def __init__(self, M: PatchedMetric):
        self._M, self._known = M, {}

    def __getattr__(self, name: str) -> object:
        return getattr(self._M, name)

    def __call__(self, alpha: Tensor) -> Tensor:
        """M at each point."""
        keys = [row.nonzero().numpy().tobytes() for row in alpha.cpu()]
        new = [i for i, key in enumerate(keys) if key not in self._known]
        if new:
            values = self._M(alpha[new])
            self._known |= {keys[i]: value for i, value in zip(new, values, strict=True)}
        return torch.stack([self._known[key] for key in keys])


def exact(
    model: str | TransformerBridge,
    kind: str,
    pair: PromptPair | None = None,
    n_shown: int = SHOWN,
    every: int | None = None,
    some: int = SOME,
    store: str | Path | None = "results/missed",
    device: str | None = None,
) -> xr.Dataset:
    """Exact effects on one prompt pair: of all components, or of those where a large one may be.

    Args:
        model: A name, or a model.
        kind: Of components.
        pair: The reference pair by default.
        n_shown: How many are looked at.
        every: Up to so many components are all patched; by default ``EVERY``.
        some: Of more, so many that follow in the screen's order, and as many at random.
        store: Folder of the files, or None.
        device: Where to load a model that is given by name.

    Returns:
        ``number`` and ``effect`` [patched] of what was patched, ``shown`` [shown], the numbers of
        what the screen puts first, and attributes ``n``, ``n_tokens``, ``n_run``, ``n_layers``.
    """
    every = ALL_THE_SAME.get((model, kind), EVERY) if every is None else every
    path, identity = _place(model, kind, "exact", store, pair)
    identity |= {"n_shown": n_shown, "every": every, "some": some}

    def run() -> xr.Dataset:
        bridge, M = _metric(model, kind, pair, device)
        order = row_screen(M).size.argsort(descending=True, stable=True).cpu()
        which = torch.arange(M.n)
        if M.n > every:
            rest = order[n_shown + some :]
            rest = rest[torch.randperm(len(rest), generator=torch.Generator().manual_seed(0))]
            which = torch.cat([order[: n_shown + some], rest[:some]]).sort().values
        effects = activation_patching(M, which).float().cpu().numpy()
        return xr.Dataset(
            {
                "number": ("patched", which.numpy().astype(np.int32)),
                "effect": ("patched", effects),
                "shown": ("shown", order[:n_shown].numpy().astype(np.int32)),
            },
            attrs=provenance(bridge) | {"n": M.n, "n_tokens": M.n_tokens, "n_run": M.n_run},
        )

    return common.kept(path, identity, run)


def measure(
    model: str | TransformerBridge,
    kind: str,
    pair: PromptPair | None = None,
    subsets: Sequence[int] = SUBSETS,
    seed: int = 0,
    store: str | Path | None = "results/missed",
    device: str | None = None,
    **options,
) -> xr.Dataset:
    """Bounds on what was missed among all components of a kind, on one prompt pair.

    Args:
        model: A name, or a model.
        kind: Of components.
        pair: The reference pair by default.
        subsets: Numbers of subsets.
        seed: Seed of the subsets.
        store: Folder of the files, or None.
        device: Where to load a model that is given by name.
        options: Those of ``exact``.

    Returns:
        What ``exact`` returns, and [control, n_subsets]: ``bound``, ``where`` (its component),
        ``inclusions`` (the fewest), ``error`` (the median standard error), and ``covered``: of what
        was patched and not shown, the share of effects below their own bounds. ``size`` is that of
        the subsets, ``batch_size`` the runs in a batch.
    """
    truth = exact(model, kind, pair, store=store, device=device, **options)
    path, identity = _place(model, kind, "bounds", store, pair)
    identity |= {"seed": seed, "subsets": " ".join(map(str, subsets)), "p": SHARES[kind]}
    identity |= {"n_shown": len(truth.shown), "confidence": CONFIDENCE}

    def run() -> xr.Dataset:
        bridge, M = _metric(model, kind, pair, device)
        M, ap = Remembered(M), attribution_patching(M)
        shown = truth.shown.values.tolist()
        unseen = ~np.isin(truth.number.values, shown)
        known, effect = truth.number.values[unseen], np.abs(truth.effect.values[unseen])
        names = ("bound", "where", "inclusions", "error", "covered")
        found = {name: [] for name in names}
        for control in (None, ap):
            for m in sorted(subsets, reverse=True):  # the most first: the others are among them
                b = missed_bound(M, shown, m, SHARES[kind], CONFIDENCE, control, seed=seed)
                drawn = b.inclusions > 0
                covered = (b.upper.cpu().numpy()[known] >= effect).mean()
                values = (b.bound, M.labels[b.component], int(b.inclusions[drawn].min()))
                values += (b.error[drawn.to(b.error.device)].median().item(), covered)
                for name, value in zip(names, values, strict=True):
                    found[name].append(value)
        shape, dims = (len(CONTROLS), len(subsets)), ("control", "n_subsets")
        return xr.Dataset(
            {name: (dims, np.reshape(values, shape)) for name, values in found.items()},
            coords={"control": list(CONTROLS), "n_subsets": sorted(subsets, reverse=True)},
            attrs=provenance(bridge) | {"size": b.size, "batch_size": M.batch_size},
        ).sortby("n_subsets")

    bounds = common.kept(path, identity, run)
    return xr.merge([truth, bounds], combine_attrs="override").assign_attrs(
        bounds.attrs | truth.attrs
    )


def coverage(
    model: str | TransformerBridge,
    task: str = "ioi",
    n_prompts: int = 5,
    n_seeds: int = 10,
    subsets: Sequence[int] = HEADS_SUBSETS,
    store: str | Path | None = "results/missed",
    device: str | None = None,
) -> xr.Dataset:
    """Bounds for the heads of many prompts, each with many seeds, beside the truth.

    Of heads all effects are known, so the bound can be seen to fail. (Nobody needs it there: with
    as many runs all heads can be patched.)

    Args:
        model: A name, or a model.
        task: A key of ``TASKS``.
        n_prompts: How many of its prompts.
        n_seeds: Draws of subsets on each.
        subsets: Numbers of subsets.
        store: Folder of the files, or None.
        device: Where to load a model that is given by name.

    Returns:
        ``bound`` and ``own`` (the bound of the component with the largest missed effect by itself)
        [prompt, seed, control, n_subsets]; ``missed`` and ``largest`` [prompt], the largest effect
        that was not shown, and of all.
    """
    path, identity = _place(model, "heads", f"{task}__coverage", store)
    identity |= {
        "n_prompts": n_prompts,
        "n_seeds": n_seeds,
        "subsets": " ".join(map(str, subsets)),
        "p": SHARES["heads"],
        "share_shown": HEADS_SHOWN,
        "confidence": CONFIDENCE,
    }

    def run() -> xr.Dataset:
        bridge = common.loaded(model, device)
        most = sorted(subsets, reverse=True)
        shape = (n_prompts, n_seeds, len(CONTROLS), len(most))
        bound, own = np.full(shape, np.nan), np.full(shape, np.nan)
        missed, largest = np.full(n_prompts, np.nan), np.full(n_prompts, np.nan)
        for i, pair in enumerate(tqdm(make_prompts(task, bridge, n_prompts), desc="prompts")):
            M = PatchedMetric(bridge, pair)
            truth, ap = activation_patching(M).abs().cpu(), attribution_patching(M)
            shown = ap.abs().cpu().topk(int(HEADS_SHOWN * M.n)).indices
            unseen = truth.clone()
            unseen[shown] = -1.0
            missed[i], largest[i], star = unseen.max(), truth.max(), int(unseen.argmax())
            for seed in range(n_seeds):
                again = Remembered(M)
                for j, control in enumerate((None, ap)):
                    for k, m in enumerate(most):
                        b = missed_bound(
                            again, shown, m, SHARES["heads"], CONFIDENCE, control, seed=seed
                        )
                        bound[i, seed, j, k], own[i, seed, j, k] = b.bound, b.upper[star].item()
        dims = ("prompt", "seed", "control", "n_subsets")
        return xr.Dataset(
            {
                "bound": (dims, bound),
                "own": (dims, own),
                "missed": ("prompt", missed),
                "largest": ("prompt", largest),
            },
            coords={"control": list(CONTROLS), "n_subsets": most},
            attrs=provenance(bridge) | {"n": M.n},
        ).sortby("n_subsets")

    return common.kept(path, identity, run)


def left_out(
    model: str | TransformerBridge,
    pair: PromptPair | None = None,
    n_subsets: int = HEADS_SUBSETS[-1],
    store: str | Path | None = "results/missed",
    device: str | None = None,
) -> xr.Dataset:
    """What it brings to leave the components that were shown out of the subsets, on heads.

    Args:
        model: A name, or a model.
        pair: The reference pair by default.
        n_subsets: How many subsets.
        store: Folder of the files, or None.
        device: Where to load a model that is given by name.

    Returns:
        ``bound`` [subsets, control], with subsets ``"of all"`` and ``"of the rest"``, and
        ``missed``, the largest effect that was not shown.
    """
    path, identity = _place(model, "heads", "left_out", store, pair)
    identity |= {"n_subsets": n_subsets, "p": SHARES["heads"], "share_shown": HEADS_SHOWN}

    def run() -> xr.Dataset:
        bridge, M = _metric(model, "heads", pair, device)
        truth, ap = activation_patching(M).abs().cpu(), attribution_patching(M)
        shown = ap.abs().cpu().topk(int(HEADS_SHOWN * M.n)).indices
        truth[shown] = -1.0
        again = Remembered(M)
        bound = [
            [
                missed_bound(
                    again, shown, n_subsets, SHARES["heads"], CONFIDENCE, control, patched
                ).bound
                for control in (None, ap)
            ]
            for patched in (True, False)
        ]
        return xr.Dataset(
            {"bound": (("subsets", "control"), bound), "missed": truth.max().item()},
            coords={"subsets": ["of all", "of the rest"], "control": list(CONTROLS)},
            attrs=provenance(bridge),
        )

    return common.kept(path, identity, run)


def _metric(
    model: str | TransformerBridge, kind: str, pair: PromptPair | None, device: str | None
) -> tuple[TransformerBridge, PatchedMetric]:
    bridge = common.loaded(model, device)
    return bridge, PatchedMetric(bridge, pair or reference_pair(), kind)


def _place(
    model: str | TransformerBridge,
    kind: str,
    what: str,
    store: str | Path | None,
    pair: PromptPair | None = None,
) -> tuple[Path | None, dict[str, object]]:
    """Where a result lies, and what its file has to say of itself."""
    name = common.name_of(model)
    file = f"{name.replace('/', '--')}__{kind}__{what}.nc"
    identity = {"format": _FORMAT, "model": name, "components": kind}
    if pair is not None:
        identity["pair"] = str(pair.name or pair.clean)
    return None if store is None else Path(store) / file, identity
