# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13. Can attribution patching rank SAE features?
#
# **A sparse autoencoder takes an activation apart into features. Does attribution patching say how much each of them matters, and is
# the second-order correction worth its price there?**
#
# After this chapter you can
#
# * patch the features of any SAE, and check that nothing is lost on the way;
# * say how wrong attribution patching is on features, and how that compares with heads;
# * see what the part that the SAE does *not* explain does to your conclusions;
# * tell when a sketch of all curvatures helps, and when it cannot.
#
# You need the three estimates of [chapter 3](03_hessian_vector_product.ipynb) and the prices of
# [chapter 10](10_is_it_worth_it.ipynb). AP is attribution patching, HVP its correction. Every number, with intervals, controls and
# claims, is on the [evidence page](evidence/13_sae_features.ipynb).
#
# ## Guess before you look
#
# 1. AP ranks the features of a prompt. Of the ten largest, how many are among its own ten?
# 2. By how many percent is it off on the *largest*? On the typical one (the median error)?
# 3. Are directions that an SAE has learned easier for AP than random ones?

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
n_prompts = 50  # of indirect object identification; 50 are stored
n_control = 20  # of them for random directions; 20 are stored

# %%
import torch
from IPython.display import Markdown

from checks.sae_features import check_at_strength, check_pieces
from hvp_utils import (
    PatchedMetric,
    SAEFeatures,
    activation_patching,
    attribution_patching,
    hvp,
    load_model,
    make_prompts,
    model_sizes,
    plots,
)
from hvp_utils.saes import SAE
from studies import common
from studies import sae_features as study

plots.use_style()
saes, note = study.find(model_name)
model = load_model(model_name, device=device)
Markdown(note)

# %% [markdown]
# ## The idea in five lines
#
# A {term}`sparse autoencoder` (SAE) {cite:p}`bricken2023monosemanticity,cunningham2024sparse` writes an activation as a sum,
#
# $$x = \sum_f a_f(x)\, w_f + b + e(x),$$
#
# with few $a_f$ that are not 0. A {term}`feature` is a direction $w_f$; $e$ is what the SAE leaves unexplained. Two runs, with activations
# $x$ and $y$, therefore differ by $\sum_f (a_f(y) - a_f(x))\, w_f$ and by the difference of their errors. Each term can be
# patched by itself, as a head can: that is a component. By hand:


# %%
layer, sae = next(iter(saes.items()))
pair = make_prompts("ioi", model, 1)[0]
tokens = pair.resolve(model)


def entering(tokens):
    return model.run_with_cache(tokens[None], names_filter=sae.hook)[1][sae.hook][0]


x, y = entering(tokens.corrupted), entering(tokens.clean)
change = sae.encode(y) - sae.encode(x)
explained = change @ sae.W_dec
error = (y - x) - explained
assert torch.allclose(x + explained + error, y, atol=1e-3)

# %% [markdown]
# The package does the same, with the {term}`error component` last. With all strengths at 1 the other run must come out, however bad the
# SAE is.

# %%
calls = []


class Watched(SAE):
    def encode(self, x):
        calls.append(x.shape)
        return super().encode(x)


M = PatchedMetric(model, pair, SAEFeatures(Watched(**vars(sae))))
assert abs(M(torch.ones(M.n)).item() - M.other) < 1e-3
assert torch.allclose(M.delta_norm[-1], error.norm(), rtol=1e-3)
truth, ap, second = activation_patching(M), attribution_patching(M), hvp(M)
print(f"{M.n - 1} features and the error: encoder called {len(calls)} times, none in a derivative")
assert len(calls) == 2

# %% [markdown]
# The encoder is called once a run. After that a feature is a fixed vector, so no threshold or "largest $k$" of the SAE
# enters a derivative: whatever bends, bends in the model behind it.
#
# ## One prompt
#
# The features with the largest true effects, and the error. The last column is training text on which the feature is most active.

# %%
texts, largest = study.contexts(model_name, layer), truth[:-1].abs().argsort(descending=True)
listing = study.listing(M, [*largest[:7].tolist(), M.n - 1], truth, ap, second, texts)
columns = ["component", "true", "AP", "HVP", "most active on"]
common.show(listing[columns], "+.3f", f"Effects in nats, entering layer {layer}, first prompt.")

# %% [markdown]
# Where is AP off by a lot, and does HVP repair it there?

# %%
Markdown(study.repaired(listing))

# %% [markdown]
# ## Many prompts
#
# Sort the features of every prompt by their true effects, and take the median error at each place.


# %% mystnb={"image": {"alt": "Two panels, one for each layer: median error in percent of the effect against the place of the feature, for attribution patching and HVP, with intervals. Layer 12: attribution patching is off by 8 to 10 percent up to the fiftieth place and by 1 percent from there on, HVP by 2 percent at the first place and less than 0.5 from the eleventh on. Layer 22: attribution patching is off by 23 percent at the first place, 8 from the second on, 4 from the sixth on and 1.5 beyond the fiftieth; HVP by 17 percent at the first place, 1.5 from the second on and less than 0.5 from the sixth on."}}
def by_layer(values):
    return common.listed({f"layer {n}": v for n, v in zip(saes, values, strict=True)}, ".0f", " %")


stored = {n: study.measure(model_name, s, n_prompts, device=device) for n, s in saes.items()}
rows = study.rows_of(stored)
places = study.by_rank(rows)
at = {(p, m): common.span(study.estimates(part[f"{m} median"]), d) for p, part in places.groupby("places") for m, d in (("AP", 1 if p == "51 on" else 0), ("HVP", 0))}  # fmt: skip
_ = study.rank_figure(
    places,
    f"On a prompt's largest feature AP's median error is {at['1', 'AP']} %,\nHVP's {at['1', 'HVP']} %; beyond the fiftieth place AP's is {at['51 on', 'AP']} %",
    median=True,
)

# %%
compared = study.compare(study.errors(rows), ("layer", "set", "measure"))
agreed = study.agreement(rows)
of_features = compared.query("set == 'features'").set_index(["measure", "layer"])
along = agreed.query("set == 'features'").set_index(["method", "layer"])
typical, five = (study.estimates(of_features.AP[m]) for m in ("median error", "top 5"))
less, largest_five = of_features.reduction["mean error"], study.share_of_largest(rows)
found = {m: common.span(study.estimates(along.overlap[m]), 0) for m in ("AP", "HVP")}
heads = study.of_heads(model_name, n_prompts, device)
common.show(
    study.summary(compared, agreed),
    {"AP, nats": ".4f", "HVP, nats": ".4f", "less, %": ".0f", "r, AP": ".4f", "r, HVP": ".4f"},
    f"Mean error of effects of at least {study.NONTRIVIAL:g} nats, what HVP takes away, correlation r with the truth; {n_prompts} prompts.",
)


# %% tags=["hide-input"]
Markdown(f"""* **The ranking**: of the ten largest features, AP has {found["AP"]} % among its own ten, HVP {found["HVP"]} %.
* **The typical feature**: AP's median relative error is {common.span(typical, 1)} %.
* **The largest** is worse: AP's median error there is {at["1", "AP"]} %, and beyond the fiftieth place {at["51 on", "AP"]} %. Summed over prompts, HVP takes away {by_layer(study.cut_by_place(places)["1"])} of AP's error on it. The five largest have {common.span(largest_five.AP, 0)} % of all of AP's error, and {common.span(largest_five.HVP, 0)} % of what HVP leaves.

The top-5 relative error of chapter 1 is {common.span(five, 1)} % for AP. On *heads* of the same prompts it is {heads["AP"].estimate:.1f} % for AP and {heads["HVP"].estimate:.1f} % for HVP.

On GPT-2 HVP took away 81.5 and 85.5 % of the mean error, and AP's correlation was 0.9996 and above (Table 17 of the paper {{cite:p}}`zhang2026lies`). Here HVP takes away {by_layer(study.estimates(less))}, and AP's correlation is {common.span(study.estimates(along.pearson["AP"]), 3)}. We do not know why; these SAEs are smaller and their patches may be longer.""")

# %% [markdown]
# ## Is it the features?
#
# A control: the same features, as active and as long, but in directions drawn at *random*. The error
# component then takes up what no longer fits.

# %%
wild = {n: study.random_directions(s) for n, s in saes.items()}
control = {
    n: study.measure(model_name, s, n_control, 0, 0, "random", device=device)
    for n, s in wild.items()
}
random_rows = study.rows_of(control)
both = study.against_random(rows[rows.prompt < n_control], random_rows)
names = {"effect": "median effect", "AP": "AP, %", "HVP": "HVP, %", "less": "less, %"}
common.show(
    both.rename(columns=names),
    {"n": ".0f", "median effect": ".4f", "AP, %": ".1f", "HVP, %": ".2f", "less, %": ".0f"},
    f"Features alone, effects of at least {study.NONTRIVIAL:g} nats: number a prompt, median effect in nats, median relative errors, what HVP takes away of the mean error; {n_control} prompts.",
)

# %% tags=["hide-input"]
Markdown(
    f"""On the typical feature the two are alike. That is about directions, then, not about what they mean. Of the mean error HVP takes away (learned against random) {study.side_by_side(both, "less", ".0f")}. The random ones are as long. What they lack is a long one that matters a lot. {study.standing_out(rows[rows.prompt < n_control], random_rows)}"""
)

# %% [markdown]
# ## The component without a name

# %% mystnb={"image": {"alt": "Two panels, one for each layer: bars of sizes in nats: the whole change, all features without the error, the largest feature, the error component, and what attribution patching and HVP miss of the error component. The bar of all features together is nearly as long as that of the whole change; that of the error component is three quarters as long as the largest feature's in layer 12, and half as long in layer 22."}}
shares = study.by_prompt(stored)
of_error = study.of_error(shares).set_index("layer")
alone, on_error = (study.estimates(of_error[name]) for name in ("features", "AP"))
times = {f"layer {n}": of_error.larger[n].estimate for n in saes}
_ = study.error_figure(
    shares,
    f"All features together make {common.span(alone, 0)} % of the change;\non the error component AP is off by {common.span(on_error, 0)} %",
)

# %% tags=["hide-input"]
Markdown(f"""The features carry a lot. (Together, that is: the single effects add up to only {by_layer(study.estimates(of_error.sum_effects))} of the change.) The error has {common.listed(times, ".1f")} times the effect of a prompt's largest feature (median). But it is one long patch, which is what a series is bad at: HVP is still off by {common.span(study.estimates(of_error.HVP), 0)} % on it.

{{cite:t}}`marks2025feature` keep it in their circuits; this package always has it. It is *one* component: patch it exactly.""")

# %% [markdown]
# ## All curvatures at once
#
# A sketch takes a few products with the Hessian for *all* features. Does it still work for tens of thousands? Here are two dictionaries of
# *random* directions, most of them active. (A wide SAE has no more active features on a prompt than a small one, so this is a stress
# test, not a forecast.)

# %% mystnb={"image": {"alt": "Error of the sketched curvature in percent of the curvature, against the number of Hessian products, on logarithmic axes. For the fewer than 200 active features of an SAE the error falls from 29 to 45 percent at 16 products to 5 percent or less at 64; for thousands of random directions it is above 100 percent throughout."}}
first = next(iter(saes))
wide_data = study.measure_wide(model_name, saes[first].hook, device=device)
wide = study.wide_table(wide_data, model_sizes(model_name), first)
narrow, last = study.sketched(rows), wide.iloc[-1]
price = study.price_table(model_sizes(model_name), stored)
price = price.groupby("method", sort=False)[["n", "runs"]].mean()
twenty = study.screened(rows).groupby("rule").found
twenty = twenty.agg(lambda found: study.out_of("ten", study.estimates(found), 10))
_ = study.sketch_figure(wide, narrow, "A sketch costs the same for more directions,\nand errs more")

# %% tags=["hide-input"]
Markdown(f"""{last.products:.0f} products for the {last.active:,.0f} active of {last.features:,.0f} directions cost {last.runs:,.0f} runs; a product for each, {last.runs_hvp:,.0f}. But each curvature is now so small that the noise of the others drowns most of them: they come out wrong by {last.off:.0f} % of their size. It hardly matters: on the largest AP is off by only {last.AP:.1f} %. Here the patches are short by construction.

On one prompt's {price.n.iloc[0]:.0f} components, exact patches cost {price.n.iloc[0]:.0f} runs, HVP {price.runs["hvp"]:.0f}, a sketch of 32 products {price.runs["sketched_hvp:32"]:.0f}. The recipe of chapter 10 costs {price.runs["row_norms:2"] + 20:.0f}: `top_effects(M, 10)` patches 20 exactly, and of the ten largest {twenty["|AP| + r"]} are among them (the 20 largest $|f_\\mathrm{{AP}}|$ alone: {twenty["|AP|"]}).

:::{{admonition}} The answer
:class: important
**It ranks them fairly well, and misjudges the largest.** Of the ten largest features AP has {found["AP"]} % among its ten (the evidence page had asked for {study.NEARLY_PERFECT["overlap"]:.0f}). On the typical one it is off by {common.span(typical, 1)} %. On the largest of a prompt its median error is {at["1", "AP"]} %, and HVP's {at["1", "HVP"]} %. Learned directions are no easier than random ones: median error {study.side_by_side(both, "AP", ".1f")}. So rank by AP, and patch what is on top exactly.
:::""")

# %% [markdown]
# ## Where it fails, and limits
#
# * **These SAEs are small**: a few thousand features, trained on under a million distinct tokens. That limits what can be said about
#   *features*, not about AP, whose error on a direction can be measured whatever it means.
# * **A feature is patched at all positions together.** The evidence page has them apart.
# * **One task, one model, one corruption.**
#
# Larger SAEs are read in the same way (not run here, as it fetches files):
#
# ```python
# sae = load_sae("google/gemma-scope-2-270m-pt", "resid_post/layer_12_width_16k_l0_medium")
# model = load_model("gemma-3-270m")
# M = PatchedMetric(model, make_prompts("ioi", model, 1)[0], SAEFeatures(sae))
# ```
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Take a change apart into its features and the rest.
#    <details><summary>Hint</summary>
#
#    The rows must add up to `y - x`.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def pieces(encode, W, x, y):
#        changes = (encode(y) - encode(x))[:, None] * W
#        return torch.cat([changes, (y - x - changes.sum(0))[None]])
#    ```
#
#    </details>


# %%
def pieces(encode, W, x, y):
    """What each feature changes from x to y, a row each, and last what they leave.

    `encode` gives a vector's activations, and row i of W is the direction of feature i.
    """
    ...  # your turn


check_pieces(pieces)

# %% [markdown]
# 2. *(medium, 20 minutes)* Halve every feature's patch (strengths 1/2). By what factor should AP's error fall, and HVP's? Check it.
#    First predict what both say.
#    <details><summary>Hint</summary>
#
#    `M.effects(M.along_axes(0.5, order=0).value)` against `0.5 * ap` and `0.5 * ap + 0.25 * (second - ap)`.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def at_strength(ap, second, t):
#        return torch.stack([t * ap, t * ap + t**2 * (second - ap)])
#    ```
#
#    The first term left out is quadratic for AP and cubic for HVP: about 4 and 8. Compare sums over features: the smallest errors are rounding.
#
#    </details>


# %%
def at_strength(ap, second, t):
    """What AP and HVP say of a patch of strength t, if they say `ap` and `second` of a whole one."""
    ...  # your turn


check_at_strength(at_strength)

# %% [markdown]
# 3. *(medium, 20 minutes)* Does noising rank the same features first?
#    <details><summary>Hint</summary>
#
#    `PatchedMetric(model, pair, SAEFeatures(sae), direction="noising")`, and `top_k_overlap`. The active features are the same.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    Only in part: six of the ten are the same.
#
#    </details>
# 4. *(hard, 40 minutes)* Split the error component too, into 32 random pieces that add up to it. Does AP get its *sum* right?
#    <details><summary>Hint</summary>
#
#    `error * (places == i)` with `places = torch.randint(32, error.shape)` is a piece. A hook at `sae.hook` adds it, and
#    `tokens.metric(logits[:, -1])` is the metric. A gradient is linear.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    Not here: the true effects add up to nearly that of the whole, and AP overshoots both by more than half. On the second prompt
#    their sum is nearer to AP's, and the whole more than twice that sum: pieces interact.
#
#    </details>
