"""Text that can be installed, as rows of tokens: WordNet, documentation, fortunes, task prompts."""

import ast
import functools
import importlib.util
import itertools
import random
import re
import warnings
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from hvp_utils import make_prompts
from hvp_utils.tasks import TASKS

#: Packages whose documentation strings are read, with their licences.
PACKAGES = {
    "matplotlib": "PSF-based",
    "networkx": "BSD-3-Clause",
    "numpy": "BSD-3-Clause",
    "pandas": "BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "xarray": "Apache-2.0",
}
#: Shares of the tokens of running text.
SHARES = {"wordnet": 0.55, "docstrings": 0.35, "fortunes": 0.10}
PROMPT_SHARE = 0.1  # of all tokens
FIRST_SEED = 10_000  # of the prompts; those that are studied have seed 0


def wordnet(folder=Path("/usr/share/wordnet")):
    """Definitions and examples (WordNet licence), one synset each."""
    for part in ("noun", "verb", "adj", "adv"):
        path = folder / f"data.{part}"
        if not path.exists():
            return
        for line in path.read_text(encoding="utf-8").splitlines():
            head, _, gloss = line.partition("|")
            if head.startswith(" ") or not gloss:
                continue
            word = head.split()[4].replace("_", " ")
            yield f"{word}: {gloss.strip()}"


def docstrings():
    """Documentation strings of installed packages, those of at least two hundred characters."""
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            continue
        for path in sorted(Path(spec.origin).parent.rglob("*.py")):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    tree = ast.parse(path.read_text(encoding="utf-8"))
                except (SyntaxError, UnicodeDecodeError):
                    continue
            for node in ast.walk(tree):
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                    text = ast.get_docstring(node) or ""
                    if len(text) >= 200:
                        yield text


def fortunes(folder=Path("/usr/share/games/fortunes")):
    """Sayings (BSD), one each."""
    for path in sorted(folder.glob("*")):
        if path.suffix or path.is_symlink():
            continue
        for text in re.split(r"\n%\n", path.read_text(encoding="utf-8", errors="ignore")):
            if text.strip():
                yield re.sub(r"\s+", " ", text).strip()


SOURCES = {"wordnet": wordnet, "docstrings": docstrings, "fortunes": fortunes}


def packed(texts, tokenizer, n_tokens, length, bar):
    """Rows [row, length]: the beginning-of-text token, then documents one after another."""
    rows, left = [], []
    for text in texts:
        left += [*tokenizer(text, add_special_tokens=False)["input_ids"], *_end(tokenizer)]
        while len(left) >= length - 1:
            rows.append([tokenizer.bos_token_id, *left[: length - 1]])
            left = left[length - 1 :]
            bar.update(length)
            if len(rows) * length >= n_tokens:
                return rows
    return rows


@functools.cache
def _end(tokenizer):
    return tokenizer("\n\n", add_special_tokens=False)["input_ids"]


def prompts(model, n_tokens, length, bar):
    """Rows [row, length] of one prompt each, of all tasks in turn, padded with -1."""
    rows, count, seen = [], 0, set()
    for seed in itertools.count(FIRST_SEED):
        before = count
        for task in TASKS:
            for pair in make_prompts(task, model, 50, seed=seed):
                resolved = pair.resolve(model)
                for ids in (resolved.clean, resolved.corrupted):
                    ids = () if ids is None else tuple(ids.tolist())
                    if not ids or len(ids) > length or ids in seen:
                        continue
                    seen.add(ids)
                    rows.append([*ids, *[-1] * (length - len(ids))])
                    count += len(ids)
            bar.update(count - before)
            before = count
            if count >= n_tokens:
                return rows
    raise AssertionError


def corpus(model, n_tokens, length, short, seed):
    """Rows of running text and of prompts, each in a random order."""
    tokenizer, draw = model.tokenizer, random.Random(seed)
    found = {name: list(source()) for name, source in SOURCES.items()}
    if missing := [name for name, texts in found.items() if not texts]:
        raise FileNotFoundError(
            f"No text of {', '.join(missing)} is here. On Debian: apt install wordnet-base fortunes"
        )
    rows = []
    with tqdm(total=n_tokens, unit="token", desc="text") as bar:
        for name, share in SHARES.items():
            draw.shuffle(found[name])
            wanted = (1 - PROMPT_SHARE) * n_tokens * share
            rows += packed(found[name], tokenizer, wanted, length, bar)
        short_rows = prompts(model, PROMPT_SHARE * n_tokens, short, bar)
    draw.shuffle(rows)
    draw.shuffle(short_rows)
    return np.array(rows, dtype=np.int32), np.array(short_rows, dtype=np.int32)
