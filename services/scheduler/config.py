"""Settings of the scheduler service, `[scheduler]` in the config file."""

from dataclasses import dataclass
from typing import ClassVar

from services.common.byte_size import ByteSize
from services.common.config import ServiceConfig
from services.common.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerServiceConfig(ServiceConfig):
    role: ClassVar[str] = "scheduler"
    first_metrics_port: ClassVar[int] = 9474
    workers: tuple[str, ...] = setting("Addresses of the workers, HOST:PORT, separated by commas.")
    max_waiting: int = setting("Requests per worker that may wait for their first step.", 1024, minimum=1)
    prefix_cache: bool = setting("Share cached prefixes between requests.", True)
    plans_in_flight: int = setting("Step plans sent ahead of their results.", 2, minimum=1)
    worker_wait_s: float = setting("Seconds that a request waits for a worker that has gone away.", 30.0, minimum=0)
    persist_timeout_s: float = setting("Seconds for bringing blocks to disk when a worker leaves.", 10.0, minimum=0)
    tenant_host_cache: ByteSize | None = setting("What one tenant may take of the host tier; default: all.", None)
    always_bring: bool = setting(
        "Load and fetch cached blocks even where computing them is cheaper; for measurements.", False
    )
