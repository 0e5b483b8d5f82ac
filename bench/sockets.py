"""Whether Unix sockets would be worth having between the services of one host.

    python -m bench.sockets

Round trips of a 1 KiB message on a bidirectional stream between two processes, TCP on loopback against a Unix
socket, interleaved.
"""

import asyncio
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from multiprocessing.synchronize import Event
from pathlib import Path

import click
import grpc

METHOD = "/bench.Echo/Stream"
MESSAGE = b"x" * 1024
NUM_WARM_UP = 200


class _Echo(grpc.GenericRpcHandler):
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
        assert handler_call_details.method == METHOD
        return grpc.stream_stream_rpc_method_handler(self._echo)

    async def _echo(self, messages: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for message in messages:
            yield message


def _serve(address: str, listening: Event) -> None:
    async def run() -> None:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((_Echo(),))
        server.add_insecure_port(address)
        await server.start()
        listening.set()
        await server.wait_for_termination()

    asyncio.run(run())


async def _round_trips_s(address: str, number: int) -> list[float]:
    times = []
    async with grpc.aio.insecure_channel(address) as channel:
        call: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream(METHOD)()
        for _ in range(NUM_WARM_UP + number):
            began = time.perf_counter()
            await call.write(MESSAGE)
            await call.read()
            times.append(time.perf_counter() - began)
        await call.done_writing()
    return sorted(times[NUM_WARM_UP:])


@click.command()
@click.option("--rounds", type=click.IntRange(1), default=5, show_default=True)
@click.option("--number", type=click.IntRange(100), default=3000, show_default=True, help="Round trips in a round.")
@click.option("--port", type=int, default=50990, show_default=True)
def main(rounds: int, number: int, port: int) -> None:
    """Print p50 and p99 of each round."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bench-") as folder:
        addresses = {"tcp": f"127.0.0.1:{port}", "unix": f"unix:{Path(folder) / 'echo'}"}
        servers = []
        for address in addresses.values():
            listening = multiprocessing.Event()
            server = multiprocessing.Process(target=_serve, args=(address, listening), daemon=True)
            server.start()
            listening.wait()
            servers.append(server)
        for _ in range(rounds):
            for kind, address in addresses.items():
                times = asyncio.run(_round_trips_s(address, number))
                p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
                click.echo(f"{kind:5} p50 {p50 * 1e6:4.0f} us   p99 {p99 * 1e6:4.0f} us")
        for server in servers:
            server.terminate()


if __name__ == "__main__":
    main()
