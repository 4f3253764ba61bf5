"""Run one notebook of a problem set and then its tests: what `make grade` starts for each student.

This is the process that a student's code runs in, so nothing that it says is believed beyond which
tests passed. It speaks over the two streams that it was started with, one JSON text a line: it gets
the notebook, says that it has run it, gets the tests, and answers with each question's results. The
tests are not sent before the student's cells have run, and lie in no file.
"""

import contextlib
import json
import os
import resource
import signal
import sys


class TimeUp(BaseException):
    """One cell or one question took too long. No `except Exception` of a student's stops it."""


@contextlib.contextmanager
def time_limit(seconds: float):
    """Stop Python code that runs for longer, in the main thread."""

    def stop(*_):
        raise TimeUp(f"stopped after {seconds:.0f} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def results(namespace: dict, text: str, path: str, seconds: float = 600) -> list[dict]:
    """Run one question's test file, by otter, on the names that a notebook defined.

    Returns:
        For each test, in order: whether it passed, and the message.
    """
    from otter.test_files.exception_test import ExceptionTestFile

    tests = ExceptionTestFile.from_string(text, path)
    try:
        with time_limit(seconds):
            tests.run(namespace)
    except (TimeUp, SystemExit, KeyboardInterrupt) as error:
        message = f"{type(error).__name__}: {error}"
        return [{"passed": False, "message": message} for _ in tests.test_cases]
    return [{"passed": r.passed, "message": r.message or ""} for r in tests.test_case_results]


def run_cells(cells: list[str], seconds: float) -> tuple[dict, list[str]]:
    """Run code cells as Jupyter would, each in spite of errors in those before.

    Returns:
        The names that they define, and what went wrong, cell by cell.
    """
    from IPython.core.interactiveshell import InteractiveShell

    shell, errors = InteractiveShell.instance(), []
    for number, source in enumerate(cells, start=1):
        try:
            with time_limit(seconds):
                result = shell.run_cell(source)
        except (TimeUp, SystemExit) as stopped:
            errors.append(f"code cell {number}: {type(stopped).__name__}: {stopped}")
            continue
        error = result.error_before_exec or result.error_in_exec
        if error is not None:
            errors.append(f"code cell {number}: {type(error).__name__}: {error}")
    return shell.user_ns, errors


def main():
    """Serve one notebook."""
    hear = os.fdopen(os.dup(0), "r", encoding="utf-8")
    say = os.fdopen(os.dup(1), "w", encoding="utf-8")
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what a student prints is no answer

    def answer(**what):
        say.write(json.dumps(what) + "\n")
        say.flush()

    task = json.loads(hear.readline())
    for kind, most in (("RLIMIT_DATA", task["memory"]), ("RLIMIT_FSIZE", task["file"])):
        if hasattr(resource, kind):
            resource.setrlimit(getattr(resource, kind), (most, most))
    namespace, errors = run_cells(task["cells"], task["seconds"])
    answer(errors=errors)
    for question, text in json.loads(hear.readline()).items():
        answer(question=question, results=results(namespace, text, question, task["seconds"]))
    answer(finished=True)
    sys.stdout.flush()
    os._exit(0)  # whatever threads a student left


if __name__ == "__main__":
    main()
