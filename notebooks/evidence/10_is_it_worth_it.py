# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 10. Is it worth it?
#
# Every table, test, target and claim behind [the lesson](../10_is_it_worth_it.ipynb). The truth is exact activation patching of
# every component, at all positions together, {term}`denoising`. Errors are those on the five largest true effects of a prompt, in
# percent of the range of its effects. Intervals are 95 % bootstrap intervals over prompts, with 1,000 resamples, and so are
# $p$-values (of paired differences, two-sided). What is computed stands in `notebooks/studies/is_it_worth_it/`.
#
# A price is counted: operations of matrix products, in **runs** (one exact patch of one component, on average) and in percent of
# patching every component. Seconds are a second column, shown only where repeated measurements agree.

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
n_prompts = 20  # of each task; more are computed, and stored
n_fresh = 30  # more prompts of each, on which no number was fixed
n_neuron_prompts = 4  # prompts of which neurons are patched
n_per_layer = 256  # neurons of each layer whose true effects are known
n_repeats = 2  # rounds of every timing

# %%
import pandas as pd
import torch
from IPython.display import Markdown, display

from hvp_utils import PatchedMetric, load_model, model_sizes, plots, reference_pair
from hvp_utils.stats import top_k_relative_error
from studies import common, prices
from studies import is_it_worth_it as study
from studies.is_it_worth_it import neurons

plots.use_style()
models = model_name, second_model
loaded = {name: load_model(name, device=device) for name in models}
pair = reference_pair()
reference = {name: PatchedMetric(model, pair) for name, model in loaded.items()}


# %% [markdown]
# ## Prices
#
# All heads of a prompt of 15 tokens, as long as the reference pair. MS-HVP takes $K$ slopes and curvatures of every head,
# integrated gradients (IG) as many slopes as it has points.

# %%
price_table = study.price_table(models)
digits = {name: ",.0f" if "runs" in name else ",.1f" for name in price_table.columns}
common.show(price_table, digits, "Counted: runs, and percent of patching every head.")

# %% [markdown]
# ### Seconds
#
# On short prompts seconds are dominated by reading the weights: a gradient, a handful of products or a few patches fetch every
# weight and start every operation, for a few tokens, and a full batch of patched runs pays this once for all of them. So
# everything that is *one* run takes longer than its operations say. Everything is timed in rounds, so that what disturbs the
# machine disturbs all.

# %%
known = study.scored(models, n_prompts, device=device)
after = study.errors_after(known)
chosen = study.chosen(after, model_name)
patches = {study.FIRST: chosen.get(study.FIRST, study.NUMBERS[-1]), study.BOTH: study.N_PATCHED}
patches |= {study.ROWS: study.N_PATCHED}
timed = {
    name: study.seconds(M, patches, n_repeats, derivatives=name == model_name)
    for name, M in reference.items()
}
for name, measured in timed.items():
    table, said = prices.to_show(study.with_counts(name, measured, patches), measured)
    digits = {"runs": ",.0f", "percent": ",.1f", "seconds": ".2f"}
    display(common.show(table, digits, f"The reference pair, {name}, all heads. {said}"))

# %%
shares = {name: study.weights_share(M) for name, M in reference.items()}
steady = all(prices.steady(m) for m in timed.values()) and all(s for _, s in shares.values())
if steady:
    told = pd.concat([study.counted_over_measured(m, timed[m], patches) for m in models])
    told = told.groupby("kind").ratio.agg(["min", "max"])
    text = "; ".join(f"{kind} {low:.2f} to {high:.2f}" for kind, low, high in told.itertuples())
    share = study.listed({name: s for name, (s, _) in shares.items()}, ".0f", " %")
    text = (
        f"Operations counted over seconds measured, both in units of patching one head: {text}. Multiplying "
        f"{reference[model_name].n_run} vectors once by each weight matrix, and nothing else, takes {share} of the time of a run."
    )
else:
    text = (
        "How counted operations compare with seconds is not shown: repeated measurements disagreed, so the machine was "
        "disturbed."
    )
Markdown(text)

# %% [markdown]
# ### A longer prompt
#
# To read the weights takes as long for a long prompt. The reference pair beside one with the same names, and a longer way from
# the first difference to the answer:

# %%
longer = PatchedMetric(loaded[model_name], study.longer_pair())
timed_longer = study.seconds(longer, patches, n_repeats, derivatives=False)
size = dict(n_tokens=longer.n_tokens, n_run=longer.n_run)
table, said = prices.to_show(
    study.with_counts(model_name, timed_longer, patches, **size), timed_longer
)
digits = {"runs": ",.0f", "percent": ",.1f", "seconds": ".2f"}
common.show(
    table,
    digits,
    f"{model_name}, {longer.n_run} tokens run (the reference pair: {reference[model_name].n_run}). {said}",
)

# %% [markdown]
# ## All curvatures from a few products
#
# A product $Hv$ over all components costs one more backward pass. **Hutchinson's estimate** takes random signs $w$: in $w \odot Hw$ the
# entry of component $c$ is $H_{cc}$ plus its interactions with random signs, which average out with $k$ products as
# $1/\sqrt k$ {cite:p}`bekas2007diagonal`. **XDiag** {cite:p}`epperly2024xtrace` first finds the large directions and treats them exactly.
# It pays if $H$ is nearly of *low rank*: if a few eigenvalues hold most of its squared size $\sum_{ij} H_{ij}^2$.

# %% mystnb={"image": {"alt": "Two panels, one for each model: squared size of the Hessian that is outside its largest eigenvalues, in percent on a logarithmic axis, against how many are taken, for six settings. All curves fall steeply. With 8 eigenvalues the medians lie between about 0.1 and 3 percent, with 16 mostly far below 1 percent. Heads on Factual fall most slowly."}}
spectra = study.spectra(models, n_prompts, device=device)
eight = spectra[spectra.k == 8].groupby(["model", "place"]).held.median()
_ = study.spectra_figure(
    spectra,
    f"Eight eigenvalues hold {eight.min():.1f} to {eight.max():.1f} % of the curvature's squared size",
)

# %%
common.show(
    study.spectra_table(spectra),
    ".1f",
    f"Squared size of H in its largest eigenvalues, percent: medians of {n_prompts} prompts, by their number.",
)

# %% [markdown]
# The fall is gradual, without a gap after which nothing is left. Least of all it holds on Factual, and hardly on its worst prompt.
#
# ### The reference pair, over seeds
#
# With the whole $H$ at hand, products with it are free, so the two sketches can be compared over ten seeds (20 for 48 products). $H$ and the effects of
# the reference pair are stored in `results/worth/`; delete a file to compute it again.

# %% mystnb={"image": {"alt": "Two panels, one for each model: error of all quadratic terms against the number of products, both logarithmic, for Hutchinson and XDiag; medians and ranges over seeds. Hutchinson falls slowly and stays above 10 percent. XDiag starts higher and falls steeply, to about 3 and 5 percent with 32 products and about 1 percent with 64."}}
everything = {name: study.everything(name, M) for name, M in reference.items()}
hessians = {name: one.H for name, one in everything.items()}
sketched = {name: study.sketches(H) for name, H in hessians.items()}
seeds = study.over_seeds(hessians, sketched)
at_32 = seeds[(seeds.method == "xdiag") & (seeds.k == 32)].groupby("model").error.median()
_ = study.sketches_figure(
    seeds,
    f"32 products leave {at_32.min():.1f} to {at_32.max():.1f} % error of every head's curvature",
)

# %%
medians = seeds.groupby(["model", "method", "k"], sort=False).error.median()
common.show(
    medians.unstack("k", sort=False).reset_index(),
    ".1f",
    "Error of the quadratic terms of all heads, 2-norm, percent: median over seeds, by number of products.",
)

# %%
inside = seeds[seeds.method == "xdiag"].groupby(["model", "k"], sort=False).inside.mean()
common.show(
    inside.unstack("k", sort=False).reset_index(),
    ".0f",
    "Heads whose sketched quadratic term (XDiag) is within two of its standard errors, percent, by number of products; 95 if the errors were "
    "honest and normal.",
)

# %% [markdown]
# With four products each of XDiag's two estimates rests on a subspace of one direction, and there are only two of them to tell a scatter
# from.
#
# ### Many prompts

# %%
stored = study.stored_errors(known)
common.show(
    study.stored_errors_table(stored),
    caption=f"Error of stored sketches, one seed each, 2-norm, percent: median (and largest) of {n_prompts} prompts, by number of products.",
)

# %% [markdown]
# ### Rows
#
# For random signs $w$ the mean of $(Hw)_c^2$ is the squared length of row $c$. $Hw$ is nearly a difference of two gradients,
# $(\nabla M(\epsilon w) - \nabla M(0)) / \epsilon$ with $\epsilon = 0.01$. How near?

# %%
generator, off = torch.Generator().manual_seed(0), {}
for name, H in hessians.items():
    w = torch.randint(0, 2, (len(H),), generator=generator) * 2.0 - 1
    off[name] = study.difference_error(reference[name], H, w)
Markdown(
    f"On the reference pair the difference is off by {study.listed(off, '.1f', ' %')} (2-norm, one random direction)."
)

# %% [markdown]
# ### What the score does not see
#
# The largest error among the heads with $R < 0.1$, on the reference pair; places by $R$ and by $|f_\mathrm{AP}| + |q|$:

# %%
lines = []
for name, M in reference.items():
    one = study.hidden_from_score(M.labels, everything[name])
    lines.append(
        f"* {name}, **{one['head']}**: the truth is {one['truth']:+.2f} nats and attribution patching says {one['AP']:+.2f}, an error of "
        f"{one['error']:.0f} %. The quadratic term is {one['q']:+.3f}, so that R = {one['R']:.3f}. Of {one['heads']} heads it is number {one['by R']} by R "
        f"and number {one['by size']} by size."
    )
Markdown("\n".join(lines))

# %% [markdown]
# ## Which rule needs the fewest patches?
#
# Each rule sorts the heads; the first $m$ are patched exactly, and the rest keep $f_\mathrm{AP}$. *Size at both ends* is
# $|f_\mathrm{AP}|$ plus the size of the first-order estimate made from the *other* run. *r* is half the length of a row of $H$.

# %% mystnb={"image": {"alt": "Two panels, one for each model: mean top-5 relative error against the number of heads patched exactly, logarithmic, for six ways to choose the heads. The score R falls slowest and is still above one percent after 20 heads. The size of the estimate falls next, then the size at both ends. Size plus quadratic term, exact or sketched with 4 products, and size plus half the row of the Hessian fall fastest: to about 0.1 percent in SmolLM2 and 0.4 percent in Gemma with 8 heads, and to zero with 9 to 25."}}
_ = study.rules_figure(
    after,
    f"With rows {chosen.get(study.ROWS, 'many')} patches do what {chosen.get(study.FIRST, 'many')} do by the slope alone",
)

# %% [markdown]
# The number patched was fixed where the rule was found, on the first row of the table: the smallest $m$ for which the upper end of the interval of
# the mean error is below 1 %. A rule that is not in the table does not reach this with sixty heads. The other rows test this number, though not
# the choice of the rules.

# %%
common.show(
    study.chosen_table(after, chosen),
    caption=f"Mean error, percent, and share of prompts below {study.AIM:g} % in brackets; {n_prompts} prompts each.",
)

# %%
common.show(
    pd.DataFrame(
        [
            {"rule": rule, "patched": m} | {name: study.of_rule(name, rule, m) for name in models}
            for rule, m in chosen.items()
        ]
    ),
    ".1f",
    "Price of screen and patches, counted, in percent of patching every head.",
)

# %% [markdown]
# Numbers of patches that differ by a few hang on one or two heads missed in twenty prompts. So a margin is needed: twice the length of the list
# that is wanted, ten for the five largest.
#
# ## Fresh prompts
#
# More prompts of the three tasks, and a fourth: Factual with the subjects of two prompts swapped, where the corrupted run has a strong answer of its
# own. The patches of $|f_\mathrm{AP}|$ get no margin: they cost more as it is.
#
# **How fresh are they?** Some sixty ways to sort were tried on the first prompts before rows were settled on, and a dozen of them on these too. That
# two differences are used and not four was decided with all four tasks in view, for the price. So the $p$-values flatter the rows a little.

# %%
fresh = study.fresh(models, n_prompts, n_fresh, device=device)
tested = study.put_to_test(fresh, patches)
settings = study.in_settings(tested)
names = {rule: f"{m} by {rule.partition(',')[0]}" for rule, m in patches.items()}
common.show(
    settings[["model", "task", "prompts", study.AP, *patches]].rename(columns=names),
    {study.AP: ".1f"},
    "Mean error on the five largest effects, percent of the range.",
)

# %%
first, rows = names[study.FIRST], names[study.ROWS]
common.show(
    settings[["model", "task", "difference", "p"]],
    {"difference": "+.2f", "p": ".3f"},
    f"{rows} less {first}: paired difference of the errors, percentage points.",
)

# %%
whole = study.pooled(tested)
price = {
    m: [
        study.of_rule(m, r if r in patches else study.FIRST, patches.get(r, 0))
        for r in whole.method
    ]
    for m in models
}
common.show(
    whole.assign(**{f"price, {m}": price[m] for m in models}),
    {"difference": "+.2f", "p": ".3f", **{f"price, {m}": ".1f" for m in models}},
    f"All {whole.prompts.iloc[0]} prompts together; the difference is that of the last rule from each; prices in percent of patching every head.",
)

# %%
p = common.p_value(whole.set_index("method").p[study.FIRST], 1000)
lower = sum(d.estimate < 0 for d in settings.difference)
Markdown(
    f"With rows the mean error is below that of the {patches[study.FIRST]} patches in {lower} of {len(settings)} settings; taken one by one, the "
    f"difference is significant (p < 0.05) in {(settings.p < 0.05).sum() or 'none'}; over all prompts {p}."
)

# %% [markdown]
# ### For the same price
#
# The runner-up may patch until it has cost at least as many runs as rows and ten patches.

# %%
equal = study.equal_price(fresh)
counts = equal[equal.method == study.FIRST].groupby("model", sort=False).patches.first()
columns = ["method", "prompts", "error", "difference", "p"]
digits = {"difference": "+.2f", "p": ".3f"}
common.show(
    study.pooled(equal)[columns],
    digits,
    f"Patches of {study.FIRST}: {study.listed(counts, 'd')}. The difference is that of the last rule from each.",
)

# %%
most = [m for m in models if study.counted(m, ["attribution_patching"]).n.iloc[0] > 100]
parts = {f"{patches[study.FIRST]} patches": tested, "the same price": equal}
several = pd.concat(
    [
        study.pooled(part[part.model == m])[columns].assign(model=m, rival=name)
        for m in most
        for name, part in parts.items()
    ]
)
several = several[several.method == study.FIRST][["model", "rival", *columns[1:]]]
common.show(
    several,
    digits,
    "The same on models of more than 100 heads alone, where the screen is meant to be used.",
)

# %% [markdown]
# ### Does a better second term choose better?

# %%
common.show(
    study.second_terms(fresh),
    caption=f"Mean error, percent, with {study.N_PATCHED} patches chosen by |f_AP| + r from more differences, and by |f_AP| + |q| with the exact q.",
)

# %% [markdown]
# With 16 differences rows choose as well as exact quadratic terms. Two are the cheapest, not the best.
#
# ### What rows miss

# %%
gap = study.missed([*known, *fresh])
Markdown(
    f"Of the {gap['heads']:,} heads among the five largest of their prompt, over all prompts of both models, {gap['missed']} are not patched, on "
    f"{gap['hit']} of {gap['prompts']} prompts. The largest error left on one of them is {gap['worst']:.0f} % of the range of its prompt, a fifth of "
    "which enters the error on the five."
)

# %% [markdown]
# ## Error against price

# %% mystnb={"image": {"alt": "Six panels, for two models and three tasks: mean error on the five largest effects against the price for all heads in percent of patching them all, both logarithmic, with intervals. Right of 100 percent lie HVP, MS-HVP and integrated gradients. Attribution patching and its sketched corrections have errors of five to thirty percent. The three lines that patch the largest heads exactly fall to zero or a few tenths of a percent well to the left of 100 percent."}}
steps = study.followed(known, n_prompts, device=device)
points = study.front(known, steps)
_ = study.front_figure(points, study.front_title(points))

# %%
common.show(
    study.cheapest_table(points),
    ",.1f",
    f"The lowest price in the figure at which the mean error is below {study.AIM:g} %, in percent of patching every head (– if none).",
)

# %% [markdown]
# ### Screen-Flag-Fix with every screen and every fix
#
# The paper's workflow flags by $R$. These are its variants, and flagging by size, $|f_\mathrm{AP}| + |q|$ or $|f_\mathrm{AP}| + r$.

# %%
workflow = study.workflow(known, steps)
common.show(
    study.workflow_table(workflow, known),
    caption="Mean error, percent, at a price in percent of patching every head; means over three tasks. Curvatures of a few heads are priced as if they came in full batches, so what HVP and MS-HVP add is a lower bound.",
)

# %% [markdown]
# For the largest effects $R$ is not the rule: it flags many small heads. Nor is HVP the fix: it costs nothing more once $q$ is known, but most of the
# error on large heads is beyond the second order. MS-HVP costs more than exact patching of the same heads, and is less exact.
#
# ## All neurons
#
# All neurons before the activation function, on the first IOI prompts. True effects are known for a sample of each layer. What the screens of all
# neurons say of the sample is stored in `results/worth/`; delete a file to compute it again.

# %%
sample = neurons.measure(models, n_neuron_prompts, n_per_layer, loaded, device=device)
terms = neurons.errors_of_terms(sample)
names = {"held": "in 8 eigenvalues, %", "recall": "recall, %", "precision": "precision, %"}
errors = [name for name in terms.columns if name.startswith("error")]
common.show(
    terms[["model", "neurons", *errors]],
    ".0f",
    "Errors of the quadratic terms on the sample, 2-norm, percent.",
)

# %%
common.show(
    terms[["model", *names]].rename(columns=names),
    ".0f",
    f"Squared size of H in its eight largest eigenvalues; recall and precision of R > 0.1, from {neurons.PRODUCTS[-1]} products, among neurons with at least 1 % of the largest effect of the sample.",
)

# %% mystnb={"image": {"alt": "Two panels, one for each model: error on the 50 largest neurons of the sample against the price for all neurons, in percent of patching them all, both logarithmic. Attribution patching and its cheap corrections lie at prices below one percent with errors of one to four percent. The curves that patch the largest neurons exactly fall steeply; those that choose by two terms fall to zero, the one that chooses by the first term stays at a tenth of a percent or half of that. HVP, MS-HVP and integrated gradients lie far to the right of 100 percent."}}
on_neurons = neurons.front(sample)
_ = study.front_figure(
    on_neurons,
    neurons.front_title(on_neurons),
    "neurons",
    pool_tasks=True,
    floor=0.003,
    whiskers=False,
)

# %%
cheapest = study.cheapest(on_neurons, 0.1)
table = cheapest.pivot_table(
    index="series", columns="model", values=["least", "price"], sort=False, dropna=False
)
names = {"least": "least error, %", "price": "below 0.1 % at"}
table.columns = [f"{model}: {names[kind]}" for kind, model in table.columns]
table = table[sorted(table.columns, key=lambda name: name.partition(":")[0] != model_name)]
digits = {name: ".3f" if "least" in name else ",.1f" for name in table.columns}
common.show(
    table.reset_index(),
    digits,
    f"The least mean error on the {neurons.TOP} largest neurons of the sample, and the lowest price, in percent of patching all neurons, at which it is below 0.1 % (– if nowhere).",
)

# %%
timed_neurons = {name: neurons.timing(model, pair, n_repeats) for name, model in loaded.items()}
for name, (measured, n) in timed_neurons.items():
    counts = study.counted(name, measured.method, neurons.KIND)
    table, said = prices.to_show(counts[["method", "n", "runs", "percent"]], measured)
    digits = {"runs": ",.0f", "percent": ".3f", "seconds": ",.1f"}
    display(
        common.show(
            table,
            digits,
            f"{name}, {n:,} neurons (patching is extrapolated from 128 of them). {said}",
        )
    )

# %% [markdown]
# The fifty largest of the sample are about one neuron in a hundred or less; for a longer list more have to be patched. The curvature of the neuron
# alone takes two gradients and no products, and chooses at least as well as rows; but it exists only where a component has an activation
# function of its own.
#
# ## What heads do together
#
# If heads $i$ and $j$ are patched together, both at strength 1, to second order the joint effect exceeds the sum of the two by $H_{ij}$. The
# measured *interaction* is $M(e_i + e_j) - M(e_i) - M(e_j) + M(0)$.

# %% mystnb={"image": {"alt": "Two scatter plots, one for each model: measured interaction of each pair of the ten largest heads against the entry of the Hessian, with the line on which both agree. In SmolLM2 there is no relation: three pairs with large positive predictions have negative interactions, and several with predictions near zero have large ones. In Gemma the points follow the line loosely."}}
together = [
    study.measure_pairs(m, M, everything[m].truth, hessians[m]) for m, M in reference.items()
]
pairs = study.pairs_table(together)
correlations = study.correlations(pairs)
low, high = correlations.correlation.min(), correlations.correlation.max()
_ = study.pairs_figure(
    pairs, f"H at the start and measured interactions: correlation {low:.2f} to {high:.2f}"
)

# %%
common.show(
    correlations,
    ".2f",
    "Correlation of entries of H with measured interactions, the reference pair.",
)

# %% [markdown]
# An interaction is exactly the mean of the mixed derivative over the square between the four points, and $H_{ij}$ is its value in one corner. Where
# the metric bends much on the way, one corner says little. That is the likely reason; it was not tested.
#
# ### Many heads at once
#
# Random sets of the thirty largest heads, and five predictions of what they do together: the sum of slopes; the *quadratic model*
# $\alpha^\top g + \tfrac12 \alpha^\top H \alpha$; the sum of exact effects; that with the interactions of the Hessian; and that with the *measured*
# interactions of all pairs. What is wrong with the last is the fault of triples and larger groups.

# %% mystnb={"image": {"alt": "Two panels, one for each model: error of five predictions of a joint patch, relative to the size of its effect, against the number of heads patched together, both logarithmic. Nearly all curves rise. With 5 heads measured interactions bring the error to 4 percent. With 20 heads every prediction is off by 40 percent of the effect or more; in SmolLM2 the quadratic model is off by 100 percent."}}
joint = study.joint_patches(together)
most = joint[joint.heads == joint.heads.max()].error
_ = study.joint_figure(
    joint,
    f"With {joint.heads.max()} heads patched together, every prediction is off by {most.min():.0f} to {most.max():.0f} %",
)

# %%
table = joint.pivot_table(
    index=["model", "heads"], columns="prediction", values="error", sort=False, dropna=False
)
common.show(
    table.dropna(how="all").reset_index(),
    ".0f",
    "Summed error over the summed size of the joint effects, percent; 40 random sets from the 30 largest heads of the reference pair.",
)

# %% [markdown]
# Two things fail, one after the other. In SmolLM2 the quadratic model is much worse than the sum of exact effects from five heads on, since its
# curvature and its interactions are those of the start; in Gemma the two are about equal from ten on. With twenty heads not even the measured
# interactions of all pairs help much. A joint patch is one run. If that is the question, patch them jointly.
#
# ## At scale
#
# Operations predicted from the sizes of a large model, without its weights (`python -m hvp_utils plan --model llama-3.1-8b`), for one prompt of 20 tokens of which 10 are run. Seconds are
# lower bounds at an assumed rate (`RATE`, operations a second in float32, about what a recent data-centre GPU does): reading weights is not
# counted. They were not checked on that model.

# %%
methods = [
    "activation_patching",
    "attribution_patching",
    "row_norms:2",
    "sketched_hvp:8",
    "sketched_hvp:48",
]
methods += ["hvp", "ms_hvp:5", "integrated_gradients:10:midpoint"]
scale = study.at_scale(study.LARGE, methods, study.RATE)
gigabytes = 4 * model_sizes(study.LARGE).n_parameters / 1e9
common.show(
    scale,
    {"runs": ",.0f", "seconds": ",.2f"},
    f"{study.LARGE}, all components of one prompt, {study.RATE:.0e} operations a second. Each reading of its {gigabytes:.0f} GB of weights takes a hundredth of a second or more beside that.",
)

# %% [markdown]
# ## Targets set beforehand
#
# Before this chapter was written, targets were set: for the sketch, and for a rule that screens, flags and patches. The first rule was that with
# the sketched diagonal; rows were found because it was too slow. Most targets were set in seconds. They would come out differently on another
# machine, so they get no verdict here, and the same targets in operations do.

# %%
rule_errors = {
    (name, rule): top_k_relative_error(study.follow(rule, M, m).cpu(), everything[name].truth)
    for name, M in reference.items()
    for rule, m in patches.items()
}
flags = {m: study.flags_found(everything[m], sketched[m]["xdiag", 48]) for m in models}
common.show(
    study.targets(
        models,
        seeds,
        stored,
        flags,
        rule_errors,
        tested,
        timed,
        timed_longer,
        timed_neurons[model_name],
    )
)

# %% [markdown]
# The seconds of the rule were the hardest to bring down, and the number of operations had nothing to do with it. A screen by the diagonal is three
# small batches, one after the other, and the patches are a fourth; each fetches all weights for a few tokens. So in seconds that rule misses its
# target on the reference pair by far, and meets it on the longer prompt. The screen by rows is one batch, and close to the floor: the gradient and
# the ten patches are wanted by every such rule. In seconds it comes out near the target, on one side or the other from one run to the next.
#
# ## Claims
#
# Claims about prices are decided by counted operations.

# %%
common.show_claims("10_is_it_worth_it", study.claims(models), model_name)

# %% [markdown]
# The paper counts the price of HVP in backward passes, and compares it with that of attribution patching and of integrated gradients (section
# 4.1). Exact patching is named as prohibitive and is not among the methods of its cost comparisons. Of the methods that treat one component at a
# time it is the cheapest, and the only one without an error. Neither sketching nor choosing by rows is in the paper.
#
# ## Limits
#
# Two small models with quantised weights, four tasks, prompts made by us. One seed for each stored sketch, and for rows. The rule was judged by the
# five largest effects of a prompt, since that is the yardstick of the paper; a circuit may need more heads, and smaller ones. Neurons were judged
# on samples of four IOI prompts. Interactions and joint patches are those of the reference pair. Operations are those of matrix products; on
# prompts as short as these, seconds are another matter. With hundreds of prompts one need not choose on each: heads that matter on some will
# matter on others, and a list made once may be patched everywhere. That was not tried here.
