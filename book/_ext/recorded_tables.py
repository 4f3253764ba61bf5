"""Two directives that show what was recorded when the book was made.

`{notebook-status}` reads the metadata that tools/run_notebooks.py leaves in every executed chapter;
`{benchmark-results}` reads what benchmarks/run.py wrote. Both read at build time, so that no number
on those pages is typed by hand.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def seconds(value: float | None) -> str:
    """Return a duration with three digits, or a dash where none was measured."""
    return "–" if value is None else f"{value:.3g} s"


def notebook_status(root: Path) -> tuple[str, list[Path]]:
    """Return the status page's Markdown and the files it was read from."""
    folders = (root / "notebooks", root / "notebooks" / "evidence")
    files = [file for folder in folders for file in sorted(folder.glob("[0-9][0-9]_*.ipynb"))]
    rows, machines = [], []
    for file in files:
        run = json.loads(file.read_text(encoding="utf-8"))["metadata"].get("hvp_book")
        chapter = f"[](/{file.relative_to(root).with_suffix('').as_posix()})"
        if run is None:
            rows.append([chapter, *["not executed"] * 7])
            continue
        machine = {**run["hardware"], **run["versions"]}
        if machine not in machines:
            machines.append(machine)
        rows.append(
            [
                chapter,
                f"{run['seconds']:.0f} s",
                run["date"].replace("T", " ").replace("Z", " UTC"),
                run["model"],
                run["device"],
                run["dtype"],
                str(machines.index(machine) + 1),
                f"`{run['revision'].split('+')[0][:11]}`"
                + " + changes" * run["revision"].endswith("+dirty"),
            ]
        )
    header = ["Chapter", "Run time", "Executed", "Model", "Device", "dtype", "Machine", "Revision"]
    names = [["**Machine**", *(str(n + 1) for n in range(len(machines)))]]
    labels = {"cpu": "processor", "memory_gb": "memory (GB)", "gpu": "graphics card"}
    for key in machines[0] if machines else ():
        names.append([labels.get(key, key), *(str(machine.get(key, "–")) for machine in machines)])
    parts = [table(header, rows) if rows else "No chapter has been executed yet.\n"]
    if machines:
        parts.append(table(names[0], names[1:]))
    return "\n".join(parts), files


def benchmark_results(root: Path) -> tuple[str, list[Path]]:
    """Return the benchmark page's Markdown and the files it was read from."""
    file = root / "benchmarks" / "results.json"
    if not file.exists():
        return "No benchmark has been recorded yet: `make bench` runs them.\n", []
    results = json.loads(file.read_text(encoding="utf-8"))
    rows = [
        [
            str(row["name"]),
            str(row["what"]),
            seconds(row.get("seconds")),
            "–" if row.get("ratio") is None else f"{row['ratio']:.3g}×",
            str(row.get("target") or "–"),
            str(row.get("note") or ""),
        ]
        for row in results["rows"]
    ]
    machine = "; ".join(f"{key}: {value}" for key, value in results["machine"].items())
    header = ["Name", "What is timed", "Time", "Ratio", "Target", "Note"]
    return f"{table(header, rows)}\nMeasured on this machine: {machine}.\n", [file]


class RecordedTable(Directive):
    """A directive without content that parses the Markdown which `read` returns."""

    def run(self) -> list[nodes.Node]:
        """Return the parsed tables, and rebuild the page whenever a file behind them changes."""
        env = self.state.document.settings.env
        markdown, files = self.read(Path(env.srcdir))
        for file in files:
            env.note_dependency(str(file))
        container = nodes.container()
        self.state.nested_parse(StringList(markdown.splitlines(), ""), 0, container)
        return container.children


class NotebookStatus(RecordedTable):
    """`{notebook-status}`: when, where and for how long every chapter ran."""

    read = staticmethod(notebook_status)


class BenchmarkResults(RecordedTable):
    """`{benchmark-results}`: the recorded speed measurements."""

    read = staticmethod(benchmark_results)


def setup(app) -> dict:
    """Register the directives."""
    app.add_directive("notebook-status", NotebookStatus)
    app.add_directive("benchmark-results", BenchmarkResults)
    return {"parallel_read_safe": True}
