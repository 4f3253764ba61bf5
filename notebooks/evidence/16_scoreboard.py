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
n_prompts = 20  # of each task
n_fresh = 30  # prompts on which the recommendation was tested
n_many = 50  # prompts of the tests on circuits

# %%
from IPython.display import HTML

from hvp_utils import plots
from hvp_utils.claims import VERDICTS
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
