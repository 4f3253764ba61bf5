"""Directives that show what was recorded when the book was made, and what its sources say.

`{notebook-status}` reads the metadata that tools/run_notebooks.py leaves in every executed chapter;
`{benchmark-results}` reads what benchmarks/run.py wrote. Both read at build time, so that no number
on those pages is typed by hand.
"""

import json
import re
from pathlib import Path

import yaml
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


KINDS = {  # the columns of the table of architectures
    "heads": ("heads", "mlp_out", "resid"),
    "queries, keys, values": ("queries", "keys", "values"),
    "neurons": ("neurons_pre", "neurons_post"),
    "edges": ("edges",),
}


def architectures(root: Path) -> tuple[str, list[Path]]:
    """Return a table of what agrees with plain hooks, and why the rest is refused, and its file."""
    file = root / "book" / "_static" / "architectures.json"
    rows, reasons = [], []
    for found in json.loads(file.read_text(encoding="utf-8")).values():
        marks = []
        for kinds in KINDS.values():
            refused = [found[kind] for kind in kinds if found[kind] != "agrees"]
            if not refused:
                marks.append("yes")
                continue
            why = re.split(r" (?:are not supported: |has |have )", refused[0], maxsplit=1)[-1]
            why = re.split(r"(?<=[^.])\. ", why, maxsplit=1)[0].rstrip(".")
            why = re.sub(r"blocks\.\d+\.[\w.]+", "a hook", why)
            why = re.sub(r"\((\w+) = [\d.]+\)", r"(\1)", why)
            why = re.sub(r"^layers of type \w+: ", "", why)
            why = re.sub(r"^(latent attention).*", r"\1: heads share compressed activations", why)
            if why not in reasons:
                reasons.append(why)
            marks.append(f"no ({reasons.index(why) + 1})")
        rows.append([f"`{found['class']}`", *marks])
    notes = "\n".join(f"{i}. {why[0].upper()}{why[1:]}." for i, why in enumerate(reasons, 1))
    return f"{table(['Class', *KINDS], rows)}\nWhy not:\n\n{notes}\n", [file]


def problem_sets(root: Path) -> tuple[str, list[Path]]:
    """Return a table of the problem sets, with links that follow _config.yml, and its files."""
    config = root / "_config.yml"
    files = sorted((root / "coursework").glob("[0-9]_*.py"))
    repository = yaml.safe_load(config.read_text(encoding="utf-8"))["repository"]
    place = repository["url"].removeprefix("https://github.com/") + f"/blob/{repository['branch']}"
    rows = []
    for file in files:
        text = file.read_text(encoding="utf-8")
        head = " ".join(re.sub(r"^# ?", "", text[:3000], flags=re.MULTILINE).split())
        number, title = re.search(r"^# # Problem set (\d)\. (.+)$", text, re.MULTILINE).groups()
        needs, points = re.search(
            r"\*\*You need\*\* chapters? (.+?)(?: of the book.*?)?\..*?\*\*Points\*\*: (\d+)", head
        ).groups()
        notebook = f"coursework/student/set{number}/set{number}.ipynb"
        rows.append(
            [
                number,
                title,
                needs,
                str(len(re.findall(r"^# # BEGIN QUESTION$", text, re.MULTILINE))),
                points,
                f"[Colab](https://colab.research.google.com/github/{place}/{notebook})",
                f"[notebook](https://github.com/{place}/{notebook})",
            ]
        )
    header = ["Set", "About", "After chapters", "Exercises", "Points", "Open", "Look at"]
    return table(header, rows), [config, *files]


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


class Architectures(RecordedTable):
    """`{architectures}`: what agrees with plain hooks, as tests/test_architectures.py saw."""

    read = staticmethod(architectures)


class ProblemSets(RecordedTable):
    """`{problem-sets}`: what the problem sets say of themselves."""

    read = staticmethod(problem_sets)


def setup(app) -> dict:
    """Register the directives."""
    app.add_directive("notebook-status", NotebookStatus)
    app.add_directive("benchmark-results", BenchmarkResults)
    app.add_directive("architectures", Architectures)
    app.add_directive("problem-sets", ProblemSets)
    return {"parallel_read_safe": True}
