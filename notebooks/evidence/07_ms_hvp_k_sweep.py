# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 7. How many steps?
#
# Every table, test and claim behind [the lesson](../07_ms_hvp_k_sweep.ipynb). For each prompt the five heads with the largest true effects
# were followed with MS-HVP of every $K$ from 1 to 20, {term}`denoising`. The *error* is the top-5 relative error: the mean absolute error on these
# five, in percent of the range of all true effects of the prompt. Intervals are 95 % bootstrap intervals over prompts, 1,000
# resamples. What is computed stands in `notebooks/studies/k_sweep/`.

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

from hvp_utils import PatchedMetric, load_model, make_prompts, plots, reference_pair
from hvp_utils.plans import ModelSizes
from studies import common
from studies import k_sweep as study

plots.use_style()

# %% [markdown]
# ## What was run
#
# * **IOI**: name swaps, in several templates.
# * **Greater-Than**: a later year must follow. This model reads numbers digit by digit, so the metric is the probability of the next digit
#   being larger than the one that it answers to, less that of its being smaller. The corruption is the paper's, a random token at position
#   3, which here is the word after "The struggle". It leaves both years in place, so effects are small.
# * **Factual**: a statement with one right next word. The corruption is the same, and here it falls on the subject.
# * **Factual swap**: the same statements with another subject in place of a random token, such as another country. Patching then
#   moves the model from one sensible answer to another, which is a long way.

# %%
sweeps = study.load([model_name], n_prompts, device=device)
overview = study.overview(sweeps)
common.show(
    overview.drop(columns=["model", "first prompt"]),
    ".0f",
    f"{model_name}; tokens are means, and the run ones are those from the first difference on.",
)

# %%
common.show(overview[["task", "first prompt"]])

# %% [markdown]
# ## Error against the number of steps

# %% mystnb={"image": {"alt": "Top-5 relative error against the number of steps for four sets of prompts, on logarithmic axes with intervals. Attribution patching stands at the left. All lines fall along the slope of one over K squared."}}
errors = study.errors(sweeps)
means = study.at_steps(errors)
enough = study.enough(errors)
_ = study.error_figure(
    means, f"{enough.steps.max():.0f} steps bring the mean error below 1 % on every task"
)

# %%
few = means[means.steps.isin((0, 1, 2, 5))].pivot(index="task", columns="method", values="error")
many = means[means.steps.isin((10, 20))].pivot(index="task", columns="method", values="error")
order = list(overview.task)
common.show(
    few.loc[order, ["AP", "K = 1", "K = 2", "K = 5"]].reset_index(),
    ".2f",
    "Mean top-5 relative error in percent; K = 1 is HVP.",
)

# %%
common.show(many.loc[order].reset_index(), ".2f", "The same with ten and twenty steps.")

# %% [markdown]
# ### The first step, and the slope of the rest
#
# Points by which one step lowers the error, on the same prompts; and the slope of a prompt's error against $K$, on logarithmic axes, for $K \ge 5$, the median over
# prompts. The theory says $-2$.

# %%
first = study.one_step(errors)
columns = ["task", "gain", "p", "holm", "worse", "slope"]
common.show(
    first[columns].rename(columns={"worse": "prompts made worse"}),
    {"gain": "+.1f", "p": ".3f", "holm": ".3f", "slope": ".2f"},
    f"Paired bootstrap, {n_prompts} prompts each. holm: p after Holm's correction, {len(first)} tests.",
)

# %%
by_steps = errors.pivot(index=["task", "prompt"], columns="steps", values="error")
harmed = by_steps[by_steps[1] > by_steps[0]]
Markdown(
    f"Of the {len(harmed)} prompts that one step makes worse, two steps bring {(harmed[2] < harmed[0]).sum()} below attribution patching, five "
    f"{(harmed[5] < harmed[0]).sum()} and twenty {(harmed[20] < harmed[0]).sum()}. The largest error with five steps, over all {len(by_steps)} prompts, is "
    f"{by_steps[5].max():.2f} %, and with twenty {by_steps[20].max():.2f} %."
)

# %% [markdown]
# On factual swaps one step has no advantage over none: what it gains on some prompts it loses on others. Greater-Than falls a
# little short of the slope. Its effects are a few hundredths of a probability, so that with many steps the error is no larger than the rounding
# of float32. One of its prompts in float64:

# %%
model = load_model(model_name, device=device)
double = PatchedMetric(
    load_model(model_name, device=device, dtype=torch.float64),
    make_prompts("greater_than", model, 1)[0],
)
precisions = study.precisions(sweeps[model_name, "greater_than"].isel(prompt=0), double)
del double
common.show(
    precisions,
    {"K = 10": ".1e", "K = 20": ".1e", "slope": ".2f"},
    "Mean absolute error of the five largest effects, first Greater-Than prompt; slope from 10 to 20 steps.",
)

# %% [markdown]
# ## The size of what is left
#
# $f - \widehat f_K = (g''(1) - g''(0)) / (6K^2) + O(K^{-3})$, proved on the [theory page](../../book/theory.md). On the reference pair, for the
# five heads with the largest effects.

# %%
M = PatchedMetric(model, reference_pair())
left = study.leftovers(M)
wide = left.pivot(index="component", columns="K", values=["error", "predicted"])
for_each = left.component.drop_duplicates()
common.show(
    wide.error.loc[for_each].rename(columns=lambda k: f"K = {k}").reset_index(),
    "+.4f",
    "Error: truth less estimate, in nats.",
)

# %%
common.show(
    wide.predicted.loc[for_each].rename(columns=lambda k: f"K = {k}").reset_index(),
    "+.4f",
    "Predicted error, in nats, from the curvatures at both ends.",
)

# %% [markdown]
# With few steps the prediction fails, since the steps are still longer than the wiggles of the curve. With ten or twenty it is close for most heads. Where
# the two curvatures happen to be equal, the leading term vanishes, and the error falls faster than $1/K^2$.
#
# ## When one step makes it worse
#
# The correction adds $q$. Wrong before was $E = q + R_3$; wrong after is $R_3$. So HVP is worse exactly when $|R_3| > |q + R_3|$: when the
# remainder has the opposite sign and more than half the size of $q$. That is algebra, and the table is a check of it.

# %%
rule = study.bent_back(sweeps)
common.show(
    rule.drop(columns="model").rename(
        columns={"worse": "made worse", "agree": "the rule is right on"}
    ),
    caption="Head-prompt pairs whose quadratic term is above 1e-4.",
)

# %%
Markdown(f"The rule decides {rule.agree.sum()} of {rule.pairs.sum()} pairs correctly.")

# %%
most = study.worst_prompts(sweeps, errors)
common.show(
    most[["task", "text", "adds"]].rename(columns={"text": "clean prompt", "adds": "HVP adds"}),
    "+.1f",
    "The prompt that one step harms most, for each task; points of top-5 relative error.",
)

# %%
columns = ["task", "AP", "K = 1", "K = 2", "K = 5", "K = 20"]
digits = dict.fromkeys(columns[1:], ".2f") | {"AP": ".1f"}
common.show(most[columns], digits, "Its error in percent.")

# %%
case = most.loc[most.adds.idxmax()]
task = next(key for key, name in study.TASKS.items() if name == case.task)
harm = study.harm(sweeps[model_name, task].isel(prompt=case.prompt))
Markdown(
    f"On the worst of them the step does most harm to head {harm.component}: the quadratic term is {harm.q:+.2f} nats and the remainder "
    f"{harm.remainder:+.2f}, {abs(harm.remainder / harm.q):.1f} times its size."
)

# %% [markdown]
# ## A median over several K
#
# For its hardest task the paper takes, head by head, the median of the estimates with $K$ = 5, 10 and 20, and finds it better than any of the three. The
# argument is that different heads suit different $K$. If the error falls steadily with $K$, that cannot be: the median is then the middle one.

# %%
median = study.median_of_several(sweeps)
common.show(
    median[["task", "median", "K = 10", "K = 20", "middle"]].rename(
        columns={"middle": "the median is K = 10, % of heads"}
    ),
    {"median": ".3f", "K = 10": ".3f", "K = 20": ".3f", "the median is K = 10, % of heads": ".0f"},
    "Mean top-5 relative error in percent.",
)

# %%
common.show(
    median[["task", "difference", "p"]].rename(columns={"difference": "median less K = 20"}),
    {"median less K = 20": "+.3f", "p": ".3f"},
    "Paired bootstrap, points of error.",
)

# %% [markdown]
# ## The price
#
# Operations are counted, for every head of the reference pair. A **run** is one exact patch of one head, averaged over heads. At $t = 0$ all heads
# share one run, so the first step is the cheapest; further along each needs runs of its own.

# %%
sizes = ModelSizes.of(model)
common.show(
    study.prices_of_steps(sizes, (1, 2, 3, 4, 5, 20)),
    {"runs": ",.0f", "percent": ",.1f", "per head": ".2f"},
    "Percent of patching every head; the last column in runs.",
)

# %%
wanted = enough.dropna().astype({"steps": int})
price = study.prices_of_steps(sizes, sorted(set(wanted.steps))).set_index("method")["per head"]
wanted["runs per head"] = [price[f"MS-HVP, K = {k}"] for k in wanted.steps]
common.show(
    wanted.drop(columns="model"),
    ".1f",
    "Least steps with a mean error below 1 %. Patching the same head exactly costs 1 run, with no error.",
)

# %% [markdown]
# ## Claims

# %%
claims = study.claims(means, first, median)
common.show_claims("07_ms_hvp_k_sweep", claims, model_name)

# %% [markdown]
# **Where the paper differs.** It finds one setting that it calls pathological, Pythia-410M on IOI, where HVP raises the error from 22.34 to 47.48 % and
# MS-HVP levels off near 18 % (Table 2). Nothing levels off here: on this model twenty steps are exact to a few hundredths of a percent. The theory
# allows no floor above rounding, as long as the metric is smooth along the path. That model was not run here, so we do not know where its floor comes from. Integrated
# gradients end at 17.26 % there, at about the same height, though they take no second derivative. The paper counts $K$ steps as $2K$ backward passes and compares with integrated
# gradients at that cost; exact patching, at 1, is not in its comparison.
#
# ## Limits
#
# One small model with quantised weights, `n_prompts` prompts of each task, made by us; heads only, five of each prompt, chosen by their true
# effects; one direction of patching. The rules of the verdicts are ours and are printed beside them.
