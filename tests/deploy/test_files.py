"""Compose file, Dockerfile and chart say the same, and nothing that the services do not know. Needs no engine."""

import inspect
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import huggingface_hub.utils._auth
import opentelemetry.sdk.environment_variables
import pytest
import yaml

from services.common.health_names import LIVENESS
from tests.deploy.chart import CHART, RENDERED, ROOT, VALUES, digest, rendered
from tests.deploy.settings import CONFIGS, effective
from tiercel.otlp import Signal, otlp_target

OPS = ROOT / "ops"
DOCKERFILE = (OPS / "docker/Dockerfile").read_text()
COMPOSE_TEXT = (OPS / "docker-compose.yaml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"worker": "worker", "worker-gpu": "worker", "scheduler": "scheduler", "tokenizer": "tokenizer"}
"""Compose service to role."""
ROLES = ("tokenizer", "scheduler", "worker")


def interpolated(text: str) -> str:
    """`${NAME:-default}` and `${NAME-default}` as their defaults: what an empty environment gives."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


COMPOSE: dict[str, Any] = yaml.safe_load(interpolated(COMPOSE_TEXT))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def entry_point(role: str) -> list[str]:
    stage = DOCKERFILE.split(f"FROM runtime AS {role}\n")[1].split("\nFROM ")[0]
    words = list(json.loads(stage.split("ENTRYPOINT ")[1].replace("\\\n", "")))
    assert words[:3] == ["python", "-m", f"services.{role}"]
    return words[3:]


def port_of(role: str, flag: str = "--port=") -> int:
    return next(int(word.removeprefix(flag)) for word in entry_point(role) if word.startswith(flag))


def pods(name: str) -> dict[str, dict[str, Any]]:
    """Role to pod specification, in one of the rendered charts."""
    found = {}
    for one in rendered(name):
        if one["kind"] in ("Deployment", "StatefulSet"):
            spec = one["spec"]["template"]["spec"]
            found[spec["containers"][0]["name"]] = spec
    assert set(found) == set(ROLES)
    return found


def config_map(name: str, folder: Path) -> Path:
    data = next(one for one in rendered(name) if one["kind"] == "ConfigMap")["data"]
    assert list(data) == ["tiercel.toml"]
    file = folder / "tiercel.toml"
    file.write_text(data["tiercel.toml"])
    return file


# Flags and settings


@pytest.mark.parametrize("service", OURS)
def test_a_service_of_the_compose_file_would_start_with_its_flags_and_settings(service: str) -> None:
    role = OURS[service]
    config = effective(role, entry_point(role) + SERVICES[service]["command"], OPS / "tiercel.toml").value
    assert config.host == "0.0.0.0"
    if role != "scheduler":
        assert config.model == "demo"
    dialled = {"scheduler": lambda: config.workers[0], "tokenizer": lambda: config.scheduler}
    if role in dialled:
        host, _, port = dialled[role]().partition(":")
        assert host in SERVICES
        assert int(port) == port_of(OURS[host])


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("role", ROLES)
def test_a_pod_of_the_chart_would_start_with_its_flags_and_settings(name: str, role: str, tmp_path: Path) -> None:
    container = pods(name)[role]["containers"][0]
    config = effective(role, entry_point(role) + container["args"], config_map(name, tmp_path)).value
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"grpc": config.port, "metrics": config.metrics_port}
    assert container["readinessProbe"]["grpc"] == {"port": config.port}
    assert container["livenessProbe"]["grpc"] == {"port": config.port, "service": LIVENESS}
    if role == "worker":
        assert config.device == ("cuda" if VALUES[name].get("worker", {}).get("gpu") else "cpu")


@pytest.mark.parametrize("name", VALUES)
def test_the_services_of_the_chart_dial_each_other(name: str, tmp_path: Path) -> None:
    services = {one["metadata"]["name"]: one["spec"] for one in rendered(name) if one["kind"] == "Service"}
    specs, file = pods(name), config_map(name, tmp_path)
    tokenizer = effective("tokenizer", specs["tokenizer"]["containers"][0]["args"], file).value
    scheduler = effective("scheduler", specs["scheduler"]["containers"][0]["args"], file).value
    workers = next(one for one in rendered(name) if one["kind"] == "StatefulSet")
    assert len(scheduler.workers) == workers["spec"]["replicas"]
    for number, address in enumerate(scheduler.workers):
        pod, _, rest = address.partition(".")
        assert pod == f"{workers['metadata']['name']}-{number}"
        assert rest == f"{workers['spec']['serviceName']}:{port_of('worker')}"
    for address in (tokenizer.scheduler, f"{workers['spec']['serviceName']}:{port_of('worker')}"):
        host, _, port = address.partition(":")
        assert services[host]["clusterIP"] == "None"
        assert services[host]["publishNotReadyAddresses"], "it is dialled before it is ready"
        assert services[host]["ports"][0]["port"] == int(port)


def test_the_settings_that_the_chart_ships_are_those_of_the_compose_file() -> None:
    for text in (yaml.safe_load((CHART / "values.yaml").read_text())["config"], (OPS / "tiercel.toml").read_text()):
        assert tomllib.loads(text)["worker"]["kv_dtype"] == "fp8"


# Variables


def environments() -> dict[str, set[str]]:
    found = {service: set(SERVICES[service].get("environment", {})) for service in OURS}
    for name in VALUES:
        for role, spec in pods(name).items():
            found[f"{name} {role}"] = {one["name"] for one in spec["containers"][0].get("env", [])}
    found["images"] = set(re.findall(r"^(?:ENV|   ) *(HF_\w+|OTEL_\w+)=", DOCKERFILE, re.MULTILINE))
    return found


def test_every_variable_that_a_container_gets_is_one_that_somebody_reads() -> None:
    hub = inspect.getsource(huggingface_hub.constants) + inspect.getsource(huggingface_hub.utils._auth)
    otel = vars(opentelemetry.sdk.environment_variables)
    for where, names in environments().items():
        for name in names:
            known = f'"{name}"' in hub if name.startswith("HF_") else name in otel
            # What the SDK leaves to others: `otlp_target` reads the exporters, the exporter's package its endpoint.
            assert known or name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_METRICS_EXPORTER"), f"{where}: {name}"


def test_traces_go_to_the_collector_and_metrics_are_left_to_prometheus() -> None:
    environment = {name: value or "" for name, value in SERVICES["worker"]["environment"].items()}
    traces = otlp_target(Signal.TRACES, None, environment)
    assert traces is not None
    collector = yaml.safe_load((OPS / "otel-collector/config.yaml").read_text())
    port = collector["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"].rpartition(":")[2]
    assert traces.endpoint == f"http://otel-collector:{port}"
    assert otlp_target(Signal.METRICS, None, environment) is None
    assert otlp_target(Signal.TRACES, None, {**environment, "OTEL_EXPORTER_OTLP_ENDPOINT": ""}) is None, "switched off"


def test_every_variable_of_the_compose_file_is_explained() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE_TEXT))
    documented = set(re.findall(r"`(TIERCEL_\w+)`", (ROOT / "docs/deploy.md").read_text()))
    assert used == documented
    assert set(re.findall(r"^#?(TIERCEL_\w+)=", (OPS / ".env").read_text(), re.MULTILINE)) <= used
    for name, default in re.findall(r"^#(TIERCEL_\w+)=(\S+)$", (OPS / ".env").read_text(), re.MULTILINE):
        if name != "TIERCEL_MODELS":
            assert re.search(rf"\$\{{{name}:?-{re.escape(default)}\}}", COMPOSE_TEXT), f"{name} has another default"


# Images


@pytest.mark.parametrize("service", OURS)
def test_an_image_is_built_from_a_target_and_named_by_the_version(service: str) -> None:
    build = SERVICES[service]["build"]
    assert build["target"] == OURS[service]
    assert (OPS / build["context"] / build["dockerfile"]).resolve() == OPS / "docker/Dockerfile"
    suffix = "-cuda" if service == "worker-gpu" else ""
    assert SERVICES[service]["image"] == f"tiercel-{OURS[service]}:{PROJECT['version']}{suffix}"


def test_the_chart_has_the_version_of_the_project_and_names_the_same_images() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == PROJECT["version"]
    for role, spec in pods("defaults").items():
        assert spec["containers"][0]["image"] == SERVICES[role]["image"]


@pytest.mark.parametrize("service", sorted(SERVICES.keys() - OURS.keys()))
def test_an_image_of_others_is_pinned_to_an_exact_version(service: str) -> None:
    assert re.fullmatch(r"[\w/.-]+:v?\d+\.\d+\.\d+", SERVICES[service]["image"])


@pytest.mark.parametrize("role", ROLES)
def test_an_image_holds_the_packages_of_its_own_extra(role: str) -> None:
    stage = DOCKERFILE.split(f"FROM builder AS {role}-packages\n")[1].split("\nFROM ")[0]
    assert re.findall(r"'\.\[(\w+)\]'", stage) == [role]
    packages = {re.split(r"[=<\[]", name)[0] for name in PROJECT["optional-dependencies"][role]}
    assert ("torch" in packages) == ("torch" in stage.lower()) == (role == "worker")
    exposed = DOCKERFILE.split(f"FROM runtime AS {role}\n")[1].split("EXPOSE ")[1].split("\n")[0].split()
    assert [int(port) for port in exposed] == [port_of(role), port_of(role, "--metrics-port=")]


def test_the_build_sees_every_package_of_the_wheel_and_no_more() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    kept = {line[1:].split("/")[0] for line in lines if line.startswith("!")}
    assert {pattern.rstrip("*") for pattern in wanted} <= kept
    assert all((ROOT / line[1:]).exists() for line in lines if line.startswith("!"))


# Rights and health


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_of_the_compose_file_is_hardened_and_bounded(service: str) -> None:
    config = SERVICES[service]
    assert config["read_only"] is True
    assert config["cap_drop"] == ["ALL"]
    assert config["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in config
    assert {"memory", "pids"} <= config["deploy"]["resources"]["limits"].keys()
    for port in config.get("ports", []):
        assert port.startswith("127.0.0.1:"), "nothing is open to other machines unless somebody says so"


def test_only_the_front_door_and_what_people_look_at_are_published() -> None:
    assert {service for service in SERVICES if "ports" in SERVICES[service]} == {
        *("tokenizer", "otel-collector", "jaeger", "prometheus", "grafana")
    }


@pytest.mark.parametrize("service", OURS)
def test_a_service_of_the_compose_file_is_probed_at_its_port(service: str) -> None:
    words = SERVICES[service]["healthcheck"]["test"]
    assert words == ["CMD", "python", "-m", "services.common.health_probe", f"127.0.0.1:{port_of(OURS[service])}"]


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("role", ROLES)
def test_a_pod_of_the_chart_is_hardened_and_bounded(name: str, role: str) -> None:
    spec = pods(name)[role]
    assert not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert f"--uid {spec['securityContext']['runAsUser']} " in DOCKERFILE
    container = spec["containers"][0]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("role", ROLES)
def test_a_service_has_the_time_to_drain(role: str) -> None:
    drain_s = effective(role, entry_point(role) + SERVICES[role]["command"], OPS / "tiercel.toml").value.drain_timeout_s
    assert int(SERVICES[role]["stop_grace_period"].removesuffix("s")) > drain_s + 10
    assert pods("defaults")[role]["terminationGracePeriodSeconds"] > drain_s + 10


def test_the_places_that_are_written_are_volumes() -> None:
    for service in ("worker", "worker-gpu"):
        config = effective("worker", entry_point("worker") + SERVICES[service]["command"], OPS / "tiercel.toml").value
        assert f"kv:{config.cache_dir}" in SERVICES[service]["volumes"]
    hub = re.search(r"HF_HOME=(\S+)", DOCKERFILE)
    assert hub is not None
    for service in ("worker", "worker-gpu", "tokenizer"):
        assert f"huggingface:{hub[1]}" in SERVICES[service]["volumes"]
    for name in VALUES:
        for role in ("worker", "tokenizer"):
            mounts = {one["mountPath"]: one["name"] for one in pods(name)[role]["containers"][0]["volumeMounts"]}
            assert mounts[hub[1]] == "huggingface"
            assert (mounts.get("/var/lib/tiercel/kv") == "kv") == (role == "worker")


# The chart itself


def test_the_rendered_objects_are_those_of_the_present_chart() -> None:
    assert sorted(path.stem for path in RENDERED.glob("*.yaml")) == sorted(VALUES)
    for name in VALUES:
        first = (RENDERED / f"{name}.yaml").read_text().splitlines()[0]
        assert first.endswith(digest()), "the chart has changed: python -m tests.deploy.chart (CONTRIBUTING.md)"


def keys(schema: dict[str, Any], values: dict[str, Any], path: str = "") -> list[str]:
    """Where the schema and the shipped values do not have the same keys."""
    optional = {"global", "nameOverride", "fullnameOverride"} if not path else set()
    properties = schema["properties"]
    differing = [f"{path}.{key}" for key in (properties.keys() - optional) ^ values.keys()]
    for key, value in values.items():
        if isinstance(value, dict) and "properties" in properties.get(key, {}):
            assert properties[key]["additionalProperties"] is False
            differing += keys(properties[key], value, f"{path}.{key}")
    return differing


def test_the_schema_knows_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert keys(schema, yaml.safe_load((CHART / "values.yaml").read_text())) == []


@pytest.mark.parametrize("name", VALUES)
def test_selectors_of_the_chart_meet_the_labels_of_one_kind_of_pod(name: str) -> None:
    objects = rendered(name)
    labels = [one["spec"]["template"]["metadata"]["labels"] for one in objects if "template" in one.get("spec", {})]
    selectors = [one["spec"]["selector"] for one in objects if one["kind"] == "Service"]
    selectors += [one["spec"]["podSelector"]["matchLabels"] for one in objects if one["kind"] == "NetworkPolicy"]
    for selector in selectors:
        assert sum(selector.items() <= found.items() for found in labels) == 1


# What watches


def test_the_collector_and_jaeger_use_what_they_define_and_define_what_they_use() -> None:
    for file in ("otel-collector/config.yaml", "jaeger/config.yaml"):
        config = yaml.safe_load((OPS / file).read_text())
        assert set(config["service"]["extensions"]) == set(config["extensions"])
        for kind in ("receivers", "processors", "exporters"):
            used = {name for pipeline in config["service"]["pipelines"].values() for name in pipeline[kind]}
            assert used == set(config[kind]), f"{file}: {kind}"
        for pipeline in config["service"]["pipelines"].values():
            if "memory_limiter" in config["processors"]:
                assert pipeline["processors"][0] == "memory_limiter", "it must come first to be of use"


def test_the_collector_sends_to_where_jaeger_listens() -> None:
    collector = yaml.safe_load((OPS / "otel-collector/config.yaml").read_text())
    jaeger = yaml.safe_load((OPS / "jaeger/config.yaml").read_text())
    host, _, port = collector["exporters"]["otlp_grpc/jaeger"]["endpoint"].partition(":")
    assert host in SERVICES
    assert jaeger["receivers"]["otlp"]["protocols"]["grpc"]["endpoint"] == f"0.0.0.0:{port}"
    published = next(port for port in SERVICES["jaeger"]["ports"]).rpartition(":")[2]
    assert jaeger["extensions"]["jaeger_query"]["http"]["endpoint"].endswith(f":{published}")


def test_grafana_finds_its_sources_and_every_dashboard_its_source() -> None:
    provisioned = yaml.safe_load((OPS / "grafana/provisioning/datasources/tiercel.yaml").read_text())
    sources = {source["uid"]: source for source in provisioned["datasources"]}
    for source in sources.values():
        assert source["url"].removeprefix("http://").partition(":")[0] in SERVICES
        for link in source.get("jsonData", {}).get("exemplarTraceIdDestinations", []):
            assert link["datasourceUid"] in sources
    dashboards = list((OPS / "grafana/dashboards").glob("*.json"))
    assert dashboards
    types = {source["type"] for source in sources.values()}
    for dashboard in dashboards:
        chosen = {
            one["name"]: one["query"]
            for one in json.loads(dashboard.read_text())["templating"]["list"]
            if one["type"] == "datasource"
        }
        assert set(chosen.values()) <= types
        used = set(re.findall(r'"uid": "\$\{(\w+)\}"', dashboard.read_text()))
        assert used
        assert used <= chosen.keys(), dashboard.name


def test_prometheus_scrapes_the_ports_that_the_services_open() -> None:
    config = yaml.safe_load((OPS / "prometheus/prometheus.yml").read_text())
    scraped = {
        name: target["port"]
        for job in config["scrape_configs"]
        for target in job.get("dns_sd_configs", [])
        for name in target["names"]
    }
    assert scraped == {role: port_of(role, "--metrics-port=") for role in ROLES}


def test_every_file_that_is_mounted_exists() -> None:
    for service, config in SERVICES.items():
        for volume in config.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (OPS / source).exists(), f"{service}: {source}"
            else:
                assert source in COMPOSE["volumes"], f"{service}: {source}"
    assert (OPS / COMPOSE["configs"]["tiercel"]["file"]).is_file()


def test_the_roles_are_those_that_there_are() -> None:
    assert set(CONFIGS) == set(ROLES) == set(OURS.values())
