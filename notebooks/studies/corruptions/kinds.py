"""Other components than heads: the same errors for residual streams, MLPs and neurons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils import PatchedMetric, activation_patching, make_prompts

from .errors import Sweeps, compare, load, measure, median_error

#: Components and task, for the reader's name. Positions line up where there is one template.
KINDS = {
    "heads": ("heads", "ioi_one_template"),
    "MLP outputs": ("mlp_out", "ioi_one_template"),
    "residual stream": ("resid", "ioi_one_template"),
    "neurons before": ("neurons_pre:16", "ioi"),
    "the same, 256 a layer": ("neurons_pre:256", "ioi"),
    "neurons after": ("neurons_post:16", "ioi_one_template"),
}
#: With fewer prompts than this a test is not shown.
ENOUGH = 6


def load_kinds(
    models: Sequence[str], n_prompts: int, n_neurons: int, n_many_neurons: int, **options
) -> dict[tuple[str, str], xr.Dataset]:
    """Name swaps on IOI, by model and kind of component.

    Args:
        models: Names.
        n_prompts: For heads, MLP outputs and the residual stream.
        n_neurons: For samples of 16 neurons a layer.
        n_many_neurons: For samples of 256.
        **options: Those of ``load``.
    """
    found = {}
    for model in dict.fromkeys(models):
        for kind, (components, task) in KINDS.items():
            sample = components.partition(":")[2]
            n = {"": n_prompts, "256": n_many_neurons}.get(sample, n_neurons)
            (data,) = load([model], [task], n, components, **options).values()
            found[model, kind] = data
    return found


def compare_kinds(sweeps: Sweeps) -> pd.DataFrame:
    """``compare`` for each model, kind and measure, with n components; no p for few prompts."""
    table = compare(measure(sweeps, "kind"), ("model", "kind", "measure"))
    keys = list(zip(table.model, table.kind, strict=True))
    few = np.array([sweeps[key].sizes["prompt"] < ENOUGH for key in keys])
    table.insert(2, "n", [sweeps[key].sizes["component"] for key in keys])
    return table.assign(few=few)


def largest_effects(sweeps: Sweeps) -> dict[tuple[str, str], float]:
    """The largest true effect of a prompt, averaged over prompts, by model and kind."""
    return {
        key: float(np.abs(data.activation_patching.values).max(1).mean())
        for key, data in sweeps.items()
    }


def in_precision(models: Mapping[str, object], components: str = "neurons_post:4") -> pd.DataFrame:
    """Median relative errors on the first prompt of one template, in several precisions.

    Args:
        models: The same model, loaded in several precisions, by their names.
        components: A sample of components.

    Returns:
        Columns precision, n, AP, HVP (percent) and reduction (percent).
    """
    rows = []
    for precision, model in models.items():
        M = PatchedMetric(model, make_prompts("ioi_one_template", model, 1)[0], components)
        truth, start = activation_patching(M), M.along_axes(0.0)
        effects = (truth, start.slope, start.slope + start.curvature / 2)
        truth, ap, hvp = (x.double().cpu().numpy() for x in effects)
        ap, hvp = float(median_error(ap, truth)), float(median_error(hvp, truth))
        rows.append((precision, len(truth), ap, hvp, 100 * (1 - hvp / ap)))
    return pd.DataFrame(rows, columns=["precision", "n", "AP", "HVP", "reduction"])
