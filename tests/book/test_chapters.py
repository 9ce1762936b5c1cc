"""Every chapter has the structure that CONTRIBUTING asks for."""

import ast
import re
import statistics
import subprocess
from itertools import pairwise
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbformat import NotebookNode

from tools import pages
from tools.book import EXECUTED

SECTIONS = [
    "The idea",
    "Derivation",
    "In code",
    "Check the maths",
    "Train",
    "What we see",
    "What goes wrong",
    "Summary",
    "Exercises",
    "Further reading",
]
PARAMETERS = {"profile": "book", "seed": 0, "device": "auto", "dataset": "auto"}
WITHOUT_A_MODEL = {"autoencoders", "inference"}  # they speak of all of them

CHAPTERS = pages.chapters()
for_each_chapter = pytest.mark.parametrize("slug", CHAPTERS)
for_each_model = pytest.mark.parametrize(
    "slug", [slug for slug, source in CHAPTERS.items() if source.parent.name != "appendix"]
)


def cells(slug: str) -> list[NotebookNode]:
    """All cells of a chapter."""
    return jupytext.read(CHAPTERS[slug]).cells


def code_cells(slug: str) -> list[NotebookNode]:
    """The code cells of a chapter."""
    return [cell for cell in cells(slug) if cell.cell_type == "code"]


def first_line(cell: NotebookNode) -> str:
    """How a failing test names a cell."""
    return cell.source.split("\n", 1)[0]


def prose(text: str) -> str:
    """A chapter's words: without front matter, fenced blocks, tables, formulas and code."""
    text = re.sub(r"\A---\n.*?^---\n", "", text, flags=re.M | re.S)
    text = re.sub(r"^(`{3,}|~{3,}).*?^\1", "", text, flags=re.M | re.S)
    text = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", text, flags=re.S)
    text = re.sub(r"`[^`]*`", "", text)
    return re.sub(r"^[|:].*$", "", text, flags=re.M)


@for_each_model
def test_sections_are_in_order(slug: str) -> None:
    headings = re.findall(r"^## (.+)$", CHAPTERS[slug].read_text(), re.M)
    known = [
        section
        for heading in headings
        for section in SECTIONS
        if heading.lower().startswith(section.lower())
    ]

    assert known == SECTIONS


@for_each_chapter
def test_says_what_the_reader_will_do_and_need(slug: str) -> None:
    opening = CHAPTERS[slug].read_text().split("\n# ", 1)[1].split("```", 1)[0]

    assert all(words in opening for words in ("*You will*", "*You need*", "*It takes*"))


@for_each_chapter
def test_one_cell_holds_the_parameters(slug: str) -> None:
    tagged = [cell for cell in code_cells(slug) if "parameters" in cell.metadata.get("tags", [])]
    found: dict[str, object] = {}
    exec("\n".join(cell.source for cell in tagged), {}, found)

    assert len(tagged) == 1
    assert found == PARAMETERS


@for_each_chapter
def test_code_cells_are_short(slug: str) -> None:
    lengths = [
        (sum(bool(line.strip()) for line in cell.source.splitlines()), first_line(cell))
        for cell in code_cells(slug)
    ]

    assert [(length, line) for length, line in lengths if length > 25] == []
    assert statistics.median(length for length, _ in lengths) <= 10


@for_each_chapter
def test_prose_precedes_every_code_cell(slug: str) -> None:
    all_cells = cells(slug)
    bare = [
        first_line(cell)
        for before, cell in pairwise(all_cells)
        if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", [])
        if before.cell_type == "code" or before.source.rstrip().split("\n")[-1].startswith("#")
    ]

    assert bare == []


@for_each_chapter
def test_imports_stand_in_the_first_cell(slug: str) -> None:
    importing = [
        first_line(cell)
        for cell in code_cells(slug)[1:]
        if any(
            isinstance(node, ast.Import | ast.ImportFrom)
            for node in ast.walk(ast.parse(cell.source))
        )
    ]

    assert importing == []


@for_each_chapter
def test_every_figure_has_alternative_text_and_caption(slug: str) -> None:
    executed = EXECUTED / "smoke" / f"{slug}.ipynb"
    if not executed.exists():
        pytest.skip("not executed yet: make test does")
    bare = []
    for cell in nbformat.read(executed, as_version=4).cells:
        shows = any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))
        options = cell.metadata.get("mystnb", {})
        alt = options.get("image", {}).get("alt", "")
        figure = options.get("figure", {})
        described = len(alt) > 20 and figure.get("caption") and figure.get("name")
        if shows and not described:
            bare.append(first_line(cell))

    assert bare == []


@for_each_chapter
def test_no_measured_number_is_typed(slug: str) -> None:
    text = prose(CHAPTERS[slug].read_text())

    assert re.findall(r"^.*\b\d+\.\d{2,}\b.*$", text, re.M) == []


@for_each_model
def test_every_exercise_has_a_solution(slug: str) -> None:
    text = CHAPTERS[slug].read_text()
    exercises = re.findall(
        r"^`{3,}\{exercise(?:-start)?\}[^\n]*\n(?::[^\n]*\n)*?:label: (\S+)", text, re.M
    )
    solutions = re.findall(r"^`{3,}\{solution(?:-start)?\} (\S+)", text, re.M)

    assert exercises
    assert exercises == solutions


@for_each_model
def test_has_its_code_and_its_tests_under_its_slug(slug: str) -> None:
    assert Path("aecore", "models", f"{slug}.py").exists() != (slug in WITHOUT_A_MODEL)
    assert Path("tests", f"test_{slug}.py").exists()


def test_no_outputs_are_committed() -> None:
    listed = subprocess.run(["git", "ls-files", "*.ipynb"], capture_output=True, text=True)

    assert listed.stdout == ""
