"""What each chapter of the book does in its first cell: check its parameters, seed, find data."""

import torch
from IPython.display import Markdown, display

from aecore.data import DataUnavailable, load
from aecore.nn import check_choice
from aecore.plotting import use_book_style
from aecore.training import choose_device

__all__ = ["DATASETS", "PROFILES", "begin"]

PROFILES = ("smoke", "book", "full")
DATASETS = ("auto", "mnist", "mnist_subset")

_NOTE = """
> **Note.** This page was made without the full MNIST. It was run on the subset of 10,000 training
> and 2,000 test digits that comes with `aecore`; expect somewhat worse models than all data give.
"""


def begin(
    *, profile: str, seed: int, device: str, dataset: str = "auto"
) -> tuple[str, torch.device]:
    """Check a chapter's parameters, seed torch, set the book's figure style, settle the data set.

    Args:
        profile: ``"smoke"``, ``"book"`` or ``"full"``.
        seed: Seed of torch's global generator.
        device: As for :func:`aecore.training.choose_device`.
        dataset: ``"auto"``: the embedded subset in ``smoke``, MNIST in the other profiles, or the
            subset where MNIST can be had neither from the cache nor from any source. ``"mnist"``
            or ``"mnist_subset"``: that one. A page made from the subset in place of MNIST says so.

    Returns:
        The data set's name, and the device.

    Raises:
        ValueError: If a parameter is unknown; the message lists the choices.
    """
    check_choice("profile", profile, PROFILES)
    check_choice("dataset", dataset, DATASETS)
    place = choose_device(device)
    torch.manual_seed(seed)
    use_book_style()
    if dataset == "auto":
        dataset = "mnist_subset" if profile == "smoke" else _mnist_or_subset()
    if dataset == "mnist_subset" and profile != "smoke":
        display(Markdown(_NOTE))
    return dataset, place


def _mnist_or_subset() -> str:
    try:
        for split in ("train", "test"):
            load("mnist", split, n=1)
    except DataUnavailable:
        return "mnist_subset"
    return "mnist"
