# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 1. What does a wrong attribution look like?
#
# Every number behind [the lesson](../01_one_head.ipynb): the reference pair in two models, the package against a hook and autograd, and the same
# measurement over many prompts and three tasks. The truth is exact activation patching of every head, at all positions together, {term}`denoising`. Intervals are 95 %
# bootstrap intervals over prompts, with 1,000 resamples. What is computed stands in `notebooks/studies/first_steps/`.

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
n_steps = 3  # of MS-HVP, on the reference pair

# %%
import pandas as pd
import torch
from IPython.display import Markdown

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
from hvp_utils.stats import top_k_relative_error
from studies import common
from studies import first_steps as study

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## The reference pair
#
# *Off by* is the larger of estimate over truth and truth over estimate. The head shown is, of the ten largest true effects, the one whose estimate by AP is off by the
# largest factor in magnitude.

# %%
metrics = {
    name: PatchedMetric(load_model(name, device=device), reference_pair()) for name in models
}


def by_all_methods(M):
    truth = activation_patching(M).cpu()
    steps, top = torch.full_like(truth, torch.nan), truth.abs().topk(10).indices
    steps[top] = ms_hvp(M, n_steps, top).cpu()  # only the ten largest, which are shown
    effects = {"activation patching": truth, "attribution patching": attribution_patching(M).cpu()}
    return effects | {"HVP": hvp(M).cpu(), f"MS-HVP, {n_steps} steps": steps}


found = {name: by_all_methods(M) for name, M in metrics.items()}
rows = []
for name, M in metrics.items():
    truth, ap = found[name]["activation patching"], found[name]["attribution patching"]
    head = study.worst_head(truth, ap, M.labels)
    one = study.on_one_prompt(found[name], M.labels.index(head))
    one.insert(0, "head", head)
    one.insert(0, "model", name)
    one["off by"] = study.factor(one["effect, nats"], one["effect, nats"].iloc[0])
    rows.append(one)
digits = {"effect, nats": "+.2f", "% of the truth": ".0f", "off by": ".1f"}
common.show(pd.concat(rows), digits, "One head, by several methods.")

# %%
summary = pd.DataFrame(
    {
        "model": name,
        "heads": M.n,
        "base run": M.base,
        "p": float(torch.tensor(M.base).exp()),
        "other run": M.other,
        "p, other": float(torch.tensor(M.other).exp()),
    }
    for name, M in metrics.items()
)
common.show(
    summary,
    {"base run": ".2f", "p": ".3f", "other run": ".2f", "p, other": ".2f"},
    "Log probability and probability of the answer.",
)

# %% [markdown]
# The ten largest effects of each model, in nats.


# %%
def ten_largest(name):
    effects = pd.DataFrame({m: values.numpy() for m, values in found[name].items()})
    effects.insert(0, "head", metrics[name].labels)
    return effects.loc[effects["activation patching"].abs().nlargest(10).index]


common.show(ten_largest(model_name), "+.2f", model_name)

# %%
common.show(ten_largest(second_model), "+.2f", second_model)

# %% mystnb={"image": {"alt": "Scatter of estimated against true effect for every attention head of the first model. Attribution patching lies far below the diagonal for two heads with large effects and above it for the head with the largest effect. HVP is closer for most, but not for the largest."}}
methods = {"attribution_patching": "attribution patching", "hvp": "HVP"}
_ = plots.estimate_vs_truth(
    found[model_name]["activation patching"],
    {key: found[model_name][label] for key, label in methods.items()},
    metrics[model_name].labels,
    title=f"Every head of {model_name}: AP errs where it matters most",
)

# %% [markdown]
# The {term}`top-5 relative error`: the mean absolute error on the five heads with the largest true effects, in percent of the range of all true effects.

# %%
errors = [
    (name, method, top_k_relative_error(values, effects["activation patching"]))
    for name, effects in found.items()
    for method, values in [*effects.items()][1:]
]
common.show(
    pd.DataFrame(errors, columns=["model", "estimate", "top-5 error, %"]), ".2f", "Reference pair."
)

# %% [markdown]
# ## By hand
#
# The package starts runs at the layer and position of the patch and batches them. Here each of the five largest effects is computed without any of that: a hook on the
# whole model adds $t$ times the difference, and PyTorch differentiates twice. Differences are in the units of the quantity, and should be rounding.

# %%
checks = []
for dtype in (torch.float32, torch.float64):
    for name in models:
        M = PatchedMetric(load_model(name, device=device, dtype=dtype), reference_pair())
        check = study.against_by_hand(M)
        check.insert(0, "precision", str(dtype).removeprefix("torch."))
        check.insert(0, "model", name)
        checks.append(check)
checks = pd.concat(checks)
digits = {"largest": ".3f", "largest difference": ".0e"}
common.show(checks, digits, "The package against a hook and autograd, five largest effects.")

# %%
worst = checks.groupby("precision")["largest difference"].max()
Markdown(
    f"The largest difference is {worst['float32']:.0e} in float32 and {worst['float64']:.0e} in float64."
)

# %% [markdown]
# ## Many prompts
#
# Of each prompt the ten largest true effects. *Prompts*: the share of prompts with at least one of the ten off by a factor of two or more, or of the wrong sign. *Wrong sign*:
# the share of prompts with at least one wrong sign among the ten. *Heads*: the share of heads that are off by a factor of two or have the wrong sign. All in percent.

# %%
sweeps = common.load(models, study.TASKS, study.ESTIMATORS, n_prompts, device=device)
top = study.largest(sweeps)
missed = study.missed(top).replace({"task": study.TASKS})
common.show(missed.drop(columns="n"), ".0f", f"{n_prompts} prompts of each task.")

# %%
counts = study.missed(top).assign(
    bad=lambda d: [i.estimate * n / 100 for i, n in zip(d.prompts, d.n, strict=True)]
)
counts = counts[counts.task == "ioi"].groupby("method", sort=False)[["bad", "n"]].sum()
Markdown(
    "IOI, both models: "
    + "; ".join(
        f"{method} on {row.bad:.0f} of {row.n:.0f} prompts" for method, row in counts.iterrows()
    )
    + "."
)


# %% mystnb={"image": {"alt": "Two scatter plots, one for each model, on Greater-Than: attribution patching against the true effect of the ten largest heads of each prompt, with a grey wedge of a factor of two around the diagonal. Many points lie above or below the wedge."}}
def figure(task):
    part = top[top.task == task]
    bad = (study.worst_of_prompts(part).AP >= 2).mean()
    title = f"{study.TASKS[task]}: one of ten badly off on {100 * bad:.0f} % of prompts"
    return study.missed_figure(part, title)


_ = figure("greater_than_01")

# %% mystnb={"image": {"alt": "The same two scatter plots for factual recall: most points lie within the wedge of a factor of two, some near zero or on the wrong side of it."}}
_ = figure("factual")

# %%
errors = common.intervals(study.top_5_errors(sweeps), ["model", "task", "method"], "error")
wide = errors.pivot(index=["model", "task"], columns="method", values="error").reset_index()
tests = common.paired(study.top_5_errors(sweeps), ["model", "task"], "error", "HVP")
wide = tests[["model", "task", "difference", "holm"]].merge(wide, on=["model", "task"])
wide = wide[["model", "task", "AP", "HVP", "difference", "holm"]]
wide = wide.rename(columns={"difference": "AP − HVP"}).replace({"task": study.TASKS})
digits = {"AP": ".1f", "HVP": ".1f", "AP − HVP": "+.1f", "holm": ".4f"}
common.show(
    wide,
    digits,
    f"Top-5 relative error in percent, {n_prompts} prompts; p-values by Holm, {len(tests)} tests.",
)

# %% [markdown]
# ## Limits
#
# Two small models, one of them with quantised weights; three tasks with prompts made by us. A factor of two is our choice of what counts as badly off. Ten heads are a larger share of a
# model with few heads: their smallest is then smaller, and easier to miss by a factor. Greater-Than is scored by differences of probabilities, so its effects are not in nats.
