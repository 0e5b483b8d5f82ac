"""Logits of whole texts by other libraries, each in its environment: what `bench.precision` sets beside our own."""

import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from bench.peer_process import RUNNERS, PeerFailed
from bench.peers import LIBRARIES, Library, PeerMissing, needs_of


def peer_logits(
    checkpoint: Path, environments: Path, texts: list[list[int]]
) -> Iterator[tuple[str, list[torch.Tensor] | str]]:
    """By library: fp32 [tokens, vocab_size] for each text, or why there is nothing. Texts are equally long."""
    for name, library in LIBRARIES.items():
        if library.logits is None:
            continue
        try:
            yield name, _logits(library, library.logits, checkpoint, environments, texts)
        except (PeerMissing, PeerFailed) as lack:
            yield name, str(lack)


def _logits(
    library: Library, script: str, checkpoint: Path, environments: Path, texts: list[list[int]]
) -> list[torch.Tensor]:
    python, model = needs_of(library, checkpoint, environments)
    with tempfile.TemporaryDirectory(prefix="tiercel-logits-") as folder:
        ids, out = Path(folder) / "ids.npy", Path(folder) / "logits.npy"
        np.save(ids, np.array(texts, np.int64))
        words = [str(python), str(RUNNERS / script), library.variant, str(model), str(ids), str(out)]
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
        if done.returncode:
            last = "\n".join(done.stdout.splitlines()[-12:])
            raise PeerFailed(f"{script} {library.variant} ended with {done.returncode}:\n{last}")
        return list(torch.from_numpy(np.load(out)))
