# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Where does the error come from?
#
# **Attribution patching follows a tangent, and the curve bends. How much of the error is the bend at the start, and how much is left?**
#
# After this chapter you can
#
# * split the error of any component into a quadratic term and a remainder, and measure both;
# * check that the remainder is cubic, by shrinking the patch and watching it fall;
# * say which part of the error one second derivative can remove, and for which heads.
#
# You need the curve $g(t)$ of [chapter 1](01_one_head.ipynb). The theorems are proved on the [theory page](../book/theory.md); every number behind
# this page, with intervals and checks, is on the [evidence page](evidence/02_taylor_decomposition.ipynb).
#
# ## Guess before you look
#
# Add the second derivative to attribution patching, for every head of many prompts.
#
# 1. For which share of the heads does the estimate come nearer to the truth: a half, three quarters, nearly all?
# 2. Add up the errors of all heads. Which share of that sum goes away?

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

from checks.taylor_decomposition import check_leading_remainder, check_two_views
from hvp_utils import (
    PatchedMetric,
    attribution_patching,
    load_model,
    plots,
    quadratic_term,
    reference_pair,
)
from studies import common, first_steps

plots.use_style()

# %% [markdown]
# ## The idea in five lines
#
# Let $g(t)$ be the metric when one component is patched with strength $t$. Taylor's theorem at $t = 0$ says
#
# $$g(1) - g(0) = \underbrace{g'(0)}_{\text{attribution patching}} + \underbrace{\tfrac12 g''(0)}_{\text{quadratic term } q} + \underbrace{R_3}_{\text{remainder}} .$$
#
# So attribution patching's error is $E = q + R_3$, and whoever adds $q$ is left with $R_3$. The paper writes
# $g''(0) = \delta^\top H \delta$: the {term}`Hessian` of the metric with respect to the patched activation, along the patch $\delta$.
#
# You need no calculus to measure all of it. Three runs close together give slope and {term}`curvature`, and a fourth gives the truth. `along_axes` runs
# all heads, each on its own axis. Such small differences need 15 digits, so this page computes in float64.

# %%
M = PatchedMetric(load_model(model_name, device=device, dtype=torch.float64), reference_pair())


def g(t):
    return M.along_axes(t, order=0).value  # one number a head


h = 1e-3
low, middle, high = g(-h), g(0.0), g(h)
slope, curvature = (high - low) / (2 * h), (high - 2 * middle + low) / h**2
error = g(1.0) - middle - slope
quadratic = curvature / 2
remainder = error - quadratic

# %%
torch.testing.assert_close(slope, attribution_patching(M), rtol=1e-3, atol=1e-4)
torch.testing.assert_close(quadratic, quadratic_term(M), rtol=1e-3, atol=1e-4)

# %% [markdown]
# ## One prompt
#
# The parts of the five largest effects on the prompt of chapter 1. Read a row from left to right: what is true, what
# {term}`attribution patching` says, the error, and its two parts.

# %%
five = first_steps.of_the_largest(M)
common.show(five, "+.2f", f"The five largest effects, in nats, {model_name}.")

# %% [markdown]
# Is $R_3$ really of third order? Shrink the patch. If the curve is smooth, half the patch must have a quarter of the error, and an eighth of the remainder.
# To shrink $\delta$ by $s$ is to stop at $t = s$.

# %% mystnb={"image": {"alt": "Mean error against the scale of the patch on logarithmic axes. Without correction the error follows a line of slope 2, with the quadratic term one of slope 3. In float32 the corrected error stops falling near one millionth; in float64 it goes on."}}
scales = 2.0 ** -np.arange(0, 11)
double = first_steps.scaled(M, scales)
single = first_steps.scaled(PatchedMetric(load_model(model_name, device=device), M.pair), scales)
found = first_steps.scaling_summary(double, single)
title = f"The error falls with the power {found['without']:.2f} of the patch, corrected {found['with']:.2f}"
_ = first_steps.scaling_figure(double, single, title)

# %% tags=["hide-input"]
Markdown(
    f"The theory holds to the precision of the arithmetic, for *small* patches. Now look at the right end. At the whole patch, $s = 1$, the quadratic term removes only **{found['removed']:.0f} %** of the error of these five heads. The whole patch is too long for the leading term to speak for the rest. (In float32 the curve "
    f"ends in a floor of rounding near {found['floor']:.0e} nats; a smaller remainder cannot be seen.)"
)

# %% [markdown]
# ## Many prompts
#
# If the quadratic term were the whole error, every head would lie on the diagonal. Both axes are logarithmic, since the errors span many powers of ten: most
# heads hardly matter. The truth and both derivatives of every head are stored with the book.

# %% mystnb={"image": {"alt": "Two panels, one for each model: size of the quadratic term against size of attribution patching's error for every head of 50 prompts, as a density on logarithmic axes. The clouds follow the diagonal over five powers of ten; at the largest errors they widen, with points on both sides."}}
models = model_name, second_model
sweeps = common.load(models, ["ioi"], first_steps.ESTIMATORS, n_prompts, device=device)
parts = first_steps.parts(sweeps)
each = first_steps.head_by_head(parts).set_index("model")
title = (
    f"{each.closer.min():.0f} to {each.closer.max():.0f} % of all heads come nearer to the truth"
)
_ = first_steps.density_figure(parts, title)

# %%
removed = first_steps.removed(parts).set_index("model").together
sized = first_steps.by_size(parts).set_index(["size", "model"]).together
small, large = (sized[name] for name in (first_steps.BINS[0][0], first_steps.BINS[-1][0]))

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**Head by head it is the bend; weighed by size it is mostly not.** On {n_prompts} {{term}}`IOI` prompts the quadratic term brings {" and ".join(f"{each.closer[m]:.0f} % ({m})" for m in models)} of the heads nearer to the truth. Yet of the summed error it removes only
**{removed[model_name]:.0f %}** in {model_name} and **{removed[second_model]:.0f %}** in {second_model} (95 % intervals in parentheses). Five heads of a prompt carry {each["top five"][model_name]:.0f} % and {each["top five"][second_model]:.0f} % of that sum.
:::""")

# %% [markdown]
# ## Where it fails: on the heads that matter
#
# Both views are true, and the difference between them is the subject of this book. A head with a small effect is one whose patch hardly moves the network; there
# a parabola is enough. The heads that we care about move the network far, and there the remainder catches up.

# %% mystnb={"image": {"alt": "Share of the summed error that the quadratic term removes, against the size of the true effect in four classes, a line with intervals for each of two models. Both lines start above 80 percent for the smallest effects and fall; for effects of a tenth of the largest and more they are near or below 25 percent, with wide intervals that include zero."}}
title = f"Error removed: small effects {min(small)[0]:.0f} to {max(small)[0]:.0f} %, large {min(large)[0]:.0f} to {max(large)[0]:.0f} %"
_ = first_steps.size_figure(first_steps.by_size(parts), title)

# %% [markdown]
# Below 0 the correction does more harm than good. More limits:
#
# * **Wide intervals.** A few prompts with a large remainder decide the last class. The evidence page has the mean of the prompts' shares beside the share of the sum
#   shown here, two more tasks (on Greater-Than it removes more of the error), and the layers where both parts live.
# * **One correction.** Whether more steps remove what is left is the subject of [chapter 7](07_ms_hvp_k_sweep.ipynb).
#
# The paper calls the quadratic term dominant {cite:p}`zhang2026lies`. Counting heads, we agree; weighing them by their error, we do not. Its Table 2 has both
# outcomes as well: HVP lowers the top-5 relative error on IOI from 18.07 to 12.00 % for GPT-2, and raises it from 22.34 to 47.48 % for Pythia-410M.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Two views of one repair: which share of the heads comes nearer to the truth, and which share of the summed error goes away?
#    Write both; then give the function the errors of a prompt. Which of the two would you report?
#    <details><summary>Hint</summary>
#
#    An error is near when its *size* is small, and errors of opposite sign must not cancel in a sum.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def two_views(error, remainder):
#        nearer = (remainder.abs() < error.abs()).double().mean()
#        left = remainder.abs().sum() / error.abs().sum()
#        return 100 * nearer, 100 * (1 - left)
#    ```
#
#    Both, since they answer different questions: the first weighs all heads alike, the second is decided by the largest.
#
#    </details>


# %%
def two_views(error, remainder):
    """Shares in percent: of heads that come nearer, and of the summed error that goes away.

    `error` is truth − AP for every head, and `remainder` is truth − HVP.
    """
    ...  # your turn


check_two_views(two_views)

# %% [markdown]
# 2. *(medium, 15 minutes)* The remainder starts with $g'''(0)/6$. Estimate $g'''(0)$ for the five heads from two curvatures close to 0, and add it to HVP. Does
#    their error get smaller?
#    <details><summary>Hint</summary>
#
#    `(M.along_axes(h).curvature - M.along_axes(-h).curvature) / (2 * h)`. The paper finds that a third-order expansion fails where
#    MS-HVP does not.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def leading_remainder(curvature, h):
#        third = (curvature(h) - curvature(-h)) / (2 * h)
#        return third / 6
#    ```
#
#    </details>


# %%
def leading_remainder(curvature, h):
    """A sixth of the third derivative at 0, from the curvatures at h and −h."""
    ...  # your turn


check_leading_remainder(leading_remainder)

# %% [markdown]
# 3. *(hard, 30 minutes)* For each head, find the largest $s$ for which the corrected error is below 1 % of the uncorrected one. How does it relate to the norm
#    of the patch, `M.delta_norm`?
#    <details><summary>Hint</summary>
#
#    Bisect on `t` for all heads together: `along_axes` takes one `t` per component.
#
#    </details>
