"""Circuits of heads, and what they keep of the behaviour.

A circuit keeps the k heads that a method ranks first. All other heads are set to what they do on
the corrupted prompt, and the metric is read: M(1 - mask), in the noising direction. What circuits
of one model on one task give is stored by their masks, since methods often choose the same heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Bool
from numpy import ndarray

from hvp_utils import PatchedMetric, load_model, make_prompts, store
from hvp_utils.circuits import Kept, faithfulness
from hvp_utils.stats import Interval, top_k_overlap
from hvp_utils.sweeps import provenance

from .ranking import KS, Scores, top


class Known(NamedTuple):
    """What was measured of some circuits of heads: ``kept``, in the order of ``masks``."""

    masks: Bool[ndarray, "circuit head"]
    kept: Kept

    def of(self, masks: Bool[ndarray, "circuit head"]) -> Kept:
        """The same of these circuits, all of which are known."""
        place = {mask.tobytes(): i for i, mask in enumerate(self.masks)}
        return Kept(
            self.kept.values[:, [place[mask.tobytes()] for mask in masks]],
            self.kept.full,
            self.kept.empty,
        )


def _masks(one: Scores, ks: Sequence[int]) -> dict[tuple[str, int], ndarray]:
    return {
        (method, k): top(one.mean(method), k)
        for method in one.values
        for k in ks
        if k <= len(one.labels)
    }


def heads_kept(
    scored: Sequence[Scores],
    n_prompts: int,
    ks: Sequence[int] = KS,
    store: str | Path | None = "results/circuits",
    models: Mapping[str, object] | None = None,
    device: str | None = None,
) -> dict[tuple[str, str], Known]:
    """Run the circuits that the methods' mean effects give, on the task's first prompts.

    Args:
        scored: Scores of models on tasks.
        n_prompts: Prompts to run them on.
        ks: Sizes of circuits.
        store: Folder of files with what was run before; None to store nothing.
        models: Loaded models by name; those that are not there are loaded if something is missing.
        device: Where to load them.
    """
    models, found = dict(models or {}), {}
    for one in scored:
        wanted = np.unique(np.stack([*_masks(one, ks).values()]), axis=0)
        path = store and Path(store) / f"{one.model}__{one.task}__{n_prompts}.nc".replace("/", "--")
        known = _read(path, one) if path else None
        have = set() if known is None else {mask.tobytes() for mask in known.masks}
        new = np.array([mask for mask in wanted if mask.tobytes() not in have], dtype=bool)
        if len(new):
            model = models.setdefault(one.model, None) or load_model(one.model, device=device)
            models[one.model] = model
            pairs = make_prompts(one.task, model, n_prompts)
            M = PatchedMetric(model, pairs, direction="noising")
            if tuple(M.labels) != one.labels:
                raise ValueError(f"The heads of {one.model} are not those of its scores.")
            kept = faithfulness(M, torch.tensor(new))
            if known is not None:
                values = np.concatenate([known.kept.values, kept.values], axis=1)
                new, kept = np.concatenate([known.masks, new]), Kept(values, kept.full, kept.empty)
            known = Known(new, kept)
            if path:
                _write(path, one, known, provenance(model))
        found[one.model, one.task] = known
    return found


def _read(path: Path, one: Scores) -> Known | None:
    if not path.exists():
        return None
    data = xr.load_dataset(path, engine="h5netcdf")
    if tuple(data.label.values.astype(str)) != one.labels:
        raise ValueError(f"The heads in {path.name} are not those of the scores.")
    kept = Kept(data.metric.values, data.full.values, data.empty.values)
    return Known(data.kept.values.astype(bool), kept)


def _write(path: Path, one: Scores, known: Known, about: Mapping[str, str]) -> None:
    data = xr.Dataset(
        {
            "metric": (("prompt", "circuit"), known.kept.values),
            "full": ("prompt", known.kept.full),
            "empty": ("prompt", known.kept.empty),
            "kept": (("circuit", "head"), known.masks.astype("int8")),
        },
        coords={"label": ("head", list(one.labels))},
        attrs={**about, "model": one.model, "task": one.task, "direction": "noising"},
    )
    store.write(data, path)


def faithfulness_table(
    scored: Sequence[Scores], kept: Mapping[tuple[str, str], Known], ks: Sequence[int] = KS
) -> pd.DataFrame:
    """Overlap with the true circuit and faithfulness, of the circuit of every method and size.

    Returns:
        Columns model, task, method, k, overlap (0 to 1, of the mean effects), faithfulness (an
        ``Interval`` over prompts) and off, how far it is from 1.
    """
    rows = []
    for one in scored:
        masks = _masks(one, ks)
        measured = kept[one.model, one.task].of(np.stack([*masks.values()]))
        for i, (method, k) in enumerate(masks):
            interval = measured.interval(lambda f, i=i: f[i])
            overlap = float(top_k_overlap(one.mean(method), one.mean("truth"), k))
            off = abs(1 - interval.estimate)
            rows.append((one.model, one.task, method, k, overlap, Interval(*interval), off))
    columns = ["model", "task", "method", "k", "overlap", "faithfulness", "off"]
    return pd.DataFrame(rows, columns=columns)


def by_method(table: pd.DataFrame) -> pd.DataFrame:
    """Mean overlap and mean distance of faithfulness from 1, over sizes, models and tasks.

    Args:
        table: What ``faithfulness_table`` returns.

    Returns:
        Columns method, overlap and off.
    """
    return table.groupby("method", sort=False)[["overlap", "off"]].mean().reset_index()


def differing_heads(scored: Sequence[Scores], pair: Mapping) -> tuple[str, str]:
    """Heads that only the better, and only the worse of two circuits has, as text.

    Args:
        scored: The scores that the circuits were cut from.
        pair: What ``overlap_is_not_faithfulness`` returns.
    """
    (one,) = [s for s in scored if (s.model, s.task) == (pair["model"], pair["task"])]
    better, worse = (top(one.mean(pair[w].method), pair["k"]) for w in ("better", "worse"))
    labels = np.array(one.labels)
    return ", ".join(labels[better & ~worse]), ", ".join(labels[worse & ~better])


def overlap_is_not_faithfulness(table: pd.DataFrame, within: float = 0.05) -> dict | None:
    """The two circuits of one size with about the same overlap whose faithfulness differs most.

    They are of one model and task, so nothing but the choice of heads differs.

    Args:
        table: What ``faithfulness_table`` returns.
        within: How far overlaps may differ.

    Returns:
        model, task, k, and of ``better`` and ``worse`` (nearer to 1 and farther from it) the rows
        of the table; None if no two circuits have overlaps so close and different faithfulness.
    """
    best, gap = None, 0.0
    estimates = table[table.method != "truth"]
    for (model, task, k), part in estimates.groupby(["model", "task", "k"], sort=False):
        rows = [row for _, row in part.iterrows()]
        for better in rows:
            for worse in rows:
                close = abs(better.overlap - worse.overlap) <= within + 1e-9
                if close and worse.off - better.off > gap + 1e-12:
                    gap = worse.off - better.off
                    best = dict(model=model, task=task, k=k, better=better, worse=worse)
    return best
