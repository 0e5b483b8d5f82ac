"""A fake of the Kubernetes API server: enough for `helm install` to create a release. Keeps nothing running.

It knows the kinds that the chart may create, says that none of them exists yet, and remembers what is posted.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

KINDS = {
    "v1": ("Secret", "ConfigMap", "Service", "ServiceAccount"),
    "apps/v1": ("Deployment", "StatefulSet"),
    "networking.k8s.io/v1": ("NetworkPolicy",),
    "monitoring.coreos.com/v1": ("PodMonitor",),
}


class FakeKubernetesApi(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.created: list[dict[str, Any]] = []
        """What the chart consists of, in the order in which Helm created it."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_kubernetes_api() -> Iterator[FakeKubernetesApi]:
    with FakeKubernetesApi() as api:
        threading.Thread(target=api.serve_forever, daemon=True).start()
        yield api
        api.shutdown()


class _Handler(BaseHTTPRequestHandler):
    server: FakeKubernetesApi

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].rstrip("/")
        if path == "/version":
            return self._answer(200, {"major": "1", "minor": "30", "gitVersion": "v1.30.0"})
        if path == "/api":
            return self._answer(200, {"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self._answer(200, {"kind": "APIGroupList", "apiVersion": "v1", "groups": _groups()})
        version = path.removeprefix("/api/").removeprefix("/apis/")
        if version in KINDS:
            return self._answer(200, _resources(version))
        if path.endswith(("/secrets", "/configmaps")):
            return self._answer(200, {"kind": "SecretList", "apiVersion": "v1", "items": []})
        return self._answer(404, {"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404})

    def do_POST(self) -> None:
        self._answer(201, self._body())

    def do_PUT(self) -> None:
        self._answer(200, self._body())

    do_PATCH = do_PUT

    def _body(self) -> dict[str, Any]:
        content = self.rfile.read(int(self.headers["Content-Length"]))
        if "json" not in self.headers["Content-Type"]:
            # The release itself, which Helm writes as protobuf: of no interest here.
            return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "release"}}
        body = dict(json.loads(content))
        self.server.created.append(body)
        return body

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""


def _groups() -> list[dict[str, Any]]:
    groups = []
    for version in KINDS:
        group, slash, name = version.rpartition("/")
        if slash:
            entry = {"groupVersion": version, "version": name}
            groups.append({"name": group, "versions": [entry], "preferredVersion": entry})
    return groups


def _resources(version: str) -> dict[str, Any]:
    verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
    resources = [
        {"name": _plural(kind), "singularName": kind.lower(), "namespaced": True, "kind": kind, "verbs": verbs}
        for kind in KINDS[version]
    ]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": resources}


def _plural(kind: str) -> str:
    return kind.lower().removesuffix("y") + ("ies" if kind.endswith("y") else "s")
