"""The checks: every listed mistake is recognised, and what is right passes, however written."""

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import jupytext
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from aecore import checks
from aecore.checks import MISTAKES, CheckFailed
from aecore.checks.mistakes import Mistake, compare
from tools import assignments

ALL = [(name, mistake) for name, mistakes in MISTAKES.items() for mistake in mistakes]


@pytest.mark.parametrize(("name", "mistake"), ALL, ids=[f"{n}-{m.hints[0][:40]}" for n, m in ALL])
def test_a_mistake_is_called_by_its_name(name: str, mistake: Mistake) -> None:
    check = getattr(checks, f"check_{name}")
    for hints in range(1, len(mistake.hints) + 1):
        with pytest.raises(CheckFailed, match=re.escape(mistake.hints[hints - 1])):
            check(mistake.wrong, hints=hints)


@pytest.mark.parametrize("name", MISTAKES)
def test_each_function_has_four_mistakes_with_up_to_three_hints(name: str) -> None:
    assert len(MISTAKES[name]) >= 4
    assert all(1 <= len(mistake.hints) <= 3 for mistake in MISTAKES[name])
    assert len({mistake.hints[0] for mistake in MISTAKES[name]}) == len(MISTAKES[name])


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_answer_is_said_to_be_none(name: str) -> None:
    check = getattr(checks, f"check_{name}")
    with pytest.raises(CheckFailed, match="returns nothing"):
        check(lambda *arguments: None)
    with pytest.raises(CheckFailed, match="must return a tensor, and it returned a str: 'one'"):
        check(lambda *arguments: "one")


@pytest.mark.parametrize("name", MISTAKES)
def test_what_is_no_function_is_said_to_be_none(name: str) -> None:
    check = getattr(checks, f"check_{name}")
    with pytest.raises(CheckFailed, match="no function to check, but None: run the cell"):
        check(None)
    with pytest.raises(ValueError, match="hints must be 1, 2 or 3, not 0"):
        check(lambda *arguments: None, hints=0)


def test_a_notebook_shows_what_a_check_says_and_no_more() -> None:
    shell = InteractiveShell.instance()
    with redirect_stdout(io.StringIO()) as shown:
        shell.run_cell("from aecore import checks; checks.check_free_bits(lambda kl, floor: kl)")
    InteractiveShell.clear_instance()
    assert shown.getvalue().startswith("CheckFailed: ")
    assert "Traceback" not in shown.getvalue()


def test_an_answer_in_single_precision_is_right_up_to_its_rounding() -> None:
    right = torch.tensor([0.0, 100.0])
    compare(torch.tensor([1e-7, 100.0001], dtype=torch.float32), right, inputs={})
    with pytest.raises(CheckFailed):
        compare(torch.tensor([1e-7, 100.0001]), right, inputs={})
    with pytest.raises(CheckFailed):
        compare(torch.tensor([0.0, 100.01], dtype=torch.float32), right, inputs={})


@pytest.mark.parametrize("slug", assignments.slugs())
def test_the_solutions_pass_the_checks(slug: str) -> None:
    """The solutions are written otherwise than what the checks compare with."""
    torch.set_default_dtype(torch.float32)  # as in a notebook; the tests' own default is double
    names: dict = {}
    tested = set()
    for cell in jupytext.read(assignments.SOURCES / f"{slug}.md").cells:
        if cell.cell_type != "code" or "hidden-test" in cell.metadata.get("tags", []):
            continue
        if cell.source.startswith("def test_"):
            tests: dict = {}
            exec(cell.source, tests)
            name, test = next((n, t) for n, t in tests.items() if n.startswith("test_"))
            test(names[name.removeprefix("test_")])
            tested.add(name.removeprefix("test_"))
        else:
            exec(cell.source, names)
    assert tested & MISTAKES.keys()


@pytest.mark.parametrize("name", MISTAKES)
def test_each_check_is_used(name: str) -> None:
    """By a question of an assignment, or by an exercise of a chapter."""
    used = [
        path for path in Path("book").rglob("*.md") if f"check_{name}({name}" in path.read_text()
    ]
    assert used


@pytest.mark.parametrize("slug", assignments.slugs())
def test_the_chapter_of_an_assignment_has_exercises_with_checks(slug: str) -> None:
    exercises = Path(f"book/{slug}.md").read_text().partition("\n## Exercises\n")[2]
    assert re.search(r"^(checks\.)?check_\w+\(\w+\)$", exercises, flags=re.M)


def test_the_signs_of_eigenvectors_hide_no_mistake() -> None:
    """Whoever leaves the signs to eigh is told first of what else is wrong."""

    def ascending(decoder: torch.Tensor, code_cov: torch.Tensor) -> torch.Tensor:
        basis, triangle = torch.linalg.qr(decoder)
        values, vectors = torch.linalg.eigh(triangle @ code_cov @ triangle.mT)
        axes = basis @ vectors * values.sqrt()
        return axes * axes[0].sign()  # a convention, and not the one that is asked for

    with pytest.raises(CheckFailed, match="in the wrong order"):
        checks.check_principal_axes(ascending)
    with pytest.raises(CheckFailed, match="right but for their signs"):
        checks.check_principal_axes(lambda *inputs: ascending(*inputs).flip(1))
