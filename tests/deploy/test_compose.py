"""The images and the compose file, with a real engine: built, started, asked, killed, restarted.

Needs `--with-docker`. The tests share one stack and run in order.
"""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.compose_stack import FILES, SERVICES, ComposeStack, compose_stack, docker, require_engine
from tests.e2e.stack import INFER_CLI, LIMIT_S, wait_until

pytestmark = [pytest.mark.docker, pytest.mark.timeout(1800)]

PROMPT = "The code for Mira is 4821. The code for Jonas is 1375. " * 8
"""Some hundred and sixty tokens of the bundled model, so ten blocks."""


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[ComposeStack]:
    with compose_stack(request.config.getoption("--torch-wheels")) as built:
        built.up()
        yield built


def generate(stack: ComposeStack, prompt: str = PROMPT) -> dict[str, Any]:
    words = ["generate", prompt, "--max-tokens", "8", "--temperature", "0", "--json", "--target", stack.target]
    done = subprocess.run([INFER_CLI, *words], capture_output=True, text=True, timeout=LIMIT_S, check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


@pytest.mark.parametrize("profiles", [(), ("cpu",), ("gpu", "observability")])
def test_the_file_as_users_have_it_is_valid(profiles: tuple[str, ...]) -> None:
    """Without the override, and as this Compose sees it: its schema, variables, anchors and profiles."""
    require_engine()
    flags = [word for profile in profiles for word in ("--profile", profile)]
    services = set(docker("compose", "-f", str(FILES[0]), *flags, "config", "--services").split())
    assert {"scheduler", "tokenizer"} <= services
    assert services & {"worker", "worker-gpu"} == ({"worker-gpu"} if "gpu" in profiles else {"worker"})
    assert ("jaeger" in services) == ("cpu" not in profiles)


def test_the_stack_comes_up_healthy_and_answers_from_outside(stack: ComposeStack) -> None:
    assert {service: stack.health(service) for service in SERVICES} == dict.fromkeys(SERVICES, "healthy")
    answer = generate(stack)
    assert len(answer["token_ids"]) == 8
    assert answer["report"]["worker"] == "worker:50053"
    assert generate(stack)["token_ids"] == answer["token_ids"]


def test_only_the_worker_carries_torch(stack: ComposeStack, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for service in SERVICES:
        image = stack.container(service)["Image"]
        names = stack.inside(service, "sh", "-c", "ls /opt/tiercel/lib/python3.11/site-packages").split()
        found[service] = any(name == "torch" or name.startswith(("torch-", "nvidia")) for name in names)
        assert "tiercel" in names
        with capsys.disabled():
            size = int(json.loads(docker("image", "inspect", image))[0]["Size"])
            print(f"\nimage of {service}: {size / 1e6:.0f} MB, {len(names)} entries in site-packages")
    assert found == {"worker": True, "scheduler": False, "tokenizer": False}


@pytest.mark.parametrize("service", SERVICES)
def test_a_container_has_no_rights_that_it_does_not_need(stack: ComposeStack, service: str) -> None:
    config = stack.container(service)
    assert config["Config"]["User"] == "10001:10001"
    assert config["HostConfig"]["ReadonlyRootfs"]
    assert config["HostConfig"]["CapDrop"] == ["ALL"]
    assert config["HostConfig"]["Memory"] > 0
    assert config["HostConfig"]["PidsLimit"] > 0
    status = dict(line.split(":\t", 1) for line in stack.inside(service, "cat", "/proc/self/status").splitlines())
    assert status["Uid"].split() == ["10001"] * 4
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    tried = stack.inside(service, "sh", "-c", "touch /opt/tiercel/x /var/lib/tiercel/x 2>&1 || echo refused")
    assert "Read-only file system" in tried
    assert tried.endswith("refused\n")


def test_only_the_front_door_is_open_and_only_on_the_loopback_address(stack: ComposeStack) -> None:
    ports = {service: stack.container(service)["NetworkSettings"]["Ports"] for service in SERVICES}
    published = {service: [at for bound in ports[service].values() for at in bound or []] for service in SERVICES}
    assert published == {
        "worker": [],
        "scheduler": [],
        "tokenizer": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}],
    }


def test_metrics_are_open_to_the_other_containers(stack: ComposeStack) -> None:
    script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())"
    for service, port in (("tokenizer", 9464), ("scheduler", 9474), ("worker", 9484)):
        page = stack.inside("scheduler", "python", "-c", script, f"http://{service}:{port}/metrics")
        assert "\ntiercel_" in page, service


def test_the_worker_takes_its_container_for_the_machine(stack: ComposeStack) -> None:
    limit = stack.container("worker")["HostConfig"]["Memory"]
    script = "from kvstore.host_memory import available_bytes; print(available_bytes())"
    assert 0 < int(stack.inside("worker", "python", "-c", script)) < limit


def test_a_killed_worker_comes_back_and_the_next_request_is_answered(stack: ComposeStack, tmp_path: Path) -> None:
    before = generate(stack)
    restarts = stack.container("worker")["RestartCount"]
    words = ["generate", PROMPT, "--max-tokens", "3000", "--ignore-eos", "--target", stack.target]
    with (tmp_path / "out").open("wb") as output:
        streaming = subprocess.Popen([INFER_CLI, *words], stdout=output, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: (tmp_path / "out").stat().st_size > 0, "the stream begins")
        # From inside, as an out-of-memory kill would: the engine takes `docker kill` for a wish that it stay down.
        subprocess.run(
            ["docker", "exec", stack.container("worker")["Id"], "sh", "-c", "kill -9 -1"],
            capture_output=True,
            check=False,
        )
        _, err = streaming.communicate(timeout=LIMIT_S)
    finally:
        streaming.kill()
    # Either the stack carries the stream over to the new worker, or it says that it does not, and what to do.
    assert streaming.returncode == 0 or "safe to send again" in err
    wait_until(lambda: stack.container("worker")["RestartCount"] > restarts, "the engine restarts the container")
    wait_until(lambda: all(stack.health(service) == "healthy" for service in SERVICES), "all is healthy again")
    assert generate(stack)["token_ids"] == before["token_ids"]


def test_stopping_drains_and_the_disk_tier_outlives_the_containers(stack: ComposeStack) -> None:
    prompt = "What is kept on disk need not be computed again by those who come later. " * 8
    first = generate(stack, prompt)
    assert first["usage"]["cached_tokens"]["disk"] == 0
    stack.compose("stop")
    codes = {service: stack.container(service)["State"]["ExitCode"] for service in SERVICES}
    assert codes == dict.fromkeys(SERVICES, 0), "a service that was told to stop leaves by itself"
    stack.down()
    stack.up()
    again = generate(stack, prompt)
    cached = again["usage"]["cached_tokens"]
    print(f"after down and up: {cached} of {again['usage']['prompt_tokens']} tokens")
    assert cached["disk"] >= again["usage"]["prompt_tokens"] // 16 * 16 - 16 > 0
    assert again["token_ids"] == first["token_ids"]


def test_a_model_that_is_not_there_is_said_in_the_log_and_ends_the_container(stack: ComposeStack) -> None:
    words = ["run", "--rm", "--no-deps", "--no-TTY", "worker", "--model=/models/none"]
    with pytest.raises(AssertionError, match="--model /models/none: there is no such directory") as caught:
        stack.compose(*words)
    assert ": 2\n" in str(caught.value), "the exit code of a wrong setting"
