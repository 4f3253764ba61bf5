"""Command line: ``python -m hvp_utils sweep --help`` and ``python -m hvp_utils plan --help``."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, cast

import typer

# Nothing that imports torch: that takes seconds, and only real work needs it.
from hvp_utils._names import (
    COMPONENTS,
    ESTIMATORS,
    MEASURES,
    MODELS,
    TASKS,
    WORDS,
    with_parameters,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from hvp_utils.patched_metric import Direction

# What a sweep can hold beside estimates of an effect.
_NO_ESTIMATES = ("quadratic_without", *MEASURES)

_Model = Annotated[str, typer.Option(help=f"Model: {', '.join(MODELS)}, or a Hugging Face id.")]
_Estimators = Annotated[
    str,
    typer.Option(
        help=f"Comma-separated. Estimators: {with_parameters(ESTIMATORS)}. Measures: "
        f"{with_parameters(MEASURES)}. The parameters in brackets may follow after colons, as in "
        "ms_hvp:5 or integrated_gradients:10:midpoint. They are whole numbers, but for "
        + "; for ".join(f"{parameter} {', '.join(words)}" for parameter, words in WORDS.items())
        + ".",
        show_default="activation_patching, attribution_patching, hvp",
    ),
]
_Components = Annotated[
    str,
    typer.Option(
        help=f"{', '.join(COMPONENTS)}; neurons is neurons_pre; neurons_pre:256 samples 256 a "
        "layer."
    ),
]
_Device = Annotated[
    str | None, typer.Option(help="cpu, cuda, ...; by default a GPU when there is one.")
]

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="markdown")


def _fail(error: Exception) -> NoReturn:
    """End with one sentence and no traceback."""
    typer.secho(f"Error: {error}", fg="red", err=True)
    raise typer.Exit(1) from None


def _kind(components: str) -> str:
    """Components as the package names them."""
    kind, colon, count = components.partition(":")
    return ("neurons_pre" if kind == "neurons" else kind) + colon + count


def _listed(names: str) -> list[str]:
    """What commas separate."""
    return [name.strip() for name in names.split(",") if name.strip()]


@app.callback()
def main() -> None:
    """Activation patching and its first- and second-order estimates, from the command line."""
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)


@app.command()
def sweep(
    model: _Model = "smollm2-135m",
    task: Annotated[str, typer.Option(help=f"Task: {', '.join(TASKS)}.")] = "ioi",
    estimators: _Estimators = "activation_patching,attribution_patching,hvp",
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 20,
    components: _Components = "heads",
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
    device: _Device = None,
) -> None:
    """Run estimators on many prompts and store the results.

    What the store already holds is not computed again, so the command can be interrupted (Ctrl-C)
    and repeated, and asking for more prompts or estimators extends the file. Ends with the top-5
    relative error of each estimate against activation patching, where that was among them.

    Example: ``python -m hvp_utils sweep --task ioi --estimators activation_patching,hvp,ms_hvp:5``
    """
    from hvp_utils import stats
    from hvp_utils import sweep as run_sweep

    names = _listed(estimators)
    kind = _kind(components)
    try:
        results = run_sweep(
            model,
            task,
            names,
            prompts,
            seed,
            cast("Direction", direction),
            kind,
            store,
            top,
            device,
        )
    except (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError) as error:
        _fail(error)
    typer.echo(f"{results.sizes['prompt']} prompts, {results.sizes['component']} components.")
    if "activation_patching" in results:
        truth = results.activation_patching
        k = min(5, results.sizes["component"], top or 5)  # what top left out is NaN
        for name in names:
            if name != "activation_patching" and not name.startswith(_NO_ESTIMATES):
                error = stats.top_k_relative_error(results[name], truth, k).mean()
                typer.echo(f"{name:>24}: top-{k} relative error {error:6.2f} %, mean over prompts")


@app.command()
def top(
    model: _Model = "smollm2-135m",
    task: Annotated[
        str, typer.Option(help=f"Task, where no prompts are given: {', '.join(TASKS)}.")
    ] = "ioi",
    clean: Annotated[str | None, typer.Option(help="A prompt.")] = None,
    corrupted: Annotated[
        str | None, typer.Option(help="The same with another answer, and as many tokens.")
    ] = None,
    answer: Annotated[
        str | None, typer.Option(help='The answer to the clean prompt: one token, as in " Mary".')
    ] = None,
    wrong: Annotated[
        str | None,
        typer.Option(
            help="A token whose logit is subtracted; without it the metric is the log-probability."
        ),
    ] = None,
    prompts: Annotated[
        int, typer.Option(min=1, help="Prompts of the task; effects are means.")
    ] = 1,
    components: _Components = "heads",
    k: Annotated[int, typer.Option("--k", min=1, help="How many effects are wanted.")] = 5,
    patched: Annotated[
        int | None, typer.Option(min=0, help="How many components are patched exactly.")
    ] = None,
    direction: Annotated[
        str, typer.Option(help="denoising (patch the corrupted run towards clean) or noising.")
    ] = "denoising",
    seed: Annotated[int, typer.Option(help="Seed of the prompts and of sampled neurons.")] = 0,
    device: _Device = None,
) -> None:
    """Find the largest effects as the book recommends: choose cheaply, then patch exactly.

    Example: ``python -m hvp_utils top --clean "The capital of France is" --corrupted "The capital
    of Italy is" --answer " Paris"``
    """
    from hvp_utils import PatchedMetric, PromptPair, load_model, make_prompts, top_effects

    given = {"--clean": clean, "--corrupted": corrupted, "--answer": answer}
    missing = [name for name, text in given.items() if text is None]
    try:
        if 0 < len(missing) < 3 or (wrong is not None and missing):
            raise ValueError(f"a prompt of your own needs {', '.join(missing)} too.")
        loaded = load_model(model, device=device)
        if missing:
            pairs = make_prompts(task, loaded, prompts, seed)
        else:
            metric = "log_prob" if wrong is None else "logit_diff"
            assert clean is not None  # nothing is missing
            pairs = PromptPair(clean, corrupted, answer, wrong, metric)
        M = PatchedMetric(loaded, pairs, _kind(components), cast("Direction", direction), seed=seed)
        found = top_effects(M, k, patched, seed)
    except (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError) as error:
        _fail(error)
    signed: dict[str | int, Callable[..., str]] = {
        name: "{:+.3f}".format for name in ("effect", "f_ap", "r")
    }
    typer.echo(found.to_string(index=False, formatters=signed | {"runs": "{:.2f}".format}))
    about = found.attrs
    typer.echo(
        f"\nThe metric of the base run is {M.base:+.3f}, of the other {M.other:+.3f}. "
        f"{about['patched']:,} of {about['n']:,} components were patched exactly. Counted by "
        f"operations it all cost {about['runs']:,.1f} runs with one component patched, "
        f"{about['percent']:.2g} % of patching each."
    )
    if about["doubtful"]:
        names = ", ".join(about["doubtful"][:8]) + (", ..." if len(about["doubtful"]) > 8 else "")
        typer.echo(f"Not patched, and perhaps as large: {names}. Give a larger --patched.")


@app.command()
def plan(
    model: _Model = "smollm2-135m",
    components: _Components = "heads",
    estimators: _Estimators = "activation_patching,attribution_patching,hvp",
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 20,
    run: Annotated[
        int | None,
        typer.Option(
            min=1, help="Tokens from the first difference of the prompts on; by default all."
        ),
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Number of prompts.")] = 1,
    rate: Annotated[
        float | None,
        typer.Option(
            help="FLOP/s of float32 matrix products, such as 4e13; measured if not given."
        ),
    ] = None,
    device: _Device = None,
) -> None:
    """Tell what estimators will cost, without loading the model.

    Prints for each estimator its passes for one prompt, their price in runs with one component
    patched, the time for all prompts, and the memory of each run.

    Example: ``python -m hvp_utils plan --model llama-3.1-8b --components neurons --rate 4e13``
    """
    from hvp_utils import model_sizes
    from hvp_utils import plan as make_plan
    from hvp_utils.plans import batch_tokens, measure_rate

    names = _listed(estimators)
    components = _kind(components)
    try:
        sizes, n_run = model_sizes(model), run or tokens
        n = sizes.n_components(components, n_run)
        speed = rate
        if rate is None:
            speed = measure_rate(device, sizes.d_model, sizes.d_mlp)
        assert speed is not None  # given or measured
        batch = max(1, batch_tokens(device) // n_run)
        plans = make_plan(sizes, components, names, tokens, n_run, prompts, speed, batch_size=batch)
    except (ValueError, TypeError, OSError) as error:
        _fail(error)
    source = "Measured" if rate is None else "Given"
    typer.echo(
        f"{model}, {components}: {n:,} components. Prompts: {prompts:,}, of {tokens} tokens "
        f"each, {n_run} of them run.\n{source} rate: {speed:.2g} FLOP/s. "
        f"Weights in float32: {_readable(4 * sizes.n_parameters, _BYTES)}.\n"
    )
    rows = [("estimator", "forward equivalents", "time", "memory of a run", "passes for a prompt")]
    for p in plans:
        rows.append(
            (
                p.estimator,
                f"{p.forward_equivalents:,.1f}",
                _readable(p.seconds, _TIMES),
                _readable(p.run_bytes, _BYTES),
                ", ".join(f"{count:,} {kind}" for kind, count in p.passes.items()),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers, last in rows:
        cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=False)]
        typer.echo("  ".join([name.ljust(widths[0]), *cells, last]))
    typer.echo(
        "\nThe times are those of the matrix products alone, at that rate. Attention's softmax, "
        "norms, activation functions, reading the weights, the launching of operations and the "
        "preparation of a prompt are left out. Real runs take longer: with the book's model on a "
        "CPU, two to three times as long in full batches, and ten times for one gradient of a "
        "short prompt."
    )


_TIMES = {"ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400}
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def _readable(amount: float, units: dict[str, float]) -> str:
    """An amount in the largest unit that is not larger than it: ``3.2 h``."""
    unit = max(
        (u for u in units if units[u] <= amount),
        key=cast("Callable[[str], float]", units.get),
        default=next(iter(units)),
    )
    return f"{amount / units[unit]:.3g} {unit}"


if __name__ == "__main__":
    app()
