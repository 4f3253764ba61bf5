# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 16. How much of it holds?
#
# **A paper, an article about it, a review and a tutorial make more than a hundred claims about attribution patching. How many of
# them hold on two small models, and can you see why the others do not?**
#
# After this chapter you can
#
# * turn a sentence of a paper into a claim that can fail;
# * tell "does not hold here" from "is wrong";
# * run one row of the scoreboard on a model of your own.
#
# You need nothing but the ideas of the earlier chapters. Every claim, with both numbers and its rule, is on the
# [scoreboard itself](evidence/16_scoreboard.ipynb), where you can filter them by verdict, source, table and figure.
#
# ## Guess before you look
#
# Of the claims that could be tested here, write down three shares.
#
# 1. How many hold?
# 2. How many hold only partly: on one model, or for one task?
# 3. Which fare worst: claims about diagnosis, about correction, or about circuits?

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
model_name = "smollm2-135m"  # the published claims are those of the book's two models
device = None  # None: a GPU when there is one

# %%
from IPython.display import Markdown

from checks.scoreboard import check_judge, check_share_holding
from hvp_utils import plots
from hvp_utils.claims import VERDICTS, Claim, verdict
from studies import common, scoreboard

plots.use_style()

# %% [markdown]
# ## A claim that can fail
#
# "The method improves circuit recovery" cannot fail. It becomes a claim when three things are written down before measuring: what
# is counted, on what, and what has to come out. The last is the *rule*.

# %%
gain = {"smollm2-135m": 12.0, "gemma-3-270m": -1.0}  # measured, say, in points of overlap
claim = Claim(
    claim="HVP finds more of the true top five than attribution patching",
    paper="80 % against 76 % (Pythia-410M, Greater-Than)",
    source="Table 4",
    here=f"{gain}",
    rule="more, in both models; partly: in one",
    verdict=verdict(min(gain.values()) > 0, max(gain.values()) > 0),
)
print(claim.verdict)

# %% [markdown]
# Change a number and run the cell again: with the same rule it can come out in three ways. Every chapter of this book ends in such
# claims, computed from stored results. Here are all of them.

# %%
claims = scoreboard.collect()
assert set(claims.verdict) <= set(VERDICTS)
common.show(
    scoreboard.counts(claims, "origin"),
    caption="Claims by source and verdict.",
)

# %% [markdown]
# ## Chapter by chapter

# %% mystnb={"image": {"alt": "Stacked horizontal bars, one for each chapter: how many claims hold, hold partly, do not hold here, and cannot be tested here. Claims of chapters 5, 8 and 9 hold at least partly for the most part; those of chapter 10, about prices, mostly do not hold; chapters 4, 6 and 14 are divided."}}
by_chapter = scoreboard.counts(claims, "number")
_ = scoreboard.counts_figure(by_chapter, "number", scoreboard.title(claims))

# %% [markdown]
# Numbers on the left are chapters; 16 has the claims that no other chapter tests. Now by the part of the book that tested them.

# %%
parts = {
    "diagnosis": (4, 5, 6),
    "correction": (7, 8, 9, 10),
    "circuits": (11, 12),
    "other": (14, 16),
}
part_of = {number: part for part, numbers in parts.items() for number in numbers}
by_part = scoreboard.counts(claims.assign(part=claims.number.map(part_of)), "part")
tested = by_part["all"] - by_part[VERDICTS[3]]
by_part["holds, % of tested"] = 100 * by_part[VERDICTS[0]] / tested
by_part["at least partly, %"] = 100 * (1 - by_part[VERDICTS[2]] / tested)
common.show(by_part.drop(columns=["all"]), ".0f", "Claims by part of the book.")

# %%
tested = claims[claims.verdict != VERDICTS[3]]
n = {v: int((tested.verdict == v).sum()) for v in VERDICTS}
figures = scoreboard.by_item(claims, VERDICTS)
named = figures[~figures["only describes"]]
reached = (named[list(VERDICTS[:3])].sum(axis=1) > 0).sum()

# %% tags=["hide-input"]
Markdown(f""":::{{admonition}} The answer
:class: important
Of {len(claims)} claims, {len(tested)} could be tested. **{n[VERDICTS[0]]} hold ({100 * n[VERDICTS[0]] / len(tested):.0f} %), {n[VERDICTS[1]]} hold partly ({100 * n[VERDICTS[1]] / len(tested):.0f} %), {n[VERDICTS[2]]} do not hold here.** They reach {reached} of the {len(named)} tables and figures of the paper
that claim something.
:::""")

# %% [markdown]
# ## What stands, and what does not
#
# * **What stands.** The error of heads comes from the network behind them ([chapter 4](04_curvature_gap.ipynb)). The quadratic
#   term is most of it, on most heads, though not on the largest ([chapter 2](02_taylor_decomposition.ipynb)). $R$ is a warning worth
#   having ([chapter 5](05_reliability_score.ipynb)). The theorems are right ([theory](../book/theory.md)).
# * **What does not.** That correcting every component is the practical choice: exact patching costs less and has no error
#   ([chapter 10](10_is_it_worth_it.ipynb)). That $R$ tells what to fix: size does it better ([chapter 9](09_screen_flag_fix.ipynb)).
#   That local curvature is useless for neurons ([chapter 4](04_curvature_gap.ipynb)).
# * **What follows.** Up to about 100 components, patch them all. More: `hvp_utils.top_effects(M, k)`, which screens with three
#   gradients and patches exactly what may be largest.
# * **What this book cannot say.** Whether a verdict changes at billions of parameters. The paper has models of that size; we ran none.
#
# ## Where this fails
#
# * **"Does not hold here" is not "is wrong".** Our models are far smaller than most of the paper's, have grouped queries and gated MLPs,
#   and their weights are stored in about four bits. A claim about GPT-2 may well be true of GPT-2.
# * **Rules are ours.** The paper seldom says what would refute it. Another rule gives another verdict; so the rule is shown with each
#   row.
# * **Claims overlap.** Ten claims about one table are not ten independent facts. The counts describe the list, not the paper.
# * **What would change a verdict** is a measurement on the paper's own models. With a GPU and a network, one command runs the rows
#   of a chapter on one of them: `make claims CHAPTER=11 MODEL=gpt2`.
#
# ## Exercises
#
# 1. *(easy, 10 minutes)* Write the rule of the first cell for any number of models: *more, in all models; partly: in at least one*.
#    <details><summary>Hint</summary>
#
#    `verdict(holds, partly)` takes two truth values.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def judge(gains):
#        more = [gain > 0 for gain in gains.values()]
#        return verdict(all(more), any(more))
#    ```
#
#    </details>


# %%
def judge(gains):
    """The verdict for gains by model, such as {"gpt2": 12.0}."""
    ...  # your turn


check_judge(judge)

# %% [markdown]
# 2. *(easy, 5 minutes)* Which share of the claims that could be tested holds? Apply it to `claims.verdict`.
#    <details><summary>Hint</summary>
#
#    `VERDICTS` has the four texts.
#
#    </details>
#    <details><summary>Solution</summary>
#
#    ```python
#    def share_holding(verdicts):
#        tested = [v for v in verdicts if v != "cannot be tested here"]
#        return 100 * tested.count("holds") / len(tested)
#    ```
#
#    </details>


# %%
def share_holding(verdicts):
    """Percent of the testable claims that hold. `verdicts` is a list of texts."""
    ...  # your turn


check_share_holding(share_holding)

# %% [markdown]
# 3. *(easy, 10 minutes)* Find a claim with the verdict "holds partly" whose rule you think too strict. Write a better one, and say
#    which way the verdict goes.
#    <details><summary>Hint</summary>
#
#    `claims[claims.verdict == "holds partly"][["claim", "here", "rule"]]`.
#
#    </details>
# 4. *(medium, 20 minutes)* How many claims would change if "both models" became "the mean of both models"? Take chapter 8 and read
#    the numbers in the column `here`.
#    <details><summary>Hint</summary>
#
#    Most "partly" verdicts are of this kind. A mean hides the model on which a method does harm.
#
#    </details>
# 5. *(hard, 60 minutes)* Run the rows of one chapter on GPT-2, the model of the paper's Table 15. Which verdicts change?
#    <details><summary>Hint</summary>
#
#    `make claims CHAPTER=11 MODEL=gpt2` needs a network for the weights, and computes the sweeps that are not stored.
#
#    </details>
