"""Whether a service answers, by `grpc.health.v1`. Watched, not polled."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tiercel.client.channel import channel_options, credentials

REDIAL_S = 0.1


async def watch(address: str, tls_ca: Path | None) -> AsyncIterator[bool]:
    """Whether the service is ready for work: now, and after each change. Never ends by itself.

    A connection that is refused or breaks counts as not ready and is dialled again.
    """
    options = channel_options(address, tls_server_name=None)
    if tls_ca is None:
        channel = aio.insecure_channel(address, options)
    else:
        channel = aio.secure_channel(address, credentials(tls_ca), options)
    async with channel:
        stub = health_pb2_grpc.HealthStub(channel)
        while True:
            try:
                async for response in stub.Watch(health_pb2.HealthCheckRequest(), wait_for_ready=True):
                    yield response.status == health_pb2.HealthCheckResponse.SERVING
            except aio.AioRpcError:
                pass
            yield False
            await asyncio.sleep(REDIAL_S)


def is_serving(address: str, timeout_s: float) -> bool:
    """Whether a stack's front door is ready at `address`. False also where nothing, or something else, listens."""
    with grpc.insecure_channel(address, channel_options(address, tls_server_name=None)) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service="tiercel.v1.Inference"), timeout=timeout_s
            )
        except grpc.RpcError:
            return False
        return bool(response.status == health_pb2.HealthCheckResponse.SERVING)
