"""What all studies need: stored sweeps of several models and tasks, tables and claims on a page.

A sweep is an ``xarray.Dataset`` [prompt, component]; ``tidy`` makes a DataFrame of some, with one
row for each model, task, prompt and component. Intervals are ``hvp_utils.stats.Interval`` throughout,
also as cells of a DataFrame, and ``show`` formats them.
"""

from __future__ import annotations

import hashlib
import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from pandas.io.formats.style import Styler
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import load_model, sweep
from hvp_utils import store as files
from hvp_utils.claims import VERDICTS, Claim, claims_table, write_claims
from hvp_utils.models import model_origin
from hvp_utils.stats import Interval, bootstrap_ci, holm, paired_bootstrap

__all__ = [
    "BOOK_MODEL",
    "intervals",
    "kept",
    "listed",
    "load",
    "loaded",
    "name_of",
    "not_run",
    "p_value",
    "paired",
    "places",
    "settings_of",
    "show",
    "show_claims",
    "span",
    "tidy",
]

#: Only what is run on it is published: with another model a page shows its claims and keeps them.
BOOK_MODEL = "smollm2-135m"

Sweeps = Mapping[tuple[str, str], xr.Dataset]


def load(
    models: Sequence[str],
    tasks: Sequence[str],
    estimators: Sequence[str],
    n_prompts: int,
    store: str = "results",
    **options,
) -> dict[tuple[str, str], xr.Dataset]:
    """One sweep for each model and task, by (model, task); what is not stored is computed.

    ``options`` are those of ``hvp_utils.sweep``.
    """
    return {
        (model, task): sweep(model, task, estimators, n_prompts=n_prompts, store=store, **options)
        for model in models
        for task in tasks
    }


def tidy(sweeps: Sweeps, variables: Sequence[str]) -> pd.DataFrame:
    """A row for each model, task, prompt and component; a column for each variable."""
    parts = []
    for (model, task), data in sweeps.items():
        n_prompts, n = data.sizes["prompt"], data.sizes["component"]
        part = {
            "model": model,
            "task": task,
            "prompt": np.repeat(np.arange(n_prompts), n),
            "component": np.tile(data.label.values.astype(str), n_prompts),
            "layer": np.tile(data.layer.values, n_prompts),
        }
        parts.append(pd.DataFrame(part | {name: data[name].values.ravel() for name in variables}))
    return pd.concat(parts, ignore_index=True)


def kept(
    path: Path | None, identity: Mapping[str, object], measure: Callable[[], xr.Dataset]
) -> xr.Dataset:
    """What a file holds, or what is measured now and kept there for the next time.

    Args:
        path: The file; None to keep nothing.
        identity: Attributes that say what it has to hold; see ``hvp_utils.store.read``.
        measure: What to do if there is no such file. Another process that wants it waits.
    """
    if (known := files.read(path, identity)) is not None:
        return known
    with files.only_writer(path):
        if (known := files.read(path, identity)) is None:
            known = measure().assign_attrs(identity)
            if path is not None:
                files.write(known, path)
    return known


def name_of(model: str | TransformerBridge) -> str:
    """The name of a model that is given by name, or loaded."""
    return model if isinstance(model, str) else model_origin(model).name


def loaded(model: str | TransformerBridge, device: str | None = None) -> TransformerBridge:
    """The model itself, loaded if it is given by name."""
    return load_model(model, device=device) if isinstance(model, str) else model


def settings_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """The models and tasks of a table, in its order."""
    return list(dict.fromkeys(zip(table.model, table.task, strict=True)))


def intervals(
    table: pd.DataFrame,
    by: Sequence[str],
    value: str,
    statistic: Callable[[np.ndarray], float] = np.mean,
    **options,
) -> pd.DataFrame:
    """A statistic of ``value`` for each group, with its bootstrap interval.

    The rows of a group are what is resampled: one for each prompt. ``options`` are those of
    ``hvp_utils.stats.bootstrap_ci``.
    """
    groups = table.groupby(list(by), sort=False)[value]
    found = [
        {**dict(zip(by, key, strict=True)), value: bootstrap_ci(values, statistic, **options)}
        for key, values in groups
    ]
    return pd.DataFrame(found)


def paired(
    table: pd.DataFrame,
    by: Sequence[str],
    value: str,
    against: str,
    methods: Sequence[str] | None = None,
    n_resamples: int = 9999,
    seed: int = 0,
) -> pd.DataFrame:
    """Is a method's mean different from another's, on the same prompts?

    Args:
        table: With columns ``prompt``, ``method``, those of ``by``, and the value.
        by: Columns that say what is one test, such as ``("model", "task")``.
        value: The column to compare: one number for each prompt and method.
        against: The method that the others are compared with.
        methods: Which methods; by default all others.
        n_resamples: Resamples of the paired bootstrap. The smallest p-value is 2 over one more, so
            a family of m tests needs more than 40 m of them.
        seed: Seed of the resampling.

    Returns:
        One row a test: ``by``, method, difference (an ``Interval``), p, and holm: the p-value
        adjusted for all rows returned.

    Raises:
        ValueError: A method is missing for a prompt, or a prompt has it twice.
    """
    rows = []
    for key, part in table.groupby(list(by), sort=False):
        wide = part.pivot(index="prompt", columns="method", values=value)
        for method in methods or [m for m in part.method.unique() if m != against]:
            pair = wide[[method, against]]
            if pair.isna().any(axis=None):
                raise ValueError(f"{method} or {against} has no {value} for some prompts of {key}.")
            test = paired_bootstrap(pair[method], pair[against], n_resamples=n_resamples, seed=seed)
            difference = Interval(test.difference, test.low, test.high)
            rows.append((*key, method, difference, test.p_value))
    tests = pd.DataFrame(rows, columns=[*by, "method", "difference", "p"])
    return tests.assign(holm=holm(tests.p.to_numpy()))


def places(size: np.ndarray) -> np.ndarray:
    """Places along the last axis by some size, the largest in place 1; of equals the first."""
    return np.argsort(np.argsort(-size, axis=-1, kind="stable"), axis=-1) + 1


def p_value(p: float, n_resamples: int) -> str:
    """A p-value of a bootstrap as text, "p = 0.031", or "p ≤ 0.002" at the least that it can be."""
    floor = 2 / (n_resamples + 1)
    digits = max(3, -math.floor(math.log10(floor)))
    return f"p ≤ {floor:.{digits}f}" if p <= floor * 1.0001 else f"p = {p:.{digits}f}"


def listed(
    values: Mapping[str, object], spec: str = "", unit: str = "", between: str = " and "
) -> str:
    """One value for each model as text: "1.2 % (a model) and 3.4 % (another)".

    Args:
        values: By model.
        spec: How a value is formatted.
        unit: What follows it.
        between: What stands between two models.
    """
    return between.join(f"{format(value, spec)}{unit} ({name})" for name, value in values.items())


def span(values: Sequence[float], digits: int = 1) -> str:
    """Smallest to largest as text, or one number where both read the same."""
    ends = (f"{end:.{digits}f}" for end in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))


class Table(Styler):
    """A table for a reader, which is its text where nothing can show it."""

    def __repr__(self) -> str:
        return self.to_string(delimiter="  ")


def show(table: pd.DataFrame, digits: Mapping[str, str] | str = ".2f", caption: str = "") -> Table:
    """A DataFrame as a notebook shows it, without its index; numbers stand to the right.

    Args:
        table: What to show; its index is left out.
        digits: A number format for all columns, or one for each column by name.
        caption: A sentence above the table.
    """

    def text(name: str, value: object) -> str:
        spec = digits if isinstance(digits, str) else digits.get(name, ".2f")
        if isinstance(value, (float, np.floating)) and np.isnan(value):
            value = "–"
        elif isinstance(value, Interval) or isinstance(value, (float, np.floating)):
            value = format(value, spec).replace("-", "−")
        elif isinstance(value, (bool, np.bool_)):
            value = "yes" if value else "no"
        elif isinstance(value, (int, np.integer)):
            value = f"{value:,}".replace("-", "−")
        elif isinstance(value, (list, tuple)):
            value = " or ".join(map(str, value))
        return str(value)

    table = table.reset_index(drop=True)
    table.columns = [str(name) for name in table.columns]
    numeric = [
        name
        for name in table.columns
        if all(
            isinstance(v, (int, float, np.number, Interval)) and not isinstance(v, bool)
            for v in table[name]
        )
    ]
    styler = (
        Table(table)
        .hide(axis="index")
        .format(
            {name: (lambda value, name=name: text(name, value)) for name in table.columns},
            escape="html",
        )
    )
    styler.format_index(escape="html", axis=1)
    # A name that is drawn at random would be another in every run.
    styler.set_uuid(hashlib.sha256(table.to_csv().encode()).hexdigest()[:8])
    styler.set_table_attributes('class="dataframe"')
    right = [f".col{place}" for place, name in enumerate(table.columns) if name in numeric]
    if right:
        styler.set_table_styles([{"selector": ", ".join(right), "props": "text-align: right"}])
    if caption:
        styler.set_caption(html.escape(caption, quote=False))
    return styler


def not_run(
    claim: str, paper: str, source: str, rule: str = "none of these models is among ours"
) -> Claim:
    """A claim about values that the paper gives of models on which nothing is run here."""
    here = "not run: the models are other ones"
    return Claim(claim, paper, source, here, VERDICTS[3], rule)


def show_claims(chapter: str, claims: Sequence[Claim], model: str) -> Markdown:
    """The table of claims of a chapter; those that the book publishes are written as data too.

    That is a run with the book's own model by ``make notebooks``: whoever else runs a page sees
    claims, and changes none.
    """
    if model == BOOK_MODEL and os.environ.get("HVP_BOOK_PUBLISH"):
        write_claims(chapter, claims)
    return Markdown(claims_table(claims))
