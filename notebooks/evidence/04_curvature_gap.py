# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 4. Where does the error come from?
#
# Every table, check and claim behind [the lesson](../04_curvature_gap.ipynb). Effects and quadratic terms are in nats of log p(answer), on
# IOI, {term}`denoising`. Intervals are 95 % bootstrap intervals over prompts, with 1,000 resamples. What is computed stands in
# `notebooks/studies/curvature_gap/`. All parts are parts of the quadratic term $q = \tfrac12 g''(0)$, by Theorem 5 of the
# [theory page](../../book/theory.md): a sum with one summand for each operation.

# %% tags=["hide-input"]
# Setup: fetches the book where it is missing, as on Colab or beside a notebook downloaded alone.
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

url, tag = "https://github.com/attribution-patching/when-attribution-patching-lies", "v0.1.0"
places = [*Path("here").resolve().parents, Path(f"when-attribution-patching-lies-{tag}").resolve()]
book = next((p for p in places if (p / "notebooks/studies").exists()), places[-1])
files = Path("studies").exists() or Path("tests/q1.py").exists()  # of a chapter, of a problem set
if not (files and find_spec("hvp_utils")):
    if not book.exists():
        print(f"Fetching the book, its package and its models, once: a few minutes. {book}")
        half = book.with_name(book.name + ".part")  # is renamed when it is whole
        shutil.rmtree(half, ignore_errors=True)
        clone = ["git", "clone", "--quiet", "--depth", "1", "--branch", tag, url, str(half)]
        if not shutil.which("git") or subprocess.call(clone):
            raise OSError(f"No {tag} of {url}: this cell needs git, and the network once.")
        half.rename(book)
    if subprocess.call([sys.executable, str(book / "tools/install_here.py")]):
        raise OSError("Not everything could be installed. The last lines above say what and why.")
    os.chdir(book / "notebooks")
    sys.path.insert(0, os.getcwd())

# %% tags=["parameters"]
model_name = "smollm2-135m"  # any name that load_model knows
second_model = "gemma-3-270m"  # to compare with: another one
device = None  # None: a GPU when there is one
n_prompts = {"neurons": 4, "heads": 20}  # more are computed, and stored
n_neurons = 256  # drawn from each layer

# %%
import numpy as np
import pandas as pd
from IPython.display import Markdown

from hvp_utils import PatchedMetric, load_model, make_prompts, plots, reference_pair
from studies import common
from studies import curvature_gap as study

plots.use_style()
assert model_name != second_model, "Choose a second_model that is another one than model_name."
models = model_name, second_model
loaded = {name: load_model(name, device=device) for name in models}


# %% [markdown]
# ## Neurons before the activation function
#
# ### Surgery against formula
#
# All activation functions of the middle layer are replaced by their tangents. What the quadratic term of a neuron of that layer then
# lacks has to be its local curvature, by the formula. No other activation function of the layer is moved by the patch. (In both models of this page the neuron's
# output is $\sigma(z)$ times a second branch that the patch leaves as it is; that factor is part of $\lambda$.)

# %%
rows = []
for name, model in loaded.items():
    middle = model.cfg.n_layers // 2
    split = study.split_by_surgery(model, reference_pair(), middle)
    gap_of_two = (split.own - split.local).abs().max()
    rows.append((name, middle, len(split), split.q.abs().max(), gap_of_two))
columns = ["model", "layer", "neurons", "largest |q|, nats", "largest gap, nats"]
common.show(pd.DataFrame(rows, columns=columns), ".0e", "Own part by surgery and by formula.")

# %% [markdown]
# They agree to the precision of float32.
#
# ### What was measured
#
# Neurons are drawn at random from every layer and patched one at a time, at all positions. Most do next to nothing on a given
# prompt. One **counts** here if its true effect is at least 1 % of the largest one of the prompt.

# %%
sweeps = common.load(
    models,
    ["ioi"],
    study.OF_NEURONS,
    n_prompts["neurons"],
    components=f"neurons_pre:{n_neurons}",
    device=device,
)
gap = study.neurons(sweeps)
each = study.per_prompt(gap)
source = study.origin(gap, sweeps)
common.show(source.drop(columns=["count, a prompt", "largest effect"]))

# %%
columns = {"count, a prompt": "neurons that count, a prompt"}
columns |= {"largest effect": "largest effect, mean, nats"}
digits = {"neurons that count, a prompt": ".0f"}
common.show(source[["model", *columns]].rename(columns=columns), digits)

# %% mystnb={"image": {"alt": "Two panels, one for each model: the local part of each neuron's quadratic term against the whole of it, with signs, on axes that are logarithmic away from zero. Most points lie on the diagonal, where all curvature is local. A few lie off it, some with the opposite sign."}}
share = study.local_share(each)
rank = study.agreement(each, "spearman")
of_share, of_rank = (
    study.of_those_that_count(table, value)
    for table, value in ((share, "share"), (rank, "spearman"))
)
largely = min(interval.estimate for interval in of_share.values()) > 50
_ = study.scatter(
    gap,
    "Most of a neuron's quadratic term is its own"
    if largely
    else "A neuron's own curvature is the smaller part of its quadratic term",
    {
        m: f"local share {of_share[m].estimate:.0f} %\nrank correlation {of_rank[m].estimate:.2f}"
        for m in models
    },
)

# %% [markdown]
# ### Sizes
#
# The *local share* compares the two parts of the exact split, $\sum |q_\text{local}|$ against $\sum |q_\text{local}| + \sum
# |q_\text{downstream}|$, pooled over prompts. The ratio is a median in each prompt, averaged over prompts; beside it the range of all neurons.

# %%
sizes = study.agreement(each, "ratio").merge(study.spread(gap)).merge(share)
sizes["5 % to 95 %"] = [
    f"{a:.2f} to {b:.2f}" for a, b in zip(sizes["5 %"], sizes["95 %"], strict=True)
]
sizes = sizes.rename(columns={"ratio": "median of |q / local|", "share": "local share"})
columns = ["model", "neurons", "median of |q / local|", "5 % to 95 %", "local share"]
common.show(sizes[columns], {"median of |q / local|": ".2f", "local share": ".0f %"})

# %%
correlations = study.agreement(each, "pearson").merge(rank).drop(columns="task")
common.show(
    correlations.rename(columns={"pearson": "Pearson", "spearman": "Spearman"}),
    ".2f",
    "Correlations of q with its local part, taken in each prompt and averaged.",
)

# %% [markdown]
# ### As a correction
#
# Add the local term to attribution patching, or add the whole quadratic term, which is HVP. The {term}`top-5 relative error` is that of the
# five largest true effects of a prompt; the mean absolute error is over all neurons. Differences are paired over the same
# prompts. *Clearly* lower means: on every prompt, where there are fewer than six, and with p < 0.05 in a paired test otherwise.

# %%
errors = study.corrected(gap)
digits = {"error": ".2f", "less none": "+.2f"}
common.show(study.corrections_table(errors, "top5"), digits, "Top-5 relative error, in percent.")

# %%
common.show(
    study.corrections_table(errors, "mean"),
    digits,
    "Mean absolute error of all neurons, in 10⁻³ nats.",
)

# %% tags=["hide-input"]
mean = errors.groupby(["model", "method"]).top5.mean()
lines = []
for name in models:
    better, worse, beyond = (
        study.difference(errors, name, *pair, "top5")
        for pair in (
            ("local curvature", "none"),
            ("none", "local curvature"),
            ("HVP", "local curvature"),
        )
    )
    gained = (mean[name, "none"] - mean[name, "local curvature"]) / (
        mean[name, "none"] - mean[name, "HVP"]
    )
    if better.clear:
        text = f"clearly better than none, and reaches {100 * gained:.0f} % of the gain of HVP on this error"
    else:
        text = "clearly worse than none" if worse.clear else "neither clearly better nor worse"
    lines.append(f"* **{name}**: the local correction is {text}. HVP less local: {beyond}.")
few = n_prompts["neurons"] < study.FEW
Markdown(
    "\n".join(["Of the top-5 relative error:\n", *lines])
    + few
    * (
        "\n\nWith so few prompts an interval is little more than the range of them, and a test of significance means nothing. "
        "What counts is that a difference is large, and the same on every prompt and in both models."
    )
)

# %% [markdown]
# ### What would give the paper's result?
#
# The paper's formula may not be ours: its text speaks of local *activation* curvature. One reading leaves
# out the gradient, and adds $\tfrac12 \sum_i \sigma''(z_i)\,\delta_i^2$ as it stands: a change of the neuron's output and not of the
# metric. On the same neurons and prompts:

# %%
bare = {}
for name, model in loaded.items():
    pairs = make_prompts("ioi", model, n_prompts["neurons"])
    patched = [PatchedMetric(model, pair, f"neurons_pre:{n_neurons}") for pair in pairs]
    bare[name] = np.stack([study.curvature_without_gradient(M).cpu().numpy() for M in patched])
left_out = study.gradient_left_out(gap, bare)
columns = {"pearson": "Pearson with q", "spearman": "Spearman with q"}
columns |= {"error": "top-5 error when added, %"}
digits = {"Pearson with q": "+.2f", "Spearman with q": "+.2f", "top-5 error when added, %": ".0f"}
common.show(left_out.rename(columns=columns), digits)

# %% tags=["hide-input"]
Markdown(
    "Without the gradient the rank correlation is close to zero and the correction is worse than none, as in the paper. "
    "This does not show that the paper left it out."
    if study.papers_pattern(left_out, errors)
    else "Leaving out the gradient does not give the paper's pattern in both models."
)

# %% [markdown]
# The paper's Table 11 fits a large local share. In a model without gated MLPs, patching a neuron before its activation function and patching it
# after have the very same effect, and the same network behind them. Yet on Pythia-410M attribution patching is off by 35.2 % before and by
# 4.3 % after.
#
# ## Which operations bend the metric behind a head?
#
# A head's output is multiplied by a matrix, so all of its quadratic term lies downstream, by construction. Sort the operations of the network into six
# kinds:
#
# | kind | operations |
# | --- | --- |
# | norms | every LayerNorm or RMSNorm, with the one before the output |
# | attention pattern | scores (query times key) and softmax |
# | attention mixing | pattern times values: a product, bent only if the patch moves both |
# | MLP activation | the activation function |
# | MLP gating | the product of the two branches of a gated MLP |
# | output | log-softmax of the logits, the metric, and a soft cap of the logits if there is one |
#
# Linearise one kind in all layers, take the quadratic term again, and the loss is what this kind contributes. The heads with the largest
# true effects of each prompt were followed. Two checks on every head and every prompt: the six parts add up to $q$; and Gauss–Newton, which
# linearises everything *but* the output, finds the part of the output.

# %%
sweeps = common.load(
    models,
    ["ioi"],
    study.OF_HEADS,
    n_prompts["heads"],
    top=study.N_FOLLOWED,
    device=device,
)
table = study.heads(sweeps)
checks = study.checks(table)
checks["heads followed"] = [
    f"{a} of {b}" for a, b in zip(checks.followed, checks.heads, strict=True)
]
columns = ["model", "prompts", "heads followed", "largest |q|", "gap of the sum"]
columns += ["gap of Gauss–Newton"]
common.show(
    checks[columns],
    {"gap of the sum": ".0e", "gap of Gauss–Newton": ".0e"},
    "Largest values over all heads followed and prompts, in nats.",
)

# %% [markdown]
# Nothing is missing. The **signed share** of a kind asks how much of the quadratic terms would go if it were linear: a part counts
# as positive where it has the sign of its $q$ and as negative where it works against it, so that the six add up to 100 %. The **share of
# sizes** ignores signs, and says how much bending a kind does, cancelled or not.

# %% mystnb={"image": {"alt": "Two panels of horizontal bars with bootstrap intervals, six kinds of operation in two models. Left: signed shares of the quadratic term, which add up to 100 percent for each model. Right: shares of the summed sizes. MLP gating leads in SmolLM2 and norms in Gemma, in both panels."}}
shares = study.shares(table)
first = study.leading(shares)
leading = " and ".join(f"{study.KINDS[kind]} in {name}" for name, (kind, _) in first.items())
_ = study.kinds_figure(shares, f"What bends most: {leading}")

# %%
named = shares.assign(kind=shares.kind.map(study.KINDS)).drop(columns="task")
columns = {"signed": "signed share", "sizes": "share of sizes"}
common.show(named.rename(columns=columns), dict.fromkeys(columns.values(), ".0f %"))

# %% tags=["hide-input"]
apart = [study.KINDS[kind] for kind in study.apart(shares)]
Markdown(
    f"The intervals of the two models lie apart for the sizes of {', '.join(apart)}."
    if apart
    else "For no kind do the intervals of the two models lie apart."
)

# %% [markdown]
# The paper describes most of the downstream path as linear: residual additions, "LayerNorm in its operating regime", the
# unembedding (section 3.3). The first and the last are linear in any model. A norm divides by the length of its input. In Gemma-3 the first
# thing behind a head is a norm: what attention and MLP write is normalised before it is added to the residual stream, and queries and keys are
# normalised as well. SmolLM2 has norms only in front of attention, MLP and output.
#
# ### Cancellation
#
# Kinds bend one and the same head in opposite directions. *Times q* is the sum of all sizes over that of the quadratic terms.

# %%
cancelled = study.cancellation(table)
common.show(
    pd.DataFrame(
        {"model": list(cancelled), "sizes of the parts, times q": list(cancelled.values())}
    ),
    ".1f",
)

# %% [markdown]
# What would a correction do that knows only the largest part of each head? Percent of heads whose estimate gets worse when the largest part is added to
# attribution patching, and when all are, which is HVP. The difference is in points, paired over prompts.

# %%
worse = study.misled_table(study.misled(table))
digits = {"largest part": ".0f %", "all parts": ".0f %", "difference": "+.1f", "p, Holm": ".3f"}
common.show(worse, digits)

# %% [markdown]
# ### Single heads
#
# The heads that are followed on at least half of the prompts and have the largest quadratic terms there.

# %%
largest = study.largest_heads(table)
columns = {"truth": "true effect", "ap": "AP", "component": "head"}
shown = largest.rename(columns=columns)
common.show(
    shown[["model", "head", "prompts", "true effect", "AP", "q"]],
    "+.2f",
    "Means over the prompts on which a head is followed, in nats.",
)

# %%
kinds = [*study.KINDS]
common.show(
    shown[["head", *kinds]].rename(columns=study.KINDS),
    "+.2f",
    "Their parts of q, in nats; rows as above.",
)

# %% [markdown]
# ## In which layers?
#
# `linearised` takes layers too, so a part can be placed: this kind, in this layer. For every layer that takes one run per kind, so here is one
# pair, the reference pair, with the five heads that have the largest quadratic terms there. The two attention kinds are taken
# together, and so are the two MLP kinds. The last norm and the output stand behind all layers. A *place* is a kind in a layer.

# %%
pair = reference_pair()
anatomy = study.by_layer(loaded, pair)
few_places = study.concentration(anatomy)

# %% mystnb={"image": {"alt": "Heat maps for two models, rows norms, attention, MLP and output, columns the layers and the end of the network. Orange cells add to the quadratic terms of the followed heads, purple cells work against them. Most cells are nearly white: a few cells hold most of the curvature. Bars below show the sum of each column."}}
_ = study.layers_figure(
    anatomy,
    "Most of the bending is done in a few places"
    if few_places.places.max() <= 6
    else "The bending is spread over many places",
)

# %%
columns = {"share": "of all |q|, %", "places": "places with half", "of": "places"}
columns |= {"near": "own layer and next, %", "gap": "sum less q, nats"}
common.show(
    few_places.drop(columns="heads").rename(columns=columns),
    {"of all |q|, %": ".0f", "own layer and next, %": ".0f", "sum less q, nats": ".0e"},
    f"{few_places.heads.iloc[0]} heads; the fewest places that hold half of the summed sizes, and what is bent near the head.",
)

# %%
common.show(
    study.largest_places(anatomy),
    "+.0f",
    "The largest places: signed share of the quadratic terms, in percent.",
)

# %% mystnb={"image": {"alt": "Two panels of stacked bars, one for the head with the largest quadratic term of each model. Each bar is a layer from the head's own on, and its segments are norms, attention, MLP and output, up if they raise the metric's curvature and down if they lower it. A few layers have tall segments, and in some of them segments of different kinds point in opposite directions."}}
_ = study.head_figure(
    anatomy,
    "Two heads taken apart: most of the bending comes right behind the head"
    if few_places.near.min() > 50
    else "Two heads taken apart, layer by layer",
)

# %%
followed = {name: part.component.unique() for name, part in anatomy.groupby("model")}
left = study.frozen(loaded, pair, followed)
Markdown(
    "**The freeze test.** With everything linearised, the quadratic term has to be 0. What is left of it is at most "
    f"{common.listed(left, '.0e')} nats. If one operation of the model had been overlooked, its curvature would still be there."
)

# %% [markdown]
# ## The whole error
#
# The whole error is an average of the curvature along the path (Lemma 2 of the [theory page](../../book/theory.md)),
#
# $$f - f_\mathrm{AP} = \int_0^1 (1 - t)\, g''(t)\, dt ,$$
#
# and the theorem holds at every $t$. So the whole error can be sorted by kind as well. Here it is for the five heads with the largest errors on the
# reference pair; the integral is a sum over nine Gauss–Legendre points.

# %%
whole = study.whole_errors(loaded, pair)
common.show(
    study.whole_error_shares(whole).drop(columns="heads").rename(columns=study.KINDS),
    "+.0f",
    "Signed shares of the summed errors, in percent.",
)

# %%
worst = whole.groupby("model", sort=False).head(3).rename(columns={"component": "head"})
common.show(worst[["model", "head", "error", "q"]], "+.2f", "Largest errors f − f_AP, in nats.")

# %%
common.show(
    worst[["head", *kinds]].rename(columns=study.KINDS),
    "+.2f",
    "Their parts, in nats; rows as above.",
)

# %%
columns = {"parts": "six parts less integral", "points": "integral less measured error"}
common.show(study.whole_error_gaps(whole).rename(columns=columns), ".0e", "Largest gaps, in nats.")

# %% [markdown]
# What is left between integral and error is the sum over points: on some heads the curvature changes fast. The ranking of kinds at
# the start of the path, in the figure above, is not that of the whole error.
#
# ## The metric is part of the error
#
# The output is the one kind that a researcher chooses: log p has a log-softmax, and the logit difference between the right
# and the wrong name does not. With the latter, the output contributes 0 (unless the model caps its logits). The gradient
# that weighs all earlier summands changes with it. On the reference pair, all heads:

# %%
columns = {"error": "top-5 error of AP, %", "range": "range of effects"}
columns |= {"q": "mean |q| of the five", "output": "of it the output"}
digits = dict.fromkeys(("top-5 error of AP, %", "range of effects"), ".1f")
digits |= dict.fromkeys(("mean |q| of the five", "of it the output"), ".3f")
common.show(study.by_metric(loaded, pair).rename(columns=columns), digits, "Effects in nats.")

# %% [markdown]
# One pair is an anecdote, and the range of the effects changes with the metric too. The output's part goes, as it must. The
# rest changes as well, and not in the same direction in both models, so that the output's share does not predict the gain.
#
# ### Gauss–Newton is the output alone
#
# Gauss–Newton keeps the curvature of the metric in the logits and counts the network below as linear. It is exactly the part of the output above, so it can
# correct that share of the quadratic term and no more. Where the full quadratic term goes too far, less can be better.

# %%
newton = study.errors(table)
columns = {"method": "estimate", "top5": "error", "difference": "less AP"}
digits = {"error": ".2f", "less AP": "+.2f", "p, Holm": ".3f"}
common.show(
    study.errors_table(newton).rename(columns=columns),
    digits,
    f"Top-5 relative error on IOI, {n_prompts['heads']} prompts, in percent.",
)

# %% [markdown]
# ### Other backward passes
#
# GIM and RelP hold the scale of norms fixed in the backward pass, GIM softens the attention softmax, and AtP\* recomputes it for queries and
# keys. Each of them thus treats *some* of the kinds above in a way of its own, and in the slope, not in the
# curvature. The shares of this page say how much there is to repair in each kind; whether those rules repair it is the subject of
# [chapter 8](../08_baselines.ipynb).
#
# ## Claims

# %%
common.show_claims("04_curvature_gap", study.claims(gap, table), model_name)

# %% [markdown]
# ## Limits
#
# Two small models with quantised weights, one task with prompts made by us, one direction of patching. The paper's models have other activation
# functions and, in part, no gated MLPs. The neurons are a random draw, on `n_prompts["neurons"]` prompts. The places in the layers, the whole errors and the metrics are those of one
# pair. Everything but the whole errors is about the quadratic term; what is beyond it, the cubic remainder, has its own sources, and it is
# large for some heads ([chapter 5](../05_reliability_score.ipynb)). Kinds are ours: another way to sort operations gives other shares, though never another sum. The exact split into local and
# downstream, the kinds and the layers are not in the paper.
