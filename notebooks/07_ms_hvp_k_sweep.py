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
# * write {term}`MS-HVP`, the correction in $K$ steps, and choose $K$ from a measured curve;
# * explain why its error falls as $1/K^2$, and predict its size from two curvatures;
# * recognise where a single correction makes attribution patching worse, and say why.
#
# You need attribution patching (AP), the correction by a Hessian-vector product (HVP, [chapter 3](03_hessian_vector_product.ipynb)), and the
# head that the score of [chapter 5](05_reliability_score.ipynb) could not see. Every number behind this page, with intervals, tests
# and claims, is on the [evidence page](evidence/07_ms_hvp_k_sweep.ipynb).
#
# ## Guess before you look
#
# The error here is that of the five largest true effects of a prompt, in percent of the range of all its effects.
#
# 1. How many steps bring its mean below 1 %? Two, five, twenty?
# 2. On how many of a hundred prompts is *one* step worse than none?
# 3. You double the number of steps. What becomes of the error?

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
device = None  # None: a GPU when there is one
n_prompts = 20  # of each task; more are computed, and stored

# %%
import torch
from IPython.display import Markdown

from checks.ms_hvp_k_sweep import check_harmed, check_steps_needed
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    load_model,
    make_prompts,
    ms_hvp,
    plots,
    reference_pair,
)
from hvp_utils.plans import ModelSizes
from studies import common
from studies import k_sweep as study

plots.use_style()

# %% [markdown]
# ## The idea in five lines
#
# A parabola drawn at $t = 0$ knows slope and bend of the curve there, and nothing of what comes later. So cut the way from 0 to 1
# into $K$ pieces, and take both anew at the start of each:
#
# $$\widehat f_K = \sum_{k=0}^{K-1} \left( \frac{g'(k/K)}{K} + \frac{g''(k/K)}{2K^2} \right).$$
#
# $K = 1$ is HVP. Here are five steps for the five heads with the largest effects on "When Mary and John went to the store, John
# gave a drink to".

# %%
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair())
truth = activation_patching(M).cpu()
top = truth.abs().topk(5).indices
K = 5

estimate = torch.zeros(len(top))
for k in range(K):
    at = M.along_axes(k / K, components=top)
    estimate += (at.slope / K + at.curvature / (2 * K**2)).cpu()

assert torch.allclose(estimate, ms_hvp(M, K, components=top).cpu(), atol=1e-4)
print(f"The largest error of the five is {(estimate - truth[top]).abs().max():.3f} nats.")

# %% [markdown]
# ## One head
#
# One of the five is a head that starts straight and bends later. A second derivative at the start hardly corrects it. Five of them
# follow it round the bend.

# %% mystnb={"image": {"alt": "The metric along the axis of one head. The true curve starts straight and flattens. The tangent of attribution patching and the parabola of one step end far above it. Five short parabolas, each starting where the last one ended, stay with the curve."}}
left = study.leftovers(M)
one = left[left.K == 1]
head = one.component[one.error.abs().idxmax()]
missed = left[left.component == head].set_index("K").error.abs()
_ = study.harm_figure(
    M, head, K, f"{head}: one step misses by {missed[1]:.2f} nats, five by {missed[5]:.2f}"
)

# %% [markdown]
# ## Many prompts
#
# Four sets of prompts: name swaps (IOI); Greater-Than with a random token in the corrupted prompt; statements with one right
# next word (factual), with a random token on the subject; and the same statements with another subject (factual swap). For each prompt the five heads with the
# largest true effects were followed with every $K$ from 1 to 20.

# %% mystnb={"image": {"alt": "Top-5 relative error against the number of steps for four sets of prompts, on logarithmic axes with intervals. Attribution patching stands at the left, between 6 and 15 percent. All lines fall along the slope of one over K squared, from up to 10 percent at one step to about 0.02 percent at twenty."}}
sweeps = study.load([model_name], n_prompts, device=device)
errors = study.errors(sweeps)
means = study.at_steps(errors)
enough = study.enough(errors).steps.max()
_ = study.error_figure(means, f"{enough:.0f} steps bring the mean error below 1 % on every task")

# %%
first = study.one_step(errors)
average = {k: means[means.steps == k].error.map(lambda ci: ci.estimate) for k in (0, 1, 5, 20)}
by_steps = errors.pivot(index=["task", "prompt"], columns="steps", values="error")
harmed = by_steps[by_steps[1] > by_steps[0]]
repaired, worst = (harmed[5] < harmed[0]).sum(), by_steps.max()
price = study.prices_of_steps(ModelSizes.of(model)).set_index("method")

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**{enough:.0f} steps bring the mean error below 1 % on every task.** By task, it is {average[0].min():.0f} to {average[0].max():.0f} % with no step (AP), {average[1].min():.0f} to {average[1].max():.0f} % with one, {average[5].min():.1f} to {average[5].max():.1f} % with five, {average[20].min():.2f} to {average[20].max():.2f} % with twenty. The worst of all {len(by_steps)} prompts has {worst[5]:.1f} % with five and {worst[20]:.2f} % with twenty.

One step alone is a gamble: it makes {len(harmed)} prompts worse ({100 * len(harmed) / len(by_steps):.0f} %). With five steps {repaired} of these {len(harmed)} are better than with none, at {price.percent["MS-HVP, K = 5"]:,.0f} % of the price of patching every head exactly.
:::""")

# %% [markdown]
# ## Why $1/K^2$
#
# What a step leaves out is a cubic remainder. A step $K$ times shorter leaves out $K^3$ times less, and there are $K$ of them. Together:
# $K^2$ times less. Twice the steps, a quarter of the error. The constant is known too (proof on the [theory page](../book/theory.md)):
#
# $$f - \widehat f_K = \frac{g''(1) - g''(0)}{6K^2} + O(K^{-3}).$$
#
# Two curvatures, at both ends, predict the error for every $K$.

# %%
common.show(
    left.loc[left.component == head, ["K", "estimate", "error", "predicted"]],
    "+.3f",
    f"Effect of {head} in nats; truth {left.truth[left.component == head].iloc[0]:+.3f}.",
)

# %% tags=["hide-input"]
Markdown(
    f"""With few steps the prediction fails, since a step is still longer than the wiggles of the curve. Later it is close. The same shows over all prompts: from five steps on, the slopes of error against $K$ on logarithmic axes are ${first.slope.min():.2f}$ to ${first.slope.max():.2f}$ in the median, by task; the theory says $-2$. (Greater-Than has effects so small that float32 rounds them. Float64 gives the slope back: [evidence](evidence/07_ms_hvp_k_sweep.ipynb).)"""
)

# %% [markdown]
# ## Where it fails: one step can do harm
#
# Before the correction the error is $E = q + R_3$: quadratic term and remainder. After it, $R_3$ is left. So HVP is *worse* than AP exactly when
# the remainder has the opposite sign and more than half the size of $q$. The curve starts to bend, and then bends back. Of each task, this is the prompt
# that one step harms most.

# %%
most = study.worst_prompts(sweeps, errors)
columns = ["task", "AP", "K = 1", "K = 2", "K = 5", "K = 20"]
common.show(most[columns], ".2f", "Top-5 relative error in percent.")

# %% [markdown]
# And on the worst of them, this is the head to which the step does most harm.

# %% mystnb={"image": {"alt": "The metric along the axis of the head that one step harms most. The curve rises, bends upwards at first, then turns flat before half-way. The parabola at 0 ends farther from the true end than the tangent; five short parabolas stay with the curve."}}
case = most.loc[most.adds.idxmax()]
task = next(key for key, name in study.TASKS.items() if name == case.task)
harm = study.harm(sweeps[model_name, task].isel(prompt=case.prompt))
pair = make_prompts(task, model, n_prompts)[case.prompt]
_ = study.harm_figure(
    PatchedMetric(model, pair),
    harm.component,
    5,
    f"{harm.component} bends, then bends back: one step is off by {abs(harm.remainder):.1f} nats",
)

# %% tags=["hide-input"]
Markdown(
    f"""The prompt is “{case.text}”. Here $q = {harm.q:+.2f}$ nats and the remainder is ${harm.remainder:+.2f}$: opposite, and {abs(harm.remainder / harm.q):.1f} times as large. One reason why curves bend back: no probability exceeds 1, so a log probability that climbs has to stop. Derivatives at the start do not know that."""
)

# %% [markdown]
# ### What it costs
#
# A **run** is one exact patch of one head, averaged over heads. Operations are counted, for all heads of the pair above.

# %%
common.show(
    price.reset_index()[["method", "runs", "percent", "per head"]].drop(index=2),
    {"runs": ",.1f", "percent": ",.1f", "per head": ".2f"},
    f"{model_name}. Percent of patching every head; the last column in runs.",
)

# %% [markdown]
# So nobody should buy an effect this way: even one step costs more than the exact patch of the same head. Patch exactly. Up to about 100 components,
# patch them all; with more, those that `hvp_utils.top_effects(M, k)` chooses
# ([chapter 10](10_is_it_worth_it.ipynb)). What MS-HVP teaches is *where* along the way the linear picture breaks.
#
# Other limits:
#
# * **Averages over several $K$ do not help here.** The paper takes the median of $K$ = 5, 10 and 20. If the error falls steadily, that is the
#   middle one, and here it is ([evidence](evidence/07_ms_hvp_k_sweep.ipynb)).
# * **The paper's hardest case.** On Pythia-410M and IOI one step raises the error from 22.34 to 47.48 %, and more level off near 18 %
#   (Table 2 {cite:p}`zhang2026lies`). Nothing levels off here; that model was not run.
# * **One small model**, quantised, heads only, prompts made by us.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Take only the slope, at the *middle* of each piece. How does the error compare, at the same $K$ and at the
#    same price?
#    <details><summary>Hint</summary>
#
#    `M.along_axes((k + 0.5) / K, order=1, components=top).slope / K`, summed over `k`. Expand the error as the
#    theory page does; the constant has a 24 in it.
#
#    </details>
# 2. *(easy, 15 minutes)* For a cubic $g(t) = at + bt^2 + ct^3$, how large is the error of $K$ steps, exactly? Turn it into a planner: how many steps does a
#    tolerance take?
#    <details><summary>Hint</summary>
#
#    The leading error of $K$ steps is $(g''(1) - g''(0)) / (6K^2)$.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def steps_needed(start, end, tolerance):
#        K = 1
#        while abs(end - start) / (6 * K**2) > tolerance:
#            K += 1
#        return K
#    ```
#
#    For a cubic, $g''(1) - g''(0) = 6c$, so the error is $c/K^2$ and the plan is exact.
#
#    </details>


# %%
def steps_needed(start, end, tolerance):
    """The fewest steps K whose leading error is within the tolerance.

    `start` and `end` are the curvatures g''(0) and g''(1).
    """
    ...  # your turn


check_steps_needed(steps_needed)

# %% [markdown]
# 3. *(easy, 10 minutes)* When is one step worse than none? Attribution patching errs by $q$ + remainder, HVP by the remainder alone.
#    <details><summary>Hint</summary>
#
#    Compare sizes. Which sign must the remainder have, and how large must it be?
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def harmed(q, remainder):
#        return remainder.abs() > (q + remainder).abs()
#    ```
#
#    </details>


# %%
def harmed(q, remainder):
    """For each head, whether HVP is farther from the truth than attribution patching."""
    ...  # your turn


check_harmed(harmed)

# %% [markdown]
# 4. *(medium, 15 minutes)* Find, on factual-swap prompts, a head for which AP has the wrong *sign*. What do one and five steps say?
#    <details><summary>Hint</summary>
#
#    `data = sweeps[model_name, "factual_swap"]`; compare the signs of `data.attribution_patching` and
#    `data.activation_patching`, among effects of at least 0.1 nats.
#
#    </details>
# 5. *(hard, 30 minutes)* Steps of equal length waste effort where the curve is straight. Choose the next step from the change of the curvature over
#    the last one, and reach the accuracy of $K = 5$ with fewer.
#    <details><summary>Hint</summary>
#
#    `along_axes` takes a `t` for each component, so every head can have steps of its own.
#
#    </details>
