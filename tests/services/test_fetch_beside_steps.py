"""What does not touch the device does not wait for the device, over real services and a real disk."""

import asyncio
from pathlib import Path

from engine.scheduling.plan import TransferKind
from tests.services.stack import eventually, port_of, running_stack
from tests.services.test_manage_cache import SETTLE, ask, engine_on, generate, start
from tiercel.v1 import inference_pb2


async def test_a_fetch_does_not_wait_for_the_step_that_runs(model_directory: Path, tmp_path: Path) -> None:
    async with running_stack(model_directory) as stack:
        engine = engine_on(tmp_path / "kv")
        # However long the read takes: who gave up on it would be in a step that waits.
        stub = await start(stack, engine, always_bring=True)
        await generate(stub, keep_prefix=True)
        await ask(stub, SETTLE)
        (address,) = stack.workers
        (link,) = stack.scheduler().dispatcher.links
        await stack.stop_worker(address)
        await eventually(lambda: not link.is_ready, "the worker is missed")
        await stack.start_worker(engine, port_of(address))
        await eventually(lambda: link.is_ready, "the worker is back")

        def num_fetched() -> int:
            assert link.scheduler is not None
            tiers = link.scheduler.figures().tiers
            assert tiers is not None
            return tiers.moves[TransferKind.FETCH].num_blocks

        def knows_the_disk() -> bool:
            assert link.scheduler is not None
            tiers = link.scheduler.figures().tiers
            return tiers is not None and tiers.disk.num_used == 10

        await eventually(knows_the_disk, "the scheduler knows what is on disk")
        engine.gate.clear()
        other = inference_pb2.GenerateRequest(sampling={"max_tokens": 1})
        other.token_ids.ids.extend([1, 2, 3])
        held = stub.Generate(other)
        await eventually(lambda: engine.is_waiting, "a step is under way")
        hit = asyncio.create_task(generate(stub))
        await eventually(lambda: num_fetched() == 10, "the disk has been read")
        assert engine.is_waiting
        # The fake knows nothing of what lies in the mover's pool, so it must not go on from there.
        hit.cancel()
        await eventually(lambda: stack.scheduler().dispatcher.num_live == 1, "the second request has gone")
        engine.gate.set()
        assert [event async for event in held][-1].HasField("finished")
