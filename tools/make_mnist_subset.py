"""Draw the digits of ``aecore/mnist_subset`` from the verified files of MNIST.

``python tools/make_mnist_subset.py`` writes four IDX files, compressed with xz, and prints the
SHA-256 of each before compression: the ones recorded in ``aecore/data.py``. Running it again gives
the identical bytes: xz, unlike zip and gzip, stores neither a time nor a system, and the numbers
come from ``RandomState``, whose streams NumPy has frozen.
"""

import argparse
import hashlib
import lzma
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aecore import data

N_PER_CLASS = {"train": 1_000, "test": 200}
STEM = {"train": "train", "test": "t10k"}


def balanced_choice(
    labels: npt.NDArray[np.int64], n_per_class: int, random: np.random.RandomState
) -> npt.NDArray[np.intp]:
    """Choose examples at random, the same number of each class, without replacement.

    Args:
        labels: Labels, shape ``(N,)``.
        n_per_class: How many to choose of each class.
        random: Source of the random numbers.

    Returns:
        Indices in rounds: each round holds every class once, in a random order, so the classes
        among the first n differ by at most one.
    """
    chosen = [
        random.permutation(np.flatnonzero(labels == label))[:n_per_class]
        for label in np.unique(labels)
    ]
    rounds = np.stack(chosen, axis=1)  # (n_per_class, classes)
    return np.concatenate([random.permutation(one_round) for one_round in rounds])


def idx(array: npt.NDArray[np.uint8]) -> bytes:
    """An array of bytes in the IDX format: type, number of axes, their sizes, then the content."""
    header = bytes([0, 0, 0x08, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    return header + array.tobytes()


def subset_files() -> dict[str, bytes]:
    """Draw both splits; the content of each IDX file by its name."""
    random = np.random.RandomState(0)
    files = {}
    for split, n_per_class in N_PER_CLASS.items():
        x, y, shape = data.load("mnist", split)
        chosen = balanced_choice(y.numpy(), n_per_class, random)
        pixels = (x.numpy()[chosen] * 255).round().astype(np.uint8)
        files[f"{STEM[split]}-images-idx3-ubyte"] = idx(pixels.reshape(-1, *shape[1:]))
        files[f"{STEM[split]}-labels-idx1-ubyte"] = idx(y.numpy()[chosen].astype(np.uint8))
    return files


def main(arguments: list[str] | None = None) -> None:
    """Write the files of both splits."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    default = Path(data.__file__).with_name("mnist_subset")
    parser.add_argument("--out", type=Path, default=default, help="folder for the files")
    out: Path = parser.parse_args(arguments).out
    for file, content in subset_files().items():
        compressed = lzma.compress(content, preset=9 | lzma.PRESET_EXTREME)
        (out / f"{file}.xz").write_bytes(compressed)
        print(f"{file} {len(content)} {hashlib.sha256(content).hexdigest()}")


if __name__ == "__main__":
    main()
