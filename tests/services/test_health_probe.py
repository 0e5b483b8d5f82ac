"""The probe of container health checks, as the process that a container runs, against real servers."""

import asyncio
import sys
from pathlib import Path

import pytest

from services.common.config import ServiceConfig
from services.common.health_names import LIVENESS
from services.common.server import ServiceHost
from tests.services.certificates import make_certificates
from tests.services.stack import port_of

SERVICE = "tiercel.v1.Execution"


async def probe(*arguments: str) -> tuple[int | None, str]:
    """Exit code and standard error."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.common.health_probe", *arguments, stderr=asyncio.subprocess.PIPE
    )
    _, err = await process.communicate()
    return process.returncode, err.decode()


async def test_it_tells_ready_from_not_ready_and_both_from_dead() -> None:
    host = ServiceHost(SERVICE, ServiceConfig())
    address = await host.start()
    code, err = await probe(address)
    assert (code, err.strip()) == (1, f"{address}: NOT_SERVING")
    assert (await probe(address, "--live"))[0] == 0, "it answers, although it is not ready"
    await host.set_ready(True)
    assert await probe(address) == (0, "")
    assert await probe(address, "--service", SERVICE) == (0, "")
    code, err = await probe(address, "--service", "tiercel.v1.Nothing")
    assert code == 1
    assert "NOT_FOUND" in err
    await host.stop()
    code, err = await probe(address, "--live", "--timeout", "1")
    assert code == 1
    assert "UNAVAILABLE" in err or "DEADLINE_EXCEEDED" in err


async def test_it_speaks_tls(tmp_path: Path) -> None:
    cert, key, ca = make_certificates(tmp_path)
    host = ServiceHost(SERVICE, ServiceConfig(tls_cert=cert, tls_key=key))
    address = await host.start()
    await host.set_ready(True)
    assert await probe(address, "--ca", str(ca)) == (0, "")
    local = f"localhost:{port_of(address)}"
    assert await probe(local, "--ca", str(ca), "--server-name", "127.0.0.1") == (0, "")
    assert (await probe(address, "--timeout", "1"))[0] == 1, "without TLS it is not understood"
    await host.stop()


@pytest.mark.parametrize("arguments", [("50051",), ("localhost:",), ("127.0.0.1:1", "--ca", "/nowhere.pem")])
async def test_a_wrong_call_is_told_from_a_service_that_is_not_ready(arguments: tuple[str, ...]) -> None:
    code, err = await probe(*arguments)
    assert code == 2
    assert "HOST:PORT" in err or "/nowhere.pem" in err


def test_the_name_of_liveness_is_not_one_that_a_protobuf_service_can_have() -> None:
    assert "." not in LIVENESS
