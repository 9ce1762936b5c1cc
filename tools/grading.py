"""Grade a class: ``make grade ASSIGNMENT=vae SUBMISSIONS=folder``.

Every submission is executed in a sandbox of its own (:mod:`tools.sandbox`). What its functions
return for fresh random inputs comes out as plain arrays, and the hidden tests judge the arrays
here, in another process. Each finished submission is a JSON file in the results folder: a run that
was stopped goes on where it was.
"""

import argparse
import csv
import hashlib
import io
import json
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save_file as save_tensors
from tqdm import tqdm

from tools import assignments, run_submission, sandbox
from tools.sandbox import Limits
from tools.written import (
    TEMPLATES,
    Marks,
    extend_marks,
    no_formula,
    read_marks,
    replace_text,
    write_page,
)

LARGEST = 20 << 20  # bytes of a notebook


class Refused(Exception):
    """A submission that is not even run; the message says why."""


class Stopped(Exception):
    """Somebody stopped the grading; the message says how far it came."""


@dataclass(frozen=True)
class Job:
    """One submission to grade."""

    student: str
    path: Path
    slug: str
    key: str  # of the assignment: results hold for it alone
    results: Path
    package: Path  # aecore with what answers a question switched off
    limits: Limits
    unsafe: bool

    @property
    def result(self) -> Path:
        """Where its result is kept."""
        return self.results / "submissions" / f"{self.student}.json"


# --- reading what was handed in ------------------------------------------------------------------


def submissions(folder: Path) -> dict[str, Path]:
    """The submissions in a folder, by student: notebooks, archives, and folders with one of them.

    Raises:
        ValueError: If there are none, or two of one name.
    """
    if not folder.is_dir():
        raise ValueError(f"SUBMISSIONS must be a folder, and {folder} is none")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        name = path.name if path.is_dir() else path.stem
        if name in found:
            raise ValueError(f"two submissions of the name {name}: {found[name].name}, {path.name}")
        found[name] = path
    if not found:
        raise ValueError(f"there is no submission in {folder}")
    return found


def read_notebook(path: Path) -> bytes:
    """The bytes of a submission's notebook; they are not looked into here.

    Raises:
        Refused: If there is no notebook, more than one, or one that is too large.
    """
    if path.is_dir():
        inside = sorted(p for p in path.rglob("*") if p.suffix in (".ipynb", ".zip"))
        inside = [p for p in inside if p.is_file() and not p.is_symlink()]
        if len(inside) != 1:
            raise Refused(f"the folder must hold one notebook or archive, and holds {len(inside)}")
        return read_notebook(inside[0])
    if path.is_symlink() or not path.is_file():
        raise Refused("this is no ordinary file")
    if path.suffix == ".ipynb":
        with path.open("rb") as stream:
            return _at_most(stream, path.name)
    if path.suffix != ".zip":
        raise Refused(f"a submission is a notebook or a zip archive, not {path.suffix or 'this'}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            for name in names:
                if name.startswith(("/", "\\")) or ".." in Path(name).parts or ":" in name:
                    raise Refused(f"the archive holds a file outside of its folder: {name[:100]}")
            notebooks = [n for n in names if n.endswith(".ipynb") and "checkpoint" not in n]
            if len(notebooks) != 1:
                raise Refused(f"the archive must hold one notebook, and holds {len(notebooks)}")
            with archive.open(notebooks[0]) as stream:
                return _at_most(stream, notebooks[0])
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise Refused(f"the archive cannot be read: {error}") from error


def _at_most(stream, name: str) -> bytes:
    content = stream.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise Refused(f"{name} is larger than {LARGEST >> 20} MiB")
    return content


# --- one submission ------------------------------------------------------------------------------


def grade(job: Job) -> None:
    """Grade one submission and write its result; whatever it is, this returns."""
    started = time.monotonic()
    assignment = assignments.read(job.slug)
    record: dict = {"student": job.student, "key": job.key, "digest": "", "reason": ""}
    record |= {"cells": [], "written": {}, "tests": []}
    seed = secrets.randbits(32)
    try:
        notebook = read_notebook(job.path)
        record["digest"] = hashlib.sha256(notebook).hexdigest()
        values, report = execute(assignment, notebook, seed, job)
        record["cells"], record["written"] = report["cells"], report["written"]
        record["reason"] = report["fatal"]
    except Refused as error:
        values, report = {}, {"errors": {}}
        record["reason"] = str(error)
    for test in assignment.hidden:
        said = record["reason"] or report["errors"].get(test.name, "")
        message = said or judge(test, seed, values)
        points = 0.0 if message else test.points
        record["tests"].append(
            {"name": test.name, "about": test.about, "points": test.points}
            | {"earned": points, "message": message}
        )
    record["total"] = sum(test["earned"] for test in record["tests"])
    record["seed"] = seed
    record["seconds"] = round(time.monotonic() - started, 1)
    job.result.parent.mkdir(parents=True, exist_ok=True)
    partial = job.result.with_suffix(f".{os.getpid()}.partial")
    partial.write_text(json.dumps(record, indent=1))
    os.replace(partial, job.result)


def draw(test: assignments.HiddenTest, seed: int) -> dict[str, torch.Tensor]:
    """The inputs of a hidden test: the same for a seed."""
    functions = test.functions()
    if "draw" not in functions:
        return {}
    number = int.from_bytes(hashlib.sha256(f"{seed} {test.name}".encode()).digest()[:4], "big")
    return functions["draw"](torch.Generator().manual_seed(number))


def execute(
    assignment: assignments.Assignment, notebook: bytes, seed: int, job: Job
) -> tuple[dict[str, dict[str, torch.Tensor]], dict]:
    """Run a notebook in the sandbox; give what its functions returned, by test, and a report.

    Raises:
        Refused: If nothing usable came out.
    """
    if not (job.package / "aecore").is_dir():  # on a worker that does not see this folder, say
        raise FileNotFoundError(f"{job.package} holds no aecore, or cannot be seen from here")
    with tempfile.TemporaryDirectory(prefix="aecore-grade-") as folder:
        inside = Path(folder, "job")
        inside.mkdir()
        Path(folder).chmod(0o755)
        (inside / "submission.ipynb").write_bytes(notebook)
        shutil.copy(run_submission.__file__, inside / "run_submission.py")
        calls = [assignments.PREAMBLE, "CALLS = {}"]
        inputs = {}
        for test in assignment.hidden:
            calls += [test.call_source(), f"CALLS[{test.name!r}] = call"]
            inputs |= {f"{test.name}/{key}": value for key, value in draw(test, seed).items()}
        (inside / "calls.py").write_text("\n".join(calls))
        save_tensors({k: v.contiguous() for k, v in inputs.items()}, inside / "inputs.safetensors")
        for path in inside.iterdir():
            path.chmod(0o644)  # whoever it is that runs inside
        if job.unsafe:
            scratch = Path(folder, "home")
            scratch.mkdir()
            command = [sys.executable, inside / "run_submission.py", inside, scratch]
            run = sandbox.run(
                [str(word) for word in command],
                inside,
                job.package,
                job.limits,
                scratch=scratch,
            )
        else:
            script = f"{sandbox.JOB}/run_submission.py"
            command = [sys.executable, script, str(sandbox.JOB), str(sandbox.HOME)]
            run = sandbox.run(command, inside, job.package, job.limits)
    if run.ended_because:
        raise Refused(f"it was ended: {run.ended_because}")
    try:
        tensors = load_tensors(run.output)
        report = json.loads(bytes(tensors.pop("report").to(torch.uint8).tolist()))
        report = {
            "fatal": str(report["fatal"])[:1000],
            "cells": [(int(n), str(text)[:1000]) for n, text in report["cells"][:20]],
            "errors": {str(k): str(v)[:1000] for k, v in report["errors"].items()},
            "written": {str(k): str(v)[:10_000] for k, v in report["written"].items()},
        }
    except Exception as error:  # whatever came, it is no answer
        raise Refused(f"its process ended without an answer: {_last(run.messages)}") from error
    values: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.partition("/")
        values.setdefault(name, {})[part] = tensor
    return values, report


def _last(messages: str) -> str:
    lines = [line for line in messages.strip().splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def judge(test: assignments.HiddenTest, seed: int, values: dict) -> str:
    """What is wrong with the values that a submission gave for a test; empty if nothing is."""
    from aecore.checks.mistakes import CheckFailed, compare

    if test.name not in values:
        return "there is no answer"
    functions = test.functions()
    inputs = draw(test, seed)
    parts = values[test.name]
    value = parts["value"] if set(parts) == {"value"} else parts
    try:
        if "grade" in functions:
            functions["grade"](value, **inputs)
        else:
            right = functions["expected"](**inputs)
            parts = right if isinstance(right, dict) else {"value": right}
            for name, tensor in parts.items():
                given = value[name] if isinstance(value, dict) else value
                compare(given, tensor, inputs=inputs, mistakes=test.mistakes(), hints=2)
    except CheckFailed as error:
        return str(error)
    except Exception as error:  # an answer of the wrong kind can fail in any way
        return str(error).strip().splitlines()[0][:500] if str(error) else type(error).__name__
    return ""


# --- a class -------------------------------------------------------------------------------------


def assignment_key(slug: str, limits: Limits) -> str:
    """Everything that a result depends on, but for the submission itself."""
    files = [assignments.SOURCES / f"{slug}.md", *sorted(Path("aecore").rglob("*.py"))]
    modules = (assignments, run_submission, sandbox, sys.modules[__name__])
    files += [Path(str(module.__file__)) for module in modules]
    parts = [path.read_bytes() for path in files] + [repr(limits).encode()]
    return hashlib.sha256(b"".join(hashlib.sha256(p).digest() for p in parts)).hexdigest()


def finished(job: Job) -> bool:
    """Whether a result is there that holds for this very submission and assignment."""
    try:
        record = json.loads(job.result.read_text())
        if record["key"] != job.key:
            return False
        if not record["digest"]:
            return False
        return record["digest"] == hashlib.sha256(read_notebook(job.path)).hexdigest()
    except (OSError, ValueError, KeyError, Refused):
        return False


def grade_class(
    slug: str,
    folder: Path,
    results: Path,
    *,
    n_jobs: int = 2,
    limits: Limits | None = None,
    unsafe: bool = False,
    dask: str = "",
    again: bool = False,
) -> Path:
    """Grade a folder of submissions; gives the table of grades.

    Raises:
        ValueError: If there is nothing to grade, or no sandbox to grade it in.
    """
    if not unsafe and (lack := sandbox.missing()):
        raise ValueError(
            f"no sandbox can be had here: {lack}.\nStudents' code would run with your rights, see "
            "your files, and could change the grades. If every one of them is to be trusted with "
            "that, give UNSAFE=1."
        )
    limits = limits or Limits()
    assignment = assignments.read(slug)
    marks = read_marks(assignment, results / "marks.csv")
    results = results.absolute()
    package = results / f"package-{secrets.token_hex(4)}"  # of this run: no other may touch it
    key = assignment_key(slug, limits)
    jobs = [
        Job(student, path.absolute(), slug, key, results, package, limits, unsafe)
        for student, path in submissions(folder).items()
    ]
    if unknown := sorted(marks.keys() - {no_formula(job.student) for job in jobs}):
        print(f"marks.csv has marks of nobody here: {', '.join(unknown)}", file=sys.stderr)
    todo = [job for job in jobs if again or not finished(job)]
    for job in todo:
        job.result.unlink(missing_ok=True)
    if len(todo) < len(jobs):
        print(f"{len(jobs) - len(todo)} of {len(jobs)} are graded already.", file=sys.stderr)
    backend = _dask(dask) if dask else nullcontext()
    try:
        assignments.write_package(assignment, package)
        with backend, _bar(todo):
            workers = joblib.Parallel(n_jobs=-1 if dask else n_jobs)
            workers(joblib.delayed(grade)(job) for job in todo)
    except KeyboardInterrupt:
        done = sum(job.result.exists() for job in jobs)
        raise Stopped(
            f"Stopped: {done} of {len(jobs)} are graded. The same command goes on from here."
        ) from None
    finally:
        shutil.rmtree(package, ignore_errors=True)
    records = [json.loads(job.result.read_text()) for job in jobs]
    for record in records:
        given = marks.get(no_formula(record["student"]), Marks())
        page = results / "feedback" / f"{record['student']}.html"
        write_feedback(assignment, record, given, page)
    if any(question.manual for question in assignment.questions):
        extend_marks(assignment, [job.student for job in jobs], results / "marks.csv")
        write_page(assignment, records, results / "written.html")
    return write_grades(assignment, records, marks, results / "grades.csv")


def _dask(address: str):
    """The one setting that sends the submissions to a Dask cluster instead."""
    from distributed import Client

    client = Client(address)
    return joblib.parallel_config(backend="dask", client=client)


class _bar:
    """A progress bar that counts the results as they appear, whoever computes them."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.jobs, self.over = jobs, threading.Event()

    def __enter__(self) -> None:
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()

    def watch(self) -> None:
        with tqdm(total=len(self.jobs), desc="graded", unit="submission", disable=None) as bar:
            while True:
                over = self.over.wait(0.5)
                bar.update(sum(job.result.exists() for job in self.jobs) - bar.n)
                if over:
                    return

    def __exit__(self, *_: object) -> None:
        self.over.set()
        self.thread.join()


def write_grades(
    assignment: assignments.Assignment,
    records: Sequence[dict],
    marks: Mapping[str, Marks],
    path: Path,
) -> Path:
    """The table of grades: a row a student; what no human has graded yet is empty."""
    automatic = [question.name for question in assignment.questions if not question.manual]
    manual = [question for question in assignment.questions if question.manual]
    written = [f"{question.name} (by hand, of {question.points:g})" for question in manual]
    table = io.StringIO()
    writer = csv.writer(table)
    writer.writerow(["student", "total", *automatic, *written, "remark"])
    for record in records:
        earned = dict.fromkeys(automatic, 0.0)
        for test in record["tests"]:
            earned[test["name"].split(".")[0]] += test["earned"]
        cells = [f"{earned[name]:g}" for name in automatic]
        student, remark = (no_formula(record[key]) for key in ("student", "reason"))
        given = marks.get(student, Marks()).points
        cells += [f"{given[q.name]:g}" if q.name in given else "" for q in manual]
        writer.writerow([student, f"{record['total']:g}", *cells, remark])
    replace_text(path, table.getvalue())
    return path


def write_feedback(
    assignment: assignments.Assignment, record: dict, marks: Marks, path: Path
) -> None:
    """The page for one student; everything from the submission is escaped."""
    questions = [
        asdict(question)
        | {"tests": [t for t in record["tests"] if t["name"].split(".")[0] == question.name]}
        for question in assignment.questions
    ]
    page = TEMPLATES.get_template("feedback.html.j2").render(
        title=assignment.title,
        subject=record["student"],
        record=record,
        questions=questions,
        marks=marks.points,
        comment=marks.comment,
    )
    replace_text(path, page)


def main(arguments: Sequence[str] | None = None) -> None:
    """Grade a class; print where the grades are."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog="python -m tools.grading")
    parser.add_argument("assignment")
    parser.add_argument("submissions", type=Path)
    parser.add_argument("--results", type=Path, help="default: _build/grades/<assignment>")
    parser.add_argument("--jobs", type=int, default=2, help="submissions at a time")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="for each of them")
    parser.add_argument("--memory", type=float, default=Limits.memory / 2**30, help="in GiB")
    parser.add_argument("--dask", default="", help="address of a Dask scheduler")
    parser.add_argument("--again", action="store_true", help="grade all once more, on new inputs")
    parser.add_argument("--unsafe", action="store_true", help="run students' code with your rights")
    options = parser.parse_args(arguments)
    results = options.results or Path("_build/grades", options.assignment)
    try:
        table = grade_class(
            options.assignment,
            options.submissions,
            results,
            n_jobs=options.jobs,
            limits=Limits(seconds=options.seconds, memory=int(options.memory * 2**30)),
            unsafe=options.unsafe,
            dask=options.dask,
            again=options.again,
        )
    except (ValueError, Stopped) as error:
        sys.exit(str(error))
    made = (table, table.with_name("feedback"), table.with_name("written.html"))
    print(*filter(Path.exists, made), sep="\n")


if __name__ == "__main__":
    main()
