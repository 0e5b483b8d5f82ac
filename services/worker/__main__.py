"""`python -m services.worker`."""

import os
import sys
from collections.abc import Callable

from services.common.command import service_command
from services.common.server import ServiceHost, serve
from services.common.telemetry import open_telemetry
from services.worker.config import WorkerConfig
from services.worker.loaded_engine import LoadedEngine, LoadProgress, TierNews
from services.worker.service import SERVICE_NAME, WorkerService

# The engine's thread spends its time in torch, without the interpreter lock; what it does in Python between two steps
# competes with the asyncio thread. The default of 5 ms would let either hold the other up for longer than a step's
# whole bookkeeping takes.
_SWITCH_INTERVAL_S = 0.00002

# How long a thread of torch's pool spins for its next piece of work before it sleeps. The default, about a millisecond,
# holds a core that the other services and this process's own asyncio thread need between two steps; none at all makes
# every one of a step's hundreds of parallel regions wait for the kernel. GNU OpenMP reads it when torch is loaded.
_SPIN_COUNT = "2000"


async def run(config: WorkerConfig) -> None:
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)

    def load(progress: LoadProgress, tell: Callable[[TierNews], None]) -> LoadedEngine:
        # Imported on the engine's thread, since torch takes seconds and health answers meanwhile.
        from services.worker.model_loading import load_engine

        return load_engine(config, progress, tell)

    host = ServiceHost(SERVICE_NAME, config, telemetry=open_telemetry("worker", config))
    await serve(host, WorkerService(host, load), config)


if __name__ == "__main__":
    service_command("worker", "Run one model on one device.", WorkerConfig, run).main()
