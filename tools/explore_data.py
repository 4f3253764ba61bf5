"""Write what the page "Explore" shows, book/_static/explore_data.js, from stored paths."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "notebooks"))

from hvp_utils import model_sizes, plan  # noqa: E402
from hvp_utils.top import FEW, MANY  # noqa: E402
from studies import curves, prices  # noqa: E402

TARGET = ROOT / "book" / "_static" / "explore_data.js"
MODELS = ("smollm2-135m", "gemma-3-270m")
PLANNED = ("smollm2-135m", "gemma-3-270m", "gpt2", "pythia-2.8b", "gemma-2-2b", "llama-3.1-8b")
KINDS = {"heads": "heads", "neurons": "neurons_pre", "edges": "edges"}
RATES = {"laptop": 1e11, "Colab T4": 4e12, "data-centre GPU": 4e13}
N_TOKENS, N_RUN = 20, 10
ALL = {  # by the names of studies.curves.predictions
    "AP": "attribution_patching",
    "HVP": "hvp",
    "MS-HVP": "ms_hvp:4",
    "5 slopes": "integrated_gradients:5:gausslegendre",
}


def paths_of(model: str) -> dict:
    """Labels, prompts and values of a model's paths, with four digits."""
    data = curves.stored(model, ROOT / "notebooks" / "results" / "curves")
    values = np.stack([data[name].values for name in ("g", "slope", "curvature")], axis=-1)
    numbered = [
        [[[float(f"{v:.4g}") for v in knot] for knot in head] for head in prompt]
        for prompt in values
    ]
    prompts = [
        {
            "name": f"{i + 1}. {str(clean)[:38]}…",
            "clean": str(clean),
            "corrupted": str(corrupted),
            "answer": str(answer),
            "unit": "probability" if str(metric) == "prob_diff" else "nats",
        }
        for i, (clean, corrupted, answer, metric) in enumerate(
            zip(*(data[c].values for c in ("clean", "corrupted", "answer", "metric")), strict=True)
        )
    ]
    return {
        "labels": [str(label) for label in data.label.values],
        "prompts": prompts,
        "g": numbered,
    }


def prices_of(model: str) -> dict[str, float]:
    """Runs for one head: shared gradients are divided by the number of heads."""
    counted = prices.counted(model_sizes(model), list(ALL.values())).set_index("method")
    return {"truth": 1.0} | {
        name: round(float(counted.runs[method] / counted.n[method]), 3)
        for name, method in ALL.items()
    }


def plans_of(model: str) -> dict:
    """Runs of each way for one prompt, and operations of a run, by kind of component."""
    sizes, found = model_sizes(model), {}
    methods = ("activation_patching", "attribution_patching", "row_norms:2", "hvp")
    for kind, components in KINDS.items():
        plans = plan(sizes, components, methods, N_TOKENS, N_RUN, 1, 1.0, batch_size=32)
        every, gradient, rows, hvp = (one.forward_equivalents for one in plans)
        found[kind] = {
            "n": sizes.n_components(components, N_RUN),
            "run": plans[0].flops / every,
            "AP": round(gradient, 3),
            "row_screen": round(rows, 3),
            "HVP": round(hvp, 1),
        }
    return found


def data() -> dict:
    """Everything the page needs."""
    return {
        "knots": list(curves.KNOTS),
        "models": {model: paths_of(model) for model in MODELS},
        "prices": {model: prices_of(model) for model in MODELS},
        "plans": {model: plans_of(model) for model in PLANNED},
        "rates": RATES,
        "few": FEW,
        "many": MANY,
    }


def text() -> str:
    """The file: a script, since a page that was opened as a file may not fetch data."""
    return f"window.hvpBook = {json.dumps(data(), separators=(',', ':'), ensure_ascii=False)};\n"


def main() -> None:
    """Write the file."""
    written = TARGET.with_suffix(".tmp")
    written.write_text(text(), encoding="utf-8")
    os.replace(written, TARGET)
    print(f"{TARGET.relative_to(ROOT)}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    typer.run(main)
