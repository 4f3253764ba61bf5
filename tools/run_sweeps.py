"""Recompute every stored sweep of the book: ``python tools/run_sweeps.py``.

What is stored already is kept, so the command can be interrupted and repeated; delete
``notebooks/results/*.nc`` first to start from nothing. The notebooks ask for the same sweeps and
read them in seconds.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Annotated

import typer

from hvp_utils import load_model, sweep

STORE = Path(__file__).parents[1] / "notebooks" / "results"
ALL_HEADS = ("activation_patching", "attribution_patching", "hvp")
K_SWEEP = ("activation_patching", "attribution_patching", *(f"ms_hvp:{k}" for k in range(1, 21)))

SWEEPS = [
    *(dict(task=task, estimators=ALL_HEADS) for task in ("ioi", "greater_than", "factual")),
    *(
        dict(task=task, estimators=K_SWEEP, top=5)
        for task in ("ioi", "greater_than", "factual", "factual_swap")
    ),
]


def main(
    model: Annotated[str, typer.Option(help="Model to sweep.")] = "smollm2-135m",
    prompts: Annotated[int, typer.Option(min=1, help="Prompts per task.")] = 20,
    only: Annotated[str, typer.Option(help="Only this task.")] = "",
) -> None:
    """Run the book's sweeps, one after the other."""
    loaded, started = load_model(model), time.perf_counter()
    chosen = [s for s in SWEEPS if only in ("", s["task"])]
    for number, arguments in zip(itertools.count(1), chosen, strict=False):
        typer.echo(f"[{number}/{len(chosen)}] {arguments['task']}")
        sweep(loaded, **arguments, n_prompts=prompts, store=STORE)
    typer.echo(f"{len(chosen)} sweeps in {(time.perf_counter() - started) / 60:.1f} minutes.")


if __name__ == "__main__":
    typer.run(main)
