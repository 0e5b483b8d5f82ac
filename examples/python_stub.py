"""Without the tiercel package: stubs that grpc_tools makes from the protos, and nothing else.

pip install grpcio-tools
python examples/python_stub.py [HOST:PORT] [PROMPT]
"""

import importlib
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import grpc
from grpc_tools import protoc

PROTOS = Path(__file__).parents[1] / "protos"


def make_stubs(folder: str) -> tuple[ModuleType, ModuleType]:
    """What `python -m grpc_tools.protoc` does on the command line; a program of your own would keep the result."""
    files = [str(path) for path in sorted(PROTOS.glob("tiercel/v1/*.proto"))]
    words = ["protoc", f"-I{PROTOS}", f"--python_out={folder}", f"--grpc_python_out={folder}", *files]
    if protoc.main(words) != 0:
        raise SystemExit("protoc failed")
    sys.path.insert(0, folder)
    return (
        importlib.import_module("tiercel.v1.inference_pb2"),
        importlib.import_module("tiercel.v1.inference_pb2_grpc"),
    )


def main(target: str = "127.0.0.1:50051", prompt: str = "The sky is") -> int:
    with tempfile.TemporaryDirectory() as folder:
        messages, services = make_stubs(folder)
        request = messages.GenerateRequest(
            text=prompt, sampling=messages.SamplingParams(max_tokens=32, temperature=0.0)
        )
        with grpc.insecure_channel(target) as channel:
            try:
                for event in services.InferenceStub(channel).Generate(request, timeout=60):
                    match event.WhichOneof("event"):
                        case "started":
                            print(f"[{event.started.prompt_tokens} prompt tokens]", end=" ", flush=True)
                        case "delta":
                            print(event.delta.text, end="", flush=True)
                        case "finished":
                            print(f"\n[{event.finished.usage.completion_tokens} tokens]")
            except grpc.RpcError as error:
                print(f"{error.code().name}: {error.details()}", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
