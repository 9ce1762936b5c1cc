"""Hostile submissions: each must score nothing, learn nothing and harm nothing."""

import ast
import json
import os
import socket
import sys
import zipfile
from pathlib import Path

import nbformat
import pytest

from tools import assignments, grading
from tools.sandbox import Limits

LIMITS = Limits(seconds=45, memory=2 << 30, processes=64, output=8 << 20, disk=64 << 20)
CANARY = "canary-d3b07384"  # whatever is found must not contain it

# What a student's notebook may try; "stolen" is a function's answer, and so comes out if it can.
TRY = """
import os, sys, json, socket, subprocess
found = []
def attempt(action):
    try:
        found.append(repr(action()))
    except BaseException as error:
        found.append(f"{type(error).__name__}: {error}")
"""
REPORT = """
raise RuntimeError("FOUND " + " | ".join(map(str, found)))
"""

ATTACKS = {
    "hidden tests": TRY
    + """
for root in ("/job", "/package", "/tmp", "/home", os.getcwd(), REPOSITORY):
    for folder, _, files in os.walk(root):
        for name in files:
            path = os.path.join(folder, name)
            if path.endswith((".md", ".py", ".ipynb", ".json", ".csv", ".toml")):
                if "def grade(" + "value, seed)" in open(path, errors="replace").read():
                    found.append(path)
found.append(os.path.exists(REPOSITORY + "/book"))
"""
    + REPORT,
    "other submissions": TRY
    + """
attempt(lambda: os.listdir(SUBMISSIONS))
attempt(lambda: open(NEIGHBOUR).read())
attempt(lambda: [os.listdir(path) for path in ("/job", "/tmp", "/home/student")])
attempt(lambda: os.listdir(RESULTS))
"""
    + REPORT,
    "environment": TRY
    + """
attempt(lambda: dict(os.environ))
for pid in filter(str.isdigit, os.listdir("/proc")):
    attempt(lambda: open(f"/proc/{pid}/environ").read())
    attempt(lambda: open(f"/proc/{pid}/cmdline").read())
"""
    + REPORT,
    "the home": TRY
    + """
attempt(lambda: os.listdir(HOME))
attempt(lambda: open("/etc/shadow").read())
attempt(lambda: open("/etc/passwd").read())
attempt(lambda: os.listdir(os.path.expanduser("~")))
"""
    + REPORT,
    "a socket": TRY
    + """
attempt(lambda: socket.create_connection(("1.1.1.1", 80), timeout=3))
attempt(lambda: socket.create_connection(("127.0.0.1", PORT), timeout=3).recv(100))
attempt(lambda: socket.getaddrinfo("example.org", 80))
"""
    + REPORT,
    "an endless loop": "while True:\n    pass",
    "eating memory": "hoard = []\nwhile True:\n    hoard.append(bytearray(b'x' * 10**8))",
    "forking without end": """
import os
while True:
    try:
        os.fork()
    except OSError:
        pass
""",
    "a 2 GB output": "for _ in range(2000):\n    print('x' * 10**6)",
    "a 2 GB file": "for n in range(40):\n    open(f'f{n}', 'wb').write(b'x' * 50_000_000)",
    "printing forged results": """
import json, os, sys
forged = json.dumps({"total": 100, "errors": {}, "fatal": ""})
print(forged)
for fd in range(1, 64):
    try:
        os.write(fd, forged.encode())
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    for fd in range(64):
        try:
            open(f"/proc/{pid}/fd/{fd}", "wb").write(forged.encode())
        except OSError:
            pass
""",
    "patching the comparisons": """
import builtins, sys, torch
torch.allclose = torch.equal = lambda *a, **k: True
torch.testing.assert_close = lambda *a, **k: None
sys.exit = os_exit = lambda *a: None
import aecore.checks
aecore.checks.compare = lambda *a, **k: None
class Equal(torch.Tensor):
    def __eq__(self, other):
        return True
    __hash__ = None
def full_gaussian_kl(mu, scale_tril):
    return Equal(mu[:, 0])
correlated_sample = free_bits = evidence_error = lambda *a: Equal(torch.zeros(3))
latent_costs = lambda *a: Equal(torch.zeros(5))
""",
    "patching the harvest": """
import sys, types, json
import torch, safetensors.torch
safetensors.torch.save_file = lambda *a, **k: None
fake = types.ModuleType("run_submission")
def harvest(names, job, home):
    open(home + "/values.safetensors", "wb").write(b"\\x80\\x04")
    open(home + "/errors.json", "w").write(json.dumps({"q1.1": "", "q2.1": ""}))
fake.harvest = harvest
sys.modules["run_submission"] = fake
for name in ("/job/run_submission.py", "/job/calls.py", "/package/aecore/__init__.py"):
    try:
        open(name, "w").write("")
    except OSError:
        pass
""",
    "deleting its folder": """
import shutil, os
for path in (".", "/job", "/package", "/tmp", "/home", SUBMISSIONS, REPOSITORY, "/usr"):
    shutil.rmtree(path, ignore_errors=True)
""",
    "killing its elders": """
import os, signal
for pid in (1, os.getppid(), GRADER):
    try:
        os.kill(pid, signal.SIGKILL)
    except OSError:
        pass
try:
    os.kill(-1, signal.SIGKILL)
except OSError:
    pass
""",
    "leaving by the back door": "import os\nos._exit(0)",
    "calling the book": """
import math
from aecore.synthetic import LinearGaussian
def full_gaussian_kl(mu, scale_tril):
    model = LinearGaussian(torch.zeros(1, mu.shape[1]).to(mu), torch.zeros(1).to(mu), 0.0)
    bound = model.elbo(torch.zeros(len(mu), 1).to(mu), mu, scale_tril @ scale_tril.mT)
    return -bound - 0.5 * math.log(2 * math.pi)
def free_bits(kl, floor):
    from aecore.checks.vae import MISTAKES
    return MISTAKES["free_bits"][4].wrong(kl, floor) + floor * kl.shape[1]
""",
}


def notebook(*sources: str) -> nbformat.NotebookNode:
    cells = [nbformat.v4.new_code_cell(source) for source in ("import torch", *sources)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture(scope="module")
def graded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict]:
    """All attacks in one class, with an honest student among them."""
    handed_in = tmp_path_factory.mktemp("class")
    results = tmp_path_factory.mktemp("results")
    canary = handed_in / "honest.ipynb"
    honest = assignments.master(assignments.read("vae"), hidden=False)
    del honest.cells[
        next(n for n, cell in enumerate(honest.cells) if "latent_costs" in cell.source)
    ]
    honest.cells.append(nbformat.v4.new_markdown_cell(CANARY))
    nbformat.write(honest, canary)
    server = socket.create_server(("127.0.0.1", 0))
    places = {
        "REPOSITORY": str(Path.cwd()),
        "SUBMISSIONS": str(handed_in),
        "NEIGHBOUR": str(canary),
        "RESULTS": str(results),
        "HOME": str(Path.home()),
        "PORT": server.getsockname()[1],
        "GRADER": os.getpid(),
    }
    known = "\n".join(f"{name} = {place!r}" for name, place in places.items())
    for name, source in ATTACKS.items():
        nbformat.write(notebook(known, source), handed_in / f"{name}.ipynb")
    many = b'{"cell_type":"code","source":"1","metadata":{},"outputs":[],"execution_count":null},'
    head = b'{"nbformat":4,"nbformat_minor":4,"metadata":{},"cells":['
    Path(handed_in, "a million cells.ipynb").write_bytes(head + many * 10**6 + many[:-1] + b"]}")
    Path(handed_in, "cells that fit.ipynb").write_bytes(head + many * 200_000 + many[:-1] + b"]}")
    with zipfile.ZipFile(handed_in / "a slip.zip", "w") as archive:
        archive.writestr("../../slip.ipynb", nbformat.writes(honest))
    with zipfile.ZipFile(handed_in / "a bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("vae.ipynb", b" " * (100 << 20))
    Path(handed_in, "no notebook.ipynb").write_text("hello")
    Path(handed_in, "wrong.pdf").write_bytes(b"%PDF")
    Path(handed_in, "a link.ipynb").symlink_to("/etc/passwd")
    os.environ["AECORE_TEST_SECRET"] = CANARY
    try:
        grading.grade_class("vae", handed_in, results, limits=LIMITS)
    finally:
        del os.environ["AECORE_TEST_SECRET"]
        server.close()
    assert not Path(handed_in.parent, "slip.ipynb").exists()
    assert len(list(handed_in.iterdir())) == len(ATTACKS) + 8
    assert Path.cwd().joinpath("book").exists()
    files = (results / "submissions").iterdir()
    return {path.stem: json.loads(path.read_text()) for path in files}


ALL = [*ATTACKS, "a million cells", "cells that fit", "a slip", "a bomb", "no notebook", "wrong"]


@pytest.mark.parametrize("name", [*ALL, "a link"])
def test_an_attack_scores_nothing_and_sees_nothing(name: str, graded: dict[str, dict]) -> None:
    record = graded[name]
    assert record["total"] == 0
    assert CANARY not in json.dumps(record)


def test_an_honest_neighbour_of_attackers_is_graded(graded: dict[str, dict]) -> None:
    assert graded["honest"]["total"] == 80  # all but the experiment, for time


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("an endless loop", "longer than 45 s"),
        ("eating memory", ""),
        ("a million cells", "larger than 20 MiB"),
        ("a slip", "outside of its folder"),
        ("a bomb", "larger than 20 MiB"),
        ("no notebook", "not a notebook"),
        ("wrong", "not .pdf"),
        ("a link", "no ordinary file"),
    ],
)
def test_what_is_refused_is_told_why(name: str, reason: str, graded: dict[str, dict]) -> None:
    assert reason in graded[name]["reason"]


def found(record: dict) -> list[str]:
    """What a spy's notebook reports to have found."""
    (message,) = [text for _, text in record["cells"] if "FOUND" in text]
    return message.removeprefix("RuntimeError: FOUND ").split(" | ")


def test_a_spy_finds_no_hidden_test(graded: dict[str, dict]) -> None:
    assert found(graded["hidden tests"]) == ["False"]


def test_a_spy_finds_its_own_notebook_alone(graded: dict[str, dict]) -> None:
    *others, notebooks, results = found(graded["other submissions"])
    assert all(text.startswith("FileNotFoundError") for text in [*others, results])
    assert "honest" not in notebooks


def test_a_spy_finds_nothing_of_the_callers_home(graded: dict[str, dict]) -> None:
    home, shadow, passwd, own = found(graded["the home"])
    python = {part for path in (sys.prefix, sys.base_prefix) for part in Path(path).parts}
    assert "Error" in home or set(ast.literal_eval(home)) <= python  # but for Python itself
    assert shadow.startswith("FileNotFoundError")
    assert passwd.startswith("FileNotFoundError")
    assert "submission.ipynb" in own


def test_a_spy_reaches_no_host(graded: dict[str, dict]) -> None:
    assert len(found(graded["a socket"])) == 3
    assert all("error" in text.lower() for text in found(graded["a socket"]))


def test_calling_the_book_earns_nothing_and_says_why(graded: dict[str, dict]) -> None:
    messages = {t["name"]: t["message"] for t in graded["calling the book"]["tests"]}
    assert "switched off while this assignment is graded" in messages["q1.1"]
    assert "aecore.checks" in messages["q3.1"]
