"""The chart as Helm itself takes it, and its objects as Kubernetes' schemas have them. Needs `--with-helm`."""

from typing import Any

import pytest

from tests.deploy.chart import CHART, VALUES, render, rendered
from tests.deploy.helm import Helm, HelmError

pytestmark = pytest.mark.helm

KUBERNETES = ("1.28", "1.33")


@pytest.fixture(scope="module")
def helm() -> Helm:
    return Helm()


def test_lint_finds_no_error_and_nothing_to_warn_of(helm: Helm) -> None:
    result = helm.lint(CHART)
    assert result["TotalChartsLinted"] == 1
    assert not result["Errors"]
    # 1 is for information: an icon is recommended. 2 warns, 3 is an error.
    assert all(message["Severity"] <= 1 for message in result["Messages"] or [])


@pytest.mark.parametrize("name", VALUES)
def test_the_objects_that_are_kept_are_those_that_helm_makes(helm: Helm, name: str) -> None:
    assert render(helm, name) == rendered(name)


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VALUES)
def test_every_object_is_one_that_kubernetes_knows(name: str, version: str) -> None:
    try:
        import kubernetes_validate
    except ImportError:
        pytest.fail("--with-helm needs the package kubernetes-validate: pip install kubernetes-validate==1.37.0")
    for one in rendered(name):
        if one["apiVersion"] != "monitoring.coreos.com/v1":  # no part of Kubernetes
            kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"workers": {"replicas": 2}}, "workers"),
        ({"worker": {"replicas": 0}}, "/worker/replicas"),
        ({"model": {"name": ""}}, "/model/name"),
        ({"image": {"registry": "registry.example.org"}}, "/image/registry"),
        ({"worker": {"gpu": {"count": 1.5}}}, "/worker/gpu/count"),
        ({"otlp": {"endpoint": "collector:4317"}}, "/otlp/endpoint"),
    ],
)
def test_values_that_make_no_sense_are_refused_and_named(helm: Helm, values: dict[str, Any], said: str) -> None:
    with pytest.raises(HelmError) as caught:
        helm.install(CHART, "tiercel", values)
    assert said in str(caught.value)


def test_the_notes_say_how_to_reach_the_front_door(helm: Helm) -> None:
    _, notes = helm.install(CHART, "tiercel", {"tokenizer": {"service": {"port": 7000, "type": "LoadBalancer"}}})
    assert "port-forward service/tiercel-tokenizer 7000" in notes
    assert "may be reached from outside" in notes
