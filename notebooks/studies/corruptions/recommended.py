"""Does what the book recommends find the largest heads under every corruption?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hvp_utils import PatchedMetric, make_prompts, top_effects
from hvp_utils.plans import ModelSizes

from ..prices import counted
from .errors import ESTIMATORS, K, Sweeps, direction_of

#: The runner-up at about the same price: the 5 k largest by AP, patched.
PATCHES = 5 * K


def found_of_largest(
    model, name: str, sweeps: Sweeps, n_prompts: int, ways: Sequence[str]
) -> pd.DataFrame:
    """How many of the five largest heads of a prompt are among the five that a method names.

    Args:
        model: The loaded model.
        name: Its name in ``sweeps``.
        sweeps: The truth, and what AP and HVP say, by model and way.
        n_prompts: The first prompts of each.
        ways: Tasks.

    Returns:
        Columns way, prompt, method, found, percent (the price, of patching every head) and
        doubtful: how many heads ``top_effects`` says it may have missed. Methods are "AP" and "HVP",
        which patch nothing; "25 patches", of the largest by AP; and "top_effects".
    """
    rows = []
    for way in ways:
        stored = sweeps[name, way]
        labels = stored.label.values.astype(str)
        for i, pair in enumerate(make_prompts(way, model, n_prompts)):
            M = PatchedMetric(model, pair, direction=direction_of(way))
            truth, ap, hvp = (stored[m].values[i] for m in ESTIMATORS)
            true = _largest(labels, truth)
            table = top_effects(M, K)
            # Among those that are patched, the largest are known; so it finds the true ones there.
            named = {
                "AP": _largest(labels, ap),
                "HVP": _largest(labels, hvp),
                f"{PATCHES} patches": _largest(labels, ap, PATCHES),
                "top_effects": set(table.component),
            }
            percent = _prices(M) | {"top_effects": table.attrs["percent"]}
            doubtful = {"top_effects": len(table.attrs["doubtful"])}
            for method, chosen in named.items():
                about = percent[method], doubtful.get(method, np.nan)
                rows.append((way, i, method, len(true & chosen), *about))
    columns = ["way", "prompt", "method", "found", "percent", "doubtful"]
    return pd.DataFrame(rows, columns=columns)


def _largest(labels: np.ndarray, values: np.ndarray, k: int = K) -> set[str]:
    return set(labels[np.argsort(-np.abs(values), kind="stable")[:k]].tolist())


def _prices(M: PatchedMetric) -> dict[str, float]:
    """Percent of patching every head."""
    sizes = ModelSizes.of(M.model)
    found = counted(sizes, ["attribution_patching", "hvp"], M.n_tokens, M.n_run)
    ap, hvp = found.percent
    return {"AP": ap, "HVP": hvp, f"{PATCHES} patches": ap + 100 * min(PATCHES, M.n) / M.n}
