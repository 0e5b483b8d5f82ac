"""For all tests: signals as at a terminal, however the tests were started, and caches of their own."""

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

DESELECTED = pytest.StashKey[dict[str, str]]()
OPT_IN = {"docker": "--with-docker", "helm": "--with-helm", "prometheus": "--with-prometheus"}
"""Marks of tests that need more than a checkout: deselected, and said so, unless their option is given."""

# Triton's kernels run in its interpreter where there is no CUDA device. It reads this when it is imported, which the
# modules of any test may do first.
if not any(Path("/dev").glob("nvidia[0-9]*")):
    os.environ["TRITON_INTERPRET"] = "1"

# A shell that starts a job in the background lets it ignore SIGINT, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--with-docker", action="store_true", help="also run the tests that need a Docker engine")
    parser.addoption("--with-helm", action="store_true", help="also run the tests that need Helm's library")
    parser.addoption(
        "--with-prometheus",
        action="store_true",
        help="also run the tests that need Prometheus (Debian: apt-get install prometheus)",
    )
    parser.addoption("--torch-wheels", type=Path, help="folder with a CPU wheel of torch, instead of the public index")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    deselected: dict[pytest.Item, str] = {}
    for item in items:
        for mark, option in OPT_IN.items():
            if item.get_closest_marker(mark) and not config.getoption(option):
                deselected[item] = option
    deselected.update(dict.fromkeys(_without_device(items), "a CUDA device"))
    if deselected:
        items[:] = [item for item in items if item not in deselected]
        config.hook.pytest_deselected(items=list(deselected))
        names = {item.nodeid.partition("[")[0]: option for item, option in deselected.items()}
        config.stash[DESELECTED] = names
        if hasattr(config, "workeroutput"):
            config.workeroutput["deselected"] = names


def _without_device(items: list[pytest.Item]) -> list[pytest.Item]:
    """Those that need a CUDA device where there is none. torch is imported only if it matters."""
    need_device = [item for item in items if item.get_closest_marker("gpu")]
    if need_device:
        import torch

        if torch.cuda.is_available():
            return []
    return need_device


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:  # noqa: ARG001 - xdist's signature
    """A process that ran a part of the tests has ended: what it left out is said once, at the end."""
    node.config.stash.setdefault(DESELECTED, {}).update(node.workeroutput.get("deselected", {}))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name, option in config.stash.get(DESELECTED, {}).items():
        terminalreporter.write_line(f"deselected without {option}: {name}")


@pytest.fixture(scope="session", autouse=True)
def _own_cache_dir() -> Iterator[None]:
    """No test reads what an earlier run has left on disk, and none leaves anything there."""
    with tempfile.TemporaryDirectory(prefix="tiercel-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", folder)
        yield
