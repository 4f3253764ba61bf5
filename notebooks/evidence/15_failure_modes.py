# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 15. Which failure is it?
#
# Every table and claim behind [the lesson](../15_failure_modes.ipynb). The truth is an exact patch of one component; AP is attribution
# patching. Shares have 95 % bootstrap intervals with 1,000 resamples of whole prompts (a prompt of a model in a setting). What is computed stands in
# `notebooks/studies/failure_modes/`, the criteria in `hvp_utils.diagnosis`.

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
from IPython.display import Markdown, display

import hvp_utils.diagnosis as d
from hvp_utils import plots, sweep
from studies import common, edges_and_mib, missed_effects
from studies import failure_modes as study

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## Toys
#
# Each failure as a function of the patch strength, and what the estimators make of it: computed by differentiation, and by hand.

# %%
toys = study.estimates()
by_hand = study.closed_forms().set_index("toy").loc[toys.failure]
assert abs(toys[["truth", "AP", "HVP"]].to_numpy() - by_hand.to_numpy()).max() < 1e-12
common.show(toys, ".4f", "Toys, as differentiated; truth, AP and HVP equal their closed forms.")

# %% [markdown]
# * **Saturation** is $\sigma(12t - 6)$: a head with two keys, of which one is worth 1 more. Truth $\sigma(6) - \sigma(-6)$, AP $12\,\sigma(6)\,\sigma(-6)$. The Q
#   and K fix recomputes the softmax. Nothing is bent behind it here, so it is exact.
# * **Cancellation** is $5t - 5.1t + 0.3t^2$: the tutorial's numbers. GradDrop with two layers, of which the second carries the indirect effect,
#   leaves the direct one.
# * **A zero gradient** is $\sigma(20t - 10)$. Five Gauss–Legendre points put one on the step and overshoot; MS-HVP with five steps has two beside it.
#
# ## The criteria, fixed first
#
# The error of AP for one component is $E = \int_0^1 (1-t)\,M''(t)\,dt$, and $M''$ is a sum over the operations of the network, so $E$ is a sum of parts. Criteria and thresholds
# were written and committed before the search, after a look at six heads of the reference pair. The number of prompts was lowered from five to three (neurons: from four to
# two), and the curvatures of a path from five to three, for the sake of time, after one setting of one model (heads, IOI, Gemma) had been run and before its result had been looked at.

# %%
meaning = {
    "MISJUDGED": "diagnosed at all: |E| above this share of |truth|; also the largest error against both parts that counts as cancellation",
    "SATURATED": "a row of a pattern is saturated: its largest probability is at least this in the base run",
    "CHANGED": "and it leaves: the patch moves that probability by at least this",
    "MAIN_PART": "saturation: at least this part of E from patterns, and of that from such rows",
    "AMPLIFIED": "cancellation: |direct| + |indirect| at least so many times |total|, with opposite signs",
    "FLAT": "zero gradient: |slope at 0| at most this share of the mean |slope| on the path",
}
rows = [(name, getattr(d, name), text) for name, text in meaning.items()]
rows.append(
    ("BADLY", study.BADLY, "searched: |E| above this share of the largest effect of the prompt")
)
common.show(pd.DataFrame(rows, columns=["constant", "value", "meaning"]), "g")

# %% [markdown]
# *Direct* effects hold everything that later blocks write at the base run, so only the way through the last norm to the logits is left;
# *indirect* is the rest. For queries, keys and heads the MLP of the same layer counts as later.
#
# ## The search
#
# All components that AP misjudges badly are diagnosed. For comparison as many others of the same prompt are examined, those with the largest
# true effects.

# %%
measured = study.stored(models, device=device)
table = study.cases(measured)
counts = study.counts(table)
settings = {name: s.n_prompts for name, s in study.SETTINGS.items()}
counts.insert(2, "prompts", counts.setting.map(settings))
common.show(
    counts.rename(columns={"AP below half": "AP below half, or wrong sign"}),
    caption="Badly misjudged components, by verdict: the first criterion that holds.",
)

# %%
told = study.explained(table)
bad = table[table.bad]
criteria = bad[list(study.NAMED)]
Markdown(f"""Of {told["misjudged"]} badly misjudged components {told["named"]} are accounted for by one of the three: {told["share"]:.0f %}. Criteria that hold, whatever the verdict: {", ".join(f"{name} {int(criteria[name].sum())}" for name in study.NAMED)};
more than one holds for {int((criteria.sum(axis=1) > 1).sum())}. Misjudged in the sense of the search and yet within {100 * d.MISJUDGED:.0f} % of their own effect: {int((bad.verdict == d.NO_FAILURE).sum())}.""")

# %%
rows = []
for verdict in study.NAMED:
    found = bad[bad.verdict == verdict].nlargest(3, "percent")
    rows.append(found.assign(failure=verdict))
columns = ["failure", "model", "setting", "component", "truth", "estimate", "percent"]
common.show(
    pd.concat(rows)[columns].rename(columns={"estimate": "AP", "percent": "error, % of largest"}),
    {"truth": "+.2f", "AP": "+.2f", "error, % of largest": ".0f"},
    "The largest of each kind.",
)

# %% [markdown]
# ## Do the thresholds decide?

# %%
moved = study.thresholds(table)
common.show(moved, caption="Misjudged components that meet a criterion, when one threshold moves.")

# %%
soft = study.softmax_cases(table)
Markdown(
    f"""The tutorial says "near 0 or 1", and our criterion looks at 1 alone: where a row is not saturated, a key near 0 is just a key among others. Read wider, which we did after the search, saturation means that the key which changes most, in the row that contributes
most, starts below {1 - d.SATURATED:.2f} or above {d.SATURATED:.2f} and moves by {d.CHANGED:g}. Of {soft["n"]} components with at least half of their error from patterns that holds for {soft["near"]}; AP makes {soft["too small"]} of these too small. Half of all starts lie between {soft["middle"][0]:.2f} and {soft["middle"][1]:.2f}."""
)

# %% [markdown]
# The probability 0.95 itself is not moved: it is the tutorial's, and what is stored knows only rows above it.
#
# ## Symptoms and causes

# %%
common.show(
    study.symptoms(table),
    {"misjudged": ".0f", "others": ".0f"},
    "Percent that show the symptom, and how many misjudged components its failure accounts for.",
)

# %% [markdown]
# ## Where the errors come from

# %%
common.show(study.origins(table), caption="Operation with the largest part of the error, by model.")

# %%
by_setting = study.origins(table, "setting")
display(common.show(by_setting, caption="The same by setting, both models."))

# %%
left = bad.left_share.abs()
Markdown(f"""Parts come from curvatures at {d.N_CURVATURES} points. They miss less than 10 % of the error for {int((left < 0.1).sum())} of {len(bad)} components, and more than half of it for {int((left > 0.5).sum())}: paths like steps, for which the split means little. Among components
within 10 %, {int(bad[left < 0.1].verdict.isin(study.NAMED).sum())} are accounted for by a named failure ({100 * bad[left < 0.1].verdict.isin(study.NAMED).mean():.0f} %).""")

# %% [markdown]
# ## Flat starts, and the metric
#
# The tutorial says that a confident wrong answer flattens the gradient for every component. With the log probability it cannot: where
# the answer's probability is near 0, the derivative of its logarithm in its logit is near 1. A *probability* may be
# flat there. Both were searched; the table says how often it was.

# %%
common.show(
    study.flat_starts(table).rename(
        columns={"flat": "zero gradient, %", "median": "slope at 0, % of mean"}
    ),
    {"zero gradient, %": ".0f", "slope at 0, % of mean": ".0f"},
    "All components examined. Last column: the median.",
)

# %% [markdown]
# ## Remedies

# %%
common.show(
    study.remedied(table),
    {"median": ".0f"},
    "Percent of the error removed (median), and how many errors are at least halved, or grow. GradDrop: sizes.",
)

# %%
common.show(
    study.queries_and_keys(table),
    {"median": ".0f"},
    "Queries and keys: too small by AP; nearer, and halved, by the Q and K fix; median percent removed.",
)

# %%
prices = pd.concat(
    [
        study.priced(models, kind).assign(components=kind)
        for kind in ("heads", "queries", "neurons_pre")
    ]
)
wide = prices.pivot_table(
    index=["model", "components"], columns="remedy", values="percent", sort=False
)
common.show(
    wide.reset_index(),
    ".0f",
    "Price for all components, in percent of patching every one (a prompt of 15 tokens, 5 of them run).",
)

# %%
fix = study.fix_passes(models)
Markdown(
    f"The Q and K fix without GradDrop takes one gradient and {common.listed(fix, 'd')} runs of the model for all queries or keys."
)

# %% [markdown]
# ## Neurons that AP hides
#
# Kramár et al. report neurons whose effect is 5 to 12 times what AP says. Here are those among the 50 largest of 256 a layer, four IOI prompts.

# %%
one_estimate = ["activation_patching", "attribution_patching"]
neurons = study.hidden_neurons(
    {
        m: sweep(
            m, "ioi", one_estimate, 4, components="neurons_pre:256", store="results", device=device
        )
        for m in models
    }
)
common.show(
    neurons.rename(
        columns={"hidden": "5 times too small", "turned": "wrong sign", "largest": "largest factor"}
    ),
    {"largest factor": ".0f"},
)

# %% [markdown]
# ## Edges
#
# For edges the remedy of zero gradients is EAP-IG, and EAP-GP that of a straight path which stays flat. From the results of
# [chapter 12](12_edges_and_mib.ipynb): the error on sampled edges, and how many important edges a method calls unimportant (in the lower half).

# %%
tasks = "ioi", "subject_verb_agreement", "country_capital"
edges = study.edge_remedies(edges_and_mib.load(models, tasks, device=device))
common.show(
    edges.replace({"task": edges_and_mib.TASKS}),
    {"error": ".0f", "missed": ".0f"},
    "Percent, over prompts.",
)

# %% [markdown]
# ## What was not patched
#
# Kramár et al. (2024), in the paper on AtP\*, bound what is left among components that were not patched by patching random subsets {cite:p}`kramar2024atp`; the tutorial
# mentions it. We follow the method, not its numbers: of the paper we quote the abstract alone. Ours are three changes. Components already patched stay out of the
# subsets. Attribution patching is subtracted from each subset's effect and added back to each estimate. And the mean without a component is scaled to as
# many others as the mean with it ([theory](../../book/theory.md)).
#
# On the reference pair, the 100 components that `row_screen` puts first were patched. Of SmolLM2's neurons, the truth is the exact effect of *every* one. Of Gemma's and of edges, 500 that
# follow in the screen's order and 500 at random were patched, so the largest missed is the largest known. Numbers of subsets, shares and the rules of the claims stood in code before anything was measured.

# %%
bounds = missed_effects.bounds(missed_effects.load(models, device=device))
columns = {
    "n_subsets": "subsets",
    "missed": "largest missed",
    "ratio": "bound / it",
    "percent": "price, %",
}
wanted = [
    "model",
    "components",
    "control",
    "subsets",
    "inclusions",
    "error",
    "bound",
    "largest missed",
    "bound / it",
    "price, %",
]
common.show(
    bounds.rename(columns=columns)[wanted],
    {"error": ".3f", "bound": ".3f", "largest missed": ".3f", "price, %": ".1f"},
    "Bounds at 95 % confidence, in nats. Inclusions: the fewest subsets that held a component. Error: the median standard error. Price: screen, patches and subsets, in percent of patching every component, operations counted.",
)

# %% mystnb={"image": {"alt": "Four panels, neurons and edges of two models: the bound on the largest missed effect against the number of random subsets, on logarithmic axes. Both bounds fall from 150 to 600 subsets. The one with attribution patching as control lies below the other everywhere and comes close to the black line, the largest missed effect, which no bound crosses; the largest effect shown lies far above."}}
ratio = missed_effects.shrinkage(bounds)
_ = missed_effects.bounds_figure(
    bounds,
    f"Attribution patching as a control makes the bound\n{1 / ratio.max():.1f} to {1 / ratio.min():.1f} times tighter",
)

# %%
heads = missed_effects.held(missed_effects.load_coverage(models, device=device))
common.show(
    heads.rename(
        columns={
            "n_subsets": "subsets",
            "held": "held, %",
            "own": "own held, %",
            "ratio": "bound / largest missed",
        }
    ),
    {"held, %": ".0f", "own held, %": ".0f"},
    "Heads of 5 IOI prompts, 10 draws each, all effects known. Held: the bound is no less than the largest missed effect. Own: the bound of the head with the largest missed effect, taken alone, is no less than that effect. Exact binomial intervals, as if draws on one prompt were independent of it.",
)

# %% [markdown]
# The confidence is that of the head's *own* bound, 95 %, for its average effect on top of a random subset. The bound is the largest over all heads, so it holds at least as often.
# Where *own* is below 95 %, interactions or few inclusions are the reason: a good control makes errors small, and what interactions do to the average effect shows.

# %%
less = {model: missed_effects.most_subsets(heads, model) for model in models}
Markdown(
    "With the most subsets the bound held in "
    + "; ".join(
        f"{share['none']:.0f} % of draws without a control and {share['attribution patching']:.0f} % with it ({model})"
        for model, share in less.items()
    )
    + ". A subset of a model with few heads is a good part of the model. There the control makes the bound tighter and wrong more often: what is left of its error is the bias of interactions, which more subsets do not mend."
)

# %%
common.show(
    missed_effects.left_out_table(models, device=device).rename(
        columns={"missed": "largest missed"}
    ),
    ".2f",
    "Heads, reference pair: the bound with subsets of all heads, and with subsets of those that were not shown; by control.",
)

# %% [markdown]
# The large effects, once known, make the subsets vary, and `missed_bound` leaves them out. Here this makes the bound of SmolLM2's heads many times tighter; of Gemma's heads, among which the largest
# missed effect is itself large, it does not. Of heads nobody needs a bound: with as many runs all of them can be patched. It is for neurons and edges.

# %% [markdown]
# ## Claims

# %%
claims = study.claims(table, neurons, edges) + missed_effects.claims(bounds, heads)
common.show_claims("15_failure_modes", claims, model_name)

# %% [markdown]
# ## Limits
#
# Two small models with quantised weights; three prompts a setting, two for neurons, of which 256 of each layer were drawn. Components of one prompt share heads, so
# counts are not independent; intervals resample prompts. Direct effects go through the last norm with its scale as it is after the patch. That a
# pattern's part is counted to first order in the pattern is true of the share of saturated rows alone, not of the split by operation. A failure
# that AP shares with the truth, such as a component that matters only together with another, is not an error of AP and not seen here.
