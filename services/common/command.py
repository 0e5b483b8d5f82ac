"""`python -m services.<name>`: flags made from a config dataclass; a ConfigError is one line and exit code 2."""

import enum
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from engine.errors import ConfigError
from services.common import logs
from services.common.config import ServiceConfig
from services.common.config_file import LoadedConfig, load_config
from services.common.settings import Setting, settings_of

ConfigT = TypeVar("ConfigT", bound=ServiceConfig)

EXIT_CONFIG_ERROR = 2

_log = logs.get_logger(__name__)


def service_command(
    name: str, help: str, config_class: type[ConfigT], run: Callable[[ConfigT], Awaitable[None]]
) -> click.Command:
    """The command of one service. `run` serves until a signal; a ConfigError out of it ends the process with code 2."""
    settings = settings_of(config_class)

    def main(config_file: Path | None, **flags: object) -> None:
        logs.configure(name)
        given = {key: value for key, value in flags.items() if value is not None}
        try:
            loaded = load_config(config_class, name, config_file, given)
            logs.configure(name, loaded.value.log_format)
            _log_effective(loaded)
            # asyncio's own loop takes more of the cores for each message, which the worker's threads then lack.
            uvloop.run(_as_coroutine(run, loaded.value))
        except ConfigError as error:
            click.echo(f"{name}: {error.message}", err=True)
            sys.exit(EXIT_CONFIG_ERROR)

    params: list[click.Parameter] = [
        click.Option(
            ["--config", "config_file"],
            type=click.Path(path_type=Path),
            help="TOML file; this service reads the tables [" + name + "], [tls] and [telemetry].",
        )
    ]
    params += [_option(setting) for setting in settings.values()]
    return click.Command(name, callback=main, params=params, help=help, context_settings={"show_default": True})


async def _as_coroutine(run: Callable[[ConfigT], Awaitable[None]], config: ConfigT) -> None:
    await run(config)


def _option(setting: Setting) -> click.Option:
    """Values stay text here; `Setting.convert` reads file and flag alike, so that both give the same message."""
    kind = setting.kind
    help_text = setting.help
    if not setting.is_required and setting.default is not None:
        help_text += f" Default: {_shown(setting.default)}."
    if kind is bool:
        return click.Option([f"{setting.flag}/--no-{setting.flag[2:]}", setting.name], default=None, help=help_text)
    metavar = "SIZE" if setting.describe_kind().startswith("a size") else None
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        metavar = "[" + "|".join(kind) + "]"
    elif kind in (int, float):
        metavar = "N"
    return click.Option([setting.flag, setting.name], type=str, default=None, help=help_text, metavar=metavar)


def _shown(value: Any) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _log_effective(loaded: LoadedConfig[Any]) -> None:
    for name, origin in loaded.origins.items():
        value = getattr(loaded.value, name)
        _log.info(
            "setting", extra=logs.fields(name=name, value=None if value is None else _shown(value), origin=origin)
        )
