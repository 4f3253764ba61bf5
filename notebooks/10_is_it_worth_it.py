# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10. Is it worth it?
#
# **Patching one component exactly costs one run of the model, and leaves no error. Is any correction of attribution patching
# worth more than that run?**
#
# After this chapter you can
#
# * count what a method costs, and say which methods nobody should use;
# * choose, for three gradients, which components to patch exactly;
# * say how sure you are that nothing large was left out.
#
# You need attribution patching (AP), the quadratic term $q_c = H_{cc}/2$ and products with the {term}`Hessian` $H$ of
# [chapter 3](03_hessian_vector_product.ipynb), and the score $R$ of [chapter 5](05_reliability_score.ipynb). Every number
# behind this page, with intervals, tests and claims, is on the [evidence page](evidence/10_is_it_worth_it.ipynb).
#
# ## Guess before you look
#
# SmolLM2 has 270 heads. Patching all of them takes 270 runs. Write down three guesses.
#
# 1. How many runs is attribution patching of all heads worth? And a second derivative for each head?
# 2. You want the five largest effects, and may patch ten heads exactly. By what do you choose the ten?
# 3. How large an error is left on those five?

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

# %%
import torch
from IPython.display import Markdown

from checks.is_it_worth_it import check_heads_needed, check_interaction
from hvp_utils import (
    PatchedMetric,
    activation_patching,
    load_model,
    make_prompts,
    plots,
    row_screen,
    top_effects,
)
from studies import common
from studies import is_it_worth_it as study
from studies.circuit_recovery import head_curve
from studies.is_it_worth_it import neurons

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## The plain arithmetic
#
# Our unit is the **run**: one exact patch of one component. We count operations, not seconds, because they depend on no
# machine. One gradient serves all components at once, and so does a product of $H$ with one vector. A second derivative for
# *each* component takes more than a run for each. Integrated gradients (IG) and MS-HVP
# ([chapter 7](07_ms_hvp_k_sweep.ipynb)) do that at several points of the way.

# %%
methods = ["activation_patching", "attribution_patching", "row_norms:2", "sketched_hvp:32"]
methods += ["hvp", "integrated_gradients:5:midpoint", "ms_hvp:5"]
prices = study.price_table(models, methods)
digits = {name: ",.0f" if "runs" in name else ",.1f" for name in prices.columns}
common.show(prices, digits, "All heads of a prompt, counted: runs, and percent of patching all.")

# %% [markdown]
# Look at your first guess. Whatever takes more than 100 % loses to a method that has no error: HVP, integrated gradients and
# MS-HVP of every head. However exact they are, nobody should use them for this. What is left costs a few gradients or
# products, and is imprecise. So the question becomes: **what is a cheap, imprecise second term good for?**
#
# ## The idea in five lines
#
# Not for correcting. For *choosing*. Patch ten heads exactly, and let the cheap numbers say which ten.
#
# Sorting by $|f_\mathrm{AP}|$ finds heads with a steep slope. It misses a head whose slope is flat at the start. Such a head
# shows itself in another way: its slope *changes* when things are patched. The length of its row of $H$ says how much. We take
# half of it,
#
# $$r_c = \tfrac12 \lVert H_{c\cdot} \rVert \ge \tfrac12 |H_{cc}| = |q_c|,$$
#
# the most that the quadratic term can be. To estimate it, shake all patch strengths a little, each up or down at random, and
# see how the gradient moves. Two shakes give $r$ only roughly, which is enough to tell a long row from a short one. We take the IOI
# prompt on which this matters most.

# %%
known = study.scored(models, n_prompts, device=device)
case = study.rescued(known[0]).iloc[0]
model = load_model(model_name, device=device)
M = PatchedMetric(model, make_prompts("ioi", model, n_prompts)[case.prompt])

signs = 2 * torch.randint(0, 2, (M.n, 2), generator=torch.Generator().manual_seed(0)) - 1
points = torch.cat([torch.zeros(M.n, 1), 0.01 * signs], dim=1).T  # the start, and two shakes
f_ap, *shaken = M.gradient(points.to(M.delta_norm))
r = torch.stack([(g - f_ap) / 0.01 for g in shaken]).square().mean(0).sqrt() / 2
chosen = (f_ap.abs() + r).topk(10).indices.cpu()
effects = activation_patching(M, chosen)

# %% [markdown]
# The package does the same: `row_screen` gives $f_\mathrm{AP}$ and $r$, and `top_effects` also patches.

# %%
torch.testing.assert_close(r, row_screen(M).quadratic, rtol=1e-3, atol=1e-5)
best = top_effects(M, k=5, n_patched=10)
five = chosen[effects.abs().topk(5).indices.cpu()]
assert set(best.component) == {M.labels[c] for c in five}
print(f"{best.attrs['runs']:.1f} runs, {best.attrs['percent']:.1f} % of patching all {M.n} heads.")
print(f"Five largest: {', '.join(best.component)}.")

# %% [markdown]
# ## One prompt

# %% mystnb={"image": {"alt": "Two panels. Left: half the length of each head's row of the Hessian against the size of its estimate. The five largest true effects are stars; one of them lies near zero on the horizontal axis and high on the vertical one: left of the dashed line that chooses by the estimate alone, and beyond the slanted line that chooses by the sum. Right: the effect of that head against patch strength. The true curve starts flat and rises steeply; the tangent of attribution patching stays near zero and falls, the parabola of HVP reaches about half."}}
curve = head_curve(M, case.component)
places = case["place by |f_AP|"], case["place by |f_AP| + r"]
_ = study.choice_figure(
    study.one_prompt(known[0], case.prompt),
    curve,
    case.component,
    f"{case.component} is number {places[0]} by its slope, and number {places[1]} with its row",
)

# %%
Markdown(f"""AP gives this head ${case.f_ap:+.2f}$ nats; the truth is ${case.effect:+.2f}$. HVP says ${curve.HVP.iloc[-1]:+.2f}$, which is no number to
report. But to get into the first ten, a head need not be known well. A rough second term is enough, and the patch does the rest.""")

# %% [markdown]
# ## Many prompts
#
# Here is everything on one scale, over three tasks: the error on the five largest effects, in percent of the range of all
# effects, against the price. The black line is the rule from above, with 5 to 40 patches.

# %% mystnb={"image": {"alt": "Two panels, one for each model: mean error on the five largest effects against price in percent of patching all heads, both logarithmic. The area beyond 100 percent is grey. In it lie HVP at 10 percent error or more, MS-HVP and integrated gradients. Attribution patching and its sketched corrections lie at errors of 10 to 20 percent. Three lines that patch the largest heads exactly fall steeply to zero well before 100 percent; the one that chooses by slope and row is the leftmost at low errors."}}
points = study.front(known, study.followed(known, n_prompts, device=device))
_ = study.front_figure(points, study.front_title(points), pool_tasks=True, whiskers=False)

# %% [markdown]
# All these prompts were looked at while the rule was sought. So it was fixed, at ten patches for five effects, and tested on
# fresh prompts and a new task. Its rival sorts by $|f_\mathrm{AP}|$ alone, and gets as many patches as it needed on the first
# prompts.

# %%
after = study.errors_after(known, [study.FIRST])
rival = study.chosen(after, model_name).get(study.FIRST, study.NUMBERS[-1])
patches = {study.FIRST: rival, study.ROWS: study.N_PATCHED}
fresh = study.fresh(models, n_prompts, n_fresh, device=device)
tested = study.put_to_test(fresh, patches)
settings = study.in_settings(tested)
names = {rule: f"{m} by {rule.partition(',')[0]}" for rule, m in patches.items()}
columns = ["model", "task", study.AP, *patches]
common.show(
    settings[columns].rename(columns=names),
    {study.AP: ".0f"},
    "Mean error on the five largest effects, % of the range, with 95 % intervals; fresh prompts.",
)

# %%
whole = study.pooled(tested).set_index("method")
equal = study.pooled(study.equal_price(fresh)).set_index("method")
share = {rule: [study.of_rule(m, rule, n) for m in models] for rule, n in patches.items()}
p, p_equal = (common.p_value(t.p[study.FIRST], 1000) for t in (whole, equal))
error = {rule: whole.error[rule].estimate for rule in patches}
lower = sum(d.estimate < 0 for d in settings.difference)
hvp = prices.set_index("method").loc["HVP"]
hvp = study.listed({m: hvp[f"{m}: %"] for m in models}, ".0f", " %")

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
**Not as a correction. As a guide to what to patch, yes.** HVP of every head costs {hvp} of patching every head. Three gradients and {study.N_PATCHED} exact patches cost
{share[study.ROWS][0]:.1f} % and {share[study.ROWS][1]:.0f} %, and leave a mean error of **{error[study.ROWS]:.2f} %** on the five largest effects ({whole.prompts.iloc[0]} fresh prompts, {len(settings)} settings). The runner-up, {rival} patches
without a second term ({share[study.FIRST][0]:.1f} % and {share[study.FIRST][1]:.0f} %), leaves {error[study.FIRST]:.2f} %. The difference is not quite significant: {p}, and the error is smaller in {lower} of {len(settings)} settings.
With no more patches than cost the same, the runner-up leaves {equal.error[study.FIRST].estimate:.2f} % ({p_equal}).
:::""")

# %% [markdown]
# ## Thousands of components
#
# Among a few hundred heads one can patch everything and be done. Among {term}`neurons <neuron>` one cannot, and a gradient that serves
# tens of thousands is nearly free. Here the second term is worth more.

# %% mystnb={"image": {"alt": "Two panels, one for each model: error on the 50 largest neurons of the sample against price in percent of patching all neurons, both logarithmic. Attribution patching and its cheap corrections lie below half a percent of the price with errors of one to four percent. Lines that patch the largest neurons fall steeply; the three with a second term reach zero at 2 to 10 percent of the price, the one by slope alone stays near a tenth of a percent. HVP, MS-HVP and integrated gradients lie beyond 100 percent."}}
sample = neurons.measure(models, n_neuron_prompts, n_per_layer, {model_name: model}, device=device)
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
cheapest = study.cheapest(on_neurons, 0.1).set_index(["series", "model"]).price
reach = {
    model: [
        f"{v:.1f} %" if v == v else "more than 10 %"
        for v in (cheapest[s, model] for s in (neurons.ROWS, neurons.FIRST))
    ]
    for model in models
}
text = "; ".join(f"{model}: {a} with rows, {b} by slope" for model, (a, b) in reach.items())

# %% tags=["hide-input"]
Markdown(f"""The price of an error below 0.1 % on the {neurons.TOP} largest of our sample ({len(sample[0]["f"])} IOI prompts): {text}. A neuron's own activation function gives a second term as good as
that of rows ([chapter 4](04_curvature_gap.ipynb)). Heads have none.""")

# %% [markdown]
# ## What to use
#
# | you have | you want | use |
# | --- | --- | --- |
# | up to 100 components | any effects | patch them all |
# | more | the $k$ largest effects | `top_effects(M, k)`: three gradients, then $2k$ exact patches ($3k$ among more than 10,000) |
# | any number | every effect to a percent | patch them all; no estimate that is cheaper does it |
# | tens of thousands | $q$ or $R$ of each | a {term}`sketch` with 48 products or more |
# | a few strong components | what they do together | patch them together |
#
# $R$ is a warning, not the rule for what to patch: it flags many small heads, and is silent where an error is of third order.
#
# ## Where it fails

# %%
gap = study.missed([*known, *fresh])
worst = f"{gap['missed']} of {gap['heads']:,} heads among the five largest are not patched, on {gap['hit']} of {gap['prompts']} prompts"
Markdown(f"""* **It can miss.** {worst}. The worst error on one of them is {gap["worst"]:.0f} % of the range. `top_effects` names the components that
  it doubts.""")

# %% [markdown]
# * **Only the largest.** What is not patched keeps the error of AP. Read effects off the patched components only.
# * **Prices are counted.** On short prompts most *seconds* go into reading the weights, and a gradient looks dearer than it is
#   here. With 72 heads there is little to save either way.
# * **Pairs.** $H$ at the start does not tell what two strong heads do together, and no list of pairs tells what twenty do. The
#   [evidence page](evidence/10_is_it_worth_it.ipynb) has the measurements.
# * **The rule was found by trying.** Some sixty ways to sort were tried before this one, a dozen of them on the fresh prompts
#   too. So the $p$-values flatter it a little.
#
# The paper counts HVP in backward passes and compares it with AP and integrated gradients; exact patching is not in its cost
# comparison (section 4.1). Neither sketches nor rows are in the paper.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Use `study.counted` to find how many heads a model needs before three gradients and ten patches cost less
#    than a tenth of patching all.
#    Write it for any screen first.
#    <details><summary>Solution</summary>
#
#    ```python
#    def heads_needed(screen, patches, percent):
#        whole, rest = divmod(100 * (screen + patches), percent)
#        return whole + (rest > 0)
#    ```
#
#    `study.counted(name, ["row_norms:2"]).runs` is about eleven for every model in `hvp_utils.models.MODELS`.
#    Twenty-one runs are a tenth of 210 heads.
#
#    </details>


# %%
def heads_needed(screen, patches, percent):
    """The fewest heads for which screen and patches, in runs, cost at most `percent` % of all."""
    ...  # your turn


check_heads_needed(heads_needed)

# %% [markdown]
# 2. *(easy, 15 minutes)* Sort by $|f_\mathrm{AP} + q|$, the size of the HVP estimate, instead of $|f_\mathrm{AP}| + |q|$. Which is
#    better at ten patches, and why?
#    <details><summary>Hint</summary>
#
#    `run = known[0]`, then `study.patched(run, size, 10)` takes any size, and `run["q"]` is exact. Look for
#    heads whose two terms cancel.
#
#    </details>
# 3. *(medium, 30 minutes)* Shake four times, then sixteen. Does the error on the fresh prompts fall, and is it worth the
#    gradients?
#    <details><summary>Hint</summary>
#
#    `study.second_terms(fresh)` has the errors; `study.counted` has the price of `"row_norms:16"`.
#
#    </details>
# 4. *(hard, 60 minutes)* The interaction of two heads is the mean of the mixed derivative over a square. Estimate it by the value in
#    the middle, the Hessian at $\tfrac12(e_i + e_j)$. How far does the correlation with the measured interactions rise, and
#    what do 45 pairs cost?
#    First the interaction itself, from four runs.
#    <details><summary>Hint</summary>
#
#    `M.hessian_matvec(e_i[:, None], alpha)` takes the point. Each pair has a point of its own: a gradient
#    and a product.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def interaction(M, i, j):
#        e = torch.eye(M.n)
#        return M(e[i] + e[j]) - M(e[i]) - M(e[j]) + M(0 * e[i])
#    ```
#
#    </details>


# %%
def interaction(M, i, j):
    """What i and j do together, beyond what each does alone. M takes M.n patch strengths."""
    ...  # your turn


check_interaction(interaction)
