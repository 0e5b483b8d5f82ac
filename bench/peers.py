"""A peer is something that serves a checkpoint and can be measured: this stack, or a library beside it.

`PEERS` names all that there are; `make_peer` makes one, or says what it lacks.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from bench.conversions import Conversion, converted
from bench.peer_process import RUNNERS, ProcessPeer
from bench.peer_venvs import is_made, python_of
from bench.records import RequestRecord
from bench.tiercel_peer import INFER_CLI, TiercelPeer
from bench.workloads import Workload


class Peer(Protocol):
    """Started once, measured in many rounds; idle between them."""

    @property
    def name(self) -> str: ...

    def start(self) -> None: ...

    def run(self, workload: Workload) -> list[RequestRecord]:
        """Serve the workload and report each request, in its order."""
        ...

    def stop(self) -> None: ...


class PeerMissing(Exception):
    """The peer cannot be had here; the message says what it takes."""


@dataclass(frozen=True, slots=True)
class Library:
    """What another library needs to be a peer."""

    runner: str
    variant: str
    environment: str | None
    """None: our own."""
    conversion: Conversion | None = None
    at_once_requests: int | None = None
    """Take no more of W1's requests: the rate is the same, the round shorter."""
    workloads: tuple[str, ...] = ("W1", "W2", "W3", "W3 4096", "W4")
    logits: str | None = None
    """The script that gives its logits, see `bench/runners/logits.py`."""


_IR = {
    name: Conversion("openvino_convert", "convert_openvino.py", name, f"-openvino-{name}")
    for name in ("bf16", "f16", "int8")
}
_GGUF = {name: Conversion("llama_cpp", "convert_gguf.py", name, f"-{name}.gguf") for name in ("bf16", "q8_0")}

TIERCEL: dict[str, tuple[str, ...]] = {
    "tiercel": (),
    "tiercel int8": ("--weights", "int8"),
    "tiercel fp8 cache": ("--kv-dtype", "fp8"),
    "tiercel fp8 cache int8": ("--kv-dtype", "fp8", "--weights", "int8"),
}
"""Flags of `infer-cli up` by name, which come last."""

LIBRARIES = {
    "openvino-genai f32": Library(
        "run_openvino_genai.py", "f32", "openvino_genai", _IR["f16"], logits="logits_openvino.py"
    ),
    "openvino-genai bf16": Library(
        "run_openvino_genai.py", "bf16", "openvino_genai", _IR["bf16"], logits="logits_openvino.py"
    ),
    "openvino-genai int8": Library(
        "run_openvino_genai.py", "bf16", "openvino_genai", _IR["int8"], logits="logits_openvino.py"
    ),
    "vllm bf16": Library("run_vllm.py", "bf16", "vllm", logits="logits_vllm.py"),
    "vllm fp8 cache": Library("run_vllm.py", "fp8", "vllm", logits="logits_vllm.py"),
    "llama.cpp bf16": Library(
        "run_llama_cpp.py", "bf16", "llama_cpp", _GGUF["bf16"], at_once_requests=16, logits="logits_llama_cpp.py"
    ),
    "llama.cpp q8_0": Library(
        "run_llama_cpp.py", "q8_0", "llama_cpp", _GGUF["q8_0"], at_once_requests=16, logits="logits_llama_cpp.py"
    ),
    # It keeps nothing from one call to the next, so that W4 says no more than W3.
    "transformers one by one": Library(
        "run_transformers.py", "one by one", None, at_once_requests=6, workloads=("W1", "W2", "W3", "W3 4096")
    ),
    # A batch of one is "one by one".
    "transformers static batch": Library("run_transformers.py", "static batch", None, workloads=("W1",)),
    "transformers continuous batching": Library("run_transformers.py", "continuous batching", None),
}

PEERS = (*TIERCEL, *LIBRARIES)


def chosen(words: tuple[str, ...]) -> list[str]:
    """Names of peers; a word is a name or the beginning of several (`vllm`). Raises KeyError for any other."""
    names = []
    for word in words:
        found = [name for name in PEERS if name == word] or [name for name in LIBRARIES if name.startswith(word)]
        if not found:
            raise KeyError(word)
        names += found
    return [name for name in PEERS if name in names]


def make_peer(name: str, checkpoint: Path, environments: Path, flags: tuple[str, ...]) -> Peer:
    """`flags` are for `infer-cli up`. Converts the checkpoint where need be. Raises PeerMissing, PeerFailed."""
    if name in TIERCEL:
        if TIERCEL[name] and TIERCEL[name][0] not in subprocess.check_output([INFER_CLI, "up", "--help"], text=True):
            raise PeerMissing(f"infer-cli up has no {TIERCEL[name][0]}")
        return TiercelPeer(checkpoint, (*flags, *TIERCEL[name]), name)
    library = LIBRARIES[name]
    python, model = needs_of(library, checkpoint, environments)
    return ProcessPeer(name, python, RUNNERS / library.runner, library.variant, model)


def needs_of(library: Library, checkpoint: Path, environments: Path) -> tuple[Path, Path]:
    """The library's interpreter, and the checkpoint as it reads it. Raises PeerMissing, PeerFailed."""
    model = checkpoint
    if library.conversion is not None:
        model = converted(checkpoint, library.conversion, _python(environments, library.conversion.environment))
    return Path(sys.executable) if library.environment is None else _python(environments, library.environment), model


def share_of(name: str, workload: Workload) -> Workload | None:
    """What of a workload the peer is given; None: it would say nothing new about the peer."""
    library = LIBRARIES.get(name)
    if library is None:
        return workload
    if workload.name not in library.workloads:
        return None
    return workload.first(library.at_once_requests) if workload.at_once and library.at_once_requests else workload


def _python(environments: Path, name: str) -> Path:
    if not is_made(environments, name):
        raise PeerMissing(
            f"no environment {environments / name}: python -m bench.peer_venvs {environments} --only {name}"
        )
    return python_of(environments, name)
