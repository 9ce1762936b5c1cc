"""Figures: Axes in, Axes out."""

from collections.abc import Iterator

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.axes import Axes

from aecore.plotting import image_grid, image_rows, use_book_style


@pytest.fixture
def ax() -> Iterator[Axes]:
    _, ax = plt.subplots()
    yield ax
    plt.close("all")


def test_image_grid_puts_pixels_where_they_belong(ax: Axes) -> None:
    images = torch.arange(3 * 6.0).reshape(3, 6)
    assert image_grid(ax, images, (1, 2, 3), n_columns=2, vmax=None) is ax
    canvas = np.asarray(ax.images[0].get_array())
    assert canvas.shape == (2 * 2 + 1, 2 * 3 + 1)
    np.testing.assert_array_equal(canvas[:2, 4:], [[6, 7, 8], [9, 10, 11]])
    np.testing.assert_array_equal(canvas[3:, :3], [[12, 13, 14], [15, 16, 17]])
    assert np.ma.getmaskarray(np.ma.masked_invalid(canvas))[2].all()


def test_image_grid_draws_colour(ax: Axes) -> None:
    images = torch.rand(1, 12)
    image_grid(ax, images, (3, 2, 2), n_columns=1)
    canvas = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose(canvas[..., 0].ravel(), images[0, :4])


def test_image_rows_are_labelled(ax: Axes) -> None:
    rows = {"digits": torch.rand(3, 4), "again": np.zeros((3, 4))}
    assert image_rows(ax, rows, (1, 2, 2)) is ax
    assert [label.get_text() for label in ax.get_yticklabels()] == ["digits", "again"]


def test_bad_shapes_are_named(ax: Axes) -> None:
    with pytest.raises(ValueError, match=r"images must have shape \(N, 6\).*got \(2, 5\)"):
        image_grid(ax, torch.rand(2, 5), (1, 2, 3), n_columns=2)
    with pytest.raises(ValueError, match="n_columns must be at least 1, got 0"):
        image_grid(ax, torch.rand(2, 6), (1, 2, 3), n_columns=0)
    with pytest.raises(ValueError, match=r"rows must all have one shape.*a \(1, 4\), b \(2, 4\)"):
        image_rows(ax, {"a": torch.rand(1, 4), "b": torch.rand(2, 4)}, (1, 2, 2))


def test_book_style_sets_an_opaque_card() -> None:
    with matplotlib.rc_context():
        use_book_style()
        assert matplotlib.rcParams["figure.facecolor"] == "white"
