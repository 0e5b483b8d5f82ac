"""CPU seconds that the services of a stack and its client have taken, beside the computing itself."""

import psutil

PARTS = ("client", "tokenizer", "scheduler", "worker's loop")


def cpu_seconds(pids: dict[str, list[int]]) -> dict[str, float]:
    """By part, since the processes began; `pids` as the ready file of `infer-cli up` has them. The client is this
    process. Of a worker it is the first thread, which receives plans and sends results; the others compute.
    """
    found = {"client": _of_process(psutil.Process())}
    for role in ("tokenizer", "scheduler"):
        found[role] = sum(_of_process(psutil.Process(pid)) for pid in pids[role])
    found["worker's loop"] = sum(
        thread.user_time + thread.system_time
        for pid in pids["worker"]
        for thread in psutil.Process(pid).threads()
        if thread.id == pid
    )
    return found


def _of_process(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
