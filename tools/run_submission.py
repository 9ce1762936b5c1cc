"""Inside the sandbox: execute a submission under papermill, then call what it defines.

    python run_submission.py JOB HOME

JOB holds ``submission.ipynb``, ``calls.py`` (functions that call the student's) and
``inputs.safetensors`` (their arguments). Standard output gets one safetensors file: what the
calls returned, and under ``report`` a JSON text with what went wrong. Nothing here is secret, and
whoever reads it takes it for no more than what the student's code says.
"""

import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

MESSAGE = 500  # characters of an error message that are kept
VALUES = "values.safetensors"
ERRORS = "errors.json"
UNANSWERED = "_Type your answer here, replacing this text._"  # otter's words


class Student(SimpleNamespace):
    """What a submission defines."""

    def __getattr__(self, name: str) -> object:
        """Say that something is missing, for what is there is found before."""
        raise NameError(f"the notebook defines no {name}")


class Missing(Exception):
    """A question without an answer."""


def brief(error: BaseException) -> str:
    """An error in one short text."""
    kind = "" if isinstance(error, Missing) else f"{type(error).__name__}: "
    return f"{kind}{error}"[:MESSAGE]


def harvest(names: dict, job: str, home: str) -> None:
    """In the student's kernel: call the functions that it holds, and write what they return."""
    import torch
    from safetensors.torch import load_file, save_file

    inputs: dict = {}
    for key, tensor in load_file(Path(job, "inputs.safetensors")).items():
        test, _, argument = key.partition("/")
        inputs.setdefault(test, {})[argument] = tensor
    calls: dict = {}
    exec(Path(job, "calls.py").read_text(), calls)
    student = Student(**{name: value for name, value in names.items() if name[0] != "_"})
    values, errors = {}, {}
    for test, call in calls["CALLS"].items():
        try:
            value = call(student, **inputs.get(test, {}))
            if isinstance(value, (tuple, list)):
                value = {str(number): item for number, item in enumerate(value)}
            if not isinstance(value, dict):
                value = {"value": value}
            for name, item in value.items():
                if item is None or item is Ellipsis:
                    raise Missing("there is no answer: what you wrote returns nothing")
                tensor = torch.as_tensor(item).detach().cpu()
                values[f"{test}/{name}"] = tensor.clone().contiguous()
        except BaseException as error:  # sys.exit too costs this answer alone
            errors[test] = brief(error)
    save_file(values, Path(home, VALUES))
    Path(home, ERRORS).write_text(json.dumps(errors))


def main(job: Path, home: Path) -> None:
    """Execute the submission, and write its values to standard output."""
    # a grammar of addresses, a second to build: jsonschema does without it, and so do notebooks
    sys.modules["rfc3987_syntax"] = None  # type: ignore[assignment]
    import nbformat
    import numpy as np
    import papermill
    from safetensors.numpy import load_file, save
    from traitlets.config import Config

    answers = os.dup(1)  # for the values alone: nothing else may come between
    os.dup2(2, 1)
    report: dict = {"fatal": "", "cells": [], "errors": {}, "written": {}}
    values = {}
    try:
        notebook = nbformat.read(job / "submission.ipynb", as_version=4)
    except Exception as error:
        report["fatal"] = f"this is not a notebook: {brief(error)}"
    else:
        report["written"] = written(notebook)
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        for cell in notebook.cells:  # an error costs its own question alone
            cell.metadata["tags"] = ["raises-exception"]
        source = f"import sys\nsys.path.insert(0, {str(job)!r})\nimport run_submission\n"
        source += f"run_submission.harvest(dict(globals()), {str(job)!r}, {str(home)!r})"
        notebook.cells.append(nbformat.v4.new_code_cell(source, id="harvest"))
        path = home / "notebook.ipynb"
        nbformat.write(notebook, path)
        shutil.copy(path, home / "submission.ipynb")
        try:
            papermill.execute_notebook(
                path,
                path,
                kernel_name="python3",
                cwd=home,
                progress_bar=False,
                request_save_on_cell_execute=False,
                config=Config(KernelManager={"transport": "ipc", "ip": str(home / "socket")}),
                extra_arguments=["--log-level=ERROR"],
                start_timeout=60,
            )
        except papermill.PapermillExecutionError:
            pass  # reported cell by cell
        except BaseException as error:
            report["fatal"] = f"the notebook could not be executed: {brief(error)}"
        report["cells"] = cell_errors(path)
        try:
            values = load_file(home / VALUES)
            report["errors"] = json.loads((home / ERRORS).read_text())
        except Exception as error:
            report["fatal"] = report["fatal"] or f"its answers could not be read: {brief(error)}"
    text = json.dumps(report).encode()
    values["report"] = np.frombuffer(text, dtype=np.uint8)
    with open(answers, "wb") as stream:
        stream.write(save(values))


def cell_errors(path: Path) -> list[tuple[int, str]]:
    """Which code cells of an executed notebook raised what; counted from one."""
    import nbformat

    found = []
    cells = [c for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    for number, cell in enumerate(cells, start=1):
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                found.append((number, f"{output.ename}: {output.evalue}"[:MESSAGE]))
    return found[:20]


def written(notebook: dict) -> dict[str, str]:
    """All that stands below the prompts of the questions for a human, by the questions' titles."""
    texts: dict[str, str] = {}
    title = ""
    for cell in notebook.cells:
        if "<!-- BEGIN QUESTION -->" in cell.source:
            title = next((t[3:] for t in cell.source.splitlines() if t[:3] == "## "), "")
        elif "<!-- END QUESTION -->" in cell.source:
            title = ""
        elif title and cell.source.strip() != UNANSWERED:
            texts[title] = f"{texts.get(title, '')}\n\n{cell.source}".strip()[:10_000]
    return texts


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
