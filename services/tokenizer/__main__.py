"""`python -m services.tokenizer`."""

from services.common.channel import FRONT_DOOR_OPTIONS
from services.common.command import service_command
from services.common.server import ServiceHost, serve
from services.common.telemetry import open_telemetry
from services.tokenizer.config import TokenizerConfig
from services.tokenizer.service import SERVICE_NAME, TokenizerService


async def run(config: TokenizerConfig) -> None:
    host = ServiceHost(SERVICE_NAME, config, FRONT_DOOR_OPTIONS, open_telemetry("tokenizer", config))
    await serve(host, TokenizerService(host, config), config)


if __name__ == "__main__":
    service_command("tokenizer", "The front door: text to tokens and back.", TokenizerConfig, run).main()
