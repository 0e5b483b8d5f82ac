"""`python -m services.common.health_probe HOST:PORT`: exit code 0 where a service answers and is ready.

For container health checks: it needs nothing that a service's image does not have, and neither torch nor a shell.
"""

import sys
from pathlib import Path
from typing import NoReturn

import click
import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from services.common.health_names import LIVENESS

EXIT_NOT_SERVING = 1
EXIT_USAGE = 2


@click.command()
@click.argument("address", metavar="HOST:PORT")
@click.option("--service", default="", help="Name that health goes by; default: the server as a whole.")
@click.option("--live", is_flag=True, help=f"Whether it answers at all, ready or not: the name {LIVENESS!r}.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM authority to check the service against, with TLS.")
@click.option("--server-name", help="Name in the certificate, where it is not that of the address.")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0.01), default=3.0, show_default=True, metavar="S")
def main(address: str, service: str, live: bool, ca: Path | None, server_name: str | None, timeout_s: float) -> None:
    """Ask one service by grpc.health.v1 how it is."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        _leave(EXIT_USAGE, f"{address!r} is not an address; give HOST:PORT, for example 127.0.0.1:50051")
    with _dial(address, ca, server_name) as channel:
        request = health_pb2.HealthCheckRequest(service=LIVENESS if live else service)
        try:
            status = health_pb2_grpc.HealthStub(channel).Check(request, timeout=timeout_s).status
        except grpc.RpcError as error:
            _leave(EXIT_NOT_SERVING, f"{address}: {error.code().name}: {error.details()}")
    if status != health_pb2.HealthCheckResponse.SERVING:
        _leave(EXIT_NOT_SERVING, f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(status)}")


def _dial(address: str, ca: Path | None, server_name: str | None) -> grpc.Channel:
    options: list[tuple[str, str | int]] = [("grpc.enable_http_proxy", 0)]
    if server_name is not None:
        options.append(("grpc.ssl_target_name_override", server_name))
    if ca is None:
        return grpc.insecure_channel(address, options)
    try:
        authority = ca.read_bytes()
    except OSError as error:
        _leave(EXIT_USAGE, f"cannot read {ca}: {error.strerror}")
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority), options)


def _leave(code: int, message: str) -> NoReturn:
    click.echo(message, err=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
