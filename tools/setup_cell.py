r"""The setup cell: the same text in every page of the book and in every problem set.

It lets a notebook run alone, on Colab or on a laptop: it fetches the book at the tag of this
version and has ``tools/install_here.py`` install what is missing. In a checkout it does nothing.
The address is the one in _config.yml, the tag "v" and the version of the package.

    \b
    python tools/setup_cell.py          # fails if a page has another text (`make lint` runs this)
    python tools/setup_cell.py --write  # write it into every page
"""

import re
from pathlib import Path
from typing import Annotated

import run_notebooks
import typer
import yaml

ROOT = Path(__file__).resolve().parents[1]
FIRST_LINE = "# Setup: fetches the book"  # how the cell is recognised

PAGE = """\
FIRST_LINE where it is missing, as on Colab or beside a notebook downloaded alone.
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

url, tag = "URL", "TAG"
places = [*Path("here").resolve().parents, Path(f"NAME-{tag}").resolve()]
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
"""

PROBLEM_SET = """
# A problem set works in its own folder, and otter checks the answers.
if not Path("tests/q1.py").exists():
    os.chdir(book / "FOLDER")
if not find_spec("otter"):
    otter = ["otter-grader==7.0.0", "fica", "python-frontmatter", "python-on-whales", "ipylab"]
    alone = ["--no-deps"] if "google.colab" in sys.modules else []  # Colab has the rest already
    subprocess.check_call([sys.executable, "-m", "pip", "install", "--quiet", *alone, *otter])
"""


def repository() -> str:
    """The address of the book's repository."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text(encoding="utf-8"))
    return config["repository"]["url"].rstrip("/").removesuffix(".git")


def version() -> str:
    """The version of the package."""
    text = (ROOT / "hvp_utils" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


def setup_cell(folder: str = "notebooks") -> str:
    """Return the setup cell of the pages, or of the problem set in a folder of the repository."""
    words = {"FIRST_LINE": FIRST_LINE, "URL": repository(), "TAG": f"v{version()}"}
    words |= {"NAME": words["URL"].rsplit("/", 1)[-1], "FOLDER": folder}
    text = PAGE if folder == "notebooks" else PAGE + PROBLEM_SET
    return re.sub("|".join(words), lambda word: words[word.group()], text).rstrip()


def with_setup(source: str) -> str:
    """Return a page's source with the setup cell as it must be.

    Raises:
        ValueError: The page has no setup cell, or more than one.
    """
    cell = re.compile(
        rf'(# %% tags=\["hide-input"\]\n){re.escape(FIRST_LINE)}.*\n(?:(?!# %%).*\n)*', re.MULTILINE
    )
    text, found = cell.subn(lambda match: f"{match.group(1)}{setup_cell()}\n\n", source)
    if found != 1:
        raise ValueError(f'{found} cells tagged "hide-input" begin with "{FIRST_LINE}", not one')
    return text


def main(
    write: Annotated[bool, typer.Option(help="Write it into every page.")] = False,
) -> None:
    """Check that every page has the setup cell that _config.yml and the version ask for."""
    differ = 0
    for page in run_notebooks.pages():
        source = page.read_text(encoding="utf-8")
        name = page.relative_to(ROOT)
        try:
            right = with_setup(source)
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from None
        if right != source and write:
            page.write_text(right, encoding="utf-8")
        elif right != source:
            print(f"{name}: another setup cell; python tools/setup_cell.py --write")
            differ += 1
    raise typer.Exit(1 if differ else 0)


if __name__ == "__main__":
    typer.run(main)
