"""Which failure is behind the bad misjudgements of two models? A search with criteria fixed first.

``hvp_utils.diagnosis`` holds the criteria and their thresholds. They, and the settings below, were
written down before any of it was run on more than six heads of the reference pair.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    load_model,
    make_prompts,
    sweep,
)
from hvp_utils import diagnosis as d
from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.estimators.integrals import quadrature
from hvp_utils.sweeps import provenance

from .. import common

__all__ = ["BADLY", "REMEDIES", "SETTINGS", "Setting", "cases", "diagnoses", "measure", "stored"]

#: Badly misjudged: off by more than this share of the largest true effect of the prompt.
BADLY = 0.1
#: What is tried on every case.
REMEDIES = ("qk_fix", "grad_drop", "hvp", "ms_hvp:5", "five slopes")


class Setting(NamedTuple):
    """Where the search looks.

    Attributes:
        task: A key of ``TASKS``.
        components: A kind of node.
        direction: ``"denoising"`` or ``"noising"``.
        n_prompts: The first so many prompts.
        metric: The metric; None for the task's own.
    """

    task: str
    components: str = "heads"
    direction: str = "denoising"
    n_prompts: int = 3
    metric: str | None = None

    @property
    def name(self) -> str:
        """Its name in that of a file."""
        parts = [self.task, self.components, self.direction, self.metric or ""]
        return "__".join(part.replace(":", "-") for part in parts if part)


#: The reader's name of each setting. The clean run is the base where attention is said to be sharp
#: (noising), and a probability is flat where the model is confidently wrong.
SETTINGS = {
    "heads, IOI": Setting("ioi"),
    "heads, Greater-Than": Setting("greater_than_01"),
    "heads, facts": Setting("factual"),
    "heads, IOI, noising": Setting("ioi", direction="noising"),
    "heads, IOI, probability": Setting("ioi", metric="prob_diff"),
    "queries, IOI": Setting("ioi_one_template", "queries"),
    "keys, IOI": Setting("ioi_one_template", "keys"),
    "neurons, IOI": Setting("ioi", "neurons_pre:256", n_prompts=2),
}

_READER = tuple(d.Reader._fields)
_NUMBERS = ("truth", "estimate", "direct", "direct_estimate", "saturated_share")


def stored(
    models: Sequence[str],
    settings: Sequence[str] = tuple(SETTINGS),
    store: str | None = "results",
    device: str | None = None,
) -> dict[tuple[str, str], xr.Dataset]:
    """The cases of each model and setting: read, or measured now and kept."""
    load = cache(partial(load_model, device=device))
    found = {}
    for model in models:
        for name in settings:
            setting = SETTINGS[name]
            path = (
                store
                and Path(store) / "failures" / f"{model.replace('/', '--')}__{setting.name}.nc"
            )
            identity = {
                "format": 1,
                "model": model,
                "setting": setting.name,
                "n": setting.n_prompts,
            }
            how = partial(_measured, load, model, setting, store)
            found[model, name] = common.kept(path or None, identity, how)
    return found


def _measured(load, model: str, setting: Setting, store: str | None) -> xr.Dataset:
    return measure(load(model), setting, model, store).assign_attrs(provenance(load(model)))


def measure(model, setting: Setting, name: str | None = None, store: str | None = None):
    """Diagnoses of all badly misjudged components, and symptoms of as many others for comparison.

    The others are those with the largest true effects that are not badly misjudged.

    Args:
        model: A loaded model.
        setting: Where to look.
        name: The model's name, under which sweeps may be stored.
        store: Folder of stored sweeps; without, true effects are computed.

    Returns:
        Dimension ``case``; variables of ``Diagnosis`` and of its ``Reader``, ``slopes`` [case,
        point], ``parts`` [case, kind], ``remedies`` [case, remedy], prompt, bad (whether it is a
        misjudged case), largest (the largest true effect of the prompt) and n_bad.
    """
    pairs = make_prompts(setting.task, model, setting.n_prompts)
    if setting.metric:
        pairs = [dataclasses.replace(pair, metric=setting.metric) for pair in pairs]
    known = None
    if store and name and setting.metric is None and setting.direction == "denoising":
        names = ["activation_patching", "attribution_patching"]
        if not setting.components.startswith("neurons"):
            names.append("atp_star")
        known = sweep(
            name, setting.task, names, setting.n_prompts, components=setting.components, store=store
        )
    rows = []
    for prompt, pair in enumerate(pairs):
        M = PatchedMetric(model, pair, setting.components, setting.direction)
        if known is None:
            truth, estimate = (
                f(M).cpu().numpy() for f in (activation_patching, attribution_patching)
            )
        else:
            truth, estimate = (known[key].values[prompt] for key in names[:2])
        off, size = np.abs(truth - estimate), np.abs(truth)
        bad = np.flatnonzero(off > BADLY * size.max())
        others = np.argsort(-size, kind="stable")
        others = others[~np.isin(others, bad)][: len(bad)]
        if not len(bad):
            continue
        for which, is_bad in ((bad, True), (others, False)):
            swept = known is not None and "atp_star" in names
            drop = is_bad and not swept
            found = d.diagnose_each(M, which.tolist(), grad_drop=drop, symptoms_only=not is_bad)
            if swept:
                scores = known.atp_star.values[prompt, which].tolist()
                found = [
                    dataclasses.replace(one, remedies={**one.remedies, "grad_drop": score})
                    for one, score in zip(found, scores, strict=True)
                ]
            rows += [(prompt, is_bad, float(size.max()), one) for one in found]
    return _dataset(rows)


def _dataset(rows: list[tuple]) -> xr.Dataset:
    prompt, bad, largest, found = zip(*rows, strict=True) if rows else ((), (), (), ())
    nobody = d.Reader("", -1, -1, *[np.nan] * 4)
    readers = [one.reader or nobody for one in found]

    def table(values: list, width: int) -> np.ndarray:
        return np.array(values, dtype=float).reshape(len(found), width)

    data = {
        "prompt": ("case", np.array(prompt, dtype=int)),
        "bad": ("case", np.array(bad, dtype=int)),
        "largest": ("case", np.array(largest, dtype=float)),
        "component": ("case", np.array([one.component for one in found], dtype=str)),
        **{
            key: ("case", np.array([getattr(one, key) for one in found], float)) for key in _NUMBERS
        },
        **{
            f"reader_{key}": ("case", np.array([getattr(r, key) for r in readers]))
            for key in _READER
        },
        "slopes": (("case", "point"), table([one.slopes for one in found], d.N_SLOPES)),
        "parts": (
            ("case", "operation"),
            table([[one.parts[k] for k in NONLINEARITIES] for one in found], len(NONLINEARITIES)),
        ),
        "remedies": (
            ("case", "remedy"),
            table(
                [[one.remedies.get(k, np.nan) for k in REMEDIES] for one in found], len(REMEDIES)
            ),
        ),
    }
    return xr.Dataset(data, coords={"operation": list(NONLINEARITIES), "remedy": list(REMEDIES)})


def diagnoses(data: xr.Dataset) -> list[d.Diagnosis]:
    """The diagnoses that a dataset of ``measure`` holds, as they were."""
    points, weights = (tuple(a.tolist()) for a in quadrature(d.N_SLOPES, "gausslegendre"))
    found = []
    for i in range(data.sizes["case"]):
        one = data.isel(case=i)
        read = {key: one[f"reader_{key}"].item() for key in _READER}
        remedies = dict(zip(REMEDIES, one.remedies.values.tolist(), strict=True))
        found.append(
            d.Diagnosis(
                component=one.component.item(),
                slopes=tuple(one.slopes.values.tolist()),
                points=points,
                weights=weights,
                parts=dict(zip(NONLINEARITIES, one.parts.values.tolist(), strict=True)),
                reader=d.Reader(**read) if read["head"] else None,
                remedies={key: value for key, value in remedies.items() if value == value},
                **{key: one[key].item() for key in _NUMBERS},
            )
        )
    return found


def cases(found: dict[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """One row a case, with everything that the tables and figures need.

    Returns:
        Columns model, setting, prompt, component, bad, truth, estimate, error (all in the metric's
        units), percent (|error| of the largest true effect), verdict, main (the kind of operation
        with the largest part), a column for each criterion, ``hides`` (AP below half of the effect
        or of the wrong sign), symptoms ``row leaves saturation``, ``opposite signs`` and ``flat start``,
        the probabilities ``reader base`` and ``reader patched`` of the attention row that contributes
        most, amplification, gross error (against both parts), flatness (slope at the base over the mean
        slope), and ``removed`` by each remedy.
    """
    rows = []
    for (model, setting), data in found.items():
        for i, one in enumerate(diagnoses(data)):
            sizes = abs(one.direct) + abs(one.indirect)
            criteria = one.criteria
            rows.append(
                {
                    "model": model,
                    "setting": setting,
                    "prompt": int(data.prompt[i]),
                    "component": one.component,
                    "bad": bool(data.bad[i]),
                    "truth": one.truth,
                    "estimate": one.estimate,
                    "error": one.error,
                    "percent": 100 * abs(one.error) / float(data.largest[i]),
                    "verdict": one.verdict if data.bad[i] else d.NO_FAILURE,
                    "main": one.main_part,
                    "main_share": _over(one.parts[one.main_part], one.error),
                    "pattern_share": _over(one.parts["attention_pattern"], one.error),
                    "left_share": _over(one.left_over, one.error),
                    **criteria,
                    "hides": _over(one.estimate, one.truth) < 0.5,
                    "saturated_share": one.saturated_share,
                    "reader base": one.reader.base if one.reader else float("nan"),
                    "reader patched": one.reader.patched if one.reader else float("nan"),
                    "row leaves saturation": one.saturated_share > 0,
                    "opposite signs": one.direct * one.indirect < 0,
                    "flat start": criteria[d.ZERO_GRADIENT],
                    "amplification": _over(sizes, abs(one.truth)),
                    "gross error": _over(abs(one.error), sizes),
                    "flatness": _over(abs(one.estimate), one.mean_size),
                    **{f"removed: {key}": one.removed(key) for key in one.remedies},
                }
            )
    return pd.DataFrame(rows)


def _over(part: float, whole: float) -> float:
    """A ratio, NaN where there is nothing to divide by."""
    return part / whole if whole else float("nan")
