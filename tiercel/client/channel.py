"""How a client's channel is set up: every option stands here and is passed explicitly."""

from pathlib import Path

import grpc

CA = str | Path | bytes
"""A PEM file, or its content."""

MAX_MESSAGE_BYTES = 64 << 20
_LOOPBACK = ("127.", "localhost", "[::1]", "unix:")

ChannelOptions = list[tuple[str, int | str]]


def channel_options(target: str, tls_server_name: str | None) -> ChannelOptions:
    options: ChannelOptions = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A peer that vanished without a word (a machine that went down) is noticed within 40 s, also while a
        # request waits in a queue.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # Without it a ping has a minute, whatever the line above says.
        ("grpc.http2.ping_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 0),
        ("grpc.http2.max_pings_without_data", 0),
        # RetryPolicy decides about retries, nothing below it does.
        ("grpc.enable_retries", 0),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2_000),
    ]
    if target.startswith(_LOOPBACK):
        options.append(("grpc.enable_http_proxy", 0))
    if tls_server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls_server_name))
    return options


def credentials(ca: CA) -> grpc.ChannelCredentials:
    """TLS that trusts `ca`. Raises OSError where the file cannot be read."""
    content = ca if isinstance(ca, bytes) else Path(ca).read_bytes()
    return grpc.ssl_channel_credentials(root_certificates=content)
