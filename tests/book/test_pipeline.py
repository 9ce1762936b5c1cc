"""The pipeline of tools/book.py, on a throw-away book."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tests.book.tiny_book import TinyBook, make_tiny_book
from tools import screenshots
from tools.book import cache_key, convert


@pytest.fixture
def book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TinyBook:
    """A tiny book in the working directory."""
    monkeypatch.chdir(tmp_path)
    return make_tiny_book()


def key(slug: str = "first", profile: str = "book", *, full_data: bool = True) -> str:
    """The cache key of a chapter of the tiny book."""
    source = Path("book", f"{slug}.md")
    return cache_key(source, convert(slug, source), profile, full_data=full_data)


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until a file appears."""
    end = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.05)


def alive(pid: int, seconds: float = 3.0) -> bool:
    """Whether a process is still there after a moment in which it may end."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


# --- the cache -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["book/first.md", "aecore/first.py", "aecore/__init__.py", "requirements.lock"]
)
def test_key_depends_on(book: TinyBook, path: str) -> None:
    before = key()

    Path(path).write_text(Path(path).read_text() + "\n")

    assert key() != before


def test_key_depends_on_modules_that_modules_import(book: TinyBook) -> None:
    Path("aecore/deep.py").write_text("answer = lambda: 1\n")
    Path("aecore/first.py").write_text("from aecore.deep import answer\n")
    before = key()

    Path("aecore/deep.py").write_text("answer = lambda: 2\n")

    assert key() != before


def test_key_depends_on_the_embedded_digits_and_on_python(
    book: TinyBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [key()]
    Path("aecore/mnist_subset").mkdir()
    for content in ("a", "b"):
        Path("aecore/mnist_subset/digits.xz").write_text(content)
        keys.append(key())
    monkeypatch.setattr("platform.python_version_tuple", lambda: ("3", "99", "0"))
    keys.append(key())

    assert len(set(keys)) == 4


@pytest.mark.parametrize("path", ["book/second.md", "aecore/second.py", "book/index.md"])
def test_key_does_not_depend_on(book: TinyBook, path: str) -> None:
    before = key()

    Path(path).write_text(Path(path).read_text() + "\n")

    assert key() == before


def test_key_depends_on_profile_and_data(book: TinyBook) -> None:
    assert len({key(profile=profile) for profile in ("smoke", "book", "full")}) == 3
    assert key(full_data=True) != key(full_data=False)
    assert key(profile="smoke", full_data=True) == key(profile="smoke", full_data=False)


def test_module_with_a_syntax_error_still_gives_a_key(book: TinyBook) -> None:
    before = key()

    Path("aecore/first.py").write_text("def answer(:\n")

    assert key() != before


def test_executes_what_has_changed_and_nothing_else(book: TinyBook) -> None:
    assert book.run("execute", "--profile", "smoke").returncode == 0
    assert book.printed("first") == "smoke 42\n"
    first, second = (book.executed(slug).read_bytes() for slug in ("first", "second"))

    again = book.run("execute", "--profile", "smoke")

    assert again.stdout.count("cached") == 2
    assert book.executed("first").read_bytes() == first

    Path("aecore/first.py").write_text("def answer():\n    return 43\n")
    changed = book.run("execute", "--profile", "smoke")

    assert changed.stdout.count("cached") == 1
    assert book.printed("first") == "smoke 43\n"
    assert book.executed("second").read_bytes() == second


# --- running -------------------------------------------------------------------------------------


def test_chapters_run_side_by_side(book: TinyBook) -> None:
    wait = "import pathlib, time\npathlib.Path('{me}').touch()\n"
    wait += "while not pathlib.Path('{other}').exists(): time.sleep(0.05)"
    book.append_cell("first", wait.format(me="first", other="second"))
    book.append_cell("second", wait.format(me="second", other="first"))

    assert book.run("execute", "--profile", "smoke", "--jobs", "2").returncode == 0


def test_kernels_have_one_thread_and_this_environment(book: TinyBook) -> None:
    book.append_cell("first", "import os, sys\nprint(os.environ['OMP_NUM_THREADS'], sys.prefix)")

    book.run("execute", "--profile", "smoke", "--only", "first")

    assert book.printed("first").endswith(f"1 {sys.prefix}\n")
    assert not book.executed("second").exists()


def test_missing_data_are_said_aloud(book: TinyBook) -> None:
    result = book.run("execute", "--profile", "book", "--only", "first")

    assert result.returncode == 0
    assert "embedded subset" in result.stderr
    executed = Path("_build/executed/book/first.ipynb")
    cells = nbformat.read(executed, as_version=4).cells
    (injected,) = [cell for cell in cells if "injected-parameters" in cell.metadata.get("tags", [])]
    assert 'dataset = "mnist_subset"' in injected.source


def test_failing_cell_is_named_and_shown_last(book: TinyBook) -> None:
    book.run("execute", "--profile", "smoke")
    good = book.executed("first").read_bytes()
    book.append_cell("first", "x = 1\nassert answer() == 43, 'forty-two'")

    result = book.run("execute", "--profile", "smoke")

    assert result.returncode == 1
    failure = result.stderr[result.stderr.index("first: code cell 4 failed") :]
    assert "'Check the maths'" in failure
    assert "    x = 1\n" in failure
    assert failure.rstrip().endswith("AssertionError: forty-two")
    assert "\x1b" not in failure
    assert book.executed("first").read_bytes() == good
    failed = nbformat.read(book.executed("first").with_suffix(".failed.ipynb"), as_version=4)
    assert "forty-two" in str(failed)


def test_dead_kernel_is_a_failure_with_a_place(book: TinyBook) -> None:
    book.append_cell("first", "import os\nos._exit(9)")

    result = book.run("execute", "--profile", "smoke")

    assert result.returncode == 1
    assert "first: code cell 4 failed" in result.stderr
    assert book.executed("second").exists()


def test_kernel_that_does_not_start_costs_its_chapters_and_nothing_else(book: TinyBook) -> None:
    Path("ipykernel_launcher.py").write_text("raise SystemExit(3)")  # shadows the kernel's own

    result = book.run("execute", "--profile", "smoke")

    assert result.returncode == 1
    assert "first: its kernel did not start" in result.stderr
    assert "second: its kernel did not start" in result.stderr
    assert not book.executed("first").exists()


def test_kernels_use_no_network_port(book: TinyBook) -> None:
    cell = "import json\nfrom ipykernel.connect import get_connection_info\n"
    cell += "print(json.loads(get_connection_info())['transport'])"
    book.append_cell("first", cell)

    assert book.run("verify", "--profile", "smoke", "--only", "first").returncode == 0
    assert book.printed("first").endswith("ipc\n")  # and nbval's the same, or it would differ


def test_interrupted_run_goes_on_where_it_stopped(book: TinyBook) -> None:
    slow = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\n"
    slow += "while not pathlib.Path('go').exists(): time.sleep(0.05)"
    book.append_cell("second", slow)
    folder = book.executed("second").parent
    # a shell ignores the signal in what it starts in the background, and children inherit that
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        book.command("execute", "--profile", "smoke"),
        cwd=book.root,
        env=book.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(book.executed("first"))
    wait_for(folder / "pid")

    started = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)

    assert process.returncode == 130
    assert time.monotonic() - started < 10
    assert "Traceback" not in stderr
    assert {path.name for path in folder.glob("*.ipynb")} == {"first.ipynb"}
    assert not alive(int((folder / "pid").read_text()))  # the kernel

    (folder / "go").touch()
    resumed = book.run("execute", "--profile", "smoke")

    assert resumed.returncode == 0
    assert resumed.stdout.count("cached") == 1


@pytest.mark.parametrize(
    ("arguments", "choices"),
    [
        (["--only", "thrid"], ["thrid", "first", "second"]),
        (["--profile", "quick"], ["quick", "smoke", "book", "full"]),
    ],
)
def test_unknown_choice_lists_the_choices(
    book: TinyBook, arguments: list[str], choices: list[str]
) -> None:
    result = book.run("build", *arguments)

    assert result.returncode == 2
    assert all(choice in result.stderr for choice in choices)


# --- verifying -----------------------------------------------------------------------------------


def test_verification_is_remembered_until_the_chapter_is_executed_anew(book: TinyBook) -> None:
    verify = ["verify", "--profile", "smoke", "--only", "first"]

    first, second = book.run(*verify), book.run(*verify)

    assert first.returncode == second.returncode == 0
    assert "cached" not in first.stdout
    assert second.stdout.count("cached") == 2  # executed and verified

    book.append_cell("first", "print('more')")
    assert "cached" not in book.run(*verify).stdout


def test_verification_catches_an_output_that_changes(book: TinyBook) -> None:
    book.append_cell("first", "import time\nprint(time.time_ns())")

    result = book.run("verify", "--profile", "smoke")

    assert result.returncode == 1
    assert "first: a second execution differs from the first" in result.stderr
    assert "second: a second" not in result.stderr
    assert book.run("verify", "--profile", "smoke").returncode == 1  # nothing wrong is remembered


def test_verification_ignores_what_is_said_to_differ(book: TinyBook) -> None:
    book.append_cell("first", ":tags: [nbval-ignore-output]\n\nimport time\nprint(time.time_ns())")
    book.append_cell("first", "import sys\nprint(time.time_ns(), file=sys.stderr)")
    book.append_cell("first", ":tags: [skip-execution]\n\n1 / 0")

    result = book.run("verify", "--profile", "smoke", "--only", "first")

    assert result.returncode == 0, result.stderr


# --- rendering -----------------------------------------------------------------------------------


def test_failed_rendering_leaves_the_book_that_was_there(book: TinyBook) -> None:
    build = ["build", "--profile", "smoke"]
    html = book.root / "_build" / "html"

    whole = book.run(*build)

    assert whole.returncode == 0, whole.stderr
    page = (html / "book" / "first.html").read_text()
    assert "smoke 42" in page
    assert "Parameters" not in page  # the cell that papermill injects

    assert "rendered already" in book.run(*build).stdout

    with (book.root / "book" / "index.md").open("a") as index:
        index.write("\nAnd {eq}`eq-first-missing`.\n")
    broken = book.run(*build)

    assert broken.returncode != 0
    assert "eq-first-missing" in broken.stderr
    assert "eq-first-missing" not in (html / "book" / "index.html").read_text()

    partial = book.run(*build, "--only", "second")  # here a broken reference is only shown

    assert partial.returncode == 0
    assert "eq-first-missing" in partial.stderr


def test_screenshots_need_a_book(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["screenshots"])

    with pytest.raises(SystemExit, match="There is no book yet: make book"):
        screenshots.main()

    assert list(tmp_path.iterdir()) == []
