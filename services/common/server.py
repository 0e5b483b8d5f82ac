"""The life of a service process: listen, answer health at once, serve, drain on a signal, leave.

Everything here runs on the asyncio loop. Liveness is that health answers at all; readiness is what it answers. No
handler of a service may block the loop, so health never waits behind work.
"""

import asyncio
import enum
import gc
import os
import signal
import time
from collections.abc import Callable
from typing import Protocol

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from engine.errors import ConfigError
from services.common import logs
from services.common.announce import Announcer
from services.common.channel import INNER_SERVER_OPTIONS, ChannelOptions, server_credentials
from services.common.config import ServiceConfig
from services.common.health_names import LIVENESS
from services.common.metrics import READY, UPTIME, Reading, ServiceMetrics
from services.common.metrics_server import MetricsServer
from services.common.telemetry import Telemetry

_log = logs.get_logger(__name__)

_LAST_WRITES_S = 0.1
"""After a drain, how long streams that only watch (health) may take to notice."""


class ServiceState(enum.StrEnum):
    """As `infer-cli status` shows it.

    starting -> ready <-> starting (what it depends on went away)
    any      -> draining -> the process ends
    """

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class ServiceHost:
    """One gRPC server with health, reflection, TLS and announcements. Not reusable after `stop`."""

    def __init__(
        self,
        service_name: str,
        config: ServiceConfig,
        options: ChannelOptions = INNER_SERVER_OPTIONS,
        telemetry: Telemetry | None = None,
    ) -> None:
        """`service_name` is the full name of the protobuf service, which health also goes by.

        Closes `telemetry` when it stops; None: nobody is told.
        """
        self._service_name = service_name
        self._config = config
        self._health = health.aio.HealthServicer()
        self._announcer = Announcer(config.announce)
        self._announced_ready = False
        self._started_ns = time.monotonic_ns()
        self.telemetry = telemetry if telemetry is not None else Telemetry()
        self.metrics = ServiceMetrics(config.role)
        self.metrics.add(self._read_metrics)
        self.metrics.add(self.telemetry.read_metrics)
        self._metrics_server: MetricsServer | None = None
        self.server = grpc.aio.server(options=options)
        self.state = ServiceState.STARTING
        self.address = ""
        self.metrics_address = ""
        """Of `/metrics`; empty: switched off."""
        self.before_first_ready: Callable[[], None] = _nothing
        """Called once, when all is loaded and nobody knows yet."""

    @property
    def announcer(self) -> Announcer:
        return self._announcer

    @property
    def uptime_ns(self) -> int:
        return time.monotonic_ns() - self._started_ns

    async def start(self) -> str:
        """Listen and answer health with NOT_SERVING. Returns the address with the real port; ConfigError if taken."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._health.set(LIVENESS, health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        names = (self._service_name, "grpc.health.v1.Health", reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self.server)
        host = f"[{self._config.host}]" if ":" in self._config.host else self._config.host
        self.address = f"{host}:{self._bind(host)}"
        self._serve_metrics()
        await self.server.start()
        self._announcer.listening(self.address, self.metrics_address)
        _log.info(
            "listening",
            extra=logs.fields(
                address=self.address, tls=self._config.tls_cert is not None, metrics=self.metrics_address or "off"
            ),
        )
        return self.address

    def _serve_metrics(self) -> None:
        config = self._config
        self.metrics.start()
        self.telemetry.export_metrics(self.metrics.collect)
        if config.metrics_port == 0:
            return
        self._metrics_server = MetricsServer(
            self.metrics.registry, config.metrics_host, config.metrics_port, config.first_metrics_port
        )
        self.metrics_address = self._metrics_server.address

    def _read_metrics(self) -> list[Reading]:
        return [Reading(READY, self.state is ServiceState.READY), Reading(UPTIME, self.uptime_ns / 1e9)]

    def _bind(self, host: str) -> int:
        asked = f"{host}:{self._config.port}"
        credentials = server_credentials(self._config)
        try:
            if credentials is None:
                return self.server.add_insecure_port(asked)
            return self.server.add_secure_port(asked, credentials)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {asked}: the port is in use, or the address is not one of this machine; "
                "choose another --port (0 picks a free one) or --host"
            ) from error

    async def set_ready(self, is_ready: bool) -> None:
        """Say whether new work is welcome. The first readiness is announced."""
        if self.state is ServiceState.DRAINING:
            return
        if is_ready and not self._announced_ready:
            self.before_first_ready()
        self.state = ServiceState.READY if is_ready else ServiceState.STARTING
        serving = health_pb2.HealthCheckResponse
        await self._set_health(serving.SERVING if is_ready else serving.NOT_SERVING)
        if is_ready and not self._announced_ready:
            self._announced_ready = True
            self._announcer.ready()

    async def enter_drain(self) -> None:
        """Health says NOT_SERVING from here on, whatever `set_ready` is told."""
        self.state = ServiceState.DRAINING
        self._announcer.draining()
        await self._health.enter_graceful_shutdown()

    async def _set_health(self, status: health_pb2.HealthCheckResponse.ServingStatus) -> None:
        for name in ("", self._service_name):
            await self._health.set(name, status)

    async def stop(self) -> None:
        await self.server.stop(_LAST_WRITES_S)
        self._announcer.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        await asyncio.to_thread(self.telemetry.close)


class DrainableService(Protocol):
    """What `serve` runs beside the server."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the service's handlers."""
        ...

    async def run(self) -> None:
        """Work until cancelled; what it raises ends the process."""
        ...

    async def drain(self) -> None:
        """Refuse new work and return when what runs has finished. Called once, may be cancelled at a time limit."""
        ...

    async def close(self) -> None:
        """End the streams that are left and give everything back."""
        ...


async def serve(host: ServiceHost, service: DrainableService, config: ServiceConfig) -> None:
    """Serve until SIGTERM or SIGINT, then drain: at most `drain_timeout_s`, or until a second signal."""
    signals = _SignalCount()
    host.before_first_ready = _freeze_heap
    service.register(host.server)
    await host.start()
    running = asyncio.create_task(service.run())
    stopping = asyncio.create_task(signals.reached(1))
    try:
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            running.result()
        await host.enter_drain()
        _log.info("draining", extra=logs.fields(timeout_s=config.drain_timeout_s))
        await _drain(service, signals, config.drain_timeout_s)
    finally:
        for task in (running, stopping):
            task.cancel()
        await asyncio.gather(running, stopping, return_exceptions=True)
        await service.close()
        await host.stop()
        signals.close()
    _log.info("stopped", extra=logs.fields(pid=os.getpid()))


def _nothing() -> None: ...


def _freeze_heap() -> None:
    # What is loaded stays. To look through a worker's third of a million objects takes a full collection over a tenth
    # of a second, in the midst of a step.
    gc.collect()
    gc.freeze()


async def _drain(service: DrainableService, signals: "_SignalCount", timeout_s: float) -> None:
    draining = asyncio.create_task(service.drain())
    impatient = asyncio.create_task(signals.reached(2))
    done, _ = await asyncio.wait({draining, impatient}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    if draining in done:
        draining.result()
    else:
        reason = "second signal" if impatient in done else "time limit"
        _log.warning("drain cut short, running work is dropped", extra=logs.fields(reason=reason))
    for task in (draining, impatient):
        task.cancel()
    await asyncio.gather(draining, impatient, return_exceptions=True)


class _SignalCount:
    """Counts SIGTERM and SIGINT on the running loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._count = 0
        self._waiting: list[tuple[int, asyncio.Event]] = []
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        self._count += 1
        for wanted, event in self._waiting:
            if self._count >= wanted:
                event.set()

    async def reached(self, count: int) -> None:
        event = asyncio.Event()
        self._waiting.append((count, event))
        if self._count >= count:
            event.set()
        await event.wait()

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)
