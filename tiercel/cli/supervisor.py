"""Keeps a stack's services running: starts them left of their neighbours, restarts what dies, drains at the end.

One asyncio loop on the main thread: the kernel ends the children when the thread that started them ends.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tiercel.cli import stack_record
from tiercel.cli.failure import EXIT_INTERRUPTED, EXIT_USAGE, CommandFailed
from tiercel.cli.log_file import LogFile
from tiercel.cli.progress import Reporter, StackEvent, Step
from tiercel.cli.service_process import CRASH_WINDOW_S, MAX_DEATHS, ServiceProcess, cause_of, reachable
from tiercel.cli.stack_record import ProcessId, StackRecord
from tiercel.cli.stack_spec import Role, StackPlan

FIRST_BACKOFF_S = 0.2
MAX_BACKOFF_S = 5.0
STARTUP_STOP_S = 5.0
"""How long services may take to leave when the stack was not ready yet: nothing runs that could be waited for."""
HEAR_WORKERS_S = 20.0
TRIM_LOGS_EVERY_S = 60.0
DRAIN_ORDER = (Role.TOKENIZER, Role.SCHEDULER, Role.WORKER)


class Supervisor:
    """Runs one stack from start to end. `run` is called once, on a loop of the main thread."""

    def __init__(self, plan: StackPlan, log_dir: Path, reporter: Reporter) -> None:
        self._plan = plan
        self._log_dir = log_dir
        self._reporter = reporter
        self._started_at = time.monotonic()
        self._is_ready = False
        self._is_stopping = False
        self._num_signals = 0
        self._first_signal = asyncio.Event()
        self._second_signal = asyncio.Event()
        self._workers_served = asyncio.Event()
        """All of them have been ready once."""
        self._record: StackRecord | None = None
        self._services: list[ServiceProcess] = []

    async def run(self) -> int:
        """Returns the exit code; raises CommandFailed when the stack cannot be kept up. Leaves no process behind."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._on_signal)
        with tempfile.TemporaryDirectory(prefix="tiercel-run-") as run_dir:
            self._services = self._make_services(Path(run_dir))
            keepers = [asyncio.create_task(self._keep(service)) for service in self._services]
            stopping = asyncio.create_task(self._first_signal.wait())
            trimming = asyncio.create_task(self._trim_logs())
            try:
                await asyncio.wait([*keepers, stopping], return_when=asyncio.FIRST_COMPLETED)
                if not stopping.done():
                    await self._hear_workers_out(keepers, stopping)
                failed = next((task for task in keepers if task.done()), None)
                await self._stop(keepers)
                if failed is not None:
                    failed.result()
            finally:
                for task in (*keepers, stopping, trimming):
                    task.cancel()
                await asyncio.gather(*keepers, stopping, trimming, return_exceptions=True)
                for service in self._services:
                    service.signal(signal.SIGKILL)
                self._forget()
        was_cut_short = self._second_signal.is_set() or not self._is_ready
        return EXIT_INTERRUPTED if was_cut_short else 0

    def _make_services(self, run_dir: Path) -> list[ServiceProcess]:
        spec = self._plan.spec
        names = [(f"worker-{i}", Role.WORKER) for i in range(spec.num_workers)]
        names.append(("scheduler", Role.SCHEDULER))
        names += [(f"tokenizer-{i}", Role.TOKENIZER) for i in range(spec.num_tokenizers)]
        return [
            ServiceProcess(
                name, role, LogFile(self._log_dir / f"{name}.log"), run_dir, self._plan.tls_ca, self._on_change
            )
            for name, role in names
        ]

    def _of(self, role: Role) -> list[ServiceProcess]:
        return [service for service in self._services if service.role is role]

    async def _hear_workers_out(self, keepers: list[asyncio.Task[None]], stopping: "asyncio.Task[bool]") -> None:
        """A checkpoint that is no good fails several services, in any order; what the worker says of it is told."""
        workers = [task for service, task in self._with(keepers) if service.role is Role.WORKER]
        if self._workers_served.is_set() or any(task.done() for task in workers):
            return
        served = asyncio.create_task(self._workers_served.wait())
        first: set[asyncio.Future[Any]] = {*workers, stopping, served}
        await asyncio.wait(first, timeout=HEAR_WORKERS_S, return_when=asyncio.FIRST_COMPLETED)
        served.cancel()

    def _with(self, keepers: list[asyncio.Task[None]]) -> Iterator[tuple[ServiceProcess, asyncio.Task[None]]]:
        return zip(self._services, keepers, strict=True)

    # -- one service ------------------------------------------------------------------------------

    async def _keep(self, service: ServiceProcess) -> None:
        """Runs the service's processes one after another until the stack stops."""
        while True:
            index = self._of(service.role).index(service)
            command = await self._command(service) + self._plan.metrics_flags(service.role, index)
            exit_code = await service.run(command, self._report)
            if self._stops():
                return
            service.count_death()
            self._judge(service, exit_code)
            delay = min(FIRST_BACKOFF_S * 2 ** (service.num_recent_deaths - 1), MAX_BACKOFF_S)
            lines = "".join(f"\n    {line}" for line in service.last_lines())
            text = f"died: {cause_of(exit_code)}; starts again in {delay:.1f} s. Log: {service.log.path}{lines}"
            self._report(StackEvent(Step.DIED, text, service.name))
            await asyncio.sleep(delay)
            if self._stops():
                return

    def _stops(self) -> bool:
        return self._is_stopping

    async def _command(self, service: ServiceProcess) -> list[str]:
        """The command line, once the services to the right have addresses."""
        match service.role:
            case Role.WORKER:
                return self._plan.worker_command(service.port)
            case Role.SCHEDULER:
                workers = self._of(Role.WORKER)
                await asyncio.gather(*(worker.listening.wait() for worker in workers))
                return self._plan.scheduler_command(service.port, [worker.address for worker in workers])
            case Role.TOKENIZER:
                (scheduler,) = self._of(Role.SCHEDULER)
                await scheduler.listening.wait()
                first_port = self._plan.port
                asked = first_port + self._of(Role.TOKENIZER).index(service) if first_port else service.port
                return self._plan.tokenizer_command(asked, scheduler.address)

    def _judge(self, service: ServiceProcess, exit_code: int) -> None:
        """Raises CommandFailed where another try cannot help."""
        lines = service.last_lines()
        if exit_code == EXIT_USAGE and not service.was_serving:
            why = lines[-1] if lines else f"it said nothing; see {service.log.path}"
            raise CommandFailed(why.removeprefix(f"{service.role}: "), EXIT_USAGE)
        if service.is_hopeless():
            shown = "".join(f"\n    {line}" for line in lines)
            raise CommandFailed(
                f"{service.name} died {MAX_DEATHS} times in a row or within {CRASH_WINDOW_S:.0f} s, the last time "
                f"with {cause_of(exit_code)}; giving up. Its last lines (all in {service.log.path}):{shown}"
            )

    # -- the whole stack --------------------------------------------------------------------------

    def _on_change(self) -> None:
        """A service became ready or ceased to be."""
        if self._is_stopping:
            return
        if all(worker.was_serving for worker in self._of(Role.WORKER)):
            self._workers_served.set()
        is_complete = all(service.is_serving for service in self._services)
        self._save_record("ready" if is_complete else "starting")
        if is_complete:
            self._write_ready_file()
            if not self._is_ready:
                self._is_ready = True
                self._report(StackEvent(Step.STACK_READY, self._ready_text()))

    def _ready_text(self) -> str:
        target = self._target()
        seconds = time.monotonic() - self._started_at
        return (
            f"{self._plan.model} on {target} after {seconds:.1f} s; logs in {self._log_dir}\n"
            f'Try:  infer-cli generate "Once upon a time" --target {target}'
        )

    def _target(self) -> str:
        return reachable(self._of(Role.TOKENIZER)[0].address)

    def _save_record(self, state: str) -> None:
        first = self._of(Role.TOKENIZER)[0]
        me = ProcessId.of(os.getpid())
        if self._plan.spec.is_private or not first.address or me is None:
            return
        self._record = StackRecord(
            port=first.port,
            target=self._target(),
            model=self._plan.model,
            state=state,
            supervisor=me,
            log_dir=str(self._log_dir),
            tls_ca=None if self._plan.tls_ca is None else str(self._plan.tls_ca.resolve()),
            addresses=self._addresses(),
            services=[service.identity for service in self._services if service.identity is not None],
        )
        stack_record.save(self._record)

    def _addresses(self) -> dict[str, list[str]]:
        return {str(role): [service.address for service in self._of(role)] for role in DRAIN_ORDER}

    def _write_ready_file(self) -> None:
        path = self._plan.spec.ready_file
        if path is None:
            return
        pids = {
            str(role): [service.identity.pid for service in self._of(role) if service.identity is not None]
            for role in DRAIN_ORDER
        }
        metrics = {str(role): [service.metrics_address for service in self._of(role)] for role in DRAIN_ORDER}
        content = {"addresses": self._addresses(), "pids": pids, "metrics": metrics, "target": self._target()}
        stack_record.write_json(path, {**content, "supervisor_pid": os.getpid()})

    def _forget(self) -> None:
        if self._record is not None:
            stack_record.remove(self._record)
        if self._plan.spec.ready_file is not None:
            self._plan.spec.ready_file.unlink(missing_ok=True)

    async def _trim_logs(self) -> None:
        while True:
            await asyncio.sleep(TRIM_LOGS_EVERY_S)
            for service in self._services:
                service.log.trim()

    def _report(self, event: StackEvent) -> None:
        self._reporter.report(event)

    # -- the end ----------------------------------------------------------------------------------

    def _on_signal(self) -> None:
        self._num_signals += 1
        (self._first_signal if self._num_signals == 1 else self._second_signal).set()

    async def _stop(self, keepers: list[asyncio.Task[None]]) -> None:
        """Drains from the front door on, so that what runs keeps what it needs. A second signal kills."""
        self._is_stopping = True
        if not self._is_ready:
            limits = dict.fromkeys(DRAIN_ORDER, STARTUP_STOP_S)
            self._report(StackEvent(Step.STOPPING, "stopping"))
        else:
            limits = {role: self._plan.drain_limit_s(role) for role in DRAIN_ORDER}
            self._report(StackEvent(Step.STOPPING, "draining: running answers are finished first"))
        impatient = asyncio.create_task(self._second_signal.wait())
        for role in DRAIN_ORDER:
            ending = [task for service, task in self._with(keepers) if service.role is role]
            await self._end(self._of(role), ending, impatient, limits[role])
        impatient.cancel()
        self._report(StackEvent(Step.STOPPED, "stopped"))

    async def _end(
        self,
        services: list[ServiceProcess],
        keepers: list[asyncio.Task[None]],
        impatient: "asyncio.Task[bool]",
        limit_s: float,
    ) -> None:
        exits = [asyncio.create_task(_ended(service)) for service in services]
        for service in services:
            service.signal(signal.SIGTERM)
        everyone = asyncio.gather(*exits)
        if not impatient.done():
            either: set[asyncio.Future[Any]] = {everyone, impatient}
            await asyncio.wait(either, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not everyone.done():
            for service in services:
                service.signal(signal.SIGKILL)
            await everyone
        for keeper in keepers:
            keeper.cancel()


async def _ended(service: ServiceProcess) -> None:
    if service.process is not None:
        await service.process.wait()
