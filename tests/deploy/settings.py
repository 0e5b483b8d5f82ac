"""Whether a service would take a command line, asked of the service's own settings."""

from pathlib import Path
from typing import Any

from services.common.config import ServiceConfig
from services.common.config_file import LoadedConfig, load_config
from services.common.settings import settings_of
from services.scheduler.config import SchedulerServiceConfig
from services.tokenizer.config import TokenizerConfig
from services.worker.config import WorkerConfig

CONFIGS: dict[str, type[ServiceConfig]] = {
    "tokenizer": TokenizerConfig,
    "scheduler": SchedulerServiceConfig,
    "worker": WorkerConfig,
}


def effective(role: str, words: list[str], config_file: Path) -> LoadedConfig[Any]:
    """The settings that `python -m services.<role> WORDS` would run with; `--config` stands for `config_file`.

    Every word must be `--name=value`. Raises AssertionError for a flag that the service does not have, and ConfigError
    for whatever the service would refuse.
    """
    by_flag = {setting.flag: setting.name for setting in settings_of(CONFIGS[role]).values()}
    given: dict[str, object] = {}
    for word in words:
        flag, equals, value = word.partition("=")
        assert equals, f"{role}: {word} is not --name=value"
        if flag != "--config":
            assert flag in by_flag, f"{role} has no flag {flag}"
            given[by_flag[flag]] = value
    return load_config(CONFIGS[role], role, config_file, given)
