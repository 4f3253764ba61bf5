# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 12. Do better scores of edges give better circuits?
#
# Every table, test and claim behind [the lesson](../12_edges_and_mib.ipynb). Circuits and scores are of the {term}`noising` direction: the
# base run is the clean one. Positions are patched together. Intervals are 95 % bootstrap intervals over prompts. What is computed
# stands in `notebooks/studies/edges_and_mib/`.

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
import pandas as pd

from hvp_utils import PatchedMetric, load_model, plots, reference_pair
from studies import common
from studies import edges_and_mib as study

plots.use_style()
models = model_name, second_model
tasks = "ioi", "subject_verb_agreement", "country_capital"
all_tasks = *tasks, "greater_than_01", "hypernymy", "gender_bias", "mib_ioi", "mcqa"

# %% [markdown]
# ## What was run
#
# Prompts 0 to 49 of each task are for circuits, prompts 50 to 57 for scores, so no circuit is judged on the prompts that it comes
# from. MIB has splits of hundreds of prompts.
#
# | name | what it is |
# | --- | --- |
# | EAP | the difference that a writer makes, times the gradient at the reader, clean run {cite:p}`syed2024attribution` |
# | EAP, corrupted run | the same with the gradient of the corrupted run |
# | EAP-IG | gradients averaged over 5 (or 20) runs, the embedding moved from the corrupted prompt to the clean one {cite:p}`hanna2024faith` |
# | EAP-GP | gradients averaged over 5 unit steps down the squared distance of the logits, one path of inputs for all edges {cite:p}`zhang2025eapgp` |
# | GIM, RelP | other backward passes {cite:p}`edin2025gim,jafari2025relp` |
# | HVP, sketched | EAP and half the curvature, from 32 products with the Hessian for all edges together |
# | local | EAP and half the curvature of the reader alone, all behind it linear |
# | local + sketch | the local curvature, and the sketched one where they differ by more than two standard errors |
# | random | normal numbers |
#
# ### Can the models do it?
#
# Share of 50 clean prompts on which the right answers get more than the wrong ones. A task below 0.75 is not used for claims.

# %%
able = study.able(models, all_tasks, device=device)
common.show(able[["model", "task", "accuracy", "corrupted_accuracy", "can_do", "n_tokens"]])

# %% [markdown]
# ## Curves
#
# Faithfulness at MIB's ten fractions {cite:p}`mueller2025mib`, the number of edges rounded down.

# %%
measured = study.load(models, tasks, device=device)
curves = study.curves(measured, n_resamples=400)
shares = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
common.show(study.wide_curves(curves, "signed", shares), ".2f", "Ranked by sign, as for CPR.")

# %%
common.show(
    study.wide_curves(curves, "absolute", shares), ".2f", "Ranked by magnitude, as for CMD."
)

# %% mystnb={"image": {"alt": "Six panels, two models by three tasks: faithfulness against percent of edges kept, edges ranked by magnitude, for all methods. All curves end at 1; most approach it from below."}}
_ = study.curves_figure(
    curves,
    ("EAP", "EAP, corrupted run", "EAP-IG", "EAP-GP", "GIM", "RelP", "HVP, sketched", "local"),
    "absolute",
    "Ranked by magnitude, all methods come to the model; they differ in how soon",
    top=1.4,
)

# %% [markdown]
# ## Areas
#
# CPR: more is better. CMD: less is better.

# %%
areas = study.areas(measured)
common.show(areas.replace({"task": study.TASKS}), ".3f")

# %% [markdown]
# ### Against EAP
#
# Differences on the same prompts, with Holm's correction over the whole table.

# %%
against = study.areas_against(measured)
columns = ["model", "task", "method", "area", "difference", "p", "holm", "better"]
shown = against[columns].replace({"task": study.TASKS})
digits = {"difference": "+.3f", "p": ".3f", "holm": ".3f"}
common.show(shown, digits, f"{len(shown)} tests.")

# %% [markdown]
# ## Scores against exact effects
#
# 160 edges of each setting, 8 prompts: the 40 largest by EAP, the 40 largest others by EAP-IG, 40 drawn from the next ones (the next 400, or 1 %), and
# 40 drawn from all the rest. The error is the sum of absolute errors in percent of the sum of absolute effects; *HVP, exact* has the
# curvature of each edge itself.

# %%
errors = study.errors(measured)
digits = {"error": ".0f", "rank correlation": ".3f", "right sign": ".0f"}
common.show(errors.replace({"task": study.TASKS}), digits)

# %% mystnb={"image": {"alt": "Six panels, two models by three tasks: error of the scores of each method on a logarithmic axis, with intervals. The line at 100 percent is what an estimate of zero would get."}}
methods = ("HVP, exact", "local + sketch", "local", "HVP, sketched", "EAP", "EAP, corrupted run")
methods += ("EAP-IG", "EAP-GP", "GIM", "RelP")
_ = study.errors_figure(errors, methods, "Errors of the scores; an estimate of 0 has 100 %")

# %%
tests = study.error_tests(measured).replace({"task": study.TASKS})
common.show(
    tests,
    {"difference": "+.0f", "p": ".3f", "holm": ".3f"},
    f"Error less that of EAP, in points, 8 prompts, {len(tests)} tests.",
)

# %%
strata = [
    study.errors(measured, [stratum]).assign(stratum=stratum)
    for stratum in ("top EAP", "top EAP-IG", "middle", "rest")
]
strata = pd.concat(strata)
strata = strata[strata.method.isin(["EAP", "EAP-IG", "HVP, exact", "HVP, sketched", "local"])]
common.show(
    study.wide_strata(strata).replace({"task": study.TASKS}), ".0f", "The error by stratum."
)

# %% [markdown]
# ### Edges that matter and look as if they did not
#
# Of the true top tenth of the sampled edges of a prompt: how many are in the lower half by a score, in percent.

# %%
common.show(study.zero_gradients(measured).replace({"task": study.TASKS}), ".1f")

# %% [markdown]
# ## Estimates and circuits

# %%
both = study.estimates_and_circuits(measured, n_resamples=400)
common.show(
    study.better_estimates_better_circuits(both).replace({"task": study.TASKS}),
    "+.2f",
    "Rank correlations over methods. +1: the better the estimate, the better the circuit.",
)

# %% mystnb={"image": {"alt": "Six panels, two models by three tasks, each method a mark: across, the error of its scores; up, the area under its curve of faithfulness."}}
_ = study.estimates_figure(both, "Error of the scores and performance kept", "CPR")

# %% [markdown]
# ## Overlap and faithfulness
#
# Pairs of circuits of 1 % of the edges, ranked by sign: the five that differ most in faithfulness, and the five that share least.

# %%
pairs = study.overlaps(measured).replace({"task": study.TASKS})
some = pd.concat([pairs.nlargest(5, "apart"), pairs.nsmallest(5, "shared")])
common.show(some, ".2f")

# %%
each = pairs[pairs["first"] == "EAP"].drop(columns=["first", "faithfulness of first"])
common.show(each, ".2f", "Every method against EAP.")

# %% [markdown]
# ## Searches
#
# Edge pruning on the smaller graph, for a circuit of 2 % of all edges, with KL from the clean run on four of the prompts of the scores as the
# metric, and 100 steps. That is few: published runs take thousands, on hundreds of prompts {cite:p}`bhaskar2024pruning`. Beside it circuits of the same
# size cut from scores. Each step takes seconds on two cores, so HAP {cite:p}`gu2025hap` was not run here; and ACDC {cite:p}`conmy2023acdc` needs a run for every edge
# and every prompt. All three were run on planted models in the tests, where they find the circuit.

# %%
common.show(
    study.found(measured).replace({"task": study.TASKS}),
    {"faithfulness": ".2f", "seconds": ".0f"},
    "Faithfulness on 50 other prompts; seconds of processor time.",
)

# %% [markdown]
# ## Prices
#
# Processor time of the scores of all edges. Other work ran on the machine at the same time, so these are rough; and on short prompts
# time is dominated by reading the weights. Counted operations, for heads, are in [chapter 10](../10_is_it_worth_it.ipynb).

# %%
common.show(study.prices(measured).replace({"task": study.TASKS}), ".1f")

# %% [markdown]
# ## Norms behind the heads
#
# All edges from heads into the logits of the second model, reference pair, denoising, sorted by the error of a score without the norm's
# Jacobian.

# %%
trap = PatchedMetric(load_model(second_model, device=device), reference_pair(), "edges")
common.show(study.without_jacobian(trap, study.worst_without_jacobian(trap, 8)), "+.2f")

# %% [markdown]
# ## Claims
#
# \* p < 0.05 after Holm's correction.

# %% tags=["hide-input"]
common.show_claims("12_edges_and_mib", study.claims(measured), model_name)

# %% [markdown]
# ## Limits
#
# * Scores are means over 8 prompts. With more, rankings would be steadier, and differences between methods may change.
# * Two small models and three tasks. The paper's Table 16 is about GPT-2, Qwen2.5, Gemma-2-2B and Llama-3.1-8B.
# * The error of scores is taken on a sample that EAP and EAP-IG chose half of. The table by stratum shows what that does.
# * MS-HVP of all edges was not run: each edge has points of its own, so no sketch serves them all.
# * Intervals are over prompts of one seed; the sketch has one seed, too.
