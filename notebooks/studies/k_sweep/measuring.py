"""From stored sweeps over the number of steps K to errors, tests and tables."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from hvp_utils.stats import Interval, paired_bootstrap, top_k_relative_error

from .. import common

#: Names of tasks for the reader.
TASKS = {
    "ioi": "IOI",
    "greater_than": "Greater-Than",
    "factual": "Factual",
    "factual_swap": "Factual swap",
}
N_STEPS = tuple(range(1, 21))
#: Resamples of all bootstraps of this study.
N_RESAMPLES = 1000


def load(
    models: Sequence[str], n_prompts: int, tasks: Sequence[str] = tuple(TASKS), **options
) -> dict[tuple[str, str], xr.Dataset]:
    """Sweeps by (model, task): every K for the five heads with the largest true effects."""
    estimators = ("activation_patching", "attribution_patching")
    estimators += tuple(f"ms_hvp:{k}" for k in N_STEPS)
    return common.load(models, tasks, estimators, n_prompts, top=5, **options)


def overview(sweeps: common.Sweeps) -> pd.DataFrame:
    """Tasks and prompts; tokens are means, and the run ones are those from the first difference."""
    rows = []
    for (model, task), data in sweeps.items():
        tokens, run = (data[name].values.mean() for name in ("n_tokens", "n_run"))
        text = str(data.clean.values[0]).split(">")[-1].strip()
        name = TASKS.get(task, task)
        rows.append((model, name, data.sizes["prompt"], round(tokens), round(run), text))
    columns = ["model", "task", "prompts", "tokens", "of them run", "first prompt"]
    return pd.DataFrame(rows, columns=columns)


def errors(sweeps: common.Sweeps) -> pd.DataFrame:
    """Top-5 relative error, a row for each model, task, prompt and number of steps.

    Returns:
        Columns model, task (its name for the reader), prompt, method ("AP" or "K = 3"), steps (0
        for attribution patching), and error (percent).
    """
    parts = []
    for (model, task), data in sweeps.items():
        methods = {"AP": (0, "attribution_patching")}
        methods |= {f"K = {k}": (k, f"ms_hvp:{k}") for k in N_STEPS}
        for method, (steps, variable) in methods.items():
            error = top_k_relative_error(data[variable], data.activation_patching)
            part = {"model": model, "task": TASKS.get(task, task), "prompt": range(len(error))}
            parts.append(pd.DataFrame(part | {"method": method, "steps": steps, "error": error}))
    return pd.concat(parts, ignore_index=True)


def _matrix(part: pd.DataFrame) -> pd.DataFrame:
    """Errors of one model and task, prompt by steps."""
    return part.pivot(index="prompt", columns="steps", values="error")


def at_steps(table: pd.DataFrame, steps: Sequence[int] = (0, *N_STEPS)) -> pd.DataFrame:
    """Mean error by model, task and number of steps: an ``Interval`` over prompts.

    Args:
        table: What ``errors`` returns.
        steps: Which numbers of steps; 0 is attribution patching.
    """
    part = table[table.steps.isin(steps)]
    return common.intervals(part, ["model", "task", "method", "steps"], "error")


def one_step(table: pd.DataFrame, first: int = 5) -> pd.DataFrame:
    """What the first step gains over attribution patching, and how fast the error falls later.

    Args:
        table: What ``errors`` returns.
        first: The slope is that of a line through log error against log K, from this K on.

    Returns:
        Columns model, task, gain (an ``Interval``: points by which one step lowers the error), p,
        holm, worse (prompts whose error it raises), prompts, and slope (the median over prompts).
    """
    pair = table[table.steps <= 1]
    options = dict(against="K = 1", methods=["AP"], n_resamples=N_RESAMPLES)
    tests = common.paired(pair, ["model", "task"], "error", **options)
    rows = []
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        wide = _matrix(part)
        late = [k for k in wide.columns if k >= first]
        slopes = np.polyfit(np.log(late), np.log(wide[late].to_numpy().T), 1)[0]
        worse = int((wide[1] > wide[0]).sum())
        rows.append((model, task, worse, len(wide), float(np.median(slopes))))
    more = pd.DataFrame(rows, columns=["model", "task", "worse", "prompts", "slope"])
    tests = tests.drop(columns="method").rename(columns={"difference": "gain"})
    return tests.merge(more, on=["model", "task"])


def enough(table: pd.DataFrame, below: float = 1.0) -> pd.DataFrame:
    """The least number of steps whose mean error is below a limit, by model and task.

    Returns:
        Columns model, task, steps (missing where none is enough).
    """
    means = table[table.steps > 0].groupby(["model", "task", "steps"], sort=False).error.mean()
    rows = []
    for (model, task), part in means.groupby(["model", "task"], sort=False):
        found = [k for (_, _, k), error in part.items() if error < below]
        rows.append((model, task, min(found) if found else None))
    return pd.DataFrame(rows, columns=["model", "task", "steps"])


def worst_prompts(sweeps: common.Sweeps, table: pd.DataFrame) -> pd.DataFrame:
    """Of each model and task the prompt on which one step adds most to the error.

    Returns:
        Columns model, task, prompt, text, adds (points), and AP, K = 1, 2, 5, 20 (percent).
    """
    names = {(model, TASKS.get(task, task)): data for (model, task), data in sweeps.items()}
    rows = []
    for (model, task), part in table.groupby(["model", "task"], sort=False):
        wide = _matrix(part)
        adds = wide[1] - wide[0]
        prompt = int(adds.idxmax())
        text = str(names[model, task].clean.values[prompt]).split(">")[-1].strip()
        by_k = {("AP" if k == 0 else f"K = {k}"): wide[k][prompt] for k in (0, 1, 2, 5, 20)}
        row = {"model": model, "task": task, "prompt": prompt, "text": text}
        rows.append(row | {"adds": adds[prompt]} | by_k)
    return pd.DataFrame(rows)


def median_of_several(sweeps: common.Sweeps, ks: Sequence[int] = (5, 10, 20)) -> pd.DataFrame:
    """The median of the estimates of three K, head by head, beside the best of them.

    Returns:
        Columns model, task, median and a column for each K but the least (mean errors in percent),
        difference (an ``Interval``: the median's error less that of the largest K), p, and middle
        (percent of heads whose median is the estimate of the middle K).
    """
    rows = []
    for (model, task), data in sweeps.items():
        three = np.stack([data[f"ms_hvp:{k}"].values for k in ks])
        middle = np.median(three, axis=0)
        truth = data.activation_patching
        found = {k: top_k_relative_error(data[f"ms_hvp:{k}"], truth) for k in ks[1:]}
        median = top_k_relative_error(middle, truth)
        test = paired_bootstrap(median, found[ks[-1]], n_resamples=N_RESAMPLES)
        followed = ~np.isnan(three[0])
        rows.append(
            {"model": model, "task": TASKS.get(task, task), "median": median.mean()}
            | {f"K = {k}": error.mean() for k, error in found.items()}
            | {
                "difference": Interval(test.difference, test.low, test.high),
                "p": test.p_value,
                "middle": 100 * float(np.mean((middle == three[1])[followed])),
            }
        )
    return pd.DataFrame(rows)
