# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Can you know beforehand when it lies?
#
# **Attribution patching is wrong for some heads and right for others. Can you tell which, without patching them?**
#
# After this chapter you can
#
# * compute the {term}`reliability score` of every head, and say what it promises and on what condition;
# * check a warning sign against the truth, with a base rate and a simple rival;
# * recognise the two ways in which it misleads, and name its price.
#
# You need attribution patching (AP) and the split of its error into a quadratic term and a remainder
# ([chapter 2](02_taylor_decomposition.ipynb)). Every number behind this page, with intervals, tests and claims, is on the
# [evidence page](evidence/05_reliability_score.ipynb).
#
# ## Guess before you look
#
# The score calls a head safe if it is below 0.1. A head *matters* if its true effect is at least 1 % of the prompt's largest. Write down three guesses.
#
# 1. Of a hundred heads that matter and are called safe, on how many is AP off by more than 10 %?
# 2. Where is the score surer, on heads with small effects or with large ones?
# 3. Which costs more: the score of a head, or patching it, which leaves nothing to predict?

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
n_prompts = {"ioi": 50, "factual": 55, "greater_than_01": 100}  # more are computed, and stored

# %%
import torch
from IPython.display import Markdown

from checks.reliability_score import check_blind_curve, check_safe_count
from hvp_utils import (
    PatchedMetric,
    load_model,
    model_sizes,
    plots,
    reference_pair,
    reliability_score,
)
from studies import common, prices
from studies import reliability_score as study

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## The idea in five lines
#
# AP follows the tangent. The first thing that it leaves out is the quadratic term $q = \tfrac12 g''(0)$. So compare the two:
#
# $$R = \frac{|q|}{|f_\mathrm{AP}|}.$$
#
# If $q$ were all that is missing, $R$ *would be* the relative error $|f - f_\mathrm{AP}| / |f_\mathrm{AP}|$, and nothing would have to
# be patched. The rest is the remainder. Let $\eta$ be a bound on its size, divided by $|q|$. Then the relative error lies between
# $(1 - \eta) R$ and $(1 + \eta) R$ (the paper's Proposition 1 {cite:p}`zhang2026lies`; proof on the [theory page](../book/theory.md)). Where $\eta$,
# the {term}`slack`, is small, $R$ is a promise. Where it is large, $R$ is a hint. ([Chapter 6](06_lipschitz_hessian.ipynb) estimates it. Here we
# measure the error itself.)

# %%
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair())

start = M.along_axes(0.0)  # slope and curvature of every head, at the base run
estimate = start.slope
q = start.curvature / 2
R = q.abs() / estimate.abs()

assert torch.allclose(R, reliability_score(estimate, q))
print(f"{(R < 0.1).sum()} of {len(R)} heads have a score below 0.1.")

# %% [markdown]
# ## One prompt
#
# These heads have the largest true effects on "When Mary and John went to the store, John gave a drink to". The score knows
# nothing of the truth. Compare the last two columns.

# %%
heads = study.one_prompt(M)
largest = heads.sort_values("truth", key=abs, ascending=False).head(8)
shown = largest.rename(columns={"component": "head", "error": "true relative error"})
signed = dict.fromkeys(("truth", "AP", "q"), "+.2f")
common.show(shown, signed, f"Effects in nats, {model_name}; R and the error have no unit.")

# %% [markdown]
# For most heads the two tell the same story. The largest of all is an exception, and we come back to it.
#
# ## Many prompts
#
# Now every head of two models on three tasks. The darker, the more pairs of a head and a prompt. A score below 0.1 with an
# error above 0.1 is *missed*; the reverse is a *false alarm*.

# %% mystnb={"image": {"alt": "Two panels, one a model: reliability score R against the true relative error of attribution patching on logarithmic axes, shaded by the number of head-prompt pairs. Both clouds follow the identity line over five powers of ten, most of each within a factor of two. Lines at 0.1 cut each panel in four; some pairs lie upper left, missed, and lower right, false alarms. The cloud of the second model is wider."}}
runs = study.judged(study.load(models, n_prompts, device=device))
within = study.within(runs)
everywhere = within[within["heads"] == "all effects"].within
close = " and ".join(f"{share.estimate:.0f} %" for share in everywhere)
_ = study.cloud_figure(
    runs, within, f"Score and true error agree within a factor of 2 for {close} of all pairs"
)

# %%
areas = study.detector(runs)
worst, best = (getattr(areas.R.map(lambda ci: ci.estimate), end)() for end in ("min", "max"))
rival, free = areas["|q|"], areas["small |f_AP|"]
large = within[within["heads"] == "large effects"].within
misses = study.misses(runs)
missed = misses["missed %"].map(lambda ci: ci.estimate)

# %% tags=["hide-input"]
Markdown(f"""A cloud can look better than it is. So ask a question with two answers: is AP off by more than 10 % here? The **AUROC** is the chance that a head for which the answer is yes has the higher score, when we draw one of each kind. Guessing gives 0.5, and $R$ gives {worst:.2f} to {best:.2f}, by model and task. (The answer is yes for {areas["base rate"].min():.0f} to {areas["base rate"].max():.0f} % of the heads.)

Is that too easy? $R$ and the relative error share a denominator. But a small $|f_\\mathrm{{AP}}|$ alone is no better than guessing ({free.min():.2f} to {free.max():.2f}), and $|q|$ alone, at the same price as $R$, reaches {rival.min():.2f} to {rival.max():.2f}. The ratio is what works.""")

# %% [markdown]
# ## Large effects
#
# The heads that we care about have large effects. Cut the heads of each task into quarters by true effect, and judge the score within each.
# The paper reports more than 0.97 in quarters two to four, for all its models (Figure 8).

# %% mystnb={"image": {"alt": "Two panels, one a model: AUROC of the score in four quarters of true effect, a line for each of three tasks, with intervals. On the first model it rises to about 0.99 in the second quarter and falls to about 0.97 in the fourth. On the second model it falls from about 0.98 to between 0.94 and 0.82. A dotted line marks the paper's 0.97."}}
quarters = study.quarters(runs, by=["|f|"])
falls = study.falls(runs, by=["|f|"])
price = prices.counted(model_sizes(model_name), ["hvp"]).percent.item()
surely = sum(fall.low > 0 for fall in falls["2 less 4"])
_ = study.quarters_figure(
    quarters,
    f"From quarter 2 to 4 of the effects, the AUROC falls in {surely} of {len(falls)} settings",
)

# %% [markdown]
# The weak first quarter of the first model is another matter. These effects are so small that float32 rounds them away, and the
# "true error" is made of rounding errors. In float64 most of that weakness is gone ([evidence](evidence/05_reliability_score.ipynb)).

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**Mostly, as a warning.** $R$ tells heads with errors above 10 % from the others with an AUROC of {worst:.2f} to {best:.2f}. For {close} of all heads (by model) it is within a factor of 2 of the true relative error; for large effects, the top quarter, for {" and ".join(f"{share.estimate:.0f} %" for share in large)}.

It is no guarantee: of the heads that matter and that it calls safe, {missed.min():.0f} to {missed.max():.0f} % are off by more than 10 %. And it is no saving: to score every head costs {price:.0f} % of patching every head.
:::""")

# %% [markdown]
# ## Where it fails
#
# Back to the exception. Of all heads of the prompt that the score calls safe, this one has the largest error.

# %% mystnb={"image": {"alt": "Left: the metric along the axis of the head that the score misjudges most. The true curve stays close to its tangent at first and then flattens; tangent and parabola end well above it. Right: half the curvature along the way, slightly positive at the start, the only place that the score sees, and strongly negative later."}}
blind = study.blind_spot(heads)
_ = study.blind_figure(
    study.blind_curve(M, blind.component),
    f"{blind.component}: R = {blind.R:.2f}, and AP is off by {100 * blind.missing:.0f} % of the true effect",
)

# %% tags=["hide-input"]
Markdown(f"""
AP says ${blind.AP:+.2f}$ nats, and the truth is ${blind.truth:+.2f}$. (The title divides the error by the truth. Divided by AP, as $R$ is, it is {abs(1 - blind.truth / blind.AP):.2f}.) The quadratic term is ${blind.q:+.2f}$, the remainder ${blind.remainder:+.2f}$: {abs(blind.remainder / blind.q):.0f} times as large. The curve starts straight and bends later, and no second derivative at the start can see that. Several steps along the way can ([chapter 7](07_ms_hvp_k_sweep.ipynb)).""")

# %%
columns = ["model", "task", "missed %", "alarms %", "worst"]
common.show(
    misses[columns].rename(columns={"worst": "worst missed error, %"}),
    ".0f",
    "Heads with at least 1 % of their prompt's largest effect. Missed: share of the heads called safe. "
    "Alarms: share of the others that are right after all.",
)

# %% [markdown]
# ### What it costs
#
# A **run** is one exact patch of one component, averaged over components. Operations are counted, for the pair above.

# %%
methods = ["attribution_patching", "row_norms:2", "hvp", "activation_patching"]
names = ["AP", "row screen", "R of every head", "patching every head"]
counted = prices.counted(model_sizes(model_name), methods).assign(method=names)
common.show(counted[["method", "runs", "percent"]], ".3g", f"{model_name}, reference pair.")

# %% [markdown]
# So up to about 100 components, patch them all and ask no score. With more, `hvp_utils.top_effects(M, k)` chooses by the row screen, which takes
# three gradients, and patches what it chose exactly ([chapter 10](10_is_it_worth_it.ipynb)). The score stays
# what it is good for: a warning beside an estimate, and an explanation when one was wrong.
#
# Other limits:
#
# * **It is relative.** A head that hardly matters may be off by half, and nobody minds. By layer, score and absolute error
#   agree only loosely ([evidence](evidence/05_reliability_score.ipynb)). Where large absolute errors are the question, look at $|q|$.
# * **Small models.** Two of them, with quantised weights, heads only, one direction of patching, prompts made by us.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* How low must the threshold be so that at most 1 % of the heads below it, among those that
#    matter, are off by more than 10 %? How many are left?
#    Write how many heads may be called safe; then give it a prompt's.
#    <details><summary>Hint</summary>
#
#    Take `run = runs[0]` and sort `run.R` and `run.bad`, both flattened, by `run.R`. Then take the
#    running mean.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def safe_count(R, bad, limit):
#        share = bad[R.argsort()].cumsum(0) / torch.arange(1, len(R) + 1)
#        allowed = (share <= limit).nonzero()
#        return int(allowed.max()) + 1 if len(allowed) else 0
#    ```
#
#    </details>


# %%
def safe_count(R, bad, limit):
    """The largest n for which at most a share `limit` of the n heads of smallest R are bad."""
    ...  # your turn


check_safe_count(safe_count)

# %% [markdown]
# 2. *(medium, 15 minutes)* Find heads with $|f - f_\mathrm{AP}|$ above 0.1 nats on IOI. Is $|q|$ a better guide than $R$?
#    <details><summary>Solution</summary>
#
#    `import numpy as np`, `from hvp_utils.stats import Auroc`, `run = runs[0]`; then `Auroc(np.abs(run.q), run.E > 0.1).interval()`, and the same with
#    `run.R`. An absolute question wants an absolute answer.
#
#    </details>
# 3. *(medium, 15 minutes)* Write a curve with $R = 1$ on which AP is exact.
#    <details><summary>Hint</summary>
#
#    Begin with $t + t^2$: it has $R = 1$. What can be added without a change of slope and curvature at 0?
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def blind_curve(t):
#        return t + t**2 - t**3
#    ```
#
#    Slope 1, $q = 1$, and the remainder takes it back.
#
#    </details>


# %%
def blind_curve(t):
    """A curve with R = 1 that gains exactly its slope at 0. `t` is a tensor."""
    ...  # your turn


check_blind_curve(blind_curve)

# %% [markdown]
# 4. *(hard, 30 minutes)* Build a score that catches the head of the last figure: add the curvature at $t = 1/2$. What does it
#    cost next to patching the head?
#    <details><summary>Hint</summary>
#
#    `M.along_axes(0.5).curvature`. Two curvatures give a third derivative, and with it an estimate of the
#    remainder.
#
#    </details>
