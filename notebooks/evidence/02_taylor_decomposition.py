# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 2. Where does the error come from?
#
# Every number behind [the lesson](../02_taylor_decomposition.ipynb): error $E$, quadratic term $q$ and remainder $R_3$ of every head, over prompts, tasks and two models, the
# checks of the arithmetic, and the layers. The truth is exact activation patching of every head, at all positions together, {term}`denoising`. Intervals are 95 % bootstrap
# intervals over prompts, with 1,000 resamples. What is computed stands in `notebooks/studies/first_steps/`.

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
n_few = 20  # the first prompts, as a smaller sample

# %%
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown

from hvp_utils import PatchedMetric, load_model, plots, reference_pair
from studies import common
from studies import first_steps as study

plots.use_style()
models = model_name, second_model


def named(table):
    return table.replace({"task": study.TASKS})


# %% [markdown]
# ## What was run

# %%
sweeps = common.load(models, study.TASKS, study.ESTIMATORS, n_prompts, device=device)
parts = study.parts(sweeps)
few_sweeps = common.load([model_name], ["ioi"], study.ESTIMATORS, n_few, device=device)
few = study.parts(few_sweeps)
common.show(
    pd.DataFrame(
        {
            "model": model,
            "task": study.TASKS[task],
            "prompts": data.sizes["prompt"],
            "heads": data.sizes["component"],
            "precision": data.attrs["dtype"],
        }
        for (model, task), data in sweeps.items()
    )
)

# %% [markdown]
# ## How much of the error the quadratic term removes
#
# $1 - \sum |R_3| / \sum |E|$, in percent. *Each prompt* is the mean of the prompts' own shares, in which a prompt with a small error counts as much as any; *together* is the
# share of the sum over all prompts. Negative: the correction does harm.

# %%
common.show(named(study.removed(parts)), ".0f", f"All heads, {n_prompts} prompts, percent.")

# %% [markdown]
# By the size of the true effect, as a share of the largest of its prompt. *Of E*: the share of all $|E|$ that lies in the class.

# %%
sized = study.by_size(parts)
common.show(named(sized), ".0f", f"By size of the effect, {n_prompts} prompts, percent.")

# %% [markdown]
# ### Head by head
#
# *Closer*: pairs of head and prompt that the quadratic term brings nearer to the truth. *Left*: the median of $|R_3| / |E|$. *Top five*: the share of a prompt's summed error on its five
# largest errors. Pairs with an error below 0.00001, the rounding of float32, are left out of the first two.

# %%
common.show(named(study.head_by_head(parts)), ".0f", f"{n_prompts} prompts, percent.")

# %% [markdown]
# ### A smaller sample
#
# The first prompts of IOI alone, for the first model. The share of the large effects moves most, since a few prompts decide it.

# %%
common.show(named(study.removed(few)), ".0f", f"All heads, the first {n_few} prompts, percent.")

# %%
common.show(named(study.by_size(few)), ".0f", f"By size, the first {n_few} prompts, percent.")

# %%
common.show(
    named(study.head_by_head(few)), ".0f", f"Head by head, the first {n_few} prompts, percent."
)

# %% [markdown]
# ## Layer by layer
#
# A head's patch passes through everything downstream of it. Both parts, summed by size over the heads of each layer.

# %% mystnb={"image": {"alt": "Two panels of bars by layer, one for each model, on IOI: the summed size of the quadratic term and of the remainder, with bootstrap intervals. Both are small in most layers; where the quadratic term is large, the remainder is large too."}}
layers = study.by_layer(parts[parts.task == "ioi"])
sizes = layers.assign(q=[i.estimate for i in layers.q], R3=[i.estimate for i in layers.R3])
alike = sizes.groupby("model")[["q", "R3"]].corr(method="spearman").xs("q", level=1).R3
title = f"Both live in the same layers (rank correlation {min(alike):.2f} to {max(alike):.2f})"
_ = study.layers_figure(layers, title)

# %% [markdown]
# ## Top-5 relative error
#
# The paper's yardstick: the mean absolute error on the five heads with the largest effects, relative to the range of effects.

# %%
errors = study.top_5_errors(sweeps)
wide = common.intervals(errors, ["model", "task", "method"], "error")
wide = wide.pivot(index=["model", "task"], columns="method", values="error").reset_index()
tests = common.paired(errors, ["model", "task"], "error", "HVP")
wide = tests[["model", "task", "difference", "holm"]].merge(wide, on=["model", "task"])
wide = wide[["model", "task", "AP", "HVP", "difference", "holm"]]
wide = wide.rename(columns={"difference": "AP − HVP"})
digits = {"AP": ".1f", "HVP": ".1f", "AP − HVP": "+.1f", "holm": ".4f"}
common.show(
    named(wide), digits, f"Percent, {n_prompts} prompts; p-values by Holm, {len(tests)} tests."
)

# %%
few_errors = study.top_5_errors(few_sweeps)
few_wide = few_errors.pivot(index="prompt", columns="method", values="error")
resamples = 1000
test = common.paired(few_errors, ["task"], "error", "HVP", n_resamples=resamples).iloc[0]
level = common.intervals(few_errors, ["method"], "error").set_index("method").error
Markdown(
    f"On the first {n_few} IOI prompts of {model_name}: attribution patching {level['AP']:.1f %}, HVP {level['HVP']:.1f %}. The correction lowers it by "
    f"{test.difference:.1f points} (paired bootstrap, {common.p_value(test.p, resamples)}), and on {(few_wide.HVP < few_wide.AP).sum()} of {len(few_wide)} prompts."
)

# %% [markdown]
# The paper's Table 2 on IOI: from 18.07 to 12.00 % for GPT-2, from 14.80 to 5.69 % for Qwen2.5-1.5B, and from 22.34 *up* to 47.48 % for Pythia-410M {cite:p}`zhang2026lies`. Our models are
# different ones, and our prompts are our own.
#
# ## Is the remainder cubic?
#
# The five largest effects of the reference pair, with the patch shrunk to $1/2, \dots, 1/1024$. *Without* and *with* the quadratic term: the fitted power for patches of a sixteenth and
# less, which should be 2 and 3. *At the end*: the power of the corrected error from half the patch to the whole. *Removed*: by the quadratic term at the whole patch, in percent. *Floor*: the least corrected error that float32
# can show.

# %%
scales = 2.0 ** -np.arange(0, 11)
rows, checks = [], []
for name in models:
    single, double = (
        PatchedMetric(load_model(name, device=device, dtype=dtype), reference_pair())
        for dtype in (torch.float32, torch.float64)
    )
    summary = study.scaling_summary(study.scaled(double, scales), study.scaled(single, scales))
    rows.append({"model": name} | summary)
    checks.append(study.three_runs_against(double).assign(model=name))
digits = {"removed": ".0f", "at the end": ".1f", "floor": ".0e"}
common.show(pd.DataFrame(rows), digits, "Scaling of the patch, reference pair.")

# %%
powers = pd.DataFrame(rows)
off = max((powers["without"] - 2).abs().max(), (powers["with"] - 3).abs().max())
Markdown(f"The fitted powers are within {off:.2f} of 2 and 3.")

# %% [markdown]
# ## By hand
#
# Slope and curvature of every head of the reference pair from three values of $g$, at $-h$, 0 and $h$ with $h$ = 0.001, in float64, without any derivative. Their own error is of order $h^2$.

# %%
by_hand = pd.concat(checks)[["model", "quantity", "largest", "largest difference"]]
common.show(
    by_hand, {"largest": ".3f", "largest difference": ".0e"}, "Three runs against the package."
)

# %% [markdown]
# ## Limits
#
# Two small models, one of them with quantised weights; three tasks with prompts made by us; one component at a time, at all positions together. The classes of size are ours. Effects on Greater-Than are differences
# of probabilities, not nats. Sweeps are in float32, in which parts below some millionths are rounding.
