"""What a chapter does in its first cell."""

from collections.abc import Callable

import matplotlib
import pytest
import torch
from matplotlib import rc_context

from aecore import chapter
from aecore.data import DataUnavailable


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The notes that were displayed."""
    notes: list[str] = []
    monkeypatch.setattr(chapter, "display", lambda markdown: notes.append(markdown.data))
    return notes


@pytest.fixture
def _without_mnist(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object, **__: object) -> None:
        raise DataUnavailable("no network")

    monkeypatch.setattr(chapter, "load", load)


def begin(**parameters: str) -> str:
    with rc_context():
        return chapter.begin(**({"profile": "book", "seed": 0, "device": "cpu"} | parameters))[0]


@pytest.mark.usefixtures("_without_mnist")
@pytest.mark.parametrize("profile", ["book", "full"])
def test_without_mnist_the_subset_is_used_and_the_page_says_so(
    profile: str, shown: list[str]
) -> None:
    assert begin(profile=profile) == "mnist_subset"
    (note,) = shown
    assert "subset of 10,000 training" in note


@pytest.mark.usefixtures("_without_mnist")
def test_mnist_asked_for_by_name_is_not_replaced(shown: list[str]) -> None:
    assert begin(dataset="mnist") == "mnist"
    assert shown == []


def test_subset_in_place_of_mnist_says_so_however_it_came(shown: list[str]) -> None:
    assert begin(dataset="mnist_subset") == "mnist_subset"
    assert len(shown) == 1


def test_smoke_uses_the_subset_without_a_word(shown: list[str]) -> None:
    assert begin(profile="smoke") == "mnist_subset"
    assert shown == []


@pytest.mark.parametrize("draw", [torch.rand, torch.randn])
def test_seed_fixes_the_global_generator(draw: Callable[[int], torch.Tensor]) -> None:
    begin(dataset="mnist", seed=3)
    first = draw(5)
    begin(dataset="mnist", seed=3)
    assert torch.equal(first, draw(5))


@pytest.mark.parametrize(
    ("parameter", "choices"),
    [
        ("profile", "'smoke', 'book', 'full'"),
        ("dataset", "'auto', 'mnist', 'mnist_subset'"),
        ("device", "'auto', .*'cpu'"),
    ],
)
def test_unknown_parameters_list_the_choices(parameter: str, choices: str) -> None:
    message = f"{parameter} must be one of {choices}; got 'nonsense'"
    before = dict(matplotlib.rcParams)
    with pytest.raises(ValueError, match=message):
        begin(**{parameter: "nonsense"})
    assert dict(matplotlib.rcParams) == before
