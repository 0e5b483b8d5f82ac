"""Where a stack's logs go: a folder of its own; the folders of the last stacks are kept."""

import os
import shutil
import time
from pathlib import Path

from tiercel.cli import stack_record
from tiercel.cli.failure import EXIT_USAGE, CommandFailed

NUM_KEPT = 10


def create(asked: Path | None) -> Path:
    """`asked`, or a new folder in the state directory. Raises CommandFailed where it cannot be made."""
    parent = stack_record.state_dir() / "logs"
    folder = asked or parent / time.strftime(f"%Y%m%d-%H%M%S-{os.getpid()}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandFailed(f"cannot make the log folder {folder}: {error.strerror}", EXIT_USAGE) from None
    if asked is None:
        _prune(parent)
    return folder


def _prune(parent: Path) -> None:
    in_use = {record.log_dir for record in stack_record.running_stacks()}
    folders = sorted(folder for folder in parent.iterdir() if folder.is_dir())
    for folder in folders[:-NUM_KEPT]:
        if str(folder) not in in_use:
            shutil.rmtree(folder, ignore_errors=True)
