# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Does anything else do better?
#
# **HVP is not the first repair of attribution patching. Which of them comes closest to the truth, and at what price?**
#
# After this chapter you can
#
# * draw every estimate as an area under one curve, and say from the drawing which is the better one;
# * place any method on a map of error against price, with the truth on it;
# * tell why Integrated Hessians stop half-way, and what GIM, RelP and AtP\* are for.
#
# You need attribution patching (AP), HVP, and MS-HVP of [chapter 7](07_ms_hvp_k_sweep.ipynb). Every number behind this page, with
# intervals, tests and claims, is on the [evidence page](evidence/08_baselines.ipynb).
#
# ## Guess before you look
#
# A budget of ten backward passes for one head. Write down three guesses.
#
# 1. You may take five slopes *and* five curvatures on the way from the base run to the patched one, or ten slopes. Which comes
#    nearer to the true effect, and by what factor?
# 2. Exact patching of one head is one run of the model. How many methods are cheaper than that, and better than AP everywhere?
# 3. GIM, RelP and AtP\* change the backward pass to find what AP misses. Do they find more of a prompt's true top five heads?

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
n_atp_star = 10  # prompts for AtP*, which needs a gradient for each layer
n_one_template = 10  # prompts for queries and keys

# %%
import torch
from IPython.display import Markdown

from checks.baselines import check_extrapolated, check_repaired
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    integrated_gradients,
    load_model,
    plots,
    reference_pair,
)
from studies import baselines, common

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## The idea in five lines
#
# Patch one head by degrees, with strength $t$ from 0 to 1, and call the metric $g(t)$. The true effect is the integral of its
# slope,
#
# $$f = g(1) - g(0) = \int_0^1 g'(t)\,dt .$$
#
# So take the slope at a few points and average. This is {term}`integrated gradients` (IG). Where to put the points, and with which
# weights, is called a {term}`quadrature` rule. The *midpoint* rule cuts the way into equal pieces and looks at the middle of each. Here it
# is for the head on which AP errs most, on "When Mary and John went to the store, John gave a drink to".

# %%
M = PatchedMetric(load_model(model_name, device=device), reference_pair())
truth, tangent = activation_patching(M).cpu(), attribution_patching(M).cpu()
c = int((truth - tangent).abs().argmax())

n = 5
t = (torch.arange(n) + 0.5) / n
slopes = M.along_axes(t, order=1, components=torch.full((n,), c)).slope
estimate = slopes.mean().cpu()

package = integrated_gradients(M, n, "midpoint", components=torch.tensor([c])).cpu()
torch.testing.assert_close(estimate, package[0], rtol=1e-4, atol=1e-5)
head = M.labels[c]
print(f"{head}: truth {truth[c]:+.3f}, AP {tangent[c]:+.3f}, {n} midpoints {estimate:+.3f} nats")

# %% [markdown]
# ## One head, seen
#
# The black line is the slope of the metric. The area under it is the effect. AP takes the height at 0 for all the way. HVP takes the tangent
# there, MS-HVP a tangent for each step. The midpoint rule takes heights only. The curve bends away
# from a tangent, so that mistake only grows; a bar lies too low on one half of its piece and too high on the other, and the two mistakes nearly cancel.

# %% mystnb={"image": {"alt": "Four panels with the same black curve, the slope of the metric as one head is patched by degrees; it rises to several times its first value. Attribution patching shades a flat rectangle at the height of the start, far below the curve. HVP shades the area under the tangent at the start, still well below. MS-HVP shades five short tangents that stray from the curve at their ends. The midpoint rule shades five bars whose tops cross the curve in their middle."}}
axis = baselines.axis(M, head)
_ = baselines.area_figure(
    axis,
    n,
    f"AP takes {100 * tangent[c] / truth[c]:.0f} % of the area, {n} midpoints {100 * estimate / truth[c]:.0f} %",
)

# %%
rules = baselines.rules_on_axis(M, head, n)
common.show(
    rules.drop(columns="estimate"),
    "+.3f",
    f"Rules for the effect of {head}. Error: true effect less estimate, in nats. Δ₁ and Δ₂ are the changes of slope and curvature from 0 to 1.",
)

# %% [markdown]
# Theory gives the leading error of each rule ([derivation](../book/theory.md)). Compare two lines: at equal numbers of points the
# midpoint rule should err with the same sign as MS-HVP and a **quarter** of its size, without any curvature. On one head, with few points, it need
# not be exactly that: later terms still count. Can ten points, on two models, be so tidy?

# %%
sweeps = baselines.followed(models, n_prompts, device)
estimates = baselines.head_estimates(sweeps)
ratio = baselines.ratios(baselines.rest(estimates))
ratio = ratio[ratio.method == "integrated_gradients:10:midpoint"]
for row in ratio.itertuples():
    print(f"{row.model}: {row.ratio:.3f}, predicted {row.predicted:.3f}")

# %% [markdown]
# The median over the five largest heads of every prompt of three tasks, with 95 % bootstrap intervals.
#
# ## Many prompts
#
# Now all methods on one map. The error is the {term}`top-5 relative error`: the mean absolute error on a prompt's five largest heads, in percent of
# the range of its true effects. The unit of price is a *run*: one exact patch of one head. Prices are counted operations, shown in percent of patching
# every head, so that **exact patching stands at 100 %, with no error**.

# %% mystnb={"image": {"alt": "Two panels, one for each model: top-5 relative error against price in percent of patching every head, both logarithmic. A vertical line at 100 percent marks exact patching. To its left lie attribution patching, GIM, RelP and AtP*, all with large errors. To its right errors fall steeply: Gauss-Legendre points lie lowest, then midpoints, then MS-HVP, then one-sided sums. Integrated Hessians and third order stay high."}}
rankings = baselines.ranked(models, n_prompts, n_atp_star, device)
errors = baselines.errors(estimates, rankings)
price = baselines.priced(models)
tests = baselines.compared(errors)
lower = {method: better for method, (better, worse) in baselines.counts(tests).items()}
n_settings = len(baselines.settings_of(errors))
best = price[price.method.isin([m for m in lower if lower[m] == n_settings])]
_ = baselines.map_figure(
    errors,
    price,
    f"{best.method.nunique()} methods beat AP in all {n_settings} settings, for {best.percent.min():.0f} % of exact patching or more",
    by_task=False,
)

# %%
versus = baselines.steps_against_points(errors).groupby("rule")["sign"]
matched = {rule: [(s == x).sum() for x in (-1, 0, 1)] for rule, s in versus}
mean = errors.groupby(["method", "model", "task"]).error.mean()
runs = price.groupby("method").runs.agg(["min", "max"])
left = {m: baselines.span(mean[m], d) for m, d in (("ms_hvp:5", 2), ("two_ends", 1), ("hvp", 1))}
midpoint, gauss = (f"integrated_gradients:{n}" for n in ("10:midpoint", "5:gausslegendre"))
left["ten"] = baselines.span(mean[midpoint], 3)
price_of = {
    m: baselines.span(runs.loc[m]) for m in ("ms_hvp:5", midpoint, gauss, "two_ends", "hvp")
}

# %% tags=["hide-input"]
Markdown(f"""*A setting* is a model and a task. Three things to see.

* **Slopes beat curvatures.** MS-HVP with five steps leaves {left["ms_hvp:5"]} %; ten midpoints leave {left["ten"]} %, {baselines.span(mean["ms_hvp:5"] / mean[midpoint], 0)} times less (by the leading terms, 16 times). They cost {price_of["ms_hvp:5"]} and {price_of[midpoint]} runs a head. Five *Gauss–Legendre* points, placed and weighted so that polynomials up to degree 9 come out exactly, cost {price_of[gauss]} and beat ten midpoints in {(mean[gauss] < mean[midpoint]).sum()} of {n_settings}.
* **The rule decides.** The paper compares five steps with ten slopes and finds a tie on seven of nine settings and MS-HVP ahead on two (Table 8). It does not state its rule. Here MS-HVP is better in {matched["right"][0]} of {n_settings} settings if the points lie at the right ends of the pieces, and worse in {matched["midpoint"][2]} of {n_settings} if they lie in the middle.
* **The far end helps.** Two slopes, at both ends, leave {left["two_ends"]} % where HVP leaves {left["hvp"]} %, for {price_of["two_ends"]} runs a head against {price_of["hvp"]}. This is a finite difference with a step of the whole way. But the far end is the patched run, and *its value* is the true effect, in one run.""")

# %% [markdown]
# ## A rule that stops half-way
#
# Integrated Hessians {cite:p}`janizek2021` were made to attribute *interactions* of two inputs. The paper adds to AP the part of a component with itself, $\int_0^1\!\int_0^1 ab\,g''(ab)\,da\,db$.
# Substitute $s = ab$: it is an integral of the curvature, as is what AP misses, but with another weight,
#
# $$\int_0^1 (-s \ln s)\, g''(s)\, ds \qquad\text{and}\qquad f - f_\mathrm{AP} = \int_0^1 (1 - s)\, g''(s)\, ds .$$
#
# The first weight lies below the second everywhere, and has half its area.

# %% mystnb={"image": {"alt": "Three panels. Left: the weight of the curvature in the pairwise part of Integrated Hessians, minus s log s, lies below the needed weight 1 minus s everywhere; it starts at zero where the needed weight is one. Middle and right, one for each model: what is added to attribution patching against what was needed, one dot per head and prompt. The complete sum lies on the line of slope one; the pairwise part scatters about a line of slope one half."}}
corrected = baselines.corrections(baselines.rest(estimates))
share = baselines.shares(corrected)
half = " and ".join(f"{100 * s.estimate:.0f} %" for s in share[share.part == "path"].share)
_ = baselines.weights_figure(
    corrected, f"The pairwise part corrects {half} of what is missing (median)"
)

# %% [markdown]
# The *complete* sum has one part more, and is exact: $g'(ab) + ab\,g''(ab)$ is the derivative of $a\,g'(ab)$ in $a$, so the double integral is $\int_0^1 g'(b)\,db = f$.
#
# ## Another gradient
#
# {term}`GIM`, {term}`RelP` and {term}`AtP*` keep the forward pass and change the backward pass. What comes out is the slope of nothing, so no theorem ties it to
# $f$. They were made to *find* components, so ask them for that too. *Missed* heads are in the true top 10 and not even in a method's top 20.

# %%
scores = baselines.rank_scores(rankings)
table = baselines.summary(errors, scores)
names = {"error": "error, %", "tau": "tau", "@5": "top 5 found, %", "missed": "missed, %"}
digits = {"error, %": ".1f", "tau": ".2f", "top 5 found, %": ".0f", "missed, %": ".1f"}
common.show(
    table.rename(columns=names),
    digits,
    f"Means over {n_settings} settings of {n_prompts} prompts ({n_atp_star} for AtP*), all heads. tau: Kendall's, against the true order.",
)

# %%
orders = baselines.tau_counts(scores)
keys = baselines.query_key_table(baselines.queries_and_keys(models, n_one_template, device))
found = {
    name: baselines.span([cell.estimate for cell in part["top 5 found, %"]], 0)
    for name, part in keys.groupby("method")
}

# %% tags=["hide-input"]
Markdown(f"""For the third guess, compare the intervals of *top 5 found* with that of AP. By tau, the order of GIM is worse than that of AP in {orders["gim"][1]} of {n_settings} settings, that of RelP in {orders["relp"][1]}, and that of HVP better in {orders["hvp"][0]}.

AtP\\* has a fix that heads cannot show: it recomputes the softmax under a patched query or key. On single queries and keys it finds {found["AtP*"]} % of the true top five where AP finds {found["AP"]} %. **That is what it is for.**""")

# %%
quarter = " and ".join(f"{r.estimate:.3f}" for r in ratio.ratio)
cheap = price[price.percent < 100].method.nunique() - 1  # without attribution patching itself

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**Yes, but what comes close to the truth costs more than the truth.** {best.method.nunique()} of {len(baselines.METHODS) - 1} methods lower AP's error significantly in all {n_settings} settings. Every one of them costs at least {best.percent.min():.0f} % of patching all heads exactly. The {cheap} that cost less than 100 % are each better in at most {max(lower[m] for m in baselines.OTHER_GRADIENTS)}.

Among those that follow the path, slopes beat curvatures: ten midpoints leave {quarter} of the error of ten HVPs ({ratio.predicted.iloc[0]:.2f} was predicted).

So do not buy a better estimate of every head. Up to about 100 components, patch them all. With more, use `hvp_utils.top_effects(M, k)`, which patches exactly the few that three gradients point to ([chapter 10](10_is_it_worth_it.ipynb)).
:::""")

# %% [markdown]
# ## Where it fails
#
# Single corrections at the base run know only the start of the curve. Where it turns later, they can do harm.

# %%
stuck = baselines.no_help(tests)
names = [f"{model} on {baselines.TASKS[task]}" for model, task in stuck]
spread = baselines.median_and_largest(errors, ("hvp", "third_order"))
wide = spread.pivot(index=["model", "task"], columns="method")
smaller = (wide["median"].third_order < wide["median"].hvp).sum()
larger = (wide["largest"].third_order > wide["largest"].hvp).sum()
signs = tests.set_index(["model", "task", "method"])["sign"]
rescued = {m: sum(signs[(*key, m)] < 0 for key in stuck) for m in ("gauss_newton", "third_order")}

# %% tags=["hide-input"]
Markdown(f"""* **HVP** does not lower the error significantly in {len(stuck)} of {n_settings} settings: {"; ".join(names) or "none"}.
* **A third derivative** makes the polynomial follow the curve longer and then leave it faster: a smaller median error than HVP in {smaller} settings, a larger maximum in {larger}.
* **Gauss–Newton** keeps the curvature of the metric in the logits and takes the network below as linear. Where HVP does not help, it is better than AP in {rescued["gauss_newton"]} settings, third order in {rescued["third_order"]}.""")

# %% [markdown]
# **Limits.** Two small models with quantised weights, our prompts, and heads only, apart from queries and keys of one template. GIM, RelP and AtP\* are our implementations after
# their papers {cite:p}`edin2025gim,jafari2025relp,kramar2024atp`. GIM was made for edges and circuits ([chapter 11](11_circuit_recovery.ipynb)). Significance here is p < 0.05 on paired prompts, not
# corrected for the number of tests; the evidence page has the correction.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Estimate the effects of all heads from *one* slope, at $t = 1/2$. What error does the table of rules predict, compared with HVP? What do you find?
#    <details><summary>Hint</summary>
#
#    `integrated_gradients(M, 1, "midpoint")`. The midpoint rule with $n = 1$ and MS-HVP with $K = 1$ differ by a factor of four, if one step is
#    short enough for the leading term to lead.
#
#    </details>
# 2. *(easy, 10 minutes)* `finite_difference_hvp(M, step=0.01)` is HVP up to rounding. What is it with `step=1.0`? Prove it, then check it.
#    <details><summary>Solution</summary>
#
#    g′(0) + (g′(1) − g′(0)) / 2 = (g′(0) + g′(1)) / 2, the trapezoid with two points:
#    `integrated_gradients(M, 2, "trapezoid")`.
#
#    </details>
# 3. *(medium, 15 minutes)* The leading error of MS-HVP is known up to one number, and two values of $K$ give it away. Combine $K$ = 5 and $K$ = 10 so that the term in $1/K^2$ cancels.
#    Is it better than five Gauss–Legendre points?
#    <details><summary>Hint</summary>
#
#    $(4 f_{10} - f_5) / 3$, from `sweeps[model_name, "ioi"]`. The next term goes as $1/K^3$.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def extrapolated(f5, f10):
#        return (4 * f10 - f5) / 3
#    ```
#
#    </details>


# %%
def extrapolated(f5, f10):
    """A better estimate from those of MS-HVP with K = 5 and K = 10."""
    ...  # your turn


check_extrapolated(extrapolated)

# %% [markdown]
# 4. *(hard, 30 minutes)* Repair Integrated Hessians: replace the weight by the needed one, with five points of a rule of your choice. Compare with five slopes at the same points. When is it
#    better to measure curvatures than slopes?
#    First the repair itself.
#    <details><summary>Hint</summary>
#
#    `M.along_axes(t, 2, components)` gives both. The weight $1 - s$ is smooth, so Gauss–Legendre suits it.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def repaired(slope, curvature, s, w):
#        return slope + (w * (1 - s) * curvature).sum()
#    ```
#
#    </details>


# %%
def repaired(slope, curvature, s, w):
    """The effect, from the slope at 0 and curvatures at the points s of a rule with weights w."""
    ...  # your turn


check_repaired(repaired)
