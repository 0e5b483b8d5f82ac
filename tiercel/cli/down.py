"""`infer-cli down`: stop a stack that `infer-cli up` started here."""

import os
import select
import signal

import click
import psutil

from tiercel.cli import stack_record
from tiercel.cli.console import Consoles
from tiercel.cli.failure import CommandFailed
from tiercel.cli.stack_record import ProcessId, StackRecord
from tiercel.cli.target import Address, recorded_stack
from tiercel.cli.values import Target


@click.command()
@click.option("--target", type=Target(), help="The stack to stop, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to stop, by its port.")
@click.option("--now", is_flag=True, help="Do not wait for running answers.")
@click.pass_obj
def down(consoles: Consoles, target: str | None, port: int | None, now: bool) -> int:
    """Stop a stack: running answers are finished first. With none running there is nothing to do."""
    address = Address(target=target, port=port)
    record = recorded_stack(address)
    if record is None:
        if not address.is_named():
            consoles.out.print("no stack is running")
            return 0
        raise CommandFailed(
            f"no stack that `infer-cli up` started on this machine is at {address.named_target()}{_others()}"
        )
    consoles.out.print(
        f"stopping the stack on {record.target} (pid {record.supervisor.pid})", highlight=False, soft_wrap=True
    )
    _stop(record, now)
    stack_record.remove(record)
    consoles.out.print("stopped")
    return 0


def _others() -> str:
    targets = ", ".join(record.target for record in stack_record.running_stacks())
    return f"; running: {targets}" if targets else "; none is running"


def _stop(record: StackRecord, now: bool) -> None:
    supervisor = record.supervisor.process()
    if supervisor is not None:
        _signal(supervisor, signal.SIGTERM)
        if now:
            # Another one, since two of the same that wait to be handled count as one.
            _signal(supervisor, signal.SIGINT)
        _wait_for_end(record.supervisor)
    # None are left unless the supervisor itself was killed and the kernel is still ending them.
    for service in record.services:
        process = service.process()
        if process is not None:
            _signal(process, signal.SIGKILL)
            _wait_for_end(service)


def _wait_for_end(identity: ProcessId) -> None:
    """Until the process has ended, whether or not its parent has taken note of that yet (pidfd_open(2))."""
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return
    try:
        if identity.process() is not None:
            select.select([descriptor], [], [])
    finally:
        os.close(descriptor)


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
    except psutil.AccessDenied:
        raise CommandFailed(
            f"may not stop process {process.pid}: it belongs to {process.username()}; run this as that user"
        ) from None
