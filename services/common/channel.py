"""gRPC channel and server options, in one place so that both ends of a stream agree on them."""

from pathlib import Path

import grpc

from engine.errors import ConfigError
from services.common.config import ServiceConfig

MAX_MESSAGE_BYTES = 64 << 20
"""A prompt of ten million token ids fits; the default of 4 MiB would refuse one of a million."""

ChannelOptions = list[tuple[str, int]]

_SIZES: ChannelOptions = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
]


def _keepalive(time_ms: int, timeout_ms: int) -> ChannelOptions:
    """Ping a silent peer after `time_ms` and give it up `timeout_ms` later.

    The core's own threads answer pings, so a busy interpreter does not look like a dead one. A keepalive ping is
    a ping: unless the ping timeout is set too, its default of a minute is what counts.
    """
    return [
        ("grpc.keepalive_time_ms", time_ms),
        ("grpc.keepalive_timeout_ms", timeout_ms),
        ("grpc.http2.ping_timeout_ms", timeout_ms),
        ("grpc.http2.max_pings_without_data", 0),
    ]


_SERVER: ChannelOptions = [
    *_SIZES,
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    # Two processes on one port would share its calls silently; a port in use is an error instead.
    ("grpc.so_reuseport", 0),
]

# Between the services of a stack, which are near each other: a process that is frozen or a host that is gone, without
# a FIN, is noticed within 2 s.
_NEAR = _keepalive(1000, 900)

# Clients may be anywhere, behind lossy links: a retransmission must not look like a loss.
_FAR = _keepalive(20_000, 20_000)

INNER_SERVER_OPTIONS: ChannelOptions = [*_SERVER, *_NEAR]
FRONT_DOOR_OPTIONS: ChannelOptions = [*_SERVER, *_FAR]

CLIENT_OPTIONS: ChannelOptions = [
    *_SIZES,
    *_NEAR,
    # Each link dials for itself and retries in its own rhythm, which knows what it is waiting for.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.enable_http_proxy", 0),
]


def dial(address: str, config: ServiceConfig) -> grpc.aio.Channel:
    """A channel to another service of the stack: TLS when the config names an authority, plain text otherwise."""
    if config.tls_ca is None:
        return grpc.aio.insecure_channel(address, options=CLIENT_OPTIONS)
    credentials = grpc.ssl_channel_credentials(root_certificates=_read_pem(config.tls_ca, "ca"))
    return grpc.aio.secure_channel(address, credentials, options=CLIENT_OPTIONS)


def server_credentials(config: ServiceConfig) -> grpc.ServerCredentials | None:
    """Credentials from the config's certificate and key; None when neither is set. ConfigError for half a pair."""
    if config.tls_cert is None and config.tls_key is None:
        return None
    if config.tls_cert is None or config.tls_key is None:
        missing = "cert" if config.tls_cert is None else "key"
        raise ConfigError(f"TLS needs cert and key together; {missing} is not set in [tls]")
    return grpc.ssl_server_credentials([(_read_pem(config.tls_key, "key"), _read_pem(config.tls_cert, "cert"))])


def _read_pem(path: Path, key: str) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the TLS file [tls] {key} = {path}: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise ConfigError(f"the TLS file [tls] {key} = {path} is not in PEM format")
    return content
