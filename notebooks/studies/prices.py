"""What methods cost: operations counted first, seconds measured second.

Operations are those of ``hvp_utils.plan``, in *runs*: one run is one exact patch of one component,
on average over the components. They depend on the model and the prompt, and on no machine.

Seconds are measured several times, in rounds, so that what disturbs the machine disturbs all
methods. Where the repeats disagree, they are not to be shown: ``steady`` says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from hvp_utils import plan
from hvp_utils.plans import ModelSizes

__all__ = ["DISTURBED", "counted", "steady", "timed", "to_show", "why_not"]

#: Repeats that differ by more than this factor were disturbed.
DISTURBED = 1.3


def counted(
    sizes: ModelSizes,
    methods: Sequence[str],
    n_tokens: int = 15,
    n_run: int = 5,
    components: str | Sequence[int] = "heads",
    n_patched: Mapping[str, int] | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """Operations of some methods for all components of one prompt.

    Args:
        sizes: The model; see ``hvp_utils.model_sizes`` and ``ModelSizes.of``.
        methods: Names as for ``sweep``, such as ``"hvp"``, ``"row_norms:2"``.
        n_tokens: Tokens of the prompt.
        n_run: Those from the first difference on. The defaults are those of the reference pair.
        components: What is patched; or the layer of each component, as ``M.layers``.
        n_patched: Exact patches that follow a method, by its name.
        batch_size: Components run together.

    Returns:
        Columns method, n (components), runs, percent (of patching every component), tflop.
    """
    by_name = isinstance(components, str)
    n = sizes.n_components(components, n_run) if by_name else len(components)
    plans = plan(sizes, components, list(methods), n_tokens, n_run, 1, 1.0, batch_size=batch_size)
    rows = []
    for one in plans:
        patches = (n_patched or {}).get(one.estimator, 0)
        runs = one.forward_equivalents + patches
        a_run = one.flops / one.forward_equivalents
        rows.append((one.estimator, n, runs, 100 * runs / n, runs * a_run / 1e12))
    return pd.DataFrame(rows, columns=["method", "n", "runs", "percent", "tflop"])


def timed(
    functions: Mapping[str, Callable[[], object]], repeats: int = 5, warm_up: bool = True
) -> pd.DataFrame:
    """Seconds of some functions, each run once in every round.

    Returns:
        Columns method, seconds (the median), fastest, slowest, and disturbed: whether the repeats
        differ by more than ``DISTURBED``, the slowest left out.
    """
    seconds = {name: [] for name in functions}
    for turn in tqdm(range(repeats + warm_up), desc="timing", leave=False, delay=2):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= warm_up:
                seconds[name].append(time.perf_counter() - started)
    rows = []
    for name, spent in seconds.items():
        spent = sorted(spent)
        kept = spent[:-1] if len(spent) > 2 else spent
        rows.append(
            (name, float(np.median(spent)), spent[0], spent[-1], kept[-1] > DISTURBED * kept[0])
        )
    return pd.DataFrame(rows, columns=["method", "seconds", "fastest", "slowest", "disturbed"])


def steady(measured: pd.DataFrame) -> bool:
    """Whether all repeats agree, so that the seconds may be shown."""
    return not measured.disturbed.any()


def why_not(measured: pd.DataFrame) -> str:
    """A sentence that says why no seconds are shown, of measurements that are not steady."""
    names = ", ".join(measured.method[measured.disturbed])
    return (
        "Seconds are not shown: repeated measurements disagreed, so the machine was disturbed "
        f"({names})."
    )


def to_show(counts: pd.DataFrame, measured: pd.DataFrame | None = None) -> tuple[pd.DataFrame, str]:
    """A table of prices, operations first, and a sentence about the seconds.

    Where the repeats of some method disagree, all seconds are left out and the sentence says why.
    """
    table = counts.drop(columns="n")
    if measured is None:
        return table, "Operations counted; nothing was timed."
    if not steady(measured):
        return table, why_not(measured) + " Operations are counted and depend on no machine."
    return table.merge(measured[["method", "seconds"]], how="left"), (
        "Operations are counted; seconds are medians of repeats that agree within "
        f"{DISTURBED - 1:.0%}, on the machine that ran this page."
    )
