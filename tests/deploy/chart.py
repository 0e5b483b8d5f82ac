"""The chart's objects as Helm makes them, kept in `rendered/` so that they can be looked at where there is no Helm.

python -m tests.deploy.chart      make them anew, after a change to the chart
"""

import hashlib
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.helm import Helm

ROOT = Path(__file__).parents[2]
CHART = ROOT / "ops/helm/tiercel"
RENDERED = Path(__file__).parent / "rendered"

RELEASE = "prod"
VALUES: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": {
        "image": {"registry": "registry.example.org/ai/", "tag": "1.2.3", "pullSecrets": [{"name": "pull"}]},
        "model": {
            "name": "/models/Qwen3-8B",
            "volume": {"persistentVolumeClaim": {"claimName": "checkpoints", "readOnly": True}},
        },
        "hub": {
            "tokenSecret": {"name": "hugging-face"},
            "volume": {"persistentVolumeClaim": {"claimName": "hub"}},
        },
        "config": '[scheduler]\nmax_waiting = 64\n[worker]\ndisk_cache = "100GiB"\n[telemetry]\nlog_format = "json"\n',
        "otlp": {"endpoint": "http://collector.monitoring:4317"},
        "tokenizer": {
            "replicas": 2,
            "service": {"type": "LoadBalancer", "port": 443, "annotations": {"example.org/internal": "true"}},
            "nodeSelector": {"pool": "front"},
        },
        "worker": {
            "replicas": 3,
            "gpu": {"count": 1, "runtimeClassName": "nvidia"},
            "persistence": {"storageClassName": "local-nvme", "size": "200Gi"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
        "podMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "networkPolicy": {"enabled": True},
        "serviceAccount": {"create": False, "name": "ai"},
    },
    "no-disk": {"worker": {"persistence": {"enabled": False}}, "fullnameOverride": "tiers"},
}


def digest() -> str:
    """Of all that the rendered objects follow from."""
    total = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in CHART.rglob("*") if path.is_file()):
        total.update(f"{path.relative_to(CHART)}\0".encode() + path.read_bytes())
    total.update(repr(VALUES).encode())
    return total.hexdigest()


def rendered(name: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((RENDERED / f"{name}.yaml").read_text()))


def render(helm: Helm, name: str) -> list[dict[str, Any]]:
    objects, _ = helm.install(CHART, RELEASE, VALUES[name])
    return sorted(objects, key=lambda one: (one["kind"], one["metadata"]["name"]))


def main() -> None:
    helm = Helm()
    RENDERED.mkdir(exist_ok=True)
    for name in VALUES:
        text = yaml.safe_dump_all(render(helm, name), sort_keys=False)
        (RENDERED / f"{name}.yaml").write_text(f"# Made by tests/deploy/chart.py of chart {digest()}\n{text}")


if __name__ == "__main__":
    main()
