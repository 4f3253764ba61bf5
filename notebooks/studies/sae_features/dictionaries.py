"""The SAEs that lie beside the notebooks, and dictionaries of random directions to compare with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from hvp_utils import load_sae, model_sizes
from hvp_utils.plans import ModelSizes
from hvp_utils.saes import SAE

__all__ = [
    "DEPTHS",
    "contexts",
    "digest",
    "find",
    "folder",
    "frame",
    "layers_of",
    "quality",
    "random_directions",
    "read",
    "report",
    "stand_in",
]

#: Depths of the paper's two layers, 5 and 9 of the 12 of GPT-2 small.
DEPTHS = (5 / 12, 9 / 12)


def folder(model: str, layer: int, root: str | Path = "saes") -> Path:
    """Where the SAE of the residual stream that enters a layer lies."""
    return Path(root) / f"{model.replace('/', '--')}-blocks.{layer}.hook_resid_pre"


def layers_of(model: str, root: str | Path = "saes") -> list[int]:
    """The layers of a model for which an SAE lies here.

    Raises:
        FileNotFoundError: There is none.
    """
    stem = model.replace("/", "--")
    found = sorted(
        int(path.parent.name.split(".")[1])
        for path in Path(root).glob(f"{stem}-blocks.*.hook_resid_pre/cfg.json")
    )
    if not found:
        raise FileNotFoundError(
            f"No SAE of {model} lies in {root}/. Train one (tools/train_sae.py), or read one with "
            "load_sae and give it to PatchedMetric(model, pair, SAEFeatures(sae))."
        )
    return found


def find(model: str, root: str | Path = "saes") -> tuple[dict[int, SAE], str]:
    """The SAEs of a model by layer, and a sentence that says what they are.

    For a model without any, dictionaries of random directions stand in, and the sentence says so:
    how well their effects are estimated can be measured as well, what they mean cannot.
    """
    try:
        saes = {layer: read(model, layer, root) for layer in layers_of(model, root)}
    except FileNotFoundError:
        sizes = model_sizes(model)
        layers = [round(depth * sizes.n_layers) for depth in DEPTHS]
        note = (
            f"**No SAE of {model} lies here.** Dictionaries of random directions stand in for it, "
            "so read no meaning into their features; how well effects are estimated is measured "
            f"all the same. To train one: `tools/train_sae.py`. Layers: {layers}."
        )
        return {layer: stand_in(sizes, layer) for layer in layers}, note
    n, k = (sorted({getattr(sae, name) for sae in saes.values()}) for name in ("n", "k"))
    return saes, (
        f"{len(saes)} SAEs of {model}: of the residual stream that enters layers "
        f"{' and '.join(map(str, saes))}, with {' or '.join(f'{x:,}' for x in n)} features, "
        f"{' or '.join(map(str, k))} active a token."
    )


def read(model: str, layer: int, root: str | Path = "saes") -> SAE:
    """The SAE of one layer."""
    return load_sae(folder(model, layer, root))


def digest(sae: SAE) -> str:
    """A name for what an SAE computes: the start of the SHA-256 of its weights."""
    found = hashlib.sha256(f"{sae.hook} {sae.activation} {sae.k}".encode())
    for weight in (sae.W_enc, sae.b_enc, sae.W_dec, sae.b_dec, sae.threshold):
        if weight is not None:
            found.update(weight.detach().cpu().float().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def report(model: str, layer: int, root: str | Path = "saes") -> Mapping[str, Any]:
    """What was measured of an SAE when it was trained; empty if there is no such file."""
    path = folder(model, layer, root) / "report.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def contexts(model: str, layer: int, root: str | Path = "saes") -> Mapping[int, list[str]]:
    """By feature, pieces of text on which it is most active; empty if there is no such file."""
    path = folder(model, layer, root) / "top_tokens.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return {int(feature): list(texts) for feature, texts in found.items()}


def quality(model: str, root: str | Path = "saes") -> pd.DataFrame:
    """What is known of the SAEs of a model; a row for each layer, NaN where nothing is.

    Returns:
        Columns layer, features, L0 (active ones a token), variance (explained on held-out text,
        in percent; mostly of a few large activations), typical (the same at the median position),
        on_prompts (the same on the prompts of IOI), loss (recovered, in percent) and
        dead (features that were active on no held-out token, in percent).
    """
    rows = []
    for layer in layers_of(model, root):
        said = report(model, layer, root)
        known = {
            "L0": said.get("l0"),
            "variance": _percent(said.get("variance_explained")),
            "typical": _percent(said.get("variance_explained_typical")),
            "on_prompts": _percent(said.get("ioi_variance_explained")),
            "loss": _percent(said.get("loss_recovered")),
            "dead": _percent(said.get("dead_share")),
        }
        rows.append({"layer": layer, "features": read(model, layer, root).n} | known)
    return pd.DataFrame(rows).astype({name: float for name in known})


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def random_directions(sae: SAE, seed: int = 0) -> SAE:
    """The same features, as active and as long as before, in directions drawn at random.

    A control: what it has in common with the SAE is not specific to directions that were learned.
    """
    drawn = torch.randn(sae.W_dec.shape, generator=torch.Generator().manual_seed(seed))
    drawn = drawn.to(sae.W_dec)
    length = sae.W_dec.norm(dim=-1, keepdim=True) / drawn.norm(dim=-1, keepdim=True)
    return replace(sae, W_dec=drawn * length)


def stand_in(sizes: ModelSizes, layer: int, n: int = 4096, k: int = 32, seed: int = 0) -> SAE:
    """A dictionary of random unit directions, of which the k that fit best are active."""
    drawn = torch.randn(n, sizes.d_model, generator=torch.Generator().manual_seed(seed))
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    weights = drawn.T.contiguous(), torch.zeros(n), drawn, torch.zeros(sizes.d_model)
    return SAE(*weights, hook=f"blocks.{layer}.hook_resid_pre", activation="topk", k=k)


def frame(sizes: ModelSizes, hook: str, n: int, seed: int = 0) -> SAE:
    """So many random directions that together they write out any activation, nearly.

    Unit directions w with activations ``(2 d / n) relu(w x)``: for large n their sum comes close to
    x. About half of them are active at a position, so that most are on a prompt. Nothing is learned;
    it stands for a dictionary as large as those in use, as far as costs and sketches go.
    """
    drawn = torch.randn(n, sizes.d_model, generator=torch.Generator().manual_seed(seed))
    drawn = drawn / drawn.norm(dim=-1, keepdim=True)
    encoder = drawn.T.contiguous() * (2 * sizes.d_model / n)
    return SAE(encoder, torch.zeros(n), drawn, torch.zeros(sizes.d_model), hook=hook)
