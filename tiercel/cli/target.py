"""Which stack a command talks to: the one that was named, the only one that runs, or one started for it alone."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from tiercel.cli import background, health, stack_record
from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.cli.progress import SilentReporter, TerminalReporter
from tiercel.cli.stack_record import StackRecord
from tiercel.cli.stack_spec import DEFAULT_PORT, LOOPBACK, Role, StackSpec
from tiercel.client import Client

_PROBE_S = 1.0


@dataclass(frozen=True, slots=True)
class Address:
    """How the user names a stack. All None: whichever runs."""

    target: str | None = None
    port: int | None = None
    ca: Path | None = None

    def is_named(self) -> bool:
        return self.target is not None or self.port is not None

    def named_target(self) -> str:
        return self.target or f"{LOOPBACK}:{self.port}"


def recorded_stack(address: Address) -> StackRecord | None:
    """The stack that `infer-cli up` started on this machine and that `address` means. None: there is none.

    Raises CommandFailed where several run and none is named.
    """
    records = stack_record.running_stacks()
    if address.is_named():
        target = address.named_target()
        local = {target, target.replace("localhost:", f"{LOOPBACK}:")}
        return next((record for record in records if record.target in local), None)
    if len(records) <= 1:
        return records[0] if records else None
    default = next((record for record in records if record.port == DEFAULT_PORT), None)
    if default is None:
        targets = ", ".join(record.target for record in records)
        raise CommandFailed(f"several stacks are running ({targets}); choose one with --target or --port", EXIT_USAGE)
    return default


def running_stack(address: Address) -> Client | None:
    """A client of the stack that `address` means. None: none is named and none runs."""
    record = recorded_stack(address)
    if record is not None:
        ca = address.ca or (None if record.tls_ca is None else Path(record.tls_ca))
        return _client(record.target, ca)
    if address.is_named():
        return _client(address.named_target(), address.ca)
    default = f"{LOOPBACK}:{DEFAULT_PORT}"
    # It may have been started by other means, in a container for instance.
    return _client(default, address.ca) if health.is_serving(default, _PROBE_S) else None


def front_doors(address: Address) -> list[Client]:
    """A client of each front door of the stack that `address` means, where several are known; empty: none runs."""
    first = running_stack(address)
    if first is None:
        return []
    record = recorded_stack(address)
    others = [] if record is None else record.addresses.get(Role.TOKENIZER, [])
    ca = address.ca or (None if record is None or record.tls_ca is None else Path(record.tls_ca))
    return [first, *(_client(other, ca) for other in others if other != first.target)]


def _client(target: str, ca: Path | None) -> Client:
    try:
        return Client(target, ca=ca)
    except OSError as error:
        raise CommandFailed(f"cannot read the certificate file {ca}: {error.strerror}", EXIT_USAGE) from None


@contextlib.contextmanager
def borrowed_stack(address: Address, model: str | None, err: Console) -> Iterator[Client]:
    """A client of a running stack or, with none running and none named, of one that lives as long as the block."""
    client = running_stack(address)
    if client is not None:
        with client:
            if model is not None:
                _refuse_other_model(client, model)
            yield client
        return
    with tempfile.TemporaryDirectory(prefix="tiercel-private-") as folder:
        ready_file = Path(folder) / "ready.json"
        spec = StackSpec(
            model=model or "demo", port=0, ready_file=ready_file, log_dir=Path(folder) / "logs", is_private=True
        )
        reporter = TerminalReporter(err, err) if err.is_terminal else SilentReporter()
        stack = background.start(spec, reporter, dies_with_us=True)
        try:
            with Client(background.ready_target(ready_file)) as own:
                yield own
        finally:
            stack.stop()


def _refuse_other_model(client: Client, model: str) -> None:
    served = [info.id for info in client.models()]
    if served and model not in served and Path(model).expanduser().resolve().name not in served:
        raise CommandFailed(
            f"the stack at {client.target} serves {', '.join(served)}, not {model}; leave --model out, "
            "choose another stack with --target, or stop this one with `infer-cli down`"
        )
