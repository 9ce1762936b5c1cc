"""Every chapter checks its parameters first, and has settings for all three profiles."""

from typing import Any

import jupytext
import pytest

from tools import pages
from tools.book import LIMITS

CHAPTERS = pages.chapters()
for_each_chapter = pytest.mark.parametrize("slug", CHAPTERS)


def begin(slug: str, **parameters: str) -> dict[str, Any]:
    """Run a chapter's imports, its parameters and the cell after them; give its names."""
    code = [cell for cell in jupytext.read(CHAPTERS[slug]).cells if cell.cell_type == "code"]
    position = next(
        number for number, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", [])
    )
    names: dict[str, Any] = {}
    for cell in code[: position + 1]:
        exec(cell.source, names)
    names.update(parameters)
    exec(code[position + 1].source, names)
    return names


@for_each_chapter
@pytest.mark.parametrize(
    ("parameter", "choices"),
    [
        ("profile", ["smoke", "book", "full"]),
        ("dataset", ["auto", "mnist", "mnist_subset"]),
        ("device", ["auto", "cpu"]),
    ],
)
def test_unknown_value_stops_the_first_cell(slug: str, parameter: str, choices: list[str]) -> None:
    with pytest.raises(ValueError, match="nonsense") as error:
        begin(slug, **{parameter: "nonsense"})

    assert parameter in str(error.value)
    assert all(choice in str(error.value) for choice in choices)


@for_each_chapter
@pytest.mark.parametrize("profile", LIMITS)
def test_every_profile_has_its_settings(slug: str, profile: str) -> None:
    names = begin(slug, profile=profile, dataset="mnist_subset", device="cpu")

    assert names["profile"] == profile
