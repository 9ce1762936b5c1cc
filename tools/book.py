"""The book's pipeline: chapters are converted, executed, verified and rendered.

    book/*.md --jupytext--> _build/notebooks/*.ipynb
              --papermill--> _build/executed/<profile>/*.ipynb   (cached by content)
              --nbval--> the same outputs a second time
              --jupyter-book--> _build/html/

``make help`` lists the usual doors; ``python -m tools.book --help`` the stages. All paths are
relative to the repository's root, which is the working directory.
"""

import argparse
import hashlib
import json
import multiprocessing
import os
import platform
import queue
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from modulefinder import ModuleFinder
from pathlib import Path

import click
import jupytext
import nbformat
import yaml
from tqdm import tqdm

from tools import nbval_rules, pages

LIMITS = {"smoke": 15, "book": 150, "full": 600}  # seconds a chapter may take, by profile
BUILD = Path("_build")
NOTEBOOKS = BUILD / "notebooks"
EXECUTED = BUILD / "executed"
SITE = BUILD / "site"  # what jupyter-book reads
RENDERING = BUILD / "rendering"
HTML = BUILD / "html"
LOCK = Path("requirements.lock")
EMBEDDED = Path("aecore/mnist_subset")

# The same for every kernel, whoever runs it: one thread each, this checkout's package, this
# environment's kernel rather than one the user has registered, and figures inline.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "PYTHONPATH": os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]).rstrip(
        os.pathsep
    ),
    "JUPYTER_PREFER_ENV_PATH": "1",
    "JUPYTER_PLATFORM_DIRS": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}


@dataclass(frozen=True)
class Job:
    """One chapter to execute or to verify, and its files."""

    slug: str
    profile: str
    dataset: str  # "auto", or the embedded subset where that is all there is
    key: str  # of the cache

    @property
    def source(self) -> Path:
        """The notebook without outputs."""
        return NOTEBOOKS / f"{self.slug}.ipynb"

    @property
    def executed(self) -> Path:
        """The notebook with outputs."""
        return EXECUTED / self.profile / f"{self.slug}.ipynb"

    @property
    def failed(self) -> Path:
        """The notebook up to the cell that failed; also the name while it is being written."""
        return self.executed.with_suffix(".failed.ipynb")

    @property
    def verified(self) -> Path:
        """The key of the last verification that passed."""
        return self.executed.with_suffix(".verified")


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    slug: str
    seconds: float
    cached: bool = False
    failure: str = ""


# --- what a chapter depends on -----------------------------------------------------------------


def digest(parts: Iterable[bytes]) -> str:
    """SHA-256 of several byte strings; moving bytes from one to the next changes it."""
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()


def convert(slug: str, source: Path) -> Path:
    """Write a chapter as notebook and as script to ``_build/notebooks``; give the script."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"  # jupytext's are random
    NOTEBOOKS.mkdir(parents=True, exist_ok=True)
    jupytext.write(notebook, NOTEBOOKS / f"{slug}.ipynb")
    script = NOTEBOOKS / f"{slug}.py"
    jupytext.write(notebook, script, fmt="py:percent")
    return script


def reached_modules(script: Path) -> list[Path]:
    """The repository's modules that a script reaches by import, directly or not."""
    finder = ModuleFinder(path=[os.curdir])
    try:
        finder.run_script(str(script))
    except SyntaxError:  # executing it will say where; until then it depends on everything
        return sorted(Path("aecore").rglob("*.py"))
    return sorted(Path(module.__file__) for module in finder.modules.values() if module.__file__)


def cache_key(source: Path, script: Path, profile: str, *, full_data: bool) -> str:
    """Everything that an executed chapter depends on, in one string."""
    python = ".".join(platform.python_version_tuple()[:2])
    settings = f"{profile} {full_data if profile != 'smoke' else None} {python}"
    modules = [path for path in reached_modules(script) if path != script]
    files = (source, LOCK, *modules, *sorted(EMBEDDED.glob("*.xz")))
    return digest([settings.encode(), *(path.read_bytes() for path in files)])


def obtain_data() -> bool:
    """Whether the full data sets are there, after trying to get them."""
    from aecore import data  # imports torch: seconds that a smoke run need not spend

    if not data.available("mnist"):
        subprocess.run([sys.executable, "-m", "aecore.data", "mnist"], check=False)
    if data.available("mnist"):
        return True
    notice = "MNIST could not be obtained: chapters use the embedded subset, and say so."
    print(f"\n{'*' * len(notice)}\n{notice}\n{'*' * len(notice)}\n", file=sys.stderr)
    return False


def make_jobs(slugs: Sequence[str], profile: str, *, full_data: bool) -> list[Job]:
    """Convert the chapters and find their keys."""
    sources = pages.chapters()
    return [
        Job(
            slug,
            profile,
            "auto" if full_data or profile == "smoke" else "mnist_subset",
            cache_key(sources[slug], convert(slug, sources[slug]), profile, full_data=full_data),
        )
        for slug in slugs
    ]


# --- running chapters in parallel ----------------------------------------------------------------


@dataclass
class Progress:
    """A bar for each running chapter on a terminal; elsewhere a line now and then."""

    interval: float = 10.0  # seconds between lines
    started: dict[str, float] = field(default_factory=dict)
    bars: dict[str, tqdm] = field(default_factory=dict)
    last_lines: float = field(default_factory=time.monotonic)

    def update(self, slug: str, done: int, total: int) -> None:
        """Note how far a chapter is."""
        if slug not in self.bars:
            self.started[slug] = time.monotonic()
            layout = "{desc:>16} {bar:30} {n_fmt}/{total_fmt} cells, {elapsed}"
            self.bars[slug] = tqdm(desc=slug, bar_format=layout, leave=False, disable=None)
        self.bars[slug].n, self.bars[slug].total = done, total

    def tick(self) -> None:
        """Show where things stand; called about twice a second."""
        now = time.monotonic()
        due = now - self.last_lines >= self.interval
        for slug, bar in self.bars.items():
            if not bar.disable:
                bar.refresh()
            elif due:
                seconds = now - self.started[slug]
                print(f"{slug}: {bar.n}/{bar.total} cells, {seconds:.0f} s", file=sys.stderr)
        if due:
            self.last_lines = now

    def finish(self, outcome: Outcome) -> None:
        """Report a chapter that has ended."""
        if bar := self.bars.pop(outcome.slug, None):
            bar.close()
        state = "FAILED" if outcome.failure else "done"
        tqdm.write(f"{outcome.slug}: {state}, {outcome.seconds:.0f} s", file=sys.stderr)


events: "multiprocessing.Queue[tuple[str, int, int]]"  # in a worker: chapter, cells done, of all


def start_worker(channel: "multiprocessing.Queue[tuple[str, int, int]]") -> None:
    """Leave Ctrl-C to the parent, whose SIGTERM unwinds the stack and so ends the kernel."""
    global events
    events = channel

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the pool repeats itself: finish in peace
        sys.exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, stop)


def run_jobs(task: Callable[[Job], Outcome], jobs: Sequence[Job], n_jobs: int) -> list[Outcome]:
    """Run a task on every job, some at a time, showing progress."""
    if not jobs:
        return []
    channel: multiprocessing.Queue[tuple[str, int, int]] = multiprocessing.Queue()
    progress = Progress()
    outcomes = []
    with ProcessPoolExecutor(n_jobs, initializer=start_worker, initargs=(channel,)) as pool:
        try:
            pending = {pool.submit(task, job) for job in jobs}
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                drain(channel, progress)
                progress.tick()
                for future in done:
                    outcomes.append(future.result())
                    progress.finish(outcomes[-1])
        except BaseException:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C would leave workers behind
            pool.shutdown(wait=False, cancel_futures=True)
            workers = multiprocessing.active_children()
            for worker in workers:
                worker.terminate()
            deadline = time.monotonic() + 5
            for worker in workers:
                worker.join(max(0, deadline - time.monotonic()))
                worker.kill()  # one that hangs; its kernel ends itself when its parent is gone
            raise
    return outcomes


def drain(channel: "multiprocessing.Queue[tuple[str, int, int]]", progress: Progress) -> None:
    """Show what the workers have reported so far."""
    while True:
        try:
            progress.update(*channel.get_nowait())
        except queue.Empty:
            return


# --- execute and verify --------------------------------------------------------------------------


def execute_chapter(job: Job) -> Outcome:
    """Execute one chapter with papermill; its notebook appears whole, or not at all."""
    import papermill  # by the workers alone: it takes a while
    from traitlets.config import Config

    n_cells = len(nbformat.read(job.source, as_version=4).cells) + 1  # the injected one
    sockets = f"{os.environ['JUPYTER_RUNTIME_DIR']}/{job.slug}"
    current = ""

    def report(cell: nbformat.NotebookNode, cell_index: int) -> None:
        nonlocal current
        current = cell["id"]
        events.put((job.slug, cell_index, n_cells))

    started = time.monotonic()
    try:
        notebook = papermill.execute_notebook(
            job.source.resolve(),
            job.failed.resolve(),
            parameters={"profile": job.profile, "dataset": job.dataset},
            kernel_name="python3",
            cwd=job.executed.parent,
            progress_bar=False,
            request_save_on_cell_execute=False,
            shutdown_kernel="immediate",
            # file sockets: two kernels starting at once may pick the same free port
            config=Config(KernelManager={"transport": "ipc", "ip": sockets}),
            extra_arguments=["--log-level=ERROR"],  # no warning about unencrypted local sockets
            on_cell_start=report,
        )
    except (papermill.PapermillExecutionError, RuntimeError) as error:  # of the cell; the kernel's
        traceback = "\n".join(getattr(error, "traceback", [str(error)]))
        where = place(job, current) if current else f"{job.slug}: its kernel did not start"
        failure = f"{where}\n\n{traceback}"
        return Outcome(job.slug, time.monotonic() - started, failure=failure)
    seconds = time.monotonic() - started
    notebook.metadata["aecore"] = {"key": job.key, "seconds": seconds}
    nbformat.write(notebook, job.failed)
    os.replace(job.failed, job.executed)
    return Outcome(job.slug, seconds)


def place(job: Job, cell_id: str) -> str:
    """Where a chapter stopped, in words that find it in the source."""
    cells = nbformat.read(job.source, as_version=4).cells
    index = [cell["id"] for cell in cells].index(cell_id)
    before = "\n".join(cell.source for cell in cells[:index] if cell.cell_type == "markdown")
    headings = [line for line in before.splitlines() if line.startswith("#")]
    number = sum(cell.cell_type == "code" for cell in cells[: index + 1])
    first_lines = "\n".join(f"    {line}" for line in cells[index].source.splitlines()[:3])
    return (
        f"{job.slug}: code cell {number} failed, in the section "
        f"{headings[-1].lstrip('# ')!r}, beginning\n{first_lines}"
    )


def execution(job: Job) -> Outcome | None:
    """The job's earlier execution, where its key still holds."""
    if not job.executed.exists():
        return None
    record = nbformat.read(job.executed, as_version=4).metadata.get("aecore", {})
    return (
        Outcome(job.slug, record["seconds"], cached=True) if record.get("key") == job.key else None
    )


def verify_chapter(job: Job) -> Outcome:
    """Execute an executed chapter again under nbval, which compares its outputs."""
    n_cells = sum(c.cell_type == "code" for c in nbformat.read(job.executed, as_version=4).cells)
    command = [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-v"]
    # no project configuration: its options and warning filters are for other tests
    command += ["-c", os.devnull, "--rootdir", os.curdir, "-p", "no:cacheprovider"]
    command += ["-p", nbval_rules.__name__, str(job.executed)]
    started = time.monotonic()
    lines = []
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as nbval:
        try:
            for line in nbval.stdout or ():
                lines.append(line)
                n_done = sum("::Cell" in line for line in lines)
                events.put((job.slug, n_done, n_cells))
        except BaseException:
            nbval.kill()
            raise
    if nbval.returncode:
        failure = f"{job.slug}: a second execution differs from the first\n\n{''.join(lines)}"
        return Outcome(job.slug, time.monotonic() - started, failure=failure)
    job.verified.write_text(verification_key(job))
    return Outcome(job.slug, time.monotonic() - started)


def verification_key(job: Job) -> str:
    """What a verification holds for: this notebook under these rules."""
    return digest([job.executed.read_bytes(), Path(nbval_rules.__file__).read_bytes()])


def verification(job: Job) -> Outcome | None:
    """The job's earlier verification, where it still holds."""
    if not job.verified.exists() or job.verified.read_text() != verification_key(job):
        return None
    return Outcome(job.slug, 0.0, cached=True)


def run_stage(
    name: str,
    task: Callable[[Job], Outcome],
    earlier: Callable[[Job], Outcome | None],
    jobs: Sequence[Job],
    n_jobs: int,
) -> None:
    """Run a task on the jobs that have no valid earlier outcome, and report on all.

    Raises:
        SystemExit: If any fails, after the others had their turn.
    """
    known = {job.slug: earlier(job) for job in jobs}
    fresh = run_jobs(task, [job for job in jobs if known[job.slug] is None], n_jobs)
    outcomes = {outcome.slug: outcome for outcome in fresh} | {
        slug: outcome for slug, outcome in known.items() if outcome
    }
    print(f"{name}:")
    for job in jobs:
        outcome = outcomes[job.slug]
        state = "FAILED" if outcome.failure else "cached" if outcome.cached else ""
        limit = LIMITS[job.profile]
        slow = task is execute_chapter and outcome.seconds > limit
        remark = f"above the limit of {limit} s" if slow else ""
        print(f"  {job.slug:20} {outcome.seconds:6.1f} s  {state:6}  {remark}".rstrip())
    sys.stdout.flush()
    failures = [outcome.failure for outcome in outcomes.values() if outcome.failure]
    for failure in failures:
        click.echo(f"\n{failure}", err=True)  # without the colours where there is no terminal
    if failures:
        sys.exit(1)


# --- render --------------------------------------------------------------------------------------


def reduced_toc(toc: dict, keep: Callable[[str], bool]) -> dict:
    """A table of contents without the files that are not to be kept."""

    def kept(entries: list[dict]) -> list[dict]:
        return [entry for entry in entries if keep(entry["file"])]

    parts = [part | {"chapters": kept(part["chapters"])} for part in toc["parts"]]
    return toc | {"parts": [part for part in parts if part["chapters"]]}


def prepare_site(profile: str, *, complete: bool) -> None:
    """Lay out what jupyter-book reads: text pages, executed chapters, generated pages."""
    sources = pages.chapters()
    executed = {slug: EXECUTED / profile / f"{slug}.ipynb" for slug in sources}
    executed = {slug: path for slug, path in executed.items() if path.exists()}
    shutil.rmtree(SITE, ignore_errors=True)
    shutil.copytree("book", SITE / "book", ignore=shutil.ignore_patterns("*.ipynb", ".*"))
    shutil.copy("_config.yml", SITE)
    for slug, source in sources.items():
        (SITE / source).unlink()
        if slug in executed:
            notebook = nbformat.read(executed[slug], as_version=4)
            for cell in notebook.cells:
                tags = cell.metadata.setdefault("tags", [])
                if "injected-parameters" in tags:
                    tags.append("remove-cell")
                elif "figure" in cell.metadata.get("mystnb", {}):
                    tags.append("hide-input")  # the picture is the point; its code unfolds
            nbformat.write(notebook, (SITE / source).with_suffix(".ipynb"))
    appendix = SITE / "book" / "appendix"
    appendix.mkdir(exist_ok=True)
    (appendix / "equations.md").write_text(pages.equations_page(list(executed)))
    results = pages.results_page(executed, profile, complete=complete)
    (appendix / "results.md").write_text(results)

    toc = yaml.safe_load(pages.TOC.read_text())
    if not complete:
        toc = reduced_toc(toc, lambda file: any(SITE.glob(f"{file}.*")))
    (SITE / pages.TOC).write_text(yaml.safe_dump(toc, sort_keys=False))


def render(profile: str, *, complete: bool) -> None:
    """Render the book, unless it is rendered already; a failure leaves the old one in place.

    Args:
        profile: Whose executed chapters to show.
        complete: Whether every page must be there and every reference resolve.

    Raises:
        SystemExit: If jupyter-book fails.
    """
    prepare_site(profile, complete=complete)
    inputs = [*SITE.rglob("*"), *Path("aecore").rglob("*.py"), LOCK]
    inputs = sorted(path for path in inputs if path.is_file())
    state = f"{profile} {complete} {[path.as_posix() for path in inputs]}"
    key = digest([state.encode(), *(path.read_bytes() for path in inputs)])
    stamp = HTML / "build.json"
    if stamp.exists() and json.loads(stamp.read_text())["key"] == key:
        print(f"rendered already: {HTML / 'index.html'}")
        return

    print("rendering: half a minute or so …", flush=True)
    shutil.rmtree(RENDERING, ignore_errors=True)
    jupyter_book = Path(sysconfig.get_path("scripts"), "jupyter-book")
    command = [str(jupyter_book), "build", "--path-output", str(RENDERING)]
    command += ["-n", "--keep-going", *(["-W"] if complete else []), str(SITE)]
    started = time.monotonic()
    with (BUILD / "rendering.log").open("w") as log:
        sphinx = subprocess.run(command, stdout=log, stderr=subprocess.PIPE, text=True, check=False)
    click.echo(sphinx.stderr, err=True, nl=False)
    if sphinx.returncode:
        sys.exit(f"rendering failed; the whole log is {log.name}")
    fresh = RENDERING / "_build" / "html"
    (fresh / stamp.name).write_text(
        json.dumps({"key": key, "profile": profile, "complete": complete})
    )
    replace_folder(HTML, fresh)
    print(f"rendered in {time.monotonic() - started:.0f} s: {HTML / 'index.html'}")


def replace_folder(old: Path, new: Path) -> None:
    """Put a folder in the place of another."""
    aside = old.with_suffix(".old")
    shutil.rmtree(aside, ignore_errors=True)
    if old.exists():
        old.rename(aside)
    new.rename(old)
    shutil.rmtree(aside, ignore_errors=True)


# --- command line --------------------------------------------------------------------------------


def parse_arguments() -> argparse.Namespace:
    """The command line, with the chapters that it means in ``slugs``."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.book", description=__doc__.split("\n")[0]
    )
    stages = {
        "convert": "write every chapter as a notebook",
        "execute": "execute chapters",
        "verify": "execute chapters, then again, and compare",
        "render": "render what is executed",
        "build": "obtain the data, execute and render",
    }
    parser.add_argument(
        "stage", choices=stages, help="; ".join(f"{k}: {v}" for k, v in stages.items())
    )
    parser.add_argument("--profile", choices=LIMITS, default="book")
    parser.add_argument("--only", nargs="+", default=[], metavar="CHAPTER")
    parser.add_argument("--jobs", type=int, default=2, help="chapters at a time (default: 2)")
    arguments = parser.parse_args()
    known = pages.chapters()
    if unknown := [slug for slug in arguments.only if slug not in known]:
        parser.error(f"no chapter {', '.join(unknown)}; choose from {', '.join(known)}")
    arguments.slugs = [slug for slug in known if slug in (arguments.only or known)]
    return arguments


def main() -> None:
    """Settle the environment of all kernels, and run what the command line asks for."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as neatly as for Ctrl-C
    arguments = parse_arguments()
    os.environ.update(ENVIRONMENT)
    os.environ.pop("JUPYTER_PATH", None)  # another place where kernels are looked for
    # /tmp by name: the path of a socket may have about a hundred characters
    with tempfile.TemporaryDirectory(
        prefix="aecore-", dir="/tmp", ignore_cleanup_errors=True
    ) as runtime:
        os.environ["JUPYTER_RUNTIME_DIR"] = runtime
        run_stages(arguments)


def run_stages(arguments: argparse.Namespace) -> None:
    """Run one stage, and the stages that it needs."""
    profile, stage = arguments.profile, arguments.stage
    executes = stage in ("execute", "verify", "build")
    full_data = executes and profile != "smoke" and obtain_data()
    jobs = make_jobs(arguments.slugs, profile, full_data=full_data)
    (EXECUTED / profile).mkdir(parents=True, exist_ok=True)
    if executes:
        run_stage("executed", execute_chapter, execution, jobs, arguments.jobs)
    if stage == "verify":
        run_stage("verified", verify_chapter, verification, jobs, arguments.jobs)
    if stage in ("render", "build"):
        render(profile, complete=not arguments.only)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("\ninterrupted; finished chapters are kept", file=sys.stderr)
        sys.exit(130)
