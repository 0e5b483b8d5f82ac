"""The settings that every service has. Each service adds its own in `services/<name>/config.py`."""

import enum
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from services.common.settings import setting


class LogFormat(enum.StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceConfig:
    """Where a service listens, how it leaves, its TLS files, and who hears of its work."""

    role: ClassVar[str] = "service"
    """As metrics and `infer-cli status` name it."""
    first_metrics_port: ClassVar[int] = 9504
    """Where the search for a free one begins when none is given."""

    host: str = setting("Address to listen on; 0.0.0.0 or :: for all.", "127.0.0.1")
    port: int = setting("Port to listen on; 0 picks a free one.", 0, minimum=0)
    announce: Path | None = setting("Append JSON lines on start and readiness to this file.", None)
    drain_timeout_s: float = setting("Seconds that running work may take after SIGTERM.", 30.0, minimum=0)
    tls_cert: Path | None = setting("PEM certificate chain of this service.", None, table="tls", key="cert")
    tls_key: Path | None = setting("PEM private key of this service.", None, table="tls", key="key")
    tls_ca: Path | None = setting(
        "PEM authority that the services this one dials are checked against; set, it dials with TLS.",
        None,
        table="tls",
        key="ca",
    )
    otlp: str | None = setting(
        "OpenTelemetry collector that traces and metrics go to, http://HOST:PORT; default: as "
        "OTEL_EXPORTER_OTLP_ENDPOINT has it.",
        None,
        table="telemetry",
        key="otlp",
    )
    log_format: LogFormat = setting(
        "Log lines as JSON or for people; auto: for people at a terminal.",
        LogFormat.AUTO,
        table="telemetry",
        key="log_format",
    )
    metrics_host: str = setting(
        "Address that /metrics listens on; 0.0.0.0 or :: for all.",
        "127.0.0.1",
        table="telemetry",
        key="metrics_host",
    )
    metrics_port: int | None = setting(
        "Port of /metrics for Prometheus; 0 switches it off; default: a free one, tokenizer from 9464 on, scheduler "
        "from 9474, worker from 9484.",
        None,
        minimum=0,
    )
