"""Assignments: one MyST notebook each, from which everything else is generated.

    book/assignments/<slug>.md --> _build/assignments/<slug>/
        student/           the notebook without solutions, aecore as a wheel, README.md
        <slug>-student.zip the same, to hand out
        solution/          the notebook with solutions, and the archive for Gradescope

The source holds prompts, solutions and public tests in otter-grader's own format, and beside
them the hidden tests, code cells tagged ``hidden-test``, which only :mod:`tools.grading` runs.
"""

import argparse
import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib
import jupytext
import nbformat
import torch
import yaml

from aecore.checks import MISTAKES

SOURCES = Path("book/assignments")
BUILD = Path("_build/assignments")
FUNCTIONS = {"draw", "call", "expected", "grade"}  # what a hidden test may define
FENCE = re.compile(r"^```otter\n(.*?)^```$", flags=re.M | re.S)
FOR_STUDENTS = """# {title}

In this folder, once:

    python3 -m venv .venv
    . .venv/bin/activate             # on Windows: .venv\\Scripts\\activate
    pip install -r requirements.txt  # PyTorch among it: some gigabytes

Then, each time after `activate`:

    jupyter lab {slug}.ipynb

Run the first cells. Write your answer to a question, run its cell, then the cell with
`grader.check`, which says what your mistake looks like. Save the notebook before you run the last
cell: it makes the archive to hand in.
"""
PREAMBLE = "import math\n\nimport torch\n"  # what a hidden test may use


@dataclass(frozen=True)
class HiddenTest:
    """A hidden test: what is drawn, what is asked of the student's code, what is right."""

    name: str  # q1, or q1.2 for the second of its question
    question: str
    points: float
    source: str
    about: str = ""  # what it looks at, where its question has several

    def functions(self) -> dict[str, Callable]:
        """Its functions: ``call``, ``draw`` if it draws, and ``expected`` or ``grade``."""
        namespace: dict = {}
        exec(compile(PREAMBLE + self.source, f"hidden test {self.name}", "exec"), namespace)
        return {name: namespace[name] for name in FUNCTIONS & namespace.keys()}

    def mistakes(self) -> tuple:
        """The mistakes to recognise: those that ``aecore.checks`` lists for ``recognised``."""
        namespace: dict = {}
        exec(compile(PREAMBLE + self.source, f"hidden test {self.name}", "exec"), namespace)
        name = namespace.get("recognised", "")
        return MISTAKES[name] if name else ()

    def call_source(self) -> str:
        """Its ``call`` alone: all that a student's process gets to see."""
        return next(ast.unparse(n) for n in ast.parse(self.source).body if _name(n) == "call")

    def as_otter(self) -> str:
        """The same as a hidden test for otter, which runs it in the student's own process."""
        body = ast.unparse(ast.parse(self.source))
        lines = [
            f'""" # BEGIN TEST CONFIG\nhidden: true\npoints: {self.points:g}\n""" # END TEST CONFIG'
        ]
        lines.append(f"def test_{self.name.replace('.', '_')}_hidden(env):")
        lines += [f"    {line}" for line in [*PREAMBLE.splitlines(), *body.splitlines()]]
        lines.append("    from types import SimpleNamespace")
        lines.append("    from aecore.checks.mistakes import compare")
        drawn = (
            "draw(torch.Generator().manual_seed(torch.seed() % 2**31))"
            if self._has("draw")
            else "{}"
        )
        lines.append(f"    inputs = {drawn}")
        lines.append("    value = call(SimpleNamespace(**env), **inputs)")
        if self._has("grade"):
            lines.append("    grade(value, **inputs)")
        else:
            lines.append("    right = expected(**inputs)")
            lines.append("    parts = right if isinstance(right, dict) else {'': right}")
            lines.append("    for name, tensor in parts.items():")
            lines.append("        given = value[name] if isinstance(value, dict) else value")
            lines.append("        compare(torch.as_tensor(given), tensor, inputs=inputs)")
        return "\n".join(lines)

    def _has(self, name: str) -> bool:
        return any(_name(node) == name for node in ast.parse(self.source).body)


@dataclass(frozen=True)
class Question:
    """A question, as the grader needs to know it."""

    name: str
    manual: bool
    title: str
    points: float  # for a human to give, if it is manual
    rubric: str  # the model answer and how to mark it, if it is manual


@dataclass(frozen=True)
class Assignment:
    """An assignment's source, taken apart."""

    slug: str
    title: str
    notebook: nbformat.NotebookNode  # without hidden tests
    questions: tuple[Question, ...]
    hidden: tuple[HiddenTest, ...]
    switched_off: dict[str, str]  # dotted name in aecore: why


def _name(node: ast.AST) -> str:
    return getattr(node, "name", "")


def slugs() -> list[str]:
    """The assignments there are."""
    return sorted(path.stem for path in SOURCES.glob("[!_]*.md"))


def read(slug: str) -> Assignment:
    """Take an assignment's source apart.

    Raises:
        ValueError: If it is not as it must be; the message names the file and the fault.
    """
    path = SOURCES / f"{slug}.md"
    if not path.exists():
        raise ValueError(f"there is no assignment {slug!r}: choose one of {', '.join(slugs())}")
    try:
        notebook = jupytext.read(path)
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: its front matter, or a cell's, is no YAML: {error}") from error
    config = notebook.metadata.pop("assignment", {})
    cells, hidden, questions = [], [], []
    current: dict = {}
    opened: list[str] = []
    solving = False
    for cell in _unfold(notebook.cells):
        if "hidden-test" in cell.metadata.get("tags", []):
            if not current:
                raise ValueError(f"{path}: a hidden test lies outside of the questions")
            count = sum(test.question == current["name"] for test in hidden) + 1
            name = f"{current['name']}.{count}"
            if "points" not in cell.metadata:
                raise ValueError(f"{path}: hidden test {name} has no line :points:")
            test = HiddenTest(
                name,
                current["name"],
                float(cell.metadata["points"]),
                cell.source,
                cell.metadata.get("about", ""),
            )
            _check_functions(path, test)
            hidden.append(test)
            continue
        headings = re.findall(r"^## (.*)$", cell.source, flags=re.M)
        if cell.cell_type == "markdown" and current and solving:
            rubric = f"{questions[-1].rubric}\n\n{cell.source}".strip()
            questions[-1] = replace(questions[-1], rubric=rubric)
        elif cell.cell_type == "markdown" and current and headings:
            questions[-1] = replace(questions[-1], title=headings[0])
        block = cell.source if cell.cell_type == "raw" else ""
        _nest(path, block, opened)
        if block.startswith("# BEGIN QUESTION"):
            try:
                current = yaml.safe_load(block)
            except yaml.YAMLError as error:
                raise ValueError(f"{path}: this is no YAML:\n{block}\n{error}") from error
            points = float(current.get("points") or 0)
            if not current.get("manual") and points:
                raise ValueError(
                    f"{path}: the points of {current['name']} belong to its hidden tests"
                )
            manual = bool(current.get("manual"))
            questions.append(Question(current["name"], manual, "", points, ""))
        elif block.startswith(("# BEGIN SOLUTION", "# END SOLUTION")):
            solving = block.startswith("# BEGIN")
        elif block.startswith("# END QUESTION"):
            current = {}
        cells.append(cell)
    if opened:
        raise ValueError(f"{path}: there is no # END {opened[-1]} after the last # BEGIN")
    total = sum(test.points for test in hidden)
    if total != 100:
        raise ValueError(f"{path}: the points of the hidden tests must sum to 100, not {total:g}")
    graded = {test.question for test in hidden}
    if missing := [q.name for q in questions if not q.manual and q.name not in graded]:
        raise ValueError(f"{path}: no hidden test for {', '.join(missing)}")
    notebook.cells = cells
    heading = next(line for cell in cells for line in cell.source.splitlines() if line[:2] == "# ")
    return Assignment(
        slug,
        heading.lstrip("# "),
        notebook,
        tuple(questions),
        tuple(hidden),
        dict(config.get("switched_off", {})),
    )


def _unfold(cells: Sequence[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """Cells with each directive of an ```` ```otter ```` fence as a raw cell of its own."""
    unfolded = []
    for cell in cells:
        if cell.cell_type != "markdown":
            unfolded.append(cell)
            continue
        for number, part in enumerate(FENCE.split(cell.source)):
            make = nbformat.v4.new_raw_cell if number % 2 else nbformat.v4.new_markdown_cell
            pieces = re.split(r"^(?=# (?:BEGIN|END))", part, flags=re.M) if number % 2 else [part]
            unfolded += [make(piece.strip()) for piece in pieces if piece.strip()]
    return unfolded


def _nest(path: Path, block: str, opened: list[str]) -> None:
    """Follow the directives that begin and end something; what is open is kept."""
    found = re.match(r"# (BEGIN|END) (QUESTION|SOLUTION|TESTS)\b", block)
    if found is None:
        return
    verb, what = found.groups()
    if verb == "BEGIN":
        if opened and (what == "QUESTION" or opened[-1] != "QUESTION"):
            raise ValueError(f"{path}: # {verb} {what} stands before # END {opened[-1]}")
        opened.append(what)
    elif not opened or opened.pop() != what:
        raise ValueError(f"{path}: # {verb} {what} stands where nothing of the kind was begun")


def _check_functions(path: Path, test: HiddenTest) -> None:
    names = {_name(node) for node in ast.parse(test.source).body}
    if "call" not in names or len(names & {"expected", "grade"}) != 1:
        raise ValueError(
            f"{path}: hidden test {test.name} must define call, and one of expected and grade"
        )


# --- what is handed out --------------------------------------------------------------------------


def master(
    assignment: Assignment, *, hidden: bool, wheel: str | None = None
) -> nbformat.NotebookNode:
    """The notebook for ``otter assign``, with the hidden tests in otter's form or without.

    Gradescope's machine installs the wheel, which lies beside the notebook.
    """
    notebook = nbformat.from_dict(assignment.notebook)
    config = {
        "name": assignment.slug,
        "init_cell": True,
        "check_all_cell": False,
        "export_cell": {"pdf": False, "run_tests": True},
        "tests": {"ok_format": False},
        "generate": {"show_stdout": True, "show_hidden": False},
    }
    if wheel:
        config["autograder_files"] = [wheel]
        config["requirements"] = [f"/autograder/source/files/{wheel}"]
    block = nbformat.v4.new_raw_cell("# ASSIGNMENT CONFIG\n" + yaml.safe_dump(config))
    cells = [block]
    current = ""
    for cell in notebook.cells:
        directive = cell.source if cell.cell_type == "raw" else ""
        if directive.startswith("# BEGIN QUESTION"):
            current = yaml.safe_load(directive)["name"]
        if directive.startswith("# END TESTS") and hidden:
            tests = [test for test in assignment.hidden if test.question == current]
            cells += [nbformat.v4.new_code_cell(test.as_otter()) for test in tests]
        cells.append(cell)
    notebook.cells = cells
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    notebook.metadata.pop("jupytext", None)
    return notebook


def build(slug: str, wheel: Path) -> Path:
    """Generate all that is handed out of an assignment, and run its solution against its tests."""
    assignment = read(slug)
    for test in assignment.hidden:
        draw = test.functions().get("draw", lambda generator: {})
        for name, value in draw(torch.Generator().manual_seed(0)).items():
            if not isinstance(value, torch.Tensor):
                kind = type(value).__name__
                raise ValueError(
                    f"hidden test {test.name} draws {name} as {kind}: a tensor is expected"
                )
    folder = BUILD / slug
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch, f"{slug}.ipynb")
        nbformat.write(master(assignment, hidden=True, wheel=wheel.name), source)
        shutil.copy(wheel, scratch)
        result = subprocess.run(
            [sys.executable, "-m", "otter", "assign", source, Path(scratch, "out"), "--no-pdfs"],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        )
        if result.returncode:
            raise RuntimeError(
                f"{result.stdout}{result.stderr}\n"
                f"otter assign failed on {SOURCES / slug}.md. If tests failed, they failed on the "
                "solution itself: q1 - 2 is the second test of q1, public ones first, then hidden."
            )
        shutil.copytree(Path(scratch, "out", "student"), folder / "student")
        shutil.copytree(Path(scratch, "out", "autograder"), folder / "solution")
    shutil.copy(wheel, folder / "student")
    otter = importlib.metadata.version("otter-grader")
    Path(folder, "student", "requirements.txt").write_text(
        f"./{wheel.name}\notter-grader=={otter}\njupyterlab\n"
    )
    readme = FOR_STUDENTS.format(title=assignment.title, slug=slug)
    Path(folder, "student", "README.md").write_text(readme)
    with zipfile.ZipFile(folder / f"{slug}-student.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "student").iterdir()):
            archive.write(path, f"{slug}/{path.name}")
    return folder


def build_wheel(folder: Path) -> Path:
    """The package as students install it; made from a copy, for pip leaves traces."""
    with tempfile.TemporaryDirectory() as copy:
        for name in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(name, copy)
        shutil.copytree("aecore", Path(copy, "aecore"))
        command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", copy]
        command += ["--no-build-isolation", "--disable-pip-version-check", "--wheel-dir"]
        subprocess.run([*command, str(folder)], check=True)
    return next(folder.glob("*.whl"))


# --- aecore while it is graded -------------------------------------------------------------------

OTTER_ASLEEP = '''"""Otter's checks do nothing while a submission is graded."""


class Notebook:
    def __init__(self, *args, **kwargs):
        pass

    def check(self, *args, **kwargs):
        pass

    check_all = export = check
'''


def write_package(assignment: Assignment, folder: Path) -> None:
    """Copy ``aecore`` with what the assignment asks for switched off, and otter asleep."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree("aecore", folder / "aecore", ignore=shutil.ignore_patterns("__pycache__"))
    for dotted, why in assignment.switched_off.items():
        switch_off(folder, dotted, why)
    checks = folder / "aecore" / "checks"  # they hold what is right, and nothing here needs them
    shutil.rmtree(checks)
    checks.mkdir()
    Path(checks, "__init__.py").write_text(
        '"""Checks do nothing while a submission is graded."""\n\n\n'
        "def __getattr__(name):\n"
        "    if name.startswith('check_'):\n"
        "        return lambda *args, **kwargs: None\n"
        "    raise AttributeError(f'aecore.checks.{name} is switched off while this is graded')\n"
    )
    Path(folder, "otter").mkdir()
    Path(folder, "otter", "__init__.py").write_text(OTTER_ASLEEP)


def switch_off(folder: Path, dotted: str, why: str) -> None:
    """Replace the body of one function or method below a folder by an error that says why."""
    parts = dotted.split(".")
    lengths = [n for n in range(1, len(parts)) if _module(folder, parts[:n]).exists()]
    if not lengths:
        raise ValueError(f"cannot switch off {dotted}: there is no such module")
    path, names = _module(folder, parts[: lengths[-1]]), parts[lengths[-1] :]
    tree = ast.parse(path.read_text())
    scope: ast.AST = tree
    for name in names:
        inside = [node for node in getattr(scope, "body", []) if _name(node) == name]
        if not inside:
            raise ValueError(f"cannot switch off {dotted}: there is no {name} in {path.name}")
        scope = inside[0]
    if not isinstance(scope, ast.FunctionDef):
        raise ValueError(f"cannot switch off {dotted}: it is no function or method")
    message = f"{dotted} is switched off while this assignment is graded: {why}"
    scope.body = ast.parse(f"raise RuntimeError({message!r})").body
    path.write_text(ast.unparse(tree))


def _module(folder: Path, parts: Sequence[str]) -> Path:
    return folder.joinpath(*parts).with_suffix(".py")


def main(arguments: Sequence[str] | None = None) -> None:
    """Generate assignments."""
    parser = argparse.ArgumentParser(description=main.__doc__, prog="python -m tools.assignments")
    parser.add_argument("slugs", nargs="*", help="assignments; all by default")
    parser.add_argument("--jobs", type=int, default=2, help="assignments at a time")
    options = parser.parse_args(arguments)
    chosen = options.slugs or slugs()
    try:
        for slug in chosen:
            read(slug)  # a fault in one is told before any is built
        shutil.rmtree(BUILD / "wheel", ignore_errors=True)
        wheel = build_wheel(BUILD / "wheel")
        work = joblib.Parallel(options.jobs, return_as="generator")
        for folder in work(joblib.delayed(build)(slug, wheel) for slug in chosen):
            print(folder, flush=True)
    except (ValueError, RuntimeError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
