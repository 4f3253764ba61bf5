"""Circuits that are known because the model was built so."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch

from hvp_utils import (
    PatchedMetric,
    PromptPair,
    activation_patching,
    attribution_patching,
    hvp,
    ms_hvp,
)
from hvp_utils.planted import planted_model
from hvp_utils.stats import Auroc, kendall_tau, top_k_overlap

ESTIMATES = {
    "truth": activation_patching,
    "AP": attribution_patching,
    "HVP": hvp,
    "MS-HVP": lambda M: ms_hvp(M, 5),
}


def planted_recovery(
    seeds: Sequence[int] = range(6), sizes: Mapping[str, int] | None = None
) -> pd.DataFrame:
    """How well methods find the heads of planted circuits, one circuit for each seed.

    A head belongs to the circuit if a path from the embedding to the logits leads through it. The
    two prompts differ in one random token.

    Args:
        seeds: Seeds of the models and of their prompts.
        sizes: Arguments of ``planted_model``.

    Returns:
        Columns seed, method, heads and members (numbers of heads, in all and on the circuit),
        auroc (of membership), outside (largest magnitude off the circuit, over the largest true
        effect), overlap (top half of the circuit), tau (Kendall's, among members) and error
        (percent of the truth's norm).
    """
    sizes = {"n_layers": 4, "n_heads": 6, "density": 0.35} if sizes is None else sizes
    rows = []
    for seed in seeds:
        made = planted_model(seed, **sizes)
        generator = torch.Generator().manual_seed(seed)
        clean = torch.randint(0, 40, (6,), generator=generator).tolist()
        corrupted = [*clean[:2], (clean[2] + 7) % 40, *clean[3:]]
        M = PatchedMetric(made.model, PromptPair(clean, corrupted, 5))
        nodes = {end.partition(".")[0] for edge in made.circuit for end in edge.split("->")}
        on = np.array([label in nodes and bool(re.search(r"H\d", label)) for label in M.labels])
        found = {name: estimate(M).cpu().numpy() for name, estimate in ESTIMATES.items()}
        truth = found["truth"]
        k = max(1, on.sum() // 2)
        for method, values in found.items():
            scale = np.linalg.norm(truth)
            rows.append(
                {
                    "seed": seed,
                    "method": method,
                    "heads": M.n,
                    "members": int(on.sum()),
                    "auroc": Auroc(np.abs(values)[None], on[None])(),
                    "outside": np.abs(values[~on]).max(initial=0) / np.abs(truth).max(),
                    "overlap": top_k_overlap(values, truth, k),
                    "tau": kendall_tau(values[on], truth[on]),
                    "error": 100 * np.linalg.norm(values - truth) / scale,
                }
            )
    return pd.DataFrame(rows)
