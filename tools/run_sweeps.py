"""Recompute every stored sweep of the book: ``python tools/run_sweeps.py``.

What is stored already is kept, so the command can be interrupted and repeated; delete
``notebooks/results/*.nc`` first to start from nothing. The notebooks ask for the same sweeps and
read them in seconds. The stored ones took 10 hours on one core (the sum of their ``seconds``).
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from hvp_utils import sweep
from hvp_utils.backward_rules import NONLINEARITIES
from hvp_utils.estimators import QUADRATURES

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STORE = NOTEBOOKS / "results"
ALL_HEADS = ("activation_patching", "attribution_patching", "hvp")
K_SWEEP = ("activation_patching", "attribution_patching", *(f"ms_hvp:{k}" for k in range(1, 21)))
# What chapter 8 compares, on the five largest heads of each prompt.
BASELINES = (
    "activation_patching",
    "attribution_patching",
    "hvp",
    *(f"ms_hvp:{k}" for k in (2, 5, 10)),
    "ms_hvp_median",
    *(f"integrated_gradients:10:{rule}" for rule in QUADRATURES),
    *(f"integrated_gradients:5:{rule}" for rule in ("midpoint", "gausslegendre")),
    "integrated_gradients:35:right",
    "integrated_hessians:5",
    "integrated_hessians:3:grid:pairwise:right",
    "integrated_hessians:5:grid:pairwise:right",
    "integrated_hessians:5:grid:complete:gausslegendre",
    "third_order",
    "finite_difference_hvp",
    "gauss_newton",
)

# Where the quadratic term comes from: what is left of it without one kind of operation.
WITHOUT = tuple(f"quadratic_without:{kind}" for kind in NONLINEARITIES)
# What chapter 10 compares: all curvatures from a few products with the Hessian.
SKETCHES = tuple(f"sketched_hvp:{k}" for k in (4, 8, 16, 32, 48, 64))
ROWS = tuple(f"row_norms:{k}" for k in (2, 4, 16))
MAIN_TASKS = ("ioi", "greater_than_01", "factual")
CORRUPTIONS = ("ioi_random_token", "ioi_resample", "ioi_zero", "factual_resample", "factual_zero")

# Whose edges chapter 12 scores.
EDGE_TASKS = ("ioi", "subject_verb_agreement", "country_capital")

MODELS = ("smollm2-135m", "gemma-3-270m")
# Several entries may fill the same file, each with variables or prompts of its own.
SWEEPS = [
    *(
        dict(task=task, estimators=ALL_HEADS, n_prompts=n)
        for task, n in (
            ("ioi", 50),
            ("factual", 55),
            ("greater_than_01", 100),
            ("factual_swap", 50),
        )
    ),
    dict(task="greater_than", estimators=ALL_HEADS, n_prompts=20),
    *(
        dict(task=task, estimators=K_SWEEP, top=5, n_prompts=20)
        for task in ("ioi", "greater_than", "factual", "factual_swap")
    ),
    *(dict(task=task, estimators=BASELINES, top=5, n_prompts=20) for task in MAIN_TASKS),
    *(dict(task=task, estimators=("gim", "relp"), n_prompts=20) for task in MAIN_TASKS),
    *(dict(task=task, estimators=("atp_star",), n_prompts=10) for task in MAIN_TASKS),
    # Corruptions.
    *(
        dict(
            task=task,
            estimators=ALL_HEADS,
            n_prompts=20,
            direction="noising" if task.endswith("zero") else "denoising",
        )
        for task in CORRUPTIONS
    ),
    # Components beside heads. Positions line up only in prompts of one length.
    *(
        dict(task="ioi_one_template", components=kind, estimators=estimators, n_prompts=n)
        for kind, estimators, n in (
            ("heads", ALL_HEADS, 20),
            ("mlp_out", ALL_HEADS, 20),
            ("resid", ALL_HEADS, 20),
            ("neurons_post:16", ALL_HEADS, 10),
            ("queries", (*ALL_HEADS, "atp_star"), 10),
            ("keys", (*ALL_HEADS, "atp_star"), 10),
        )
    ),
    # Where curvature comes from, how fast it changes, and more steps than one.
    dict(task="ioi", estimators=(*ALL_HEADS, *WITHOUT, "gauss_newton"), top=20, n_prompts=20),
    *(dict(task=task, estimators=("hessian_lipschitz",), n_prompts=6) for task in MAIN_TASKS),
    *(dict(task=task, estimators=("ms_hvp:2", "ms_hvp:5"), n_prompts=6) for task in MAIN_TASKS),
    # The curvature of the network against that of a neuron alone.
    *(
        dict(
            task="ioi",
            components=f"neurons_pre:{per_layer}",
            estimators=(*ALL_HEADS, "local_curvature"),
            n_prompts=n,
        )
        for per_layer, n in ((16, 10), (256, 4))
    ),
    # How many directions carry the curvature.
    *(
        dict(
            task=task,
            components=kind,
            direction=direction,
            estimators=("hessian_eigenvalues",),
            n_prompts=20,
        )
        for task, kind, direction in (
            *((task, "heads", "denoising") for task in MAIN_TASKS),
            ("ioi", "heads", "noising"),
            ("ioi_one_template", "mlp_out", "denoising"),
            ("ioi_one_template", "resid", "denoising"),
        )
    ),
    # The slope at the far end of all patches: attribution patching from the other run.
    *(
        dict(task=task, direction="noising", estimators=("attribution_patching",), n_prompts=20)
        for task in MAIN_TASKS
    ),
    # All heads from a few products; the largest neurons by estimators that take more than those.
    *(dict(task=task, estimators=SKETCHES, n_prompts=20) for task in MAIN_TASKS),
    # The rows of the Hessian, and more prompts to put the rules of chapter 10 to the test on.
    *(
        dict(task=task, estimators=(*ROWS, "sketched_hvp:4"), n_prompts=50)
        for task in (*MAIN_TASKS, "factual_swap")
    ),
    # What chapter 11 ranks all heads by.
    *(
        dict(
            task=task,
            estimators=("ms_hvp:5", "integrated_gradients:5:gausslegendre", "gim", "atp_star"),
            n_prompts=6,
        )
        for task in ("ioi", "greater_than_01")
    ),
    dict(
        task="ioi",
        components="neurons_pre:256",
        estimators=(
            "activation_patching",
            "hvp",
            *(f"ms_hvp:{k}" for k in (2, 5)),
            *(f"integrated_gradients:5:{rule}" for rule in ("midpoint", "gausslegendre")),
        ),
        top=50,
        n_prompts=4,
    ),
]


def main(
    model: Annotated[str, typer.Option(help="Only this model; both by default.")] = "",
    prompts: Annotated[int, typer.Option(min=0, help="Prompts per task; 0 for the book's.")] = 0,
    only: Annotated[str, typer.Option(help="Only this task.")] = "",
) -> None:
    """Run the book's sweeps, one after the other."""
    started = time.perf_counter()
    chosen = [s for s in SWEEPS if only in ("", s["task"])]
    models = (model,) if model else MODELS
    for number, (name, arguments) in enumerate(itertools.product(models, chosen), 1):
        typer.echo(f"[{number}/{len(models) * len(chosen)}] {name}, {arguments['task']}")
        size = {"n_prompts": prompts} if prompts else {}
        sweep(name, **arguments | size, store=STORE)
    edges = [task for task in EDGE_TASKS if only in ("", task)]
    if not prompts and edges:
        sys.path.insert(0, str(NOTEBOOKS))
        from studies import edges_and_mib

        typer.echo("Edges and their circuits")
        edges_and_mib.load(models, edges, store=STORE / "edges")
    if not prompts and not only:
        sys.path.insert(0, str(NOTEBOOKS))
        from studies import curves
        from studies.is_it_worth_it import neurons

        typer.echo("Screens of all neurons, and paths of all heads")
        neurons.measure(models, 4, 256, store=str(STORE))
        for name in models:
            curves.stored(name, STORE / "curves")
    minutes = (time.perf_counter() - started) / 60
    typer.echo(f"{len(models) * len(chosen)} sweeps in {minutes:.1f} minutes.")


if __name__ == "__main__":
    typer.run(main)
