# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. How do you get a second derivative, and what does it cost?
#
# **The correction of [chapter 2](02_taylor_decomposition.ipynb) needs the curvature of every head. How is it computed, how precisely, and at what price?**
#
# After this chapter you can
#
# * compute a {term}`Hessian-vector product <HVP>` in three ways, and know that they agree;
# * say where finite differences stop working, and why fused attention gives an error;
# * state the price of a second derivative in runs of the model, and compare it with the exact answer.
#
# Every number behind this page, for both models and all stored prompts, is on the [evidence page](evidence/03_hessian_vector_product.ipynb).
#
# ## Guess before you look
#
# One *run* of the model patches one head exactly. Write down two guesses.
#
# 1. How many runs is one second derivative of one head worth: a half, one, or more than two?
# 2. So which is cheaper: to correct the estimate of a head, or to replace it by the truth?

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
import numpy as np
import torch
from IPython.display import Markdown

from checks.hessian_vector_product import check_one_sided, check_row_sums, check_third_derivative
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    load_model,
    plots,
    reference_pair,
)
from hvp_utils.models import MODELS
from studies import common, first_steps

plots.use_style()
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair())

# %% [markdown]
# ## Why not the whole Hessian?
#
# $M(\alpha)$ is the metric as a function of all patch strengths at once, one for each head. Its gradient at 0 is attribution patching, for every head together.
# Its {term}`Hessian` $H$ at 0 holds the curvature $g_c''(0)$ of each head on the diagonal, and how heads interact off the diagonal.

# %% tags=["hide-input"]
Markdown(
    f"For the {M.n} heads of this model $H$ has {M.n**2:,} entries. For all neurons of the paper's Pythia-2.8B (its Table 1) it would have {(32 * 10240) ** 2:,}. Nobody needs them all. "
    "The correction needs the diagonal, and each entry of it is $v^\\top H v$ for a vector $v$ that is 1 at one head and 0 elsewhere. So it is enough to know what $H$ does to a vector."
)

# %% [markdown]
# ## The idea in five lines
#
# {term}`Pearlmutter's trick`: $Hv$ is the derivative of something cheap {cite:p}`pearlmutter1994`. The gradient $\nabla M$ is a function of $\alpha$. Its dot
# product with a fixed $v$ is a *number* that depends on $\alpha$, and the gradient of that number is
#
# $$\nabla_\alpha \big( \nabla M(\alpha) \cdot v \big) = H v .$$
#
# So two backward passes give $Hv$, and $H$ is never formed. `M` is an ordinary differentiable function in PyTorch. We take the head of
# [chapter 1](01_one_head.ipynb).

# %%
head = first_steps.worst_head(activation_patching(M), attribution_patching(M), M.labels)
v = torch.zeros(M.n, device=M.delta_norm.device)
v[M.labels.index(head)] = 1.0

alpha = torch.zeros_like(v, requires_grad=True)
(gradient,) = torch.autograd.grad(M(alpha), alpha, create_graph=True)
(double_backward,) = torch.autograd.grad(gradient @ v, alpha)

torch.testing.assert_close(M.hvp(v), double_backward, rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## Two other ways
#
# **Forward over reverse**: $Hv$ is also the rate at which the gradient changes when $\alpha$ moves along $v$. Forward-mode differentiation pushes that rate through the backward
# pass itself. **Finite differences**: take the gradient a little to either side, subtract and divide. No second derivative is asked of PyTorch at all.


# %%
def finite_difference(M, v, step):
    return (M.gradient(step * v) - M.gradient(-step * v)) / (2 * step)


_, forward_over_reverse = torch.func.jvp(torch.func.grad(M), (torch.zeros_like(v),), (v,))
ways = {
    "double backward": double_backward,
    "forward over reverse": forward_over_reverse,
    "finite differences, step 0.01": finite_difference(M, v, 0.01),
    "hvp_utils: M.hvp(v)": M.hvp(v),
}
agreement = first_steps.agreement(ways, v)
common.show(agreement, {"vᵀHv": ".5f", "relative difference": ".0e"}, f"Head {head}.")

# %% [markdown]
# ## Where finite differences break
#
# A finite difference has two errors that pull in opposite directions. A long step sees more than the second derivative: that error falls with the square of the step. A short
# step subtracts two nearly equal gradients, and what is left is rounding: that error *grows* as the step shrinks. In {term}`float32`, with its seven digits, the two
# meet early.

# %% mystnb={"image": {"alt": "Relative error of the finite-difference Hessian-vector product against its step, on logarithmic axes. In float32 the curve is a V with its lowest point near a step of one hundredth; in float64 it falls much further before it rises. Double backward in float32 is a flat line below the lowest point of the float32 curve."}}
steps = np.logspace(-7, 0, 15)
in_double = PatchedMetric(load_model(model_name, device=device, dtype=torch.float64), M.pair)
errors = first_steps.by_steps((M, in_double), v, steps)
best = errors.loc[errors.groupby("dtype")["finite differences"].idxmin()].set_index("dtype")
single = best.loc["float32"]
title = f"float32: finite differences reach {single['finite differences']:.0e}, double backward {single['double backward']:.0e}"
_ = first_steps.step_figure(errors, title)

# %% tags=["hide-input"]
Markdown(
    f"Only steps near {single.step:.2g} reach that, and the right step is another one for every model and prompt. In float64 the finite difference gets to "
    f"{best['finite differences']['float64']:.0e}. Double backward has nothing to choose. The paper reports that a finite-difference HVP fails on its hardest task (Section 4.3); this is one way in which that can happen without a bug."
)

# %% [markdown]
# ## Why fused attention has no second derivative
#
# Modern models compute attention in one fused kernel. Its backward pass is written by hand, and has no backward pass of its own. PyTorch says so:

# %%
q = torch.randn(1, 2, 4, 8, device=v.device, requires_grad=True)
fused = torch.nn.functional.scaled_dot_product_attention(q, q, q, is_causal=True)
(first,) = torch.autograd.grad(fused.square().sum(), q, create_graph=True)
try:
    torch.autograd.grad(first.sum(), q)
    print("This build differentiated it: it did not choose a fused kernel.")
except RuntimeError as error:
    print(str(error).splitlines()[0])

# %% [markdown]
# The remedy is {term}`eager attention`: two matrix products and a softmax. `load_model` asks for it. A second trap is {term}`TF32`, a fast mode of recent GPUs that keeps only ten bits of each
# factor; `PatchedMetric` switches it off while it runs.
#
# ## What it costs
#
# We count operations, which depend on no machine. The unit is the **run**: one exact patch of one component. A backward pass costs about as much again, and the second backward pass goes through the
# forward *and* the first backward. At $t = 0$ there is a saving: nothing is patched yet, so one forward and one first backward serve all heads. Only the second backward is made for each.

# %%
prices = first_steps.price_table([model_name, second_model, *MODELS])
own = prices[prices.model == model_name]
columns = {"each": "runs a head", "percent": "all heads, % of patching each"}
common.show(
    own[["method", *columns]].rename(columns=columns),
    {"runs a head": ".3g", columns["percent"]: ",.4g"},
    f"Counted operations, {own.n.iloc[0]} heads of {model_name}, reference pair.",
)

# %% [markdown]
# Is that a matter of this model? The sizes of a model are enough to count:

# %% mystnb={"image": {"alt": "Dot plot, one row for each of nine models: operations for all heads in percent of patching every head exactly, on a logarithmic axis. Attribution patching lies between 0.4 and 4 percent, exact patching at 100, HVP between 200 and 250, MS-HVP with five steps near 1,800."}}
times = prices[prices.method == "HVP"].percent / 100
title = f"HVP of every head costs {times.min():.1f} to {times.max():.1f} times the exact answer"
_ = first_steps.price_figure(prices, title)

# %%
of_model = own.set_index("method")
ap, second = of_model.loc["attribution patching"], of_model.loc["HVP"]

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**Differentiate the gradient once more: two backward passes, and no step to choose.** One second derivative of one head costs {second.each:.1f} runs. Exact patching of that head costs 1. For all {second.n} heads HVP takes **{second.percent:.0f} %** of patching each of them exactly; attribution patching takes {ap.percent:.1f} %, {ap.runs:.1f} runs in all. In {times.size} models HVP costs
{100 * times.min():.0f} to {100 * times.max():.0f} %.
:::""")

# %% [markdown]
# ## What follows
#
# **One Hessian-vector product costs more than the exact answer for the component that it corrects.** The paper counts cost in backward passes per component, with attribution patching at 1, HVP at 2 and MS-HVP at
# 2K, and does not list exact patching beside them (Section 4.1) {cite:p}`zhang2026lies`. Listed there, it would stand at about 1.
#
# So an HVP per component is not a cheaper way to the number. It is worth its price when it tells more: how far the curve bends, whether a first-order score can be trusted, which components
# interact. And one product $Hv$ serves *all* components at once if $v$ is chosen well.
#
# For the number itself: up to about 100 components, patch them all. With more, `hvp_utils.top_effects(M, k)` chooses with three gradients which ones to patch, and patches those exactly.
# [Chapter 10](10_is_it_worth_it.ipynb) measures how well that works.
#
# **Limits.** Operations are not seconds: on short prompts most of the time goes into reading the weights, once for each batch. The counts are of heads, and of prompts as long as the reference pair; the
# evidence page counts every stored prompt at its own length.
#
# ## Exercises
#
# 1. *(easy, 5 minutes)* Use *one-sided* differences, $(\nabla M(\varepsilon v) - \nabla M(0))/\varepsilon$. How do the two slopes of the first figure change?
#    <details><summary>Hint</summary>
#
#    The truncation error is now of first order in the step.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def one_sided(gradient, v, step):
#        return (gradient(step * v) - gradient(0 * v)) / step
#    ```
#
#    </details>


# %%
def one_sided(gradient, v, step):
    """An estimate of Hv from gradients of M at 0 and at step · v. `gradient` is a function of α."""
    ...  # your turn


check_one_sided(one_sided)

# %% [markdown]
# 2. *(medium, 15 minutes)* $Hv$ for $v = (1, \dots, 1)$ costs a single product. Which number does it hold for each head? Compare it with the diagonal.
#    <details><summary>Hint</summary>
#
#    It is the sum of a row: the head's own curvature and all its interactions.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def row_sums(product, n):
#        return product(torch.ones(n))
#    ```
#
#    </details>


# %%
def row_sums(product, n):
    """The sum of each row of an n × n Hessian H, if product(v) is Hv."""
    ...  # your turn


check_row_sums(row_sums)

# %% [markdown]
# 3. *(hard, 30 minutes)* Third derivatives: add another backward pass and get $g'''(0)$ for one head. Check it against the difference of two curvatures in float64. What does it cost?
#    <details><summary>Hint</summary>
#
#    `create_graph=True` once more, on `M(t * v)` for a scalar `t`.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def third_derivative(g):
#        value = g(t := torch.zeros((), requires_grad=True))
#        for _ in range(3):
#            (value,) = torch.autograd.grad(value, t, create_graph=True)
#        return value
#    ```
#
#    Each pass costs about twice the one before, and keeps its graph in memory.
#
#    </details>


# %%
def third_derivative(g):
    """The third derivative at t = 0 of a curve g that PyTorch can differentiate."""
    ...  # your turn


check_third_derivative(third_derivative)
