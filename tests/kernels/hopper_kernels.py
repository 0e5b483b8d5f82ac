"""What Triton's own compiler makes of kernels for Hopper, which needs no device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any


def compiled_kernels(program: str, cache: Path) -> list[dict[str, Any]]:
    """What `tests.kernels.<program>` says of each kernel that it has launched; see compile_for_hopper.py.

    In a process of its own, without the interpreter and with the empty folder `cache` for what is compiled.
    """
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", f"tests.kernels.{program}"],
        capture_output=True,
        text=True,
        env=environment | {"TRITON_CACHE_DIR": str(cache)},
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]
