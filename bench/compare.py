"""This stack beside other libraries, interleaved in one run, as a table.

    python -m bench.compare [--shape 135m] [--rounds 3] [--peer tiercel --peer vllm] [--workload W1] [--json FILE]

Every round runs each workload on every peer in turn, once the machine is idle, so that a slow minute of it hits all
alike; the table shows medians over rounds and their range, and below how we stand to the fastest rival. All peers stay
loaded, or, with `--in-turn` (the default of the larger shape), one at a time is. Each is warmed up with other prompts
first, which is not counted. Peers whose environment is not there (`python -m bench.peer_venvs`) are named as missing.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from rich.console import Console

from bench.checkpoints import SHAPES, cache_folder, checkpoint
from bench.compare_table import COLUMNS, Results, as_object, show
from bench.idle import wait_until_idle
from bench.peer_process import PeerFailed, ProcessPeer
from bench.peers import PEERS, Peer, PeerMissing, chosen, make_peer, share_of
from bench.records import summarize
from bench.workloads import Workload, one_stream, prefill, shared_prefix, throughput

WORKLOADS = ("W1", "W2", "W3", "W4")

# As much cache as the peers are given, so that all fit into memory beside each other.
OUR_SIZES = ("--device-cache", "2GiB", "--host-cache", "1GiB", "--max-model-len", "8192")
NUM_AT_ONCE = {"135m": 32, "0.6b": 16}


def workloads_of(names: Sequence[str], vocab_size: int, seed: int, num_at_once: int) -> list[Workload]:
    # A seed for each: prompts of one must not be the beginning of another's, which prefix caches would find.
    made = {
        "W1": [throughput(vocab_size, seed, num_at_once)],
        "W2": [one_stream(vocab_size, seed + 1)],
        "W3": [prefill(vocab_size, seed + 2), prefill(vocab_size, seed + 3, 4096)],
        "W4": [shared_prefix(vocab_size, seed + 4)],
    }
    return [workload for name in WORKLOADS if name in names for workload in made[name]]


class Comparison:
    """Peers that fail are noted and left out from there on; the others go on."""

    def __init__(self, shape: str, workloads: Sequence[str], console: Console) -> None:
        self.results: Results = defaultdict(list)
        self.failures: dict[str, str] = {}
        self._vocab_size = SHAPES[shape].vocab_size
        self._num_at_once = NUM_AT_ONCE[shape]
        self._workloads = workloads
        self._console = console

    def workloads(self, number: int) -> list[Workload]:
        return workloads_of(self._workloads, self._vocab_size, 1000 * number + 7, self._num_at_once)

    def run_beside(self, peers: list[Peer], rounds: int) -> None:
        with ExitStack() as stops:
            started = []
            for peer in peers:
                if self._start(peer):
                    stops.callback(peer.stop)
                    started.append(peer)
            for number in range(1, rounds + 1):
                for workload in self.workloads(number):
                    for peer in started:
                        self._measure(peer, workload, f"round {number} of {rounds}")

    def run_in_turn(self, peers: list[Peer], rounds: int) -> None:
        for number in range(1, rounds + 1):
            for peer in peers:
                if peer.name in self.failures or not self._start(peer):
                    continue
                try:
                    for workload in self.workloads(number):
                        self._measure(peer, workload, f"round {number} of {rounds}")
                finally:
                    peer.stop()

    def _start(self, peer: Peer) -> bool:
        """Started and warm."""
        with self._console.status(f"starting {peer.name}"):
            try:
                peer.start()
            except PeerFailed as failure:
                self.failures[peer.name] = str(failure)
                return False
            try:
                peer.run(throughput(self._vocab_size, 5, num_requests=4))
                peer.run(throughput(self._vocab_size, 6, num_requests=2))
            except PeerFailed as failure:
                self.failures[peer.name] = str(failure)
                peer.stop()
                return False
            except BaseException:
                peer.stop()
                raise
        return True

    def _measure(self, peer: Peer, workload: Workload, where: str) -> None:
        part = share_of(peer.name, workload)
        if part is None or peer.name in self.failures:
            return
        with self._console.status(f"{where}: {workload.name} on {peer.name}"):
            wait_until_idle()
            try:
                self.results[peer.name, workload.name].append(summarize(part, peer.run(part)))
            except PeerFailed as failure:
                self.failures[peer.name] = str(failure)


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="135m", show_default=True)
@click.option("--rounds", type=click.IntRange(1), default=3, show_default=True)
@click.option("--peer", "words", multiple=True, help=f"One of: {', '.join(PEERS)}; or a library. Default: all.")
@click.option("--workload", "workloads", type=click.Choice(WORKLOADS), multiple=True, help="Default: all.")
@click.option("--kv-dtype", default="auto", show_default=True, help="Of our blocks; the peers have their own settings.")
@click.option(
    "--beside/--in-turn", default=None, help="Keep all peers loaded, or one at a time; default: by the shape."
)
@click.option(
    "--environments",
    type=click.Path(path_type=Path, file_okay=False),
    default=cache_folder() / "peers",
    show_default=True,
    help="Where bench.peer_venvs made them.",
)
@click.option(
    "--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures here too."
)
def main(
    shape: str,
    rounds: int,
    words: tuple[str, ...],
    workloads: tuple[str, ...],
    kv_dtype: str,
    beside: bool | None,
    environments: Path,
    json_path: Path | None,
) -> None:
    """Output tokens/s of W1, TPOT and TTFT of W2, prefill tokens/s of W3, TTFT of W4, of this stack and its peers."""
    try:
        names = chosen(words) if words else list(PEERS)
    except KeyError as error:
        raise click.UsageError(f"there is no peer {error}; there are: {', '.join(PEERS)}") from None
    console = Console(stderr=True)
    with console.status("making the checkpoint"):
        path = checkpoint(SHAPES[shape])
    comparison = Comparison(shape, workloads or WORKLOADS, console)
    peers: list[Peer] = []
    missing: dict[str, str] = {}
    for name in names:
        with console.status(f"preparing {name}"):
            try:
                peers.append(make_peer(name, path, environments.absolute(), ("--kv-dtype", kv_dtype, *OUR_SIZES)))
            except PeerMissing as lack:
                missing[name] = str(lack)
            except PeerFailed as failure:
                comparison.failures[name] = str(failure)
    # Whom none of the workloads asks for need not be started.
    peers = [peer for peer in peers if any(share_of(peer.name, each) for each in comparison.workloads(1))]
    if beside if beside is not None else shape == "135m":
        comparison.run_beside(peers, rounds)
    else:
        comparison.run_in_turn(peers, rounds)
    columns = [
        title for title, column in COLUMNS.items() if any(column.workload == key[1] for key in comparison.results)
    ]
    shown = [peer.name for peer in peers if any(key[0] == peer.name for key in comparison.results)]
    show(
        Console(),
        f"{shape} shape, median of {rounds} interleaved rounds (lowest-highest)",
        shown,
        columns,
        comparison.results,
    )
    settings = {peer.name: peer.settings for peer in peers if isinstance(peer, ProcessPeer) and peer.settings}
    for name, text in settings.items():
        click.echo(f"{name} {text}")
    for name, why in missing.items():
        click.echo(f"{name} is missing: {why}")
    for name, why in comparison.failures.items():
        click.echo(f"{name} failed: {why}")
    if json_path is not None:
        report = as_object(comparison.results)
        report |= {"shape": shape, "rounds": rounds, "settings": settings, "missing": missing}
        json_path.write_text(json.dumps(report | {"failures": comparison.failures}, indent=1) + "\n")
    if comparison.failures:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
