"""Figures of the book: functions that take arrays and an Axes, and give the Axes back."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.rcsetup import cycler
from torch import Tensor

__all__ = ["COLOURS", "image_grid", "image_rows", "plot_history", "use_book_style"]

# Okabe and Ito (2008): told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#F0E442", "#000000")


def use_book_style() -> None:
    """Set matplotlib's defaults for the book: a light card that stands on either page colour."""
    matplotlib.rcParams.update(
        {
            "axes.prop_cycle": cycler(color=COLOURS),
            "axes.spines.right": False,
            "axes.spines.top": False,
            "figure.constrained_layout.use": True,
            "figure.dpi": 110,
            "figure.facecolor": "white",
            "font.size": 10,
            "image.cmap": "gray_r",
            "legend.frameon": False,
            "savefig.dpi": 110,
        }
    )


def plot_history(
    ax: Axes,
    train: Mapping[str, Sequence[float]],
    valid: Mapping[str, Sequence[float]],
    terms: Iterable[str] = ("loss",),
) -> Axes:
    """Draw loss terms against the epoch: training solid, held-out dashed in the same colour.

    Args:
        ax: Where to draw.
        train: Values an epoch of each term.
        valid: The same for held-out data; may be empty.
        terms: Which terms to draw.

    Returns:
        The Axes.

    Raises:
        ValueError: If a term is not among those of ``train``.
        TypeError: If ``terms`` is one name, not a tuple of them.
    """
    if isinstance(terms, str):
        raise TypeError(f"terms must be names in a tuple, such as ({terms!r},), got {terms!r}")
    for colour, term in zip(COLOURS, terms, strict=False):
        if term not in train:
            raise ValueError(f"terms must be among {', '.join(train)}; got {term!r}")
        for values, style, name in ((train, "-", term), (valid, "--", f"{term}, held out")):
            if term in values:
                epochs = range(1, len(values[term]) + 1)
                ax.plot(epochs, values[term], style, color=colour, label=name)
    ax.set(xlabel="epoch", ylabel="mean over examples")
    ax.legend()
    return ax


def image_grid(
    ax: Axes,
    images: Tensor | np.ndarray,
    shape: Sequence[int],
    *,
    n_columns: int,
    vmin: float | None = 0.0,
    vmax: float | None = 1.0,
    **imshow: Any,
) -> Axes:
    """Draw images as one mosaic, row by row, with a thin gap between them.

    Args:
        ax: Where to draw; its frame and ticks go.
        images: Flat images, shape ``(N, D)``.
        shape: ``(C, H, W)`` of one image, with C 1 or 3 and C·H·W = D.
        n_columns: Images a row; the last row is filled up with blanks.
        vmin: Value drawn as the colour map's first colour; None: the smallest there is.
        vmax: Value drawn as its last; None: the largest.
        **imshow: Passed to ``Axes.imshow``.

    Returns:
        The Axes.

    Raises:
        ValueError: If the images do not have the given shape, or ``n_columns`` is below 1.
    """
    pixels = torch.as_tensor(images).detach().cpu().double().numpy()
    channels, height, width = shape
    if pixels.ndim != 2 or pixels.shape[1] != channels * height * width:
        raise ValueError(
            f"images must have shape (N, {channels * height * width}) to be drawn as "
            f"{tuple(shape)}, got {pixels.shape}"
        )
    if n_columns < 1:
        raise ValueError(f"n_columns must be at least 1, got {n_columns}")
    n_rows = -(-len(pixels) // n_columns)
    gap = 1
    canvas = np.full(
        (n_rows * (height + gap) - gap, n_columns * (width + gap) - gap, channels), np.nan
    )
    for index, image in enumerate(pixels):
        row, column = divmod(index, n_columns)
        top, left = row * (height + gap), column * (width + gap)
        tile = image.reshape(channels, height, width).transpose(1, 2, 0)
        canvas[top : top + height, left : left + width] = tile
    if channels == 1:
        canvas = canvas[..., 0]
    ax.imshow(canvas, vmin=vmin, vmax=vmax, interpolation="nearest", **imshow)
    ax.set_axis_off()
    return ax


def image_rows(
    ax: Axes, rows: Mapping[str, Tensor | np.ndarray], shape: Sequence[int], **imshow: Any
) -> Axes:
    """Draw rows of images under one another, each with its name at the left.

    Args:
        ax: Where to draw.
        rows: Name of each row and its flat images, all of the same shape ``(N, D)``.
        shape: ``(C, H, W)`` of one image.
        **imshow: Passed to :func:`image_grid`.

    Returns:
        The Axes.

    Raises:
        ValueError: If the rows differ in shape.
    """
    images = [torch.as_tensor(row).detach().cpu() for row in rows.values()]
    if len({tuple(row.shape) for row in images}) != 1:
        raise ValueError(
            "rows must all have one shape (N, D), got "
            + ", ".join(
                f"{name} {tuple(row.shape)}" for name, row in zip(rows, images, strict=True)
            )
        )
    image_grid(ax, torch.cat(images), shape, n_columns=len(images[0]), **imshow)
    height = shape[1] + 1
    centres = [index * height + shape[1] / 2 for index in range(len(images))]
    ax.set_axis_on()
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    ax.set(xticks=[], yticks=centres)
    ax.set_yticklabels(list(rows))
    return ax
