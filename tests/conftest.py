"""For all tests: signals as at a terminal, however the tests were started, and caches of their own."""

import os
import signal
import tempfile
from collections.abc import Iterator

import pytest

# A shell that starts a job in the background lets it ignore SIGINT, and children would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _own_cache_dir() -> Iterator[None]:
    """No test reads what an earlier run has left on disk, and none leaves anything there."""
    with tempfile.TemporaryDirectory(prefix="tiercel-cache-") as folder, pytest.MonkeyPatch.context() as patch:
        patch.setitem(os.environ, "XDG_CACHE_HOME", folder)
        yield
