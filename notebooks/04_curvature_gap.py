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
# **Attribution patching (AP) ignores curvature. Does that curvature sit in the component that is patched, or in the network behind it?
# And there, in which operations and in which layers?**
#
# After this chapter you can
#
# * take out the curvature of any operation of a model and see what it was worth;
# * say what part of a neuron's error is its own and what part is the network's;
# * name the operations that bend the metric behind a head, and say why they differ from model to model.
#
# You need the quadratic term $q = \tfrac12 g''(0)$, which the correction by a Hessian-vector product (HVP) adds to AP
# ([chapter 3](03_hessian_vector_product.ipynb)). Every number
# behind this page, with intervals and checks, is on the [evidence page](evidence/04_curvature_gap.ipynb).
#
# ## Guess before you look
#
# 1. Patch one {term}`neuron` of an MLP, before its activation function. How much of its quadratic term comes from that
#    function, and how much from everything behind it? Write down a percentage.
# 2. Patch one head. Which operation behind it bends the metric most: the norms, the attention pattern (where heads look), attention mixing (pattern
#    times what is found there), the MLPs' activation functions, their gates, or the log-softmax at the end? Is it the same in two models?

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
import torch
from IPython.display import Markdown

from checks.curvature_gap import check_cancelling, check_own_part
from hvp_utils import PatchedMetric, load_model, plots, quadratic_term, reference_pair
from hvp_utils.backward_rules import NONLINEARITIES, linearised
from hvp_utils.estimators import local_quadratic_term, quadratic_without
from studies import common, curvature_gap

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## The idea in five lines
#
# To learn what a part of a machine does, take it out. To learn what an operation *bends*, make it straight: replace it by its tangent at the
# point where it is evaluated. Values and slopes stay as they are; only its curvature is gone. What $q$ loses by it is what the operation
# contributed. Here we straighten the activation functions of one layer, for neurons of that layer. (`"neurons_pre:24"` draws 24
# neurons from each layer, before the activation function.)

# %%
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair(), "neurons_pre:24")
layer = model.cfg.n_layers // 2
chosen = torch.where(M.layers == layer)[0]

q = quadratic_term(M, chosen)
with linearised(model, "mlp_activation", layers=[layer]):
    downstream = quadratic_term(M, chosen)
own = q - downstream

assert torch.allclose(own, local_quadratic_term(M, chosen), atol=1e-4 * float(q.abs().max()))
c = int(q.abs().argmax())
print(
    f"{M.labels[chosen[c]]}: q = {q[c]:+.4f}, own {own[c]:+.4f}, downstream {downstream[c]:+.4f} nats"
)

# %% [markdown]
# The assertion compares with a formula. A neuron's {term}`local curvature` is
#
# $$q_\text{local} = \tfrac12 \sum_i \lambda_i\, \sigma''(z_i)\, \delta_i^2 ,$$
#
# with the activation function $\sigma$, the neuron's input $z_i$ at position $i$, the patch $\delta_i$, and the gradient $\lambda_i$ at the neuron's output. It
# costs nothing once the gradient is known. Straightening and formula agree, and not by chance: the quadratic term *is a sum*, one summand for each operation,
# and this is one of them. That is a theorem ([theory](../book/theory.md), Theorem 5), so "where does the error come from" has an exact answer, in nats:
# $q = q_\text{local} + q_\text{downstream}$.
#
# ## Many neurons
#
# Now neurons from every layer, on IOI, one at a time. Most do next to nothing, so we show those that *count*: a true effect of at
# least 1 % of the prompt's largest.

# %%
sweeps = common.load(
    models,
    ["ioi"],
    curvature_gap.OF_NEURONS,
    n_prompts["neurons"],
    components=f"neurons_pre:{n_neurons}",
    device=device,
)
gap = curvature_gap.neurons(sweeps)
each = curvature_gap.per_prompt(gap)
share = curvature_gap.of_those_that_count(curvature_gap.local_share(each), "share")
rank = curvature_gap.of_those_that_count(curvature_gap.agreement(each, "spearman"), "spearman")

# %% mystnb={"image": {"alt": "Two panels, one for each model: the local part of each neuron's quadratic term against the whole of it, with signs, on axes that are logarithmic away from zero. Most points lie on the diagonal, where all curvature is local. A few lie off it, some with the opposite sign."}}
notes = {
    m: f"own part: {share[m].estimate:.0f} %\nrank correlation {rank[m].estimate:.2f}"
    for m in models
}
shares_of = " and ".join(f"{share[m].estimate:.0f} %" for m in models)
_ = curvature_gap.scatter(gap, f"{shares_of} of a neuron's quadratic term is its own", notes)

# %% [markdown]
# Each dot is a neuron on one prompt. On the diagonal all curvature is the neuron's own; on the dotted line none is. The share compares
# $\sum|q_\text{local}|$ with $\sum|q_\text{local}| + \sum|q_\text{downstream}|$.
#
# Why so much? A neuron is one of a thousand or more that write into the residual stream. What it sends on moves every later operation a little, and a summand
# is quadratic in that movement. Its own input moves by all of $\delta$.
#
# If the local part is nearly all of $q$, adding it to AP should do nearly what HVP does.

# %%
errors = curvature_gap.corrected(gap)
common.show(
    curvature_gap.corrections_summary(errors),
    caption=f"AP without and with a correction, means of {n_prompts['neurons']} prompts; “lower on”: prompts where it has less error than without.",
)

# %% [markdown]
# In mean error over all neurons it does. On the five largest, by {term}`top-5 relative error`, both leave most of the error, and so few prompts cannot
# settle more. What HVP leaves is beyond the quadratic term, and so beyond this chapter.
#
# ### The paper says the opposite
#
# The paper {cite:p}`zhang2026lies` reports that the network's curvature exceeds the local one by a large factor, with a correlation near zero, and an error of 750 % when the
# local term is added (section 3.3, Figure 2). We cannot reproduce that. Yet its own Table 11 fits what you see above: on Pythia-410M, AP is off by 35.2 % for neurons
# *before* the activation function and by 4.3 % *after*. In a model without gates both patches end in the same place, with the same network
# behind; what differs is $\sigma$. Leave the gradient $\lambda_i$ out of the formula, and our correlation vanishes too
# ([evidence](evidence/04_curvature_gap.ipynb)). Whether the paper did, we cannot tell.
#
# ## One head
#
# A head's output is multiplied by a matrix, and that is all. It has no curvature of its own: *everything* lies downstream. So straighten the
# network behind it, one kind of operation at a time, in all layers.

# %%
M = PatchedMetric(model, reference_pair())
every_q = quadratic_term(M)
head = every_q.abs().argmax()[None]

q = every_q[head].item()
parts = {kind: q - quadratic_without(M, kind, components=head).item() for kind in NONLINEARITIES}
assert np.isclose(sum(parts.values()), q, atol=1e-3)

# %%
table = pd.DataFrame(
    [(name, curvature_gap.OPERATIONS[k], parts[k]) for k, name in curvature_gap.KINDS.items()],
    columns=["kind", "operations", "part of q, nats"],
)
common.show(
    table, "+.2f", f"{M.labels[head.item()]} of {model_name}, reference pair: q = {q:+.2f} nats."
)

# %% [markdown]
# The six parts add up to $q$; the assertion checks it. A product, as in attention and in a gated MLP, has no curvature in either factor. It bends because a
# head moves *both*. From here on, *bending* is the size of parts, whatever their sign.
#
# Straighten one kind in one layer, and the bend has an address. These are the heads with the largest $|q|$ of both models.

# %% mystnb={"image": {"alt": "Two panels of stacked bars, the head with the largest quadratic term of each model. A bar is a layer from the head's own on; its segments are norms, attention, MLP and output. In SmolLM2 one tall segment, the MLP of the head's own layer, is nearly everything. In Gemma norms and the MLP of the head's own layer and the norms of the next one make most of it."}}
loaded = {model_name: model, second_model: load_model(second_model, device=device)}
anatomy = curvature_gap.by_layer(loaded, reference_pair(), 1)
near = curvature_gap.concentration(anatomy).near
near_of = " and ".join(f"{value:.0f} %" for value in near)
_ = curvature_gap.head_figure(
    anatomy, f"{near_of} of the bending is in the head's own layer and the next"
)

# %% [markdown]
# ## Many prompts
#
# The same for the 20 heads with the largest true effects of each prompt. How much of all bending does each kind do, cancelled or not?

# %%
sweeps = common.load(
    models,
    ["ioi"],
    curvature_gap.OF_HEADS,
    n_prompts["heads"],
    top=curvature_gap.N_FOLLOWED,
    device=device,
)
heads = curvature_gap.heads(sweeps)
shares = curvature_gap.shares(heads)
first = curvature_gap.leading(shares)
bends = {m: (curvature_gap.KINDS[kind], value) for m, (kind, value) in first.items()}

# %% mystnb={"image": {"alt": "Horizontal bars with intervals: the share of all bending that each of six kinds of operation does, in two models. In SmolLM2 MLP gating leads with about 40 percent, then the attention pattern. In Gemma norms lead with about 36 percent, then the attention pattern. Activation functions and the output are small in both."}}
title = " or ".join(f"{kind} ({value.estimate:.0f} %)" for kind, value in bends.values())
_ = curvature_gap.kinds_figure(shares, f"What bends most: {title}", ("sizes",))

# %% [markdown]
# Architecture shows. Gemma-3 normalises what attention and MLP write *before* it is added to the residual stream, so the first thing behind a head is a norm. SmolLM2
# has norms only in front. There the gates of the MLPs come first.

# %%
cancels = curvature_gap.cancellation(heads)
worse = curvature_gap.misled_table(curvature_gap.misled(heads)).set_index("model")
gauss_newton = curvature_gap.clearly_better(curvature_gap.errors(heads))
norms = curvature_gap.of_kind(shares, "norms")
mostly = (
    "mostly from itself" if min(s.estimate for s in share.values()) > 50 else "partly from itself"
)


# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**For a neuron, {mostly}. For a head, always from the network behind it, and there it depends on the model.**

By size, {common.listed(share, ".0f %")} of a neuron's quadratic term is its own.

A head has none of its own. Behind it the largest share of the bending is that of {", and of ".join(f"{kind} in {m}, {value:.0f %}" for m, (kind, value) in bends.items())}. Norms do {common.listed(norms, ".0f %")}:
whether a norm is as good as linear, as the paper says (section 3.3), is for the model to say.
:::""")

# %% [markdown]
# ## Where it fails
#
# Knowing the parts invites a shortcut: correct only what bends most. Look before you take it.

# %% tags=["hide-input"]
Markdown(f"""* **Parts cancel.** Their sizes add up to {common.listed(cancels, ".1f")} times the quadratic terms. Adding only its largest part to AP makes the estimate worse for
  {common.listed(worse["largest part"], ".0f %")} of the heads; adding all six, which is HVP, for {common.listed(worse["all parts"], ".0f %")}.
* **The output alone is not enough.** {{term}}`Gauss-Newton` keeps only the part of the output. Its top-5 error is lower than that of AP, with an interval of the difference below 0, in {len(gauss_newton)} of {len(models)} models.
* **The start is not the path.** $q$ is the curvature at the beginning of the patch. If the error is split along the whole path instead, another kind leads on some heads ([evidence](evidence/04_curvature_gap.ipynb)).
* **One pair is an anecdote.** The layers above are those of a single pair and two heads.

What does pay is the subject of [chapter 10](10_is_it_worth_it.ipynb).""")

# %% [markdown]
# More limits: two small models with quantised weights, one task, one direction of patching, and {term}`neurons <neuron>` drawn at random. The paper's models have
# other activation functions, and some have no gates. In brackets stand 95 % bootstrap intervals over prompts. The kinds are ours: another way to sort operations gives other shares, though never another sum.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* For which head and prompt do the six kinds cancel most? Print its parts.
#    As a measure of cancelling take how many times larger the parts are, added by size, than their sum.
#    <details><summary>Hint</summary>
#
#    `one = heads[heads.followed]`; compare `one[[*NONLINEARITIES]].abs().sum(axis=1)` with `one.q.abs()`.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def cancelling(parts):
#        return parts.abs().sum(1) / parts.sum(1).abs()
#    ```
#
#    </details>


# %%
def cancelling(parts):
    """For each head, the sum of the sizes of its parts, divided by the size of their sum.

    `parts` has a row for each head and a column for each kind.
    """
    ...  # your turn


check_cancelling(cancelling)

# %% [markdown]
# 2. *(medium, 15 minutes)* The metric, and with it the output, is yours to choose. Take the logit difference in place of log p. What becomes of the output's part, and of AP's error?
#    Predict, then measure.
#    <details><summary>Solution</summary>
#
#    `curvature_gap.by_metric({model_name: model}, reference_pair())`. The part is 0: no log-softmax is left. The error need not follow, since every
#    gradient changes too.
#
#    </details>
# 3. *(medium, 20 minutes)* Neurons *after* the activation function have no local curvature. Predict how much smaller the score
#    $|q| / |f_\mathrm{AP}|$ gets, then measure it with `"neurons_post:24"` on the reference pair.
#    To see what they lack, write the local part of a neuron *before* the function.
#    <details><summary>Hint</summary>
#
#    The same neurons are drawn for `"neurons_pre:24"`. Compare medians, and the downstream share above.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def own_part(gradient, z, delta, activation):
#        z = z.clone().requires_grad_()
#        (first,) = torch.autograd.grad(activation(z).sum(), z, create_graph=True)
#        (second,) = torch.autograd.grad(first.sum(), z)
#        return (gradient * second * delta**2).sum() / 2
#    ```
#
#    </details>


# %%
def own_part(gradient, z, delta, activation):
    """The local curvature term of one neuron that is patched from z to z + delta.

    The tensors have a number for each position. `gradient` is that of the metric with respect to
    activation(z).
    """
    ...  # your turn


check_own_part(own_part)

# %% [markdown]
# 4. *(hard, 40 minutes)* RelP and GIM ([chapter 8](08_baselines.ipynb)) change slopes. Is what RelP changes for a head related to what its norms contribute to $q$?
#    <details><summary>Hint</summary>
#
#    `from hvp_utils.estimators import attribution_patching, relp`; compare `relp(M) - attribution_patching(M)` with
#    `quadratic_term(M) - quadratic_without(M, "norms")`, as a scatter plot and as a rank correlation.
#
#    </details>
