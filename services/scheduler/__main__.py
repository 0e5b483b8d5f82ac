"""`python -m services.scheduler`."""

from services.common.command import service_command
from services.common.server import ServiceHost, serve
from services.common.telemetry import open_telemetry
from services.scheduler.config import SchedulerServiceConfig
from services.scheduler.service import SERVICE_NAME, SchedulerService


async def run(config: SchedulerServiceConfig) -> None:
    host = ServiceHost(SERVICE_NAME, config, telemetry=open_telemetry("scheduler", config))
    await serve(host, SchedulerService(host, config), config)


if __name__ == "__main__":
    service_command("scheduler", "Decide what runs on which worker.", SchedulerServiceConfig, run).main()
