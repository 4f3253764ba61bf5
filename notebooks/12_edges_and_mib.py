# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12. Do better scores of edges give better circuits?
#
# **Edge attribution patching (EAP) scores every edge of a network with one gradient. Keep the best edges, cut all others: how much of
# the behaviour is left, and which scores leave most?**
#
# After this chapter you can
#
# * read a circuit as one point in the space of patch strengths, and measure its {term}`faithfulness`;
# * compare scores of edges by what they estimate and by the circuits that they give, and know that these are two questions;
# * find the one edge that a bad circuit lacks.
#
# You need attribution patching from [chapter 2](02_taylor_decomposition.ipynb) and circuits of heads from
# [chapter 11](11_circuit_recovery.ipynb). All tables, tests and claims are on the
# [evidence page](evidence/12_edges_and_mib.ipynb).
#
# ## Guess before you look
#
# EAP looks at the clean run. EAP-IG {cite:p}`hanna2024faith` averages gradients over five runs on the way from the corrupted prompt to the clean one.
#
# 1. Which of the two comes closer to the exact effect of patching one edge?
# 2. Which of the two finds the better circuit of 100 edges?

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

# %%
from IPython.display import Markdown

from checks.edges_and_mib import check_missing, check_through_norm
from hvp_utils import (
    PatchedMetric,
    attribution_patching,
    eap_ig,
    load_model,
    plots,
    reference_pair,
)
from hvp_utils.circuits import Circuit, faithfulness
from studies import common
from studies import edges_and_mib as study

plots.use_style()
models = model_name, second_model
tasks = "ioi", "subject_verb_agreement", "country_capital"

# %% [markdown]
# ## The idea in five lines
#
# An **edge** leads from a part that writes to the residual stream (the embedding, a head, an MLP) to one that reads it later (the
# query, key or value of a head, an MLP, the logits). Patch strengths are now strengths of edges. A **circuit** keeps its edges
# as they are on the clean prompt and lets all others carry what they carry on the corrupted one. So it is a corner of the
# cube of all patch strengths: 0 on its edges, 1 on all others.

# %%
model = load_model(model_name, device=device)
M = PatchedMetric(model, reference_pair(), "edges", direction="noising")
scores = attribution_patching(M)  # EAP: negative where patching hurts, so the edge helps

circuit = Circuit.top(M, scores, 100)
left = M((~circuit.mask()).float()).item()
share = (left - M.other) / (M.base - M.other)

assert abs(share - faithfulness(M, circuit).faithfulness()[0]) < 1e-4
print(f"{M.n:,} edges; the best 100 by EAP keep {100 * share:.0f} % of the behaviour.")

# %% [markdown]
# The share is the faithfulness: 1 is the clean run, 0 the corrupted one. More than 1 is possible. What works against the answer
# has been cut too.
#
# ## One prompt
#
# Now with EAP-IG, and with a third score: EAP with the gradient of the *corrupted* run, where all edges are patched. That is where
# a small circuit lies.


# %%
def scores_of(M, corrupted):
    return {
        "EAP": attribution_patching(M),
        "EAP, corrupted run": -attribution_patching(corrupted),
        "EAP-IG": eap_ig(M, n_steps=5),
    }


rankings = scores_of(M, PatchedMetric(model, reference_pair(), "edges", "denoising"))
sizes = study.by_size(M, rankings, (30, 100, 300, 1000, 3000))
common.show(sizes, {"edges": ",.0f"}, f"Faithfulness on one IOI prompt, {model_name}.")

# %% mystnb={"image": {"alt": "A circuit drawn as a graph, the embedding at the bottom and the logits at the top. A few heads and MLPs of the middle layers pass on to a handful of late heads, which write to the logits."}}
_ = plots.circuit(
    Circuit.top(M, rankings["EAP-IG"], 300),
    rankings["EAP-IG"].cpu(),
    most=30,
    title="Names go up through few heads",
)

# %% [markdown]
# Drawn are the edges with the largest scores, of the 300 best by EAP-IG; edges on no path from the embedding to the logits are left out.
#
# ## One missing edge
#
# Now the second model, and circuits of 100 edges.

# %%
gemma = load_model(second_model, device=device)
G = PatchedMetric(gemma, reference_pair(), "edges", direction="noising")
of_gemma = scores_of(G, PatchedMetric(gemma, reference_pair(), "edges", "denoising"))

good = Circuit.top(G, of_gemma["EAP-IG"], 100)
bad = Circuit.top(G, of_gemma["EAP, corrupted run"], 100)
links = study.missing_links(G, bad, good)

print(f"The two circuits share {len(good & bad)} of 100 edges.")
common.show(links, ".2f", "Edges added to the circuit of the corrupted run, the best first.")

# %% tags=["hide-input"]
place = study.place(G, of_gemma["EAP, corrupted run"], links.edge[0])
Markdown(
    f"""**A circuit is as good as its weakest link.** With {len(good & bad)} edges in common one circuit keeps {links["other circuit"][0]:.2f} of the behaviour and the other {links.before[0]:.2f};
`{links.edge[0]}` alone makes it {links.after[0]:.2f}. Without it nothing of the names gets through. The score gets its *sign* wrong, and so a ranking by sign puts it at place
{place:,} of {G.n:,}."""
)

# %% [markdown]
# ## Many prompts
#
# Now three tasks and two models. Each ranking is the mean over 8 prompts, and its circuits are run on 50 others. One score is new: *HVP,
# sketched* adds half the curvature to EAP, for all edges at once, by a {term}`sketch`. Two numbers
# sum a curve up {cite:p}`mueller2025mib`. {term}`CPR` is the area under it, with edges ranked by how much they help. {term}`CMD` is the area between
# the curve and 1, with edges ranked by magnitude: the distance from the model. (On subject-verb agreement two curves leave the frame. Without
# what works against the answer, the metric rises to several times that of the model. The title has means over the six panels.)

# %% mystnb={"image": {"alt": "Six panels, two models by three tasks: faithfulness against percent of edges kept on a logarithmic axis. EAP-IG is the highest or among the highest for the smallest circuits everywhere. EAP starts lower, on two tasks of Gemma at zero. EAP at the corrupted run stays near zero on IOI, and random edges stay at zero until half of all are kept."}}
measured = study.load(models, tasks, device=device)
curves = study.curves(measured, n_resamples=200)
few = study.at_fraction(curves, 0.002, "signed")
_ = study.curves_figure(
    curves,
    ("EAP", "EAP, corrupted run", "EAP-IG", "HVP, sketched", "random"),
    "signed",
    f"With 0.2 % of the edges EAP keeps {few['EAP']:.2f} of the behaviour, EAP-IG {few['EAP-IG']:.2f}",
)

# %% [markdown]
# ## Are its scores better?
#
# Circuits aside: which scores are right? We patch 160 edges of each setting exactly, the largest and a sample of the others. The
# error is the sum of what an estimate is off by, in percent of the sum of the true effects. The [evidence page](evidence/12_edges_and_mib.ipynb)
# says what the other scores in the figure are.

# %% mystnb={"image": {"alt": "Six panels, two models by three tasks, each method a mark: across, the error of its scores; up, the distance of its circuits from the model. The marks do not lie on a rising line."}}
both = study.estimates_and_circuits(measured, n_resamples=200)
rank = study.better_estimates_better_circuits(both)
agree = (rank["error and CMD"] > 0).sum()
_ = study.estimates_figure(
    both,
    f"Smaller errors go with better circuits in {agree} of {len(rank)} settings",
)

# %% tags=["hide-input"]
against = study.areas_against(measured)
numbers = study.summary(both, against, few)
Markdown(numbers.answer)

# %% [markdown]
# ## Why
#
# The exact effect of an edge is measured with all else clean. In a small circuit nearly all else is corrupted. So even exact effects
# are answers to another question, and a score that comes closer to them need not help. EAP-IG takes its gradients while all inputs move together,
# from one prompt to the other, and that seems to be nearer to what a circuit goes through. This is our explanation. The obvious other
# one, that a score should look from the corrupted run, fails above: there it gets the signs of some edges wrong that all paths need.
#
# So to find a circuit, take `eap_ig(M)`, and measure its faithfulness. For the largest effects of single edges take
# `hvp_utils.top_effects(M, k)`, which screens and patches exactly ([chapter 10](10_is_it_worth_it.ipynb)).
#
# :::{admonition} A trap with norms behind the heads
# :class: warning
# In Gemma the sum of the heads passes through a norm before it reaches the residual stream. A score must pass through the norm's
# Jacobian. Public code multiplies the difference *before* the norm by the gradient *behind* it. In the table, *slope* is
# attribution patching with the Jacobian.
# :::

# %%
trap = PatchedMetric(gemma, reference_pair(), "edges")
common.show(
    study.without_jacobian(trap, study.worst_without_jacobian(trap, 3)),
    "+.2f",
    f"Effects of edges into the logits, {second_model}, denoising, in nats.",
)

# %% [markdown]
# ## Where it fails
#
# * **Eight prompts.** A ranking from more prompts may be steadier. All methods had the same eight.
# * **Curvature is expensive here.** A sketch of 32 products for all edges takes the time of dozens of EAPs; and small edges drown in
#   its noise ([evidence](evidence/12_edges_and_mib.ipynb)).
# * **Faithful is not all.** A circuit above 1 has lost what holds the model back, so it is not what the model does. CPR rewards that, CMD does
#   not.
# * **Searches** that try circuits instead of scoring edges ({term}`ACDC`, {term}`edge pruning`) cost far more; the evidence page has one.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Rank by magnitude instead of sign: `study.by_size(M, rankings, (30, 100, 300, 1000), signed=False)`. What happens to
#    values above 1, and why?
#    <details><summary>Solution</summary>
#
#    Edges that work against the answer are kept, so the circuit comes closer to the model, and needs
#    more edges for it.
#
#    </details>
# 2. *(medium, 10 minutes)* The trap above, in small. A writer changes what goes into a norm, and the gradient is known behind it. How large
#    is the score?
#    <details><summary>Hint</summary>
#
#    A product with the transposed Jacobian is what `backward` computes.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def through_norm(norm, x, change, gradient):
#        x = x.clone().requires_grad_()
#        norm(x).backward(gradient)
#        return x.grad @ change
#    ```
#
#    </details>


# %%
def through_norm(norm, x, change, gradient):
    """The first-order effect of `change` before a norm at x, given the gradient behind the norm."""
    ...  # your turn


check_through_norm(through_norm)

# %% [markdown]
# 3. *(medium, 15 minutes)* Which one edge does a circuit lack most? Try them. How many runs would a circuit of 1,000 of this chapter's edges
#    take to build like this?
#    <details><summary>Hint</summary>
#
#    Copy the circuit's strengths, set one of them to 0, and run.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def missing(M, kept):
#        gains = {}
#        for edge in (~kept).nonzero().flatten().tolist():
#            alpha = (~kept).double()
#            alpha[edge] = 0
#            gains[edge] = float(M(alpha))
#        return max(gains, key=gains.get)
#    ```
#
#    A run for every edge that is left, and again after each choice: about 1,000 times the number of edges.
#
#    </details>


# %%
def missing(M, kept):
    """The edge whose addition to the circuit raises the metric most.

    `kept` is True for edges of the circuit. In M(alpha), strength 1 cuts an edge and 0 keeps it.
    """
    ...  # your turn


check_missing(missing)

# %% [markdown]
# 4. *(medium, 15 minutes)* Cut the circuit with `Circuit.greedy` instead of `Circuit.top`. For which sizes does it help most?
#    <details><summary>Hint</summary>
#
#    Look at `len(circuit.pruned())`: how many of the best 30 edges lie on a path at all?
#
#    </details>
# 5. *(medium, 20 minutes)* How many edges do the circuits of EAP and EAP-IG of 1,000 edges share? Run what is in both, and what is only in
#    one.
#    <details><summary>Hint</summary>
#
#    `a & b`, `a - b`, and `hvp_utils.circuits.overlap`.
#
#    </details>
# 6. *(hard, 30 minutes)* Take the gradient at the empty circuit, `M.gradient(torch.ones(M.n))`. Which edges have a slope that is not 0? Why
#    can no circuit be read off it?
#    <details><summary>Solution</summary>
#
#    None, but for rounding. A writer that hears nothing but corrupted inputs has nothing clean to pass on, and what hears something
#    clean is not heard itself: no edge alone brings anything back. Circuits are made of paths ([theory](../book/theory.md), Proposition
#    "No edge alone brings anything back").
#
#    </details>
