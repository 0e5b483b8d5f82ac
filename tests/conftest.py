"""For all tests: signals as at a terminal, however the tests were started, and caches of their own."""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

# A shell that starts a job in the background lets it ignore SIGINT, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

_LEFT_OUT = pytest.StashKey[list[str]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--with-prometheus",
        action="store_true",
        help="also run the tests that need Prometheus (Debian: apt-get install prometheus)",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--with-prometheus"):
        return
    left_out = [item for item in items if item.get_closest_marker("prometheus") is not None]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        config.stash[_LEFT_OUT] = [item.nodeid for item in left_out]
        items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for name in config.stash.get(_LEFT_OUT, []):
        terminalreporter.write_line(f"DESELECTED {name}: needs --with-prometheus")


@pytest.fixture(scope="session", autouse=True)
def _own_cache_dir() -> Iterator[None]:
    """No test reads what an earlier run has left on disk, and none leaves anything there."""
    with tempfile.TemporaryDirectory(prefix="tiercel-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", folder)
        yield
