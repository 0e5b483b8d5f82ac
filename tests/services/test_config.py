"""Settings from defaults, one TOML file and flags; every mistake in them is one clear line."""

import enum
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from engine.errors import ConfigError
from services.common.byte_size import ByteSize, format_byte_size, parse_byte_size
from services.common.config import ServiceConfig
from services.common.config_file import load_config
from services.common.settings import setting, settings_of
from services.worker.config import WorkerConfig


class Colour(enum.StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleConfig(ServiceConfig):
    name: str = setting("A name.")
    size: ByteSize | None = setting("A size.", None)
    colour: Colour = setting("A colour.", Colour.RED)
    count: int = setting("A number.", 3, minimum=1)
    is_on: bool = setting("A switch.", False)
    others: tuple[str, ...] = setting("Addresses.", ())


def load(text: str, tmp_path: Path, **flags: object) -> ExampleConfig:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load_config(ExampleConfig, "worker", file, flags).value


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[worker]\nname = "from file"\ncount = 5\nsize = "2MiB"\n[tls]\nca = "/etc/ca.pem"\n')
    loaded = load_config(ExampleConfig, "worker", file, {"count": "7"})
    assert loaded.value.name == "from file"
    assert loaded.value.count == 7
    assert loaded.value.size == 2 << 20
    assert loaded.value.tls_ca == Path("/etc/ca.pem")
    assert loaded.value.colour is Colour.RED
    assert loaded.origins["count"] == "flag"
    assert loaded.origins["name"] == f"file {file}"
    assert loaded.origins["colour"] == "default"


def test_other_services_tables_are_left_to_them(tmp_path: Path) -> None:
    assert load('[worker]\nname = "a"\n[tokenizer]\nwhatever = 1\n', tmp_path).name == "a"


def test_lists_are_toml_arrays_or_comma_separated_flags(tmp_path: Path) -> None:
    assert load('[worker]\nname = "a"\nothers = ["x:1", "y:2"]\n', tmp_path).others == ("x:1", "y:2")
    assert load('[worker]\nname = "a"\n', tmp_path, others="x:1, y:2").others == ("x:1", "y:2")


@pytest.mark.parametrize(
    ("text", "fragments"),
    [
        ('[worker]\nname = "a"\ncolor = "red"\n', ["unknown key 'color' in [worker]", "did you mean colour"]),
        ('[worker]\nname = "a"\nzzz = 1\n', ["unknown key 'zzz'", "allowed are", "colour", "count"]),
        ('[wroker]\nname = "a"\n', ["unknown table [wroker]", "worker"]),
        ('name = "a"\n', ["'name' stands outside a table", "[worker]"]),
        ('[tls]\ncerts = "a"\n', ["unknown key 'certs' in [tls]", "did you mean cert"]),
        ('[worker]\nname = "a"\ncount = "many"\n', ["[worker] count must be a whole number, not 'many'"]),
        ('[worker]\nname = "a"\ncount = true\n', ["count must be a whole number"]),
        ('[worker]\nname = "a"\ncount = 0\n', ["count must be at least 1"]),
        ('[worker]\nname = "a"\ncolour = "blue"\n', ["colour must be one of red, green, not 'blue'"]),
        ('[worker]\nname = "a"\nis_on = "yes"\n', ["is_on must be true or false"]),
        ('[worker]\nname = "a"\nsize = "2MB"\n', ["'2MB' is not a size", "512MiB"]),
        ('[worker]\nname = "a"\nothers = [1]\n', ["others must be a list of strings"]),
        ("[worker]\nname = 1\n", ["name must be a string"]),
        ("[worker]\n", ["no name", "--name", "[worker]"]),
        ("[worker\n", ["is not valid TOML"]),
    ],
)
def test_a_mistake_is_named_with_what_is_allowed(text: str, fragments: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text, tmp_path)
    for fragment in fragments:
        assert fragment in caught.value.message
    assert "\n" not in caught.value.message


def test_a_missing_file_is_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the config file .*nowhere.toml"):
        load_config(ExampleConfig, "worker", tmp_path / "nowhere.toml", {})


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512MiB", 512 << 20),
        ("1.5GiB", 3 << 29),
        ("4 gib", 4 << 30),
        ("7B", 7),
        ("1TiB", 1 << 40),
    ],
)
def test_sizes_are_bytes_or_binary_units(text: str, size: int) -> None:
    assert parse_byte_size(text) == size
    assert parse_byte_size(format_byte_size(size)) == size


@pytest.mark.parametrize("text", ["", "MiB", "-1", "1e9", "5GB", "1,5GiB", "12XiB"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a size"):
        parse_byte_size(text)


def run_service(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=60, check=False)


def test_a_configuration_error_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("[scheduler]\nworker = 'localhost:1'\n")
    done = run_service("services.scheduler", "--config", str(file))
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        f"scheduler: {file}: unknown key 'worker' in [scheduler]; did you mean workers or worker_wait_s?"
    ]


def test_an_unknown_flag_is_exit_code_2() -> None:
    done = run_service("services.scheduler", "--wrokers", "localhost:1")
    assert done.returncode == 2
    assert "--workers" in done.stderr
    assert "Traceback" not in done.stderr


def test_every_worker_setting_has_a_flag_and_help() -> None:
    done = run_service("services.worker", "--help")
    assert done.returncode == 0
    for name in settings_of(WorkerConfig):
        assert "--" + name.replace("_", "-") in done.stdout
