"""Run the claims of one chapter on another model, and print them beside the published ones."""

import json
import sys
from pathlib import Path
from typing import Annotated

import nbformat
import run_notebooks
import typer


def claims_in(notebook: Path) -> str:
    """The table of claims that an evidence page shows, as Markdown; "" if there is none."""
    nb = nbformat.read(notebook, as_version=4)
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            text = output.get("data", {}).get("text/markdown", "")
            if text.startswith("| claim |"):
                return text
    return ""


def main(
    chapter: Annotated[int, typer.Argument(help="Number of the chapter, such as 11.")],
    model: Annotated[str, typer.Option(help="A name that load_model knows.")] = "gpt2",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda ...")] = "auto",
) -> None:
    """Execute the chapter's evidence page with the model, beside the published pages."""
    sources = [
        s
        for s in run_notebooks.pages()
        if s.parent.name == "evidence" and s.name.startswith(f"{chapter:02d}_")
    ]
    if not sources:
        known = sorted({s.name[:2] for s in run_notebooks.pages() if s.parent.name == "evidence"})
        raise typer.BadParameter(f"no evidence page {chapter:02d}; there are {', '.join(known)}.")
    (source,) = sources
    folder = run_notebooks.ROOT / "_build" / "claims" / model.replace("/", "--")
    target = folder / source.with_suffix(".ipynb").name
    try:
        run_notebooks.execute(source, target, model, device)
    except run_notebooks.NotebookError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from None
    print(claims_in(target) or "This page shows no claims.")
    published = run_notebooks.ROOT / "notebooks" / "results" / "claims" / f"{source.stem}.json"
    if published.exists():
        print("\nPublished verdicts, of the book's models:")
        for record in json.loads(published.read_text(encoding="utf-8")):
            print(f"  {record['verdict']:>22}  {record['claim']}")
    print(f"\nThe whole page: {target.relative_to(run_notebooks.ROOT)}")


if __name__ == "__main__":
    typer.run(main)
