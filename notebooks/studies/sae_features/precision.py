"""How much of a small error is rounding."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import torch
import xarray as xr

from hvp_utils import PatchedMetric, SAEFeatures, activation_patching, load_model, make_prompts
from hvp_utils.saes import SAE

from .measuring import SEED, TASK
from .tables import METHODS, rows_of

__all__ = ["rounding"]


def rounding(
    model: str, saes: Mapping[int, SAE], stored: Mapping[int, xr.Dataset], double: object = None
) -> pd.DataFrame:
    """True effects of the first prompt's features once more in float64, beside the stored ones.

    Args:
        model: A name.
        saes: By layer.
        stored: What ``measure`` returned, by layer.
        double: The model in float64, if it is there already.

    Returns:
        Columns layer, n (features that are active in both), noise (mean difference of the true
        effects, nats), AP and HVP (their mean errors against the effects in float64).
    """
    bridge = load_model(model, device="cpu", dtype=torch.float64) if double is None else double
    pair, found = make_prompts(TASK, bridge, 1, seed=SEED)[0], []
    for layer, sae in saes.items():
        M = PatchedMetric(bridge, pair, SAEFeatures(sae))
        exact = pd.Series(activation_patching(M).cpu().numpy(), index=M.labels)
        rows = rows_of({layer: stored[layer]})
        rows = rows[(rows.prompt == 0) & ~rows.error]
        rows = rows.set_index("L" + str(layer) + "F" + rows.feature.astype(str))
        rows = rows.join(exact.rename("exact"), how="inner")
        off = {name: (rows[name] - rows.exact).abs().mean() for name in ("truth", *METHODS)}
        found.append({"layer": layer, "n": len(rows), "noise": off.pop("truth")} | off)
    return pd.DataFrame(found)
