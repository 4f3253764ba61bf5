"""Command line: ``python -m hvp_utils sweep --help``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from hvp_utils import COMPONENT_KINDS, ESTIMATORS, MODELS, TASKS, stats
from hvp_utils import sweep as run_sweep

# What a sweep can hold beside estimates of an effect.
_NO_ESTIMATES = ("quadratic_without", "hessian_lipschitz")

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


@app.callback()
def main() -> None:
    """Activation patching and its first- and second-order estimates, from the command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


@app.command()
def sweep(
    model: Annotated[
        str, typer.Option(help=f"Model: {', '.join(MODELS)}, or a Hugging Face id.")
    ] = "smollm2-135m",
    task: Annotated[str, typer.Option(help=f"Task: {', '.join(TASKS)}.")] = "ioi",
    estimators: Annotated[
        str,
        typer.Option(
            help=f"Comma-separated: {', '.join(ESTIMATORS)}. A number sets the steps: ms_hvp:5."
        ),
    ] = "activation_patching,attribution_patching,hvp",
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 20,
    components: Annotated[
        str,
        typer.Option(help=f"{', '.join(COMPONENT_KINDS)}; neurons_pre:256 samples 256 a layer."),
    ] = "heads",
    direction: Annotated[
        str, typer.Option(help="denoising (patch the corrupted run towards clean) or noising.")
    ] = "denoising",
    seed: Annotated[int, typer.Option(help="Seed of the prompts and of sampled neurons.")] = 0,
    top: Annotated[
        int | None,
        typer.Option(
            min=1, help="Estimate only the components with this many largest true effects."
        ),
    ] = None,
    store: Annotated[Path, typer.Option(help="Folder of the result files (netCDF).")] = Path(
        "results"
    ),
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, ...; by default a GPU when there is one.")
    ] = None,
) -> None:
    """Run estimators on many prompts and store the results.

    What the store already holds is not computed again, so the command can be interrupted (Ctrl-C)
    and repeated, and asking for more prompts or estimators extends the file. Ends with the top-5
    relative error of each estimate against activation patching, where that was among them.

    Example: ``python -m hvp_utils sweep --task ioi --estimators activation_patching,hvp,ms_hvp:5``
    """
    names = [name.strip() for name in estimators.split(",") if name.strip()]
    try:
        results = run_sweep(
            model, task, names, prompts, seed, direction, components, store, top, device
        )
    except (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError) as error:
        typer.secho(f"Error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{results.sizes['prompt']} prompts, {results.sizes['component']} components.")
    if "activation_patching" in results:
        truth = results.activation_patching
        k = min(5, results.sizes["component"], top or 5)  # what top left out is NaN
        for name in names:
            if name != "activation_patching" and not name.startswith(_NO_ESTIMATES):
                error = stats.top_k_relative_error(results[name], truth, k).mean()
                typer.echo(f"{name:>24}: top-{k} relative error {error:6.2f} %, mean over prompts")


if __name__ == "__main__":
    app()
