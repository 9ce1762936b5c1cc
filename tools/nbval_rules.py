"""How nbval compares a chapter's second execution with its first; a pytest plug-in."""

import os
from functools import partial

import pytest
from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir
from nbval import kernel, plugin

# nbval offers no option for it: file sockets, as two kernels may pick the same free port
sockets = f"{jupyter_runtime_dir()}/nbval-{os.getpid()}"
kernel.KernelManager = partial(KernelManager, transport="ipc", ip=sockets)
plugin.metadata_tags["skip-execution"] = "skip"  # Jupyter's tag, which nbval does not know


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Compare text exactly, but not what carries identifiers that differ every time."""
    for notebook in {item.parent for item in items if isinstance(item, plugin.IPyNbCell)}:
        notebook.skip_compare += ("stderr", "image/svg+xml", "text/html")
