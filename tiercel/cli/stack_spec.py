"""What `infer-cli up` was asked for, and the command lines of the services that follow from it."""

import os
import sys
import tomllib
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from tiercel.cli.failure import EXIT_USAGE, CommandFailed

DEFAULT_PORT = 50051
DEFAULT_DRAIN_S = 30.0
LOOPBACK = "127.0.0.1"


class Role(StrEnum):
    WORKER = "worker"
    SCHEDULER = "scheduler"
    TOKENIZER = "tokenizer"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackSpec:
    """One stack. None: not given, so that the config file, and after it the service's default, decides."""

    model: str | None = None
    served_model_name: str | None = None
    num_workers: int = 1
    num_tokenizers: int = 1
    host: str | None = None
    port: int | None = None
    dtype: str | None = None
    weights: str | None = None
    kv_dtype: str | None = None
    device: str | None = None
    block_size_tokens: int | None = None
    device_cache_bytes: int | None = None
    host_cache_bytes: int | None = None
    disk_cache_bytes: int | None = None
    cache_dir: Path | None = None
    max_batched_tokens: int | None = None
    max_seqs: int | None = None
    max_model_len: int | None = None
    config: Path | None = None
    ready_file: Path | None = None
    log_dir: Path | None = None
    otlp: str | None = None
    is_private: bool = False
    """Started by another command for itself: leaves no record for others to find."""

    def flags(self) -> list[str]:
        """The flags of `infer-cli up` that give this spec again."""
        flags = [
            *_flag("--model", self.model),
            *_flag("--served-model-name", self.served_model_name),
            *_flag("--workers", self.num_workers),
            *_flag("--tokenizers", self.num_tokenizers),
            *_flag("--host", self.host),
            *_flag("--port", self.port),
            *self._worker_flags(),
            *_flag("--config", self.config),
            *_flag("--ready-file", self.ready_file),
            *_flag("--log-dir", self.log_dir),
            *_flag("--otlp", self.otlp),
        ]
        return [*flags, "--private"] if self.is_private else flags

    def _worker_flags(self) -> list[str]:
        return [
            *_flag("--dtype", self.dtype),
            *_flag("--weights", self.weights),
            *_flag("--kv-dtype", self.kv_dtype),
            *_flag("--device", self.device),
            *_flag("--block-size", self.block_size_tokens),
            *_flag("--device-cache", self.device_cache_bytes),
            *_flag("--host-cache", self.host_cache_bytes),
            *_flag("--disk-cache", self.disk_cache_bytes),
            *_flag("--cache-dir", self.cache_dir),
            *_flag("--max-batched-tokens", self.max_batched_tokens),
            *_flag("--max-seqs", self.max_seqs),
            *_flag("--max-model-len", self.max_model_len),
        ]


@dataclass(frozen=True, slots=True)
class StackPlan:
    """A spec together with what its config file says: where the front door is, and how to start each service."""

    spec: StackSpec
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def host(self) -> str:
        return self.spec.host or str(self.tables.get(Role.TOKENIZER, {}).get("host", LOOPBACK))

    @property
    def port(self) -> int:
        """Of the first tokenizer; 0: a free one."""
        if self.spec.port is not None:
            return self.spec.port
        return int(self.tables.get(Role.TOKENIZER, {}).get("port", DEFAULT_PORT))

    @property
    def model(self) -> str:
        """For people to read."""
        return self.spec.model or str(self.tables.get(Role.WORKER, {}).get("model", "demo"))

    @property
    def tls_ca(self) -> Path | None:
        """Set: the services speak TLS, and this is the authority to check them against."""
        ca = self.tables.get("tls", {}).get("ca")
        return None if ca is None else Path(ca).expanduser()

    def drain_limit_s(self, role: Role) -> float:
        """After this long a service that was told to stop is killed. Longer than it gives itself."""
        return float(self.tables.get(role, {}).get("drain_timeout_s", DEFAULT_DRAIN_S)) + 10.0

    def metrics_flags(self, role: Role, index: int) -> list[str]:
        """Of the service that is number `index` of its role, where the file gives a port for all of them."""
        port = self.tables.get(role, {}).get("metrics_port")
        return ["--metrics-port", str(port + index)] if index and isinstance(port, int) and port else []

    def worker_command(self, port: int) -> list[str]:
        threads = []
        if self.spec.num_workers > 1 and "threads" not in self.tables.get(Role.WORKER, {}):
            # Workers on one machine share its cores instead of fighting over them.
            threads = ["--threads", str(max(1, len(os.sched_getaffinity(0)) // self.spec.num_workers))]
        return [
            *_module(Role.WORKER, LOOPBACK, port),
            *self._model_flags(Role.WORKER),
            *self.spec._worker_flags(),
            *threads,
            *self._shared_flags(),
        ]

    def scheduler_command(self, port: int, workers: list[str]) -> list[str]:
        return [
            *_module(Role.SCHEDULER, LOOPBACK, port),
            *("--workers", ",".join(workers)),
            *self._shared_flags(),
        ]

    def tokenizer_command(self, port: int, scheduler: str) -> list[str]:
        return [
            *_module(Role.TOKENIZER, self.host, port),
            *("--scheduler", scheduler),
            *self._model_flags(Role.TOKENIZER),
            *self._shared_flags(),
        ]

    def _shared_flags(self) -> list[str]:
        return [*_flag("--config", self.spec.config), *_flag("--otlp", self.spec.otlp)]

    def _model_flags(self, role: Role) -> list[str]:
        if self.spec.model is None and "model" in self.tables.get(role, {}):
            return _flag("--served-model-name", self.spec.served_model_name)
        return [
            *("--model", self.spec.model or self.model),
            *_flag("--served-model-name", self.spec.served_model_name),
        ]


def plan_stack(spec: StackSpec) -> StackPlan:
    """Reads the config file, as far as starting the stack needs it; the services check the rest of it."""
    if spec.config is None:
        return StackPlan(spec)
    try:
        tables = tomllib.loads(spec.config.read_text(encoding="utf-8"))
    except OSError as error:
        raise CommandFailed(f"cannot read the config file {spec.config}: {error.strerror}", EXIT_USAGE) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandFailed(f"{spec.config} is not valid TOML: {error}", EXIT_USAGE) from None
    plan = StackPlan(spec, {name: table for name, table in tables.items() if isinstance(table, dict)})
    try:
        if not 0 <= plan.port <= 65535:
            raise ValueError
        for role in Role:
            plan.drain_limit_s(role)
    except (TypeError, ValueError):
        raise CommandFailed(
            f"{spec.config}: port must be a whole number from 0 to 65535 and drain_timeout_s a number", EXIT_USAGE
        ) from None
    return plan


def _module(role: Role, host: str, port: int) -> list[str]:
    return [sys.executable, "-m", f"services.{role}", "--host", host, "--port", str(port)]


def _flag(name: str, value: object | None) -> list[str]:
    return [] if value is None else [name, str(value)]
