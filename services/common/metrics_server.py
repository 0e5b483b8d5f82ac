"""`/metrics` of one service, for Prometheus to scrape: OpenMetrics text with exemplars where the Accept header asks for
it, the older Prometheus text else."""

from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server
from prometheus_client.registry import CollectorRegistry

from engine.errors import ConfigError

_NUM_PORTS_TRIED = 10


class MetricsServer:
    """Listens from the start on; answers on threads of its own."""

    def __init__(self, registry: CollectorRegistry, host: str, port: int | None, first_port: int) -> None:
        """`port` None: the first free one of ten from `first_port` on, or, with these taken, any.

        Raises ConfigError where a given port cannot be had.
        """
        self._registry = registry
        self._host = host
        if port is not None:
            self._server = self._listen(port)
        else:
            self._server = self._listen_somewhere(first_port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._server.server_port}"

    def _listen_somewhere(self, first_port: int) -> WSGIServer:
        for port in range(first_port, first_port + _NUM_PORTS_TRIED):
            try:
                return self._listen(port)
            except ConfigError:
                continue
        return self._listen(0)

    def _listen(self, port: int) -> WSGIServer:
        try:
            server, _ = start_http_server(port, self._host, self._registry)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise ConfigError(
                f"cannot serve metrics on {self._host}:{port}: {why}; choose another --metrics-port "
                "(0 switches it off) or --metrics-host"
            ) from error
        return server

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
