"""A collector's metrics half: a real server, over gRPC or HTTP, that keeps what it is sent; over gRPC it can refuse."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import grpc
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as service_pb2
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2_grpc as service_pb2_grpc
from opentelemetry.proto.metrics.v1 import metrics_pb2


class MetricsReceiver(service_pb2_grpc.MetricsServiceServicer):
    def __init__(self) -> None:
        self.endpoint = ""
        self.refuses = False
        self.hangs = threading.Event()
        """Set: calls wait until `released`."""
        self.released = threading.Event()
        self._received: list[metrics_pb2.ResourceMetrics] = []
        self._news = threading.Condition()

    def Export(
        self, request: service_pb2.ExportMetricsServiceRequest, context: Any
    ) -> service_pb2.ExportMetricsServiceResponse:
        if self.hangs.is_set():
            self.released.wait()
        if self.refuses:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no")
        self.keep(request)
        return service_pb2.ExportMetricsServiceResponse()

    def keep(self, request: service_pb2.ExportMetricsServiceRequest) -> None:
        with self._news:
            self._received.extend(request.resource_metrics)
            self._news.notify_all()

    def latest(self, service: str) -> dict[str, metrics_pb2.Metric]:
        """The last export of the service with this `service.name`, by metric name."""
        for resource in reversed(self._received):
            names = {each.key: each.value.string_value for each in resource.resource.attributes}
            if names.get("service.name") == service:
                return {metric.name: metric for scope in resource.scope_metrics for metric in scope.metrics}
        return {}

    def wait_for(self, service: str, metric: str, timeout_s: float = 30.0) -> metrics_pb2.Metric:
        """Return once the latest export of the service has the metric."""
        with self._news:
            if not self._news.wait_for(lambda: metric in self.latest(service), timeout_s):
                raise TimeoutError(f"no {metric} of {service} within {timeout_s} s")
            return self.latest(service)[metric]


@contextlib.contextmanager
def metrics_receiver() -> Iterator[MetricsReceiver]:
    receiver = MetricsReceiver()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    service_pb2_grpc.add_MetricsServiceServicer_to_server(receiver, server)
    receiver.endpoint = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield receiver
    finally:
        receiver.released.set()
        server.stop(0).wait()


@contextlib.contextmanager
def http_metrics_receiver() -> Iterator[MetricsReceiver]:
    """OTLP over HTTP, at /v1/metrics alone."""
    receiver = MetricsReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            is_good = (self.path, self.headers["Content-Type"]) == ("/v1/metrics", "application/x-protobuf")
            if is_good:
                receiver.keep(service_pb2.ExportMetricsServiceRequest.FromString(body))
            self.send_response(200 if is_good else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    receiver.endpoint = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield receiver
    finally:
        server.shutdown()
        server.server_close()
