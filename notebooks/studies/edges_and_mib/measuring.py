"""Scores of all edges by several methods, exact effects of some, and what circuits cut from them keep.

``measure`` computes what its file lacks, step by step, and writes the file after each step: killed
and started again, it loses at most the step in flight.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens.model_bridge import TransformerBridge

from hvp_utils import (
    PatchedMetric,
    activation_patching,
    attribution_patching,
    hvp,
    load_model,
    make_prompts,
)
from hvp_utils.circuits import FRACTIONS, Circuit, edge_pruning, faithfulness, hap, with_kl
from hvp_utils.curvature import diagonal
from hvp_utils.estimators import find_estimator, local_quadratic_term
from hvp_utils.estimators.local import combined
from hvp_utils.store import only_writer, read, write
from hvp_utils.sweeps import provenance
from hvp_utils.tasks import check_tasks

from .. import common

__all__ = [
    "BASIC",
    "GRADIENTS",
    "METHODS",
    "SECOND_ORDER",
    "SOME",
    "able",
    "measure",
    "sample",
    "stored",
]

#: One gradient or a few.
GRADIENTS = (
    "attribution_patching",
    "eap_ig:5",
    "from_corrupted",
    "eap_gp:5",
    "eap_ig:20",
    "gim",
    "relp",
)
#: With curvature: half the diagonal of the Hessian from 32 products, that of the reader alone, both.
SECOND_ORDER = ("sketched_hvp:32", "local_curvature", "local_sketched_hvp:32")
METHODS = (*GRADIENTS, *SECOND_ORDER, "random")
#: Without those that need the curvature of readers, which costs most.
BASIC = (*GRADIENTS, "sketched_hvp:32", "random")
#: Edges that are patched exactly: so many of each of four strata.
SOME = 40
#: What searches get: so many of the prompts that scores come from, and so many steps.
SEARCH_PROMPTS, SEARCH_STEPS = 4, 100
_FORMAT = 1


def measure(
    model: str | TransformerBridge,
    task: str,
    methods: Sequence[str] = METHODS,
    n_score: int = 8,
    n_eval: int = 50,
    pruned_share: float = 0.0,
    searches: Sequence[str] = ("edge_pruning", "hap"),
    store: str | Path | None = "results/edges",
    seed: int = 0,
    device: str | None = None,
) -> xr.Dataset:
    """All that chapter 12 says of one model and one task.

    Prompts 0 to ``n_eval`` - 1 are for circuits, the ``n_score`` after them for scores, so that no
    circuit is judged on the prompts that it comes from.

    Args:
        model: A name, or a model.
        task: A key of ``TASKS``.
        methods: Names of estimators; ``"from_corrupted"``, which is EAP with the gradient of the
            corrupted run instead of the clean one; and ``"random"``.
        n_score: Prompts that scores are the mean of.
        n_eval: Prompts that circuits are run on.
        pruned_share: Look for circuits of this share of all edges too.
        searches: By which searches.
        store: Folder of the result files, or None.
        device: Where to load a model that is given by name.
        seed: Seed of the task, of the sketch, of the sample and of random scores.

    Returns:
        For every method m: ``score__m`` [edge], the mean effect in the noising direction (rounded
        to bfloat16); ``some__m`` [scored, sampled], those of each prompt and each sampled edge;
        ``signed__m`` and ``absolute__m`` [prompt, fraction], the metric of the circuits;
        ``seconds__m``, processor time of the scores. Beside them ``sampled``, the numbers of the
        edges with exact effects, ``stratum``, ``truth`` and ``hvp`` [scored, sampled] and ``full``
        and ``empty`` [prompt], the metrics of the clean and the corrupted run. For a search s:
        ``found__s`` [prompt], and ``edges__s``.
    """
    name = common.name_of(model)
    identity = {
        "format": _FORMAT,
        "model": name,
        "task": task,
        "n_score": n_score,
        "n_eval": n_eval,
        "seed": seed,
    }
    path = None if store is None else Path(store) / stored(name, task, seed)
    steps = [f"{part}__{m}" for m in methods for part in ("score", "signed", "absolute")]
    steps = ["truth", *steps, *(f"found__{name}" for name in searches if pruned_share)]
    done = read(path, identity)
    if done is not None and all(step in done for step in steps):
        return done
    bridge = common.loaded(model, device)
    with only_writer(path):
        done = read(path, identity)
        done = xr.Dataset() if done is None else done
        work = _Work(bridge, task, methods, n_score, n_eval, pruned_share, seed)
        todo = [step for step in steps if step not in done]
        for step in tqdm(todo, desc=f"{name}, {task}", unit="step"):
            if step in done:  # it came with another
                continue
            for variable, value in work.step(step, done):
                done[variable] = value
            done = done.assign_attrs(provenance(bridge) | identity)
            if path is not None:
                write(done, path)
    return done


def stored(model: str, task: str, seed: int = 0) -> str:
    """Name of the file of a model and a task."""
    return f"{model.replace('/', '--')}__{task}__seed{seed}.nc"


def able(
    models: Sequence[str],
    tasks: Sequence[str],
    n: int = 50,
    store: str | Path = "results/edges/accuracy.csv",
    device: str | None = None,
) -> pd.DataFrame:
    """Which tasks the models can do: ``check_tasks``, with its results kept in a table.

    Args:
        models: Names of models.
        tasks: Keys of ``TASKS``.
        n: Prompts of each.
        store: Where the table lies. What it lacks is computed and added.
        device: Where a model is loaded, if something has to be computed.
    """
    path = Path(store)
    kept = pd.read_csv(path) if path.exists() else pd.DataFrame(columns=["model", "task"])
    for model in models:
        known = set(kept[kept.model == model].task)
        if missing := [task for task in tasks if task not in known]:
            found = check_tasks(load_model(model, device=device), missing, n).reset_index()
            kept = pd.concat([kept, found.assign(model=model)], ignore_index=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            kept.to_csv(path, index=False)
    wanted = pd.DataFrame([(m, t) for m in models for t in tasks], columns=["model", "task"])
    return wanted.merge(kept, on=["model", "task"])


def sample(
    scores: Mapping[str, np.ndarray], some: int = SOME, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Edges to be patched exactly, and the stratum of each.

    Strata: the largest by EAP, the largest others by EAP-IG, a random sample of the next largest
    (by EAP, up to ten times as many, or 1 % of all), and one of the rest. A sample of what one
    method finds would not show what it misses.

    Args:
        scores: Those of ``attribution_patching`` and ``eap_ig:5``, ``[edge]``.
        some: Edges of each stratum.
        seed: Seed of the draw.
    """
    rng = np.random.default_rng(seed)
    eap, ig = (
        np.argsort(-np.abs(scores[name]), kind="stable")
        for name in ("attribution_patching", "eap_ig:5")
    )
    first = eap[:some]
    second = ig[~np.isin(ig, first)][:some]
    rest = eap[~np.isin(eap, [*first, *second])]
    middle = max(10 * some, len(eap) // 100)
    third = rng.choice(rest[:middle], some, replace=False)
    fourth = rng.choice(rest[middle:], some, replace=False)
    strata = ("top EAP", "top EAP-IG", "middle", "rest")
    return np.concatenate([first, second, third, fourth]), np.repeat(strata, some)


class _Work:
    """The steps, with what they share."""

    def __init__(self, bridge, task, methods, n_score, n_eval, pruned_share, seed):
        pairs = make_prompts(task, bridge, n_eval + n_score, seed=seed)
        self._bridge, self._methods, self._share, self._seed = bridge, methods, pruned_share, seed
        self._eval, self._score = pairs[:n_eval], pairs[n_eval:]
        self._cache: dict = {}

    def _M(self, which: str) -> PatchedMetric:
        if which not in self._cache:
            pairs = self._eval if which == "eval" else self._score
            self._cache[which] = PatchedMetric(self._bridge, pairs, "edges", "noising")
        return self._cache[which]

    def step(self, step: str, done: xr.Dataset) -> Iterator[tuple[str, object]]:
        """Variables that a step makes."""
        part, _, name = step.partition("__")
        if part == "truth":
            yield from self._truth(done)
        elif part == "score":
            yield from self._scores(name, done)
        elif part == "found":
            yield from self._search(name, done)
        else:
            effects = torch.tensor(done[f"score__{name}"].values)
            M, signed = self._M("eval"), part == "signed"
            circuits = [Circuit.top(M, effects, int(f * M.n), signed) for f in FRACTIONS]
            kept = faithfulness(M, circuits)
            yield step, (("prompt", "fraction"), kept.values)
            yield "full", ("prompt", kept.full)
            yield "empty", ("prompt", kept.empty)
            yield "fraction", ("fraction", list(FRACTIONS))

    def _truth(self, done: xr.Dataset) -> Iterator[tuple[str, object]]:
        for name in ("attribution_patching", "eap_ig:5"):
            yield from self._scores(name, done)
        means = {
            name: self._each(name).mean(0).numpy() for name in ("attribution_patching", "eap_ig:5")
        }
        numbers, stratum = sample(means, min(SOME, len(means["eap_ig:5"]) // 20), self._seed)
        yield "sampled", ("sampled", numbers)
        yield "stratum", ("sampled", stratum.astype(str))
        M, which = self._M("score").each, torch.tensor(numbers)
        yield "label", ("sampled", [M.labels[i] for i in numbers])
        yield "truth", (("scored", "sampled"), activation_patching(M, which).cpu().numpy())
        yield "hvp", (("scored", "sampled"), hvp(M, which).cpu().numpy())
        for name in ("attribution_patching", "eap_ig:5"):
            yield f"some__{name}", (("scored", "sampled"), self._each(name)[:, which].numpy())

    def _scores(self, name: str, done: xr.Dataset) -> Iterator[tuple[str, object]]:
        values = self._each(name)
        rounded = values.mean(0).bfloat16().float()
        yield f"score__{name}", ("edge", rounded.numpy())
        yield f"seconds__{name}", ((), self._cache[f"seconds {name}"])
        if "sampled" in done:
            yield (
                f"some__{name}",
                (("scored", "sampled"), values[:, torch.tensor(done.sampled.values)].numpy()),
            )

    def _each(self, name: str) -> Tensor:
        """Scores of each prompt, ``[prompt, edge]``."""
        if f"scores {name}" not in self._cache:
            M = self._M("score").each
            started = time.process_time()
            if name == "random":
                generator = torch.Generator().manual_seed(self._seed)
                found = torch.randn(M.n, generator=generator).expand(M.n_prompts, -1)
            elif name == "from_corrupted":
                # What patching gains there is what it loses here.
                there = PatchedMetric(self._bridge, self._score, "edges", "denoising")
                found = -attribution_patching(there.each)
            elif name in SECOND_ORDER:
                found = self._second_order(name, M)
            else:
                found = find_estimator(name)(M)
            self._cache[f"scores {name}"] = found.float().cpu()
            self._cache[f"seconds {name}"] = time.process_time() - started
        return self._cache[f"scores {name}"]

    def _second_order(self, name: str, M: PatchedMetric) -> Tensor:
        # What the three share is made once.
        if name != "local_curvature" and "sketch" not in self._cache:
            self._cache["sketch"] = diagonal(M, "xdiag", 32, self._seed)
        if name != "sketched_hvp:32" and "local" not in self._cache:
            self._cache["local"] = local_quadratic_term(M)
        slopes, local, sketch = (
            self._each("attribution_patching"),
            *(self._cache.get(part) for part in ("local", "sketch")),
        )
        if name == "local_curvature":
            return slopes + local
        return slopes + (
            sketch.values / 2 if name == "sketched_hvp:32" else combined(local, sketch)
        )

    def _search(self, name: str, done: xr.Dataset) -> Iterator[tuple[str, object]]:
        pairs = with_kl(self._bridge, self._score[:SEARCH_PROMPTS])
        M = PatchedMetric(self._bridge, pairs, "edges", "noising")
        size, started = int(self._share * M.n), time.process_time()
        if name == "edge_pruning":
            circuit = edge_pruning(M, size, SEARCH_STEPS, seed=self._seed).circuit
        else:
            # Of KL the gradient at the clean run is 0, so the screen is by the task's own metric.
            effects = self._each("attribution_patching").mean(0)
            circuit = hap(M, size, 5 * size, SEARCH_STEPS, effects, seed=self._seed).circuit
        yield f"seconds__{name}", ((), time.process_time() - started)
        yield f"edges__{name}", (f"of_{name}", sorted(circuit.numbers))
        yield f"found__{name}", ("prompt", faithfulness(self._M("eval"), circuit).values[:, 0])
