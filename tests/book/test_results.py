"""The results ledger: every row has a value, and a published one never stands alone."""

import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook, new_output

from tools import pages

LEDGER = tomllib.loads(pages.LEDGER.read_text())["result"]


def executed(folder: Path, **values: str) -> dict[str, Path]:
    """A chapter ``linear`` that glued these values."""
    outputs = [
        new_output(
            "display_data",
            {"application/papermill.record/text/plain": value},
            metadata={"scrapbook": {"name": key}},
        )
        for key, value in values.items()
    ]
    path = folder / "linear.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("", outputs=outputs)]), path)
    return {"linear": path}


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of one row, with an error."""
    row = '[[result]]\nchapter = "linear"\nkey = "a"\nerror = "b"\nwhat = "w"\nconditions = "c"\n'
    (tmp_path / "results.toml").write_text(row + "comparable = false\n")
    monkeypatch.setattr(pages, "LEDGER", tmp_path / "results.toml")


@pytest.mark.usefixtures("ledger")
def test_a_row_shows_its_value_and_error(tmp_path: Path) -> None:
    page = pages.results_page(executed(tmp_path, a="1.5", b="'0.1'"), "book", complete=True)

    assert "| {doc}`../linear` | w | 1.5 ± 0.1 | c | — | no |" in page


@pytest.mark.usefixtures("ledger")
@pytest.mark.parametrize("glued", [{}, {"a": "1.5"}])
def test_a_key_that_no_chapter_glues_fails_the_whole_book(
    tmp_path: Path, glued: dict[str, str]
) -> None:
    missing = "b" if glued else "a"

    with pytest.raises(ValueError, match=rf"chapter 'linear' glues no '{missing}'"):
        pages.results_page(executed(tmp_path, **glued), "book", complete=True)


def test_a_book_of_some_chapters_leaves_the_others_values_open(tmp_path: Path) -> None:
    page = pages.results_page(executed(tmp_path), "book", complete=False)

    assert page.count("| — |") >= len(LEDGER)


def test_keys_are_told_apart_and_belong_to_their_chapter() -> None:
    keys = [row["key"] for row in LEDGER]

    assert len(keys) == len(set(keys))
    assert all(row["key"].startswith(f"{row['chapter']}-") for row in LEDGER)
    assert {row["chapter"] for row in LEDGER} <= set(pages.chapters())


def test_a_published_value_has_a_source() -> None:
    assert all(("published" in row) == ("source" in row) for row in LEDGER)
