"""Starts Debian's Prometheus with the project's own configuration and asks it things over its HTTP API."""

import contextlib
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.stack import wait_until

OPS = Path(__file__).parents[2] / "ops" / "prometheus"


def binary(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not on the PATH; on Debian: apt-get install prometheus")
    return found


@dataclass(frozen=True)
class Prometheus:
    url: str

    def ask(self, path: str, **parameters: Any) -> Any:
        """The `data` of an answer; ValueError with Prometheus' own words where it refuses."""
        query = urllib.parse.urlencode(parameters)
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=20) as response:
                return json.load(response)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{path} {parameters}: {error.read().decode()}") from error

    def values(self, expression: str, seconds: float) -> list[float]:
        """Every value that a graph of the last `seconds` would show."""
        now = time.time()
        result = self.ask("query_range", query=expression, start=now - seconds, end=now, step=1)["result"]
        return [float(value) for series in result for _, value in series["values"]]

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/-/ready", timeout=5) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def local_config(targets: list[str]) -> dict[str, Any]:
    """ops/prometheus/local.yml, for these targets and in a hurry."""
    config = dict(yaml.safe_load((OPS / "local.yml").read_text()))
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    config["rule_files"] = [str(OPS / pattern) for pattern in config["rule_files"]]
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": targets}]
    return config


@contextlib.contextmanager
def running_prometheus(folder: Path, targets: list[str]) -> Iterator[Prometheus]:
    config = folder / "prometheus.yml"
    config.write_text(yaml.safe_dump(local_config(targets)))
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"
    log = folder / "prometheus.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                binary("prometheus"),
                f"--config.file={config}",
                f"--web.listen-address={address}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                "--enable-feature=exemplar-storage",
            ],
            stdout=output,
            stderr=output,
        )
    try:
        prometheus = Prometheus(f"http://{address}")
        wait_until(lambda: prometheus.is_ready() or process.poll() is not None, "Prometheus is ready")
        assert process.poll() is None, log.read_text()
        yield prometheus
    finally:
        process.terminate()
        process.wait(timeout=30)
