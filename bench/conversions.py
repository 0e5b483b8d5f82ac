"""What a peer reads in place of our checkpoint: made by a script in the peer's environment, once, kept beside it."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peer_process import RUNNERS, PeerFailed


@dataclass(frozen=True, slots=True)
class Conversion:
    """`script type_name checkpoint out`, run in `environment`."""

    environment: str
    script: str
    type_name: str
    suffix: str
    """Of the result: `135m` becomes `135m` + suffix."""


def converted(checkpoint: Path, conversion: Conversion, python: Path) -> Path:
    """Where the result is; made now if it is not there. Raises PeerFailed."""
    path = checkpoint.with_name(checkpoint.name + conversion.suffix)
    if path.exists():
        return path
    draft = path.with_name("draft-" + path.name)
    if draft.is_dir():
        shutil.rmtree(draft)
    words = [str(python), str(RUNNERS / conversion.script), conversion.type_name, str(checkpoint), str(draft)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        last = "\n".join(done.stdout.splitlines()[-12:])
        raise PeerFailed(f"{conversion.script} {conversion.type_name} ended with {done.returncode}:\n{last}")
    draft.rename(path)
    return path
