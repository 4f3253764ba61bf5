# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. What does a wrong attribution look like?
#
# **Attribution patching estimates what every attention head does to a prediction, all at once. Take one head that it gets wrong. What went wrong?**
#
# After this chapter you can
#
# * measure what one head does to a prediction, exactly and by three estimates;
# * draw the curve that all of them describe, and read off it why an estimate fails;
# * say how often an important head is badly estimated.
#
# Nothing is assumed but a rough idea of what a transformer is. The [introduction](../book/introduction.md) explains every term.
# Every number behind this page, with intervals and checks, is on the [evidence page](evidence/01_one_head.ipynb).
#
# ## Guess before you look
#
# Take the ten heads that matter most for one prediction. Attribution patching estimates each of the ten effects. Write down two guesses.
#
# 1. By what factor is the worst of the ten estimates off: 1.1, 1.5, or 3 and more?
# 2. On how many of 100 prompts is at least one of the ten off by a factor of two, or of the wrong sign?

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
n_prompts = 50  # of each task; more are computed, and stored
# %%
import torch
from IPython.display import Markdown

from checks.one_head import check_both_ends, check_other_direction
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    hvp,
    load_model,
    ms_hvp,
    plots,
    reference_pair,
)
from studies import common, first_steps

plots.use_style()
model = load_model(model_name, device=device)

# %% [markdown]
# ## Two prompts that differ in one word
#
# The model has to finish a sentence with a name. In the {term}`clean prompt` the right name follows from the rest: John gives, so Mary receives. In
# the {term}`corrupted prompt` one name is swapped, and the reason to say "Mary" is gone.

# %%
pair = reference_pair()
print("clean:    ", pair.clean)
print("corrupted:", pair.corrupted)
print("answer:   ", pair.answer)

# %% [markdown]
# Both have the same number of tokens, so everything the model computes in one run has a counterpart in the other. We score the
# {term}`log probability` of the answer. That number is the {term}`metric`.
#
# Which heads carry the difference? Move one, and see.

# %% mystnb={"image": {"alt": "A drawing of two runs side by side, each a column of layers of heads between its prompt below and the metric above. On the left is the clean run. What one of its heads computed is moved by an arrow into the same head of the corrupted run on the right. All layers after that head are shaded: they react. Everything else stays as it was. Above, the log probability of the answer is read."}}
M = PatchedMetric(model, pair, components="heads", direction="denoising")
answer = pair.answer.strip()
_ = first_steps.patching_picture(
    metrics=(f"log p({answer}) = {M.other:.2f}", f"log p({answer}): {M.base:.2f} → ?")
)

# %% [markdown]
# This is {term}`activation patching`. Put one head's clean activation into the corrupted run, let everything after it react, and
# see how far the metric moves. The answer is exact, and takes one run of the model for each head. To start from the corrupted run is called
# {term}`denoising`.
#
# {term}`Attribution patching <attribution patching>` replaces all those runs by one gradient. It takes the slope of the metric with respect to each head's
# activation, and walks along that slope as if it never changed.

# %%
truth = activation_patching(M)
estimate = attribution_patching(M)

head = first_steps.worst_head(truth, estimate, M.labels)  # of the ten largest effects
h = M.labels.index(head)
price = first_steps.price_table([model_name]).iloc[0]  # counted operations

# %% tags=["hide-input"]
Markdown(
    f"The model has **{M.n} heads**. Patching them all takes {M.n} runs; attribution patching takes the work of {price.runs:.1f}, or "
    f"{price.percent:.1f} %. Head **{head}** truly moves the metric by {truth[h]:+.2f} nats. Attribution patching says "
    f"{estimate[h]:+.2f}: it is off by a factor of {(truth / estimate)[h].abs():.1f}, on a head that is among the ten most important."
)

# %% [markdown]
# ## The idea in five lines
#
# Why? Patch that head by degrees. Add only the fraction $t$ of the difference between its two activations. At $t = 0$ the head does what it did in the
# corrupted run, at $t = 1$ what it did in the clean run. Call the metric along the way $g(t)$. First the difference, from the model alone:

# %%
tokens = pair.resolve(model)
clean, corrupted = tokens.clean[None], tokens.corrupted[None]
layer, number = map(int, head[1:].split("H"))
place = f"blocks.{layer}.attn.hook_z"  # what the heads of this layer compute

with torch.no_grad():
    z_clean = model.run_with_cache(clean, names_filter=place)[1][place]
    z_corrupted = model.run_with_cache(corrupted, names_filter=place)[1][place]
difference = torch.zeros_like(z_clean)
difference[:, :, number] = (z_clean - z_corrupted)[:, :, number]  # other heads: 0

# %% [markdown]
# And now the five lines. A hook adds $t$ times the difference; PyTorch gives the slope $g'(0)$ and the curvature $g''(0)$.


# %%
def g(t):
    patch = (place, lambda z, hook: z + t * difference)
    logits = model.run_with_hooks(corrupted, fwd_hooks=[patch])
    return logits[0, -1].log_softmax(-1)[tokens.answer_ids[0]]


t = torch.zeros((), requires_grad=True, device=clean.device)
(slope,) = torch.autograd.grad(g(t), t, create_graph=True)
(curvature,) = torch.autograd.grad(slope, t)

# %% [markdown]
# Everything in this book is read off this one curve:
#
# * the true effect is the height that it gains, $g(1) - g(0)$;
# * attribution patching is its tangent at 0, $g'(0)$;
# * one more derivative gives the parabola at 0, $g'(0) + \tfrac12 g''(0)$. Since $g''(0)$ is a {term}`Hessian-vector product <HVP>` in disguise
#   ([chapter 3](03_hessian_vector_product.ipynb)), this estimate is called **HVP**.
#
# The package computes all three for all heads. It should agree with us.

# %%
by_hand = torch.stack([g(torch.ones_like(t)) - g(t), slope, slope + curvature / 2]).detach()
second_order = hvp(M)
package = torch.stack([truth[h], estimate[h], second_order[h]])
torch.testing.assert_close(by_hand, package, rtol=1e-3, atol=1e-4)
print("by hand:   ", [f"{x:+.4f}" for x in by_hand.tolist()])
print("hvp_utils: ", [f"{x:+.4f}" for x in package.tolist()])

# %% [markdown]
# ## One head, by degrees
#
# A parabola drifts off as well, only later. {term}`MS-HVP` (multi-step HVP) stops after a while, takes both derivatives again, and goes on from there.

# %% mystnb={"image": {"alt": "The metric as one attention head is patched from strength 0 to 1. The true curve bends upwards. The tangent at 0 ends far below it, the parabola at 0 ends about half way, and three parabolas end to end finish next to the true end point."}}
n_steps = 3
seen = estimate[h] / truth[h]
_ = plots.axis_curve(
    M, head, n_steps, title=f"{head}: the tangent sees {100 * seen:.0f} % of the effect"
)

# %%
methods = {
    "activation patching": truth,
    "attribution patching": estimate,
    "HVP": second_order,
    f"MS-HVP, {n_steps} steps": ms_hvp(M, n_steps),
}
on_one = first_steps.on_one_prompt(methods, h)
common.show(
    on_one, {"effect, nats": "+.2f", "% of the truth": ".0f"}, f"Head {head}, {model_name}."
)

# %% [markdown]
# The tangent is not a bad tangent. It is a correct answer to another question: what a *small* patch would do. Patching is not small. It replaces the
# whole activation, and on the way the network downstream responds differently from how it did at the start.
#
# ## Many prompts
#
# One head is an anecdote. Here are the ten largest effects of every prompt, on prompts of the same kind ({term}`IOI`), in two models. The estimates of
# all heads are stored with the book; `common.load` reads them.

# %% mystnb={"image": {"alt": "Two scatter plots, one for each model: attribution patching against the true effect of the ten largest heads of 50 prompts. Most points lie along the diagonal, within a grey wedge of a factor of two. Some dozens of points with positive true effects lie outside the wedge, most of them below it, near zero or negative."}}
sweeps = common.load(
    (model_name, second_model), ["ioi"], first_steps.ESTIMATORS, n_prompts, device=device
)
top = first_steps.largest(sweeps)
bad = first_steps.worst_of_prompts(top)[["AP", "HVP"]] >= 2  # a wrong sign counts too
title = f"On {bad.AP.sum()} of {len(bad)} prompts AP badly misses one of the top ten heads"
_ = first_steps.missed_figure(top, title)

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**A wrong attribution is a tangent to a curve that bends.** It sees {on_one.iloc[1, 2]:.0f} % of the effect of {head}; the parabola sees {on_one.iloc[2, 2]:.0f} %, and {n_steps} parabolas
end to end {on_one.iloc[3, 2]:.0f} %. It is no rare accident: on **{bad.AP.sum()} of {len(bad)} prompts** at least one of the ten largest heads is off by a factor of two or more, or has the wrong
sign. With HVP it is {bad.HVP.sum()}.
:::""")

# %% [markdown]
# ## Where the repair fails

# %%
largest = truth.abs().argmax().item()
ap, second, multi = ((e - truth)[largest].abs() for e in [*methods.values()][1:])

# %% tags=["hide-input"]
Markdown(
    f"HVP is not always nearer. For {M.labels[largest]}, the head with the largest effect ({truth[largest]:+.2f}), attribution patching is off by "
    f"{ap:.2f} nats, HVP by {second:.2f}, and MS-HVP by {multi:.2f}. A parabola only knows how the curve bends *at its start*. If the curve bends "
    "the other way later, no derivative at 0 can tell."
)

# %% [markdown]
# * **For one head none of this is needed.** Exact patching costs one run, and a second derivative costs more than one
#   ([chapter 3](03_hessian_vector_product.ipynb)). Estimates earn their place with many components, or by explaining *why* an attribution is wrong.
# * **Two small models**, one kind of prompt, and the ten largest heads of each. The evidence page has two more tasks.
#
# The paper shows no single curve. Its case study (Appendix E.10) is a head of GPT-2, L4H11, which attribution patching ranks 27th and the truth 7th
# {cite:p}`zhang2026lies`. We see the same kind of error in other models.
#
# ## Exercises
#
# 1. *(easy, 5 minutes)* Run the chapter in the other direction, `direction="noising"`. Does attribution patching err on the same heads?
#    First in small: write the effect and its estimate along one curve, with the base run at its end.
#    <details><summary>Hint</summary>
#
#    Only the base run changes. Compare the slopes at the two ends of the curve: noising takes its tangent where
#    denoising ends.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def other_direction(g):
#        t = torch.ones((), requires_grad=True)
#        (slope,) = torch.autograd.grad(g(t), t)
#        return g(0.0) - g(1.0), -slope
#    ```
#
#    The way from 1 to 0 is −1 long, hence the sign of the estimate.
#
#    </details>


# %%
def other_direction(g):
    """Effect and estimate along the curve g, if the base run is at t = 1 and the patch at t = 0."""
    ...  # your turn


check_other_direction(other_direction)

# %% [markdown]
# 2. *(medium, 15 minutes)* Average the tangents of both ends, $\tfrac12\,(g'(0) + g'(1))$. How does the top-5 relative error
#    (`top_k_relative_error`) compare with HVP's? What does it cost?
#    Write it for one curve; then look at all heads.
#    <details><summary>Hint</summary>
#
#    `M.along_axes(1.0, order=1).slope` gives $g'(1)$ for every head. Unlike $g'(0)$, it takes a run for each.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def both_ends(g):
#        slopes = []
#        for end in (0.0, 1.0):
#            t = torch.tensor(end, requires_grad=True)
#            slopes.append(torch.autograd.grad(g(t), t)[0])
#        return sum(slopes) / 2
#    ```
#
#    </details>


# %%
def both_ends(g):
    """The mean of the slopes of the curve g at t = 0 and at t = 1."""
    ...  # your turn


check_both_ends(both_ends)

# %% [markdown]
# 3. *(medium, 20 minutes)* Find a head for which HVP is worse than attribution patching, draw its curve, and say in a sentence what the curve does.
#    <details><summary>Hint</summary>
#
#    Sort by `(second_order - truth).abs() - (estimate - truth).abs()`, and look where the curvature changes sign.
#
#    </details>
