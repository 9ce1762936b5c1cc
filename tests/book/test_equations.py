"""Equation, function and test stay in step: each rule here is one of CONTRIBUTING's."""

import re
from collections import Counter
from pathlib import Path

import pytest

from tools import pages
from tools.pages import Equation

EQUATIONS = pages.equations()
LABELS = {equation.label for equation in EQUATIONS}
by_label = pytest.mark.parametrize("equation", EQUATIONS, ids=lambda equation: equation.label)


def test_labels_are_unique() -> None:
    counts = Counter(equation.label for equation in EQUATIONS)

    assert [label for label, count in counts.items() if count > 1] == []


@by_label
def test_label_begins_with_its_chapter(equation: Equation) -> None:
    assert equation.label.startswith(f"eq-{equation.chapter}-")


@pytest.mark.parametrize(
    "path",
    [*sorted(Path("book").rglob("*.md")), *sorted(Path("aecore").rglob("*.py"))],
    ids=Path.as_posix,
)
def test_cited_labels_are_defined(path: Path) -> None:
    assert sorted(pages.cited_labels(path.read_text()) - LABELS) == []


def test_labels_that_tests_name_are_defined() -> None:
    assert sorted(set(pages.tests()) - LABELS) == []


@by_label
def test_implemented_equation_is_tested(equation: Equation) -> None:
    names = ", ".join(function.name for function in equation.functions)

    assert equation.tests or not equation.functions, f"{names}: no test's docstring begins so"


@by_label
def test_equation_is_implemented_or_checked_in_its_chapter(equation: Equation) -> None:
    assert equation.functions or equation.checked, (
        'no docstring says that it implements it, and its chapter\'s "Check the maths" '
        "does not cite it"
    )


def test_appendix_lists_every_equation() -> None:
    page = pages.equations_page(list(pages.chapters()))

    assert re.findall(r"^\| \{eq\}`([^`]+)`", page, re.M) == [e.label for e in EQUATIONS]
