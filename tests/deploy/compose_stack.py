"""The stack of ops/docker-compose.yaml as a user runs it, with `docker compose` as a child process."""

import contextlib
import functools
import http.server
import json
import os
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FILES = (ROOT / "ops/docker-compose.yaml", Path(__file__).with_name("compose.override.yaml"))
BASE_IMAGE = "python:3.11-slim-bookworm"
SERVICES = ("worker", "scheduler", "tokenizer")
BUILD_LIMIT_S = 1200
LIMIT_S = 240

# Jaeger, Grafana and the like are left out: they cannot be pulled everywhere, and are not ours.
PROFILES = ("--profile", "cpu")


@dataclass(frozen=True, slots=True)
class ComposeStack:
    project: str
    port: int
    environment: dict[str, str]

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"

    def compose(self, *words: str, timeout_s: float = LIMIT_S) -> str:
        """Standard output of `docker compose ...`; an AssertionError with what it said where it fails."""
        files = [word for file in FILES for word in ("-f", str(file))]
        command = ["docker", "compose", "-p", self.project, "--progress", "plain", *files, *PROFILES, *words]
        return run(command, self.environment, timeout_s)

    def build(self) -> None:
        self.compose("build", timeout_s=BUILD_LIMIT_S)

    def up(self) -> None:
        """Returns when every health check is green."""
        self.compose("up", "--detach", "--wait", "--no-build")

    def down(self, *flags: str) -> None:
        self.compose("down", *flags)

    def container(self, service: str) -> dict[str, Any]:
        """What the engine says of the container, stopped or not."""
        identity = self.compose("ps", "--all", "--quiet", service).strip()
        return dict(json.loads(docker("inspect", identity))[0])

    def inside(self, service: str, *command: str) -> str:
        return self.compose("exec", "--no-TTY", service, *command)

    def health(self, service: str) -> str:
        return str(self.container(service)["State"].get("Health", {}).get("Status"))


def docker(*words: str) -> str:
    return run(["docker", *words], dict(os.environ), LIMIT_S)


def run(command: list[str], environment: dict[str, str], timeout_s: float) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=timeout_s, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return done.stdout


def require_engine() -> None:
    """An AssertionError that says what is missing and how to come by it."""
    try:
        version = docker("version", "--format", "{{.Server.Version}}").strip()
        compose = docker("compose", "version", "--short").strip()
    except (OSError, AssertionError) as error:
        raise AssertionError(
            f"--with-docker needs a running Docker engine and Compose 2.24 or later: {error}"
        ) from None
    print(f"engine {version}, compose {compose}")
    if not docker("images", "--quiet", BASE_IMAGE).strip():
        try:
            docker("pull", BASE_IMAGE)
        except AssertionError as error:
            raise AssertionError(f"{error}\nWithout the registry, make it with tests/deploy/base_image.sh") from None


@contextlib.contextmanager
def compose_stack(torch_wheels: Path | None) -> Iterator[ComposeStack]:
    """Built, not yet up; afterwards everything but the images is gone."""
    require_engine()
    with torch_index(torch_wheels) as index, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        environment = {**os.environ, "TIERCEL_PORT": str(port), "TIERCEL_OTLP": "", **index}
        stack = ComposeStack(f"tiercel-test-{os.getpid()}", port, environment)
        stack.build()
    try:
        yield stack
    finally:
        stack.down("--volumes", "--timeout", "5")


@contextlib.contextmanager
def torch_index(wheels: Path | None) -> Iterator[dict[str, str]]:
    """A package index of the one folder of wheels on a loopback port; nothing where the public one will do."""
    if wheels is None:
        yield {}
        return
    assert list(wheels.glob("torch-*.whl")), f"--torch-wheels: there is no torch-*.whl in {wheels}"
    with tempfile.TemporaryDirectory(prefix="tiercel-index-") as folder:
        (Path(folder) / "torch").symlink_to(wheels.resolve())
        handler = functools.partial(_QuietHandler, directory=folder)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield {"TORCH_INDEX_URL": f"http://127.0.0.1:{server.server_port}"}
            server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Not into the test's output."""
