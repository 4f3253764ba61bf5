"""One neuron before its activation function: its own curvature, and that of the network behind.

The quadratic term of such a neuron is an exact sum, ``q = local + downstream``. A table of neurons
has one row for each model, task, prompt and neuron, as ``neurons`` makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from hvp_utils import PatchedMetric, PromptPair, quadratic_term
from hvp_utils.backward_rules import linearised
from hvp_utils.estimators import local_quadratic_term
from hvp_utils.stats import (
    Interval,
    bootstrap_ci,
    bootstrap_share,
    paired_bootstrap,
    top_k_relative_error,
)

from .. import common

#: What has to be swept.
ESTIMATORS = ("activation_patching", "attribution_patching", "hvp", "local_curvature")

#: A neuron counts if its effect is at least this part of the largest one in its prompt.
COUNTS = 0.01

#: What is added to attribution patching, by name.
CORRECTIONS = {"none": None, "local curvature": "local", "HVP": "q"}

#: With fewer prompts a test of significance means nothing.
FEW = 6

SETTING = ["model", "task"]


def neurons(sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """The table that all else is made from.

    Returns:
        Columns model, task, prompt, component, layer; truth, ap, q and local in nats; and counts.
    """
    table = common.tidy(sweeps, ESTIMATORS)
    ap = table.attribution_patching.astype(float)
    truth = table.activation_patching.astype(float)
    largest = truth.abs().groupby([table.model, table.task, table.prompt]).transform("max")
    return table.drop(columns=[*ESTIMATORS]).assign(
        truth=truth,
        ap=ap,
        q=table.hvp.astype(float) - ap,
        local=table.local_curvature.astype(float) - ap,
        counts=truth.abs() >= COUNTS * largest,
    )


def origin(gap: pd.DataFrame, sweeps: Mapping[tuple[str, str], xr.Dataset]) -> pd.DataFrame:
    """What was measured: a row for each model."""
    rows = []
    for (model, task), part in gap.groupby(SETTING, sort=False):
        prompts = part.prompt.nunique()
        rows.append(
            {
                "model": model,
                "weights as stored": sweeps[model, task].attrs.get("quantisation", "not said"),
                "prompts": prompts,
                "layers": part.layer.nunique(),
                "neurons a layer": len(part) // prompts // part.layer.nunique(),
                "count, a prompt": part.counts.sum() / prompts,
                "largest effect": part.truth.abs().groupby(part.prompt).max().mean(),
            }
        )
    return pd.DataFrame(rows)


def _which(gap: pd.DataFrame):
    yield "all", gap
    yield "those that count", gap[gap.counts]


def per_prompt(gap: pd.DataFrame) -> pd.DataFrame:
    """Local against whole, prompt by prompt, for all neurons and for those that count.

    Returns:
        Columns model, task, neurons, prompt; ratio, the median of ``|q / local|``; pearson and
        spearman of q and local; own and downstream, the sums of the sizes of the two parts in nats.
    """
    rows = []
    for which, kept in _which(gap):
        for (model, task, prompt), part in kept.groupby([*SETTING, "prompt"], sort=False):
            curved = part[part.local != 0]
            rows.append(
                {
                    "model": model,
                    "task": task,
                    "neurons": which,
                    "prompt": prompt,
                    "ratio": (curved.q / curved.local).abs().median(),
                    "pearson": part.q.corr(part.local),
                    "spearman": part.q.corr(part.local, method="spearman"),
                    "own": part.local.abs().sum(),
                    "downstream": (part.q - part.local).abs().sum(),
                }
            )
    return pd.DataFrame(rows)


def local_share(each: pd.DataFrame) -> pd.DataFrame:
    """The local part of the sum of both sizes, in percent, pooled over prompts.

    Args:
        each: What ``per_prompt`` returns.

    Returns:
        Columns model, task, neurons, share (an ``Interval``).
    """
    groups = each.groupby([*SETTING, "neurons"], sort=False)
    rows = [(*key, bootstrap_share(part.own, part.own + part.downstream)) for key, part in groups]
    return pd.DataFrame(rows, columns=[*SETTING, "neurons", "share"])


def agreement(each: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean over prompts of ``"ratio"``, ``"pearson"`` or ``"spearman"``, with its interval."""
    return common.intervals(each, [*SETTING, "neurons"], value)


def of_those_that_count(table: pd.DataFrame, value: str) -> dict[str, Interval]:
    """One value for each model, of the neurons that count."""
    part = table[table.neurons == "those that count"]
    return dict(zip(part.model, part[value], strict=True))


def spread(gap: pd.DataFrame) -> pd.DataFrame:
    """The ratio ``|q / local|`` that 5 % and 95 % of the neurons stay below, all prompts together."""
    rows = []
    for which, kept in _which(gap[gap.local != 0]):
        for (model, task), part in kept.groupby(SETTING, sort=False):
            low, high = (part.q / part.local).abs().quantile([0.05, 0.95])
            rows.append((model, task, which, low, high))
    return pd.DataFrame(rows, columns=[*SETTING, "neurons", "5 %", "95 %"])


def grids(part: pd.DataFrame, *columns: str) -> list[Float[np.ndarray, "prompt component"]]:
    """Columns of one model and task as arrays."""
    n_prompts = part.prompt.nunique()
    return [part[column].to_numpy(float).reshape(n_prompts, -1) for column in columns]


def corrected(gap: pd.DataFrame) -> pd.DataFrame:
    """Errors of attribution patching and of its corrections, prompt by prompt.

    Returns:
        Columns model, task, prompt, method; top5, the top-5 relative error in percent; and mean,
        the mean absolute error of all neurons in thousandths of a nat.
    """
    parts = []
    for (model, task), part in gap.groupby(SETTING, sort=False):
        truth, ap = grids(part, "truth", "ap")
        for method, term in CORRECTIONS.items():
            estimate = ap + (grids(part, term)[0] if term else 0)
            errors = {
                "top5": top_k_relative_error(estimate, truth),
                "mean": 1e3 * np.abs(estimate - truth).mean(1),
            }
            keys = {"model": model, "task": task, "prompt": range(len(truth)), "method": method}
            parts.append(pd.DataFrame(keys | errors))
    return pd.concat(parts, ignore_index=True)


class Difference(float):
    """A mean difference of two errors on the same prompts, with what else is known of it.

    Attributes:
        lower: On how many prompts the first error is lower.
        n: Prompts.
        p: The p-value of a paired bootstrap; NaN with fewer than six prompts.
    """

    def __new__(cls, a: Sequence[float], b: Sequence[float]) -> Difference:
        """The mean of a less b."""
        a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
        self = super().__new__(cls, (a - b).mean())
        self.lower, self.n = int((a < b).sum()), len(a)
        self.p = paired_bootstrap(a, b).p_value if len(a) >= FEW else float("nan")
        return self

    def __str__(self) -> str:
        tested = "" if np.isnan(self.p) else f", {common.p_value(self.p, 1000)}"
        mean = f"{float(self):+.2f}".replace("-", "−")
        return f"{mean}, lower on {self.lower} of {self.n} prompts{tested}"

    @property
    def clear(self) -> bool:
        """Lower on every prompt, where there are fewer than six; significantly lower otherwise."""
        return self.lower == self.n if self.n < FEW else self < 0 and self.p < 0.05


def difference(errors: pd.DataFrame, model: str, a: str, b: str, value: str) -> Difference:
    """The error of method a less that of method b."""
    one = errors[errors.model == model].pivot(index="prompt", columns="method", values=value)
    return Difference(one[a], one[b])


def corrections_table(errors: pd.DataFrame, value: str) -> pd.DataFrame:
    """Mean error of each correction, and how much lower it is than that of none.

    Returns:
        Columns model, correction, error (an ``Interval``), less none, lower on.
    """
    rows = []
    for (model, method), part in errors.groupby(["model", "method"], sort=False):
        row = {"model": model, "correction": method, "error": bootstrap_ci(part[value])}
        if method != "none":
            against = difference(errors, model, method, "none", value)
            row |= {"less none": float(against), "lower on": f"{against.lower} of {against.n}"}
        rows.append(row)
    return pd.DataFrame(rows).fillna({"lower on": ""})


def corrections_summary(errors: pd.DataFrame) -> pd.DataFrame:
    """Both errors of each correction in one table, without intervals."""
    parts = [corrections_table(errors, value) for value in ("top5", "mean")]
    top5, mean = ([interval.estimate for interval in part.error] for part in parts)
    return parts[0][["model", "correction"]].assign(
        **{
            "top-5 error, %": top5,
            "lower on": parts[0]["lower on"],
            "mean error, 10⁻³ nats": mean,
            "lower on ": parts[1]["lower on"],
        }
    )


def split_by_surgery(model, pair: PromptPair, layer: int, n_neurons: int = 4) -> pd.DataFrame:
    """The split measured in the network itself, beside the formula of the local curvature.

    All activation functions of a layer are replaced by their tangents. What the quadratic term of
    a neuron of that layer then lacks has to be its local curvature.

    Returns:
        Columns component; q, own (by difference) and local (by the formula), in nats.
    """
    M = PatchedMetric(model, pair, f"neurons_pre:{n_neurons}")
    chosen = torch.where(M.layers == layer)[0]
    q = quadratic_term(M, chosen)
    with linearised(model, "mlp_activation", layers=[layer]):
        downstream = quadratic_term(M, chosen)
    columns = {"q": q, "own": q - downstream, "local": local_quadratic_term(M, chosen)}
    labels = {"component": [M.labels[c] for c in chosen]}
    return pd.DataFrame(labels | {name: x.cpu().double().numpy() for name, x in columns.items()})


def curvature_without_gradient(M: PatchedMetric) -> Float[Tensor, " n"]:
    """Half of act''(z) delta^2, summed over positions: a change of the neuron, not of the metric."""
    hooks = [site.hook for site in M.sites]
    _, found = M.run.unpatched(hooks)
    terms = []
    for site, delta in zip(M.sites, M.deltas, strict=True):
        mlp = M.model.blocks[site.layer].mlp.original_component
        act = getattr(mlp, "act_fn", None) or mlp.act
        z = found[site.hook][0].clone().requires_grad_()
        (first,) = torch.autograd.grad(act(z).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z)
        term = (second * delta**2 / 2).sum(0)
        terms.append(term if site.chosen is None else term[site.chosen])
    return torch.cat(terms)


def gradient_left_out(
    gap: pd.DataFrame, bare: Mapping[str, Float[np.ndarray, "prompt n"]]
) -> pd.DataFrame:
    """What becomes of the local curvature when the gradient at the neuron's output is left out.

    Args:
        gap: What ``neurons`` returns.
        bare: ``curvature_without_gradient`` of the same prompts and neurons, by model.

    Returns:
        Columns model, gradient ("with" or "without"); pearson and spearman with q, and error, the
        top-5 relative error in percent when it is added to attribution patching (``Interval``).
    """
    rows = []
    for model, part in gap.groupby("model", sort=False):
        truth, ap, q, local = grids(part, "truth", "ap", "q", "local")
        for gradient, term in (("with", local), ("without", np.asarray(bare[model], float))):
            pairs = [pd.DataFrame({"term": a, "q": b}) for a, b in zip(term, q, strict=True)]
            found = {
                kind: bootstrap_ci([pair.term.corr(pair.q, method=kind) for pair in pairs])
                for kind in ("pearson", "spearman")
            }
            error = bootstrap_ci(top_k_relative_error(ap + term, truth))
            rows.append({"model": model, "gradient": gradient, **found, "error": error})
    return pd.DataFrame(rows)


def papers_pattern(left_out: pd.DataFrame, errors: pd.DataFrame) -> bool:
    """Without the gradient: no rank correlation, and worse than no correction, in every model."""
    none = errors[errors.method == "none"].groupby("model").top5.mean()
    without = left_out[left_out.gradient == "without"]
    return all(
        abs(row.spearman.estimate) < 0.2 and row.error.estimate > none[row.model]
        for row in without.itertuples()
    )
