"""The table of bad inputs: what a client or an operator can get wrong, and what they are told.

`docs/errors.md` is this table with the answers of a real stack; `test_bad_inputs.py` compares the two. To write the
page anew after a change of a message: `python -m tests.e2e.bad_inputs`.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import lmdb
import torch

from kvstore.courtesy import ComputeGauge
from services.worker.config import WorkerConfig
from services.worker.tiers import open_tiers
from tests.e2e.stack import INFER_CLI, Stack, temporary_stack
from tiercel.v1 import common_pb2, inference_pb2, inference_pb2_grpc

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"
DEMO = Path(__file__).parents[2] / "ops" / "demo_model" / "checkpoint"


@dataclass(frozen=True)
class Answer:
    """One row of the table."""

    what: str
    status: str
    message: str


def request(text: str | None = "Hello", **fields: Any) -> inference_pb2.GenerateRequest:
    """A good request but for `fields`; names of sampling parameters go into `sampling`."""
    sampling = {k: v for k, v in fields.items() if k in inference_pb2.SamplingParams.DESCRIPTOR.fields_by_name}
    rest = {k: v for k, v in fields.items() if k not in sampling}
    made = inference_pb2.GenerateRequest(sampling=inference_pb2.SamplingParams(**{"max_tokens": 4, **sampling}), **rest)
    if text is not None and "chat" not in rest and "token_ids" not in rest:
        made.text = text
    return made


def ids(*token_ids: int) -> common_pb2.TokenIds:
    return common_pb2.TokenIds(ids=token_ids)


def chat(*messages: tuple[str, str]) -> inference_pb2.Chat:
    return inference_pb2.Chat(messages=[inference_pb2.ChatMessage(role=r, content=c) for r, c in messages])


def bad_requests() -> dict[str, inference_pb2.GenerateRequest]:
    return {
        "temperature -1": request(temperature=-1.0),
        "temperature NaN": request(temperature=math.nan),
        "temperature infinite": request(temperature=math.inf),
        "top_p 0": request(top_p=0.0),
        "top_p 1.5": request(top_p=1.5),
        "top_k -2": request(top_k=-2),
        "min_p -0.1": request(min_p=-0.1),
        "min_p 1.1": request(min_p=1.1),
        "n 0": request(n=0),
        "n 65": request(n=65),
        "max_tokens 0": request(max_tokens=0),
        "max_tokens -5": request(max_tokens=-5),
        "min_tokens -1": request(min_tokens=-1),
        "min_tokens above max_tokens": request(min_tokens=5, max_tokens=4),
        "presence_penalty 3": request(presence_penalty=3.0),
        "frequency_penalty -3": request(frequency_penalty=-3.0),
        "repetition_penalty 0": request(repetition_penalty=0.0),
        "repetition_penalty NaN": request(repetition_penalty=math.nan),
        "logprobs 21": request(logprobs=21),
        "logprobs -1": request(logprobs=-1),
        "prompt_logprobs 21": request(prompt_logprobs=21),
        "an empty stop string": request(stop=[""]),
        "17 stop strings": request(stop=[f"stop {i}" for i in range(17)]),
        "a stop string of 257 characters": request(stop=["x" * 257]),
        "a stop token id outside the vocabulary": request(stop_token_ids=[1_000_000]),
        "a negative stop token id": request(stop_token_ids=[-1]),
        "logit_bias 101": request(logit_bias={5: 101.0}),
        "logit_bias NaN": request(logit_bias={5: math.nan}),
        "logit_bias for an id outside the vocabulary": request(logit_bias={1_000_000: 1.0}),
        "an allowed token id outside the vocabulary": request(allowed_token_ids=[1_000_000]),
        "an empty bad word": request(bad_words=[""]),
        "an unknown model": request(model="gpt-nonexistent"),
        "no prompt": request(text=None),
        "an empty text": request(text=""),
        "no token ids": request(token_ids=ids()),
        "a prompt id outside the vocabulary": request(token_ids=ids(1_000_000)),
        "a prompt longer than the context": request(token_ids=ids(*[20] * 100_000)),
        "a prompt that fills the context": request(token_ids=ids(*[20] * context_tokens())),
        "a chat without messages": request(chat=chat()),
        "a chat role that the template does not know": request(chat=chat(("pirate", "Ahoy"))),
        "a chat message without a role": request(chat=chat(("", "Hello"))),
        "resume_tokens with n 2": request(n=2, resume_tokens=[20]),
        "a resume token outside the vocabulary": request(resume_tokens=[1_000_000]),
        "as many resume_tokens as max_tokens": request(resume_tokens=[20, 20, 20, 20]),
        "a cache salt of 257 characters": request(cache_salt="s" * 257),
        "a tenant of 257 characters": request(tenant="t" * 257),
        "a pin name with a space at its end": request(pin_name="cook "),
        "a pin name of 129 characters": request(pin_name="x" * 129),
        "a prompt to pin that fills no block": request("Hi", pin_name="short"),
        "a prompt to pin with more blocks than may be pinned": request(token_ids=ids(*[20] * 640), pin_name="long"),
    }


def bad_cache_commands(folder: Path) -> dict[str, tuple[str, ...]]:
    """Words after `infer-cli cache`."""

    def prefixes(name: str, content: str | bytes) -> str:
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    good = prefixes("good.txt", "A library lends books to all who come by and to all who send for them.\n")
    return {
        "prefixes to warm in a file that does not exist": ("warm", str(folder / "none.txt")),
        "a file without a prefix": ("warm", prefixes("empty.txt", "\n\n")),
        "prefixes that are not UTF-8": ("warm", prefixes("latin.txt", b"caf\xe9\n")),
        "a prefix that is not JSON after one that is": ("warm", prefixes("mixed.jsonl", '{"text": "a"}\nb\n')),
        "a prefix with an unknown field": ("warm", prefixes("field.jsonl", '{"prompt": "a"}\n')),
        "a prefix with two prompts": ("warm", prefixes("two.jsonl", '{"text": "a", "token_ids": [1]}\n')),
        "a prefix whose salt is a number": ("warm", prefixes("salt.jsonl", '{"text": "a", "cache_salt": 7}\n')),
        "a prefix with a token id below zero": ("warm", prefixes("ids.jsonl", '{"token_ids": [-1]}\n')),
        "pinning without a file": ("pin", "cook"),
        "pinning and removing at once": ("pin", "cook", good, "--remove"),
        "removing a pin that is not there": ("pin", "nobody", "--remove"),
        "pinning more than may be pinned": ("pin", "long", prefixes("long.txt", "The library lends a book. " * 200)),
        "clearing without a terminal and without --yes": ("clear",),
    }


def bad_directories(folder: Path) -> dict[str, Path]:
    """Folders that no disk tier can have, each for another reason."""
    (folder / "file").write_text("mine")
    foreign, other, locked = (folder / name for name in ("foreign", "schema", "locked"))
    for path in (foreign, other, locked):
        path.mkdir()
    (foreign / "index.mdb").write_bytes(b"something else\n" * 4096)
    with lmdb.open(str(other / "index.mdb"), subdir=False, max_dbs=8) as env:
        meta = env.open_db(b"meta")
        with env.begin(write=True) as txn:
            txn.put(b"schema", (99).to_bytes(8, "little"), db=meta)
    return {
        "a file in the place of the cache directory": folder / "file",
        "a cache directory that is read-only": Path("/sys/tiercel"),
        "an index of another program in the cache directory": foreign,
        "a cache directory of another schema version": other,
        "a cache directory that another process holds for itself": locked,
    }


BLOCK_BYTES = 21_120
"""Of the bundled model."""


def open_badly() -> Iterator[Answer]:
    """What stands in `infer-cli status` where a tier cannot be had; the stack goes on without it."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bad-") as name:
        folder = Path(name)

        def note_of(**settings: Any) -> str:
            sizes = {"host_cache": 8 << 20, "disk_cache": 8 << 20, "cache_dir": folder / "kv", **settings}
            config = WorkerConfig(model="demo", **sizes)
            pool = torch.zeros(2, BLOCK_BYTES, dtype=torch.uint8)
            opened = open_tiers(config, pool, bytes(32), ComputeGauge(), lambda *_: None, lambda _: None)
            assert opened.mover is None or not opened.disk_id, settings
            if opened.mover is not None:
                opened.mover.close()
            return (opened.host_note or opened.disk_note).replace(name, "DIR")

        yield Answer("a host cache smaller than one block", "note", note_of(host_cache=20_000))
        yield Answer("a disk cache smaller than four records", "note", note_of(disk_cache=90_000))
        yield Answer("a tenant's share of the disk below four records", "note", note_of(tenant_disk_cache=90_000))
        for what, directory in bad_directories(folder).items():
            with contextlib.ExitStack() as held:
                if directory.name == "locked":
                    file = held.enter_context((directory / "lock").open("w"))
                    fcntl.flock(file, fcntl.LOCK_EX)
                # Machines differ in how they say that a folder is read-only.
                yield Answer(what, "note", re.sub(r"\[Errno \d+\] [^:]+", "REASON", note_of(cache_dir=directory)))


def command_badly(stack: Stack) -> Iterator[Answer]:
    """Each bad `infer-cli cache`: its exit code, and what stands on its last line."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bad-") as name:
        for what, words in bad_cache_commands(Path(name)).items():
            done = subprocess.run(
                [INFER_CLI, "cache", *words, "--target", stack.target],
                capture_output=True,
                text=True,
                stdin=subprocess.DEVNULL,
                timeout=120,
                check=False,
            )
            message = (done.stderr.strip() or done.stdout.strip()).splitlines()[-1]
            yield Answer(what, f"exit {done.returncode}", re.sub(r"\s+", " ", message.replace(name, "DIR")))


def context_tokens() -> int:
    return int(json.loads((DEMO / "config.json").read_text())["max_position_embeddings"])


def ask_badly(stack: Stack) -> Iterator[Answer]:
    """Each bad request, and after it a good one that must be answered."""
    with grpc.insecure_channel(stack.target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        for what, bad in bad_requests().items():
            try:
                list(stub.Generate(bad, timeout=30))
            except grpc.RpcError as error:
                yield Answer(what, error.code().name, error.details() or "")
            else:
                yield Answer(what, "OK", "")
            *_, last = stub.Generate(request("Hello", temperature=0.0), timeout=30)
            assert last.WhichOneof("event") == "finished", f"no answer after: {what}"
        for what, call in {
            "a report of an unknown request": lambda: stub.GetReport(inference_pb2.GetReportRequest(request_id="none")),
            "detokenize an id outside the vocabulary": lambda: stub.Detokenize(
                inference_pb2.DetokenizeRequest(token_ids=[1_000_000])
            ),
            "tokenize nothing": lambda: stub.Tokenize(inference_pb2.TokenizeRequest()),
        }.items():
            yield _call(what, call)
        late = lambda: list(stub.Generate(request("Hello", max_tokens=400, ignore_eos=True), timeout=0.02))  # noqa: E731
        # The words are those of the client's gRPC library, which gives up first.
        yield dataclasses.replace(_call("a deadline of 20 ms for 400 tokens", late), message="")


def _call(what: str, call: Callable[[], object]) -> Answer:
    try:
        call()
    except grpc.RpcError as error:
        return Answer(what, error.code().name, error.details() or "")
    return Answer(what, "OK", "")


def start_badly() -> Iterator[Answer]:
    """Each bad way to start a stack; what stands on the last line of `infer-cli up`, and its exit code."""
    with tempfile.TemporaryDirectory(prefix="tiercel-bad-") as name, socket.create_server(("127.0.0.1", 0)) as taken:
        folder = Path(name)
        port = str(taken.getsockname()[1])

        def start(what: str, flags: tuple[str, ...]) -> Answer:
            up = subprocess.run(
                [INFER_CLI, "up", *(("--port", "0") if "--port" not in flags else ()), *flags],
                capture_output=True,
                text=True,
                timeout=120,
                check=False,
            )
            message = (up.stderr.strip() or up.stdout.strip()).splitlines()[-1]
            # Parts that differ from run to run are not part of the message's wording.
            message = message.replace(name, "DIR").replace(str(DEMO.parents[2]), "REPO").replace(port, "PORT")
            return Answer(what, f"exit {up.returncode}", re.sub(r"\s+", " ", message))

        with ThreadPoolExecutor(2) as starters:
            starts = bad_starts(folder, port)
            yield from starters.map(start, starts.keys(), starts.values())


def bad_starts(folder: Path, taken_port: str) -> dict[str, tuple[str, ...]]:
    def broken(name: str, damage: Callable[[Path], object]) -> tuple[str, ...]:
        path = folder / name
        shutil.copytree(DEMO, path)
        damage(path)
        return ("--model", str(path))

    def config(name: str, text: str) -> tuple[str, ...]:
        path = folder / name
        path.write_text(text)
        return ("--config", str(path))

    def edit(**changes: object) -> Callable[[Path], object]:
        def damage(path: Path) -> None:
            settings = json.loads((path / "config.json").read_text())
            (path / "config.json").write_text(json.dumps({**settings, **changes}))

        return damage

    def forget_tokenizer(path: Path) -> None:
        for file in path.glob("tokenizer*"):
            file.unlink()

    (folder / "empty").mkdir()
    return {
        "a model directory that does not exist": ("--model", str(folder / "nowhere")),
        "a model directory without config.json": ("--model", str(folder / "empty")),
        "a config.json that is not JSON": broken("torn", lambda p: (p / "config.json").write_text("{")),
        "an architecture that is not supported": broken("family", edit(architectures=["MambaForCausalLM"])),
        "a RoPE scaling that is not supported": broken(
            "rope", edit(rope_parameters={"rope_type": "spiral", "rope_theta": 10000.0})
        ),
        "weights cut short": broken(
            "short", lambda p: (p / "model.safetensors").write_bytes((p / "model.safetensors").read_bytes()[:100_000])
        ),
        "no weights": broken("bare", lambda p: (p / "model.safetensors").unlink()),
        "weights of another number of layers": broken("layers", edit(num_hidden_layers=2)),
        "no tokenizer": broken("mute", forget_tokenizer),
        "an unknown table in the configuration": config("table.toml", "[wrker]\nthreads = 1\n"),
        "an unknown key in the configuration": config("key.toml", "[worker]\nmax_sequences = 4\n"),
        "a value of the wrong type in the configuration": config("type.toml", '[worker]\nmax_seqs = "many"\n'),
        "a configuration that is not TOML": config("torn.toml", "[worker\n"),
        "a configuration file that does not exist": ("--config", str(folder / "none.toml")),
        "a port in use": ("--port", taken_port),
        "a device cache too small for one sequence": ("--device-cache", "64KiB"),
        "a device cache that is not a size": ("--device-cache", "lots"),
        "a block size of 0": ("--block-size", "0"),
        "a KV dtype that does not exist": ("--kv-dtype", "int3"),
        "more context than the model has": ("--max-model-len", "1000000"),
        "CUDA where there is none": ("--device", "cuda"),
        "weights of a type that does not exist": ("--weights", "int3"),
        "int8 weights in fp32": ("--weights", "int8", "--dtype", "fp32"),
        "zero workers": ("--workers", "0"),
    }


def as_page(answers: list[Answer]) -> str:
    rows = "\n".join(f"| {a.what} | `{a.status}` | {a.message.replace('|', chr(92) + '|')} |" for a in answers)
    return f"""# What goes wrong, and what you are told

Rows with a gRPC status were answered by a running stack with the bundled model, which answered a good request
after each bad `Generate`; rows with an exit code are `infer-cli up` or `infer-cli cache`; a note stands in
`infer-cli status`, and the stack goes on without that tier. To write this page anew:
`python -m tests.e2e.bad_inputs`. Errors carry `google.rpc.ErrorInfo` (reason: the class in `engine/errors.py`),
`BadRequest` with the field where one is at fault, and `RetryInfo` with `RESOURCE_EXHAUSTED`.

| input | status | message |
| --- | --- | --- |
{rows}
"""


def all_answers() -> list[Answer]:
    # Half of the host tier may be pinned: 24 blocks.
    with (
        tempfile.TemporaryDirectory(prefix="tiercel-bad-") as kv,
        temporary_stack("--model", "demo", "--host-cache", str(49 * BLOCK_BYTES), "--cache-dir", kv) as stack,
    ):
        answers = list(ask_badly(stack)) + list(command_badly(stack))
    return answers + list(start_badly()) + list(open_badly())


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(as_page(all_answers()))
