"""`make demo`: start the stack on the bundled model, stream an answer, show the status, stop.

It types what a person would type, so the commands it shows are the ones to copy.
"""

import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

INFER_CLI = Path(sys.executable).with_name("infer-cli")

QUESTION = (
    "The code for Mira is 4821. The code for Jonas is 1375. The code for Lena is 9046. What is the code for Mira?"
)


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="tiercel-demo-") as folder:
        ready = str(Path(folder) / "ready.json")
        # Port 0 takes a free one, so that the demo runs beside a stack that is already up.
        if type_command("up", "--model", "demo", "--port", "0", "--ready-file", ready, "--detach") != 0:
            return 1
        target = ready_target(ready)
        try:
            for words in (
                ("generate", "--chat", QUESTION, "--temperature", "0", "--target", target),
                ("generate", "--chat", QUESTION, "--temperature", "0", "--json", "--target", target),
                ("status", "--target", target),
            ):
                if type_command(*words) != 0:
                    return 1
        finally:
            stopped = type_command("down", "--target", target)
    return stopped


def type_command(*words: str) -> int:
    print(f"\n$ infer-cli {shlex.join(words)}", flush=True)
    return subprocess.run([INFER_CLI, *words], check=False).returncode


def ready_target(ready: str) -> str:
    """The front door's address, as `--ready-file` states it."""
    return str(json.loads(Path(ready).read_text())["target"])


if __name__ == "__main__":
    raise SystemExit(main())
