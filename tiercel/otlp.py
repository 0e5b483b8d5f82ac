"""Where telemetry goes: an OTLP endpoint from a flag and the standard `OTEL_*` variables, and its exporters.

Variables as in https://opentelemetry.io/docs/specs/otel/protocol/exporter/. Services and the command line both set
their exporters up from here. The SDK is imported only where something is to be exported.
"""

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter
    from opentelemetry.sdk.trace.export import SpanExporter

_HTTP_PORT = 4318
_DEFAULT_ENDPOINTS = {False: "http://localhost:4317", True: "http://localhost:4318"}


class Signal(enum.StrEnum):
    TRACES = "traces"
    METRICS = "metrics"


@dataclass(frozen=True, slots=True)
class OtlpTarget:
    endpoint: str
    """A URL; over HTTP with the path of the signal."""
    is_http: bool
    """HTTP with protobuf bodies; otherwise gRPC."""


def otlp_target(signal: Signal, endpoint: str | None, environ: Mapping[str, str]) -> OtlpTarget | None:
    """Where `signal` goes, or None where nobody has asked for it.

    `endpoint` is that of a flag or config file and wins over the variables. Without `OTEL_EXPORTER_OTLP_PROTOCOL` it is
    gRPC, or HTTP on port 4318. Raises ValueError with the name of what is wrong.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    exporter_name = f"OTEL_{signal.upper()}_EXPORTER"
    exporters = {name.strip() for name in environ.get(exporter_name, "").split(",") if name.strip()}
    if unknown := exporters - {"otlp", "none"}:
        raise ValueError(f"{exporter_name}: {', '.join(sorted(unknown))} is not known here; use otlp or none")
    if "none" in exporters:
        return None
    own_name, common_name = f"OTEL_EXPORTER_OTLP_{signal.upper()}_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    own = environ.get(own_name, "").strip() if endpoint is None else ""
    common = environ.get(common_name, "").strip() if endpoint is None else endpoint
    if not (own or common or exporters):
        return None
    url = _url(own or common, "--otlp" if endpoint is not None else own_name if own else common_name)
    is_http = _is_http(signal, url, environ)
    if not url:
        url = _DEFAULT_ENDPOINTS[is_http]
    if is_http and not own:
        url = f"{url.rstrip('/')}/v1/{signal}"
    return OtlpTarget(url, is_http)


def _url(endpoint: str, origin: str) -> str:
    """Without a scheme it is plain text, as people write `localhost:4317`."""
    if not endpoint:
        return ""
    url = endpoint if "://" in endpoint else f"http://{endpoint}"
    parts = urlsplit(url)
    try:
        is_good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_good = False
    if not is_good:
        raise ValueError(f"{origin}: {endpoint!r} is not an endpoint; write http://HOST:PORT or https://HOST:PORT")
    return url


def _is_http(signal: Signal, url: str, environ: Mapping[str, str]) -> bool:
    for name in (f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        match environ.get(name, "").strip():
            case "":
                continue
            case "grpc":
                return False
            case "http/protobuf":
                return True
            case other:
                raise ValueError(f"{name}: {other!r} is not spoken here; use grpc or http/protobuf")
    return urlsplit(url).port == _HTTP_PORT


def span_exporter(target: OtlpTarget) -> "SpanExporter":
    """Headers, timeouts, compression and certificates follow the variables. Raises ValueError where one is wrong."""
    if target.is_http:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpSpanExporter

        return HttpSpanExporter(target.endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcSpanExporter

    return GrpcSpanExporter(target.endpoint)


def metric_exporter(target: OtlpTarget) -> "MetricExporter":
    """As `span_exporter`."""
    if target.is_http:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter

        return HttpMetricExporter(target.endpoint)
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter

    return GrpcMetricExporter(target.endpoint)
