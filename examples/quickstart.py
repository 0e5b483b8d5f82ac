"""The Python client: a whole answer, a stream, a conversation, and where the time went.

python examples/quickstart.py [HOST:PORT]
"""

import sys

from tiercel import ChatMessage, Client, Delta, TiercelError

TARGET = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051"


def main() -> int:
    with Client(TARGET) as client:
        try:
            answer = client.generate("The sky is", max_tokens=16, temperature=0)
            print(f"answer: {answer.text!r} ({answer.finish_reason})")

            print("stream: ", end="")
            with client.stream("Once upon a time", max_tokens=32, temperature=0.8, seed=7) as stream:
                for event in stream:
                    if isinstance(event, Delta):
                        print(event.text, end="", flush=True)
            print()

            if client.models()[0].has_chat_template:
                messages = [ChatMessage("user", "The code for Mira is 4821. What is the code for Mira?")]
                reply = client.generate(messages, max_tokens=32, temperature=0)
                print(f"chat: {reply.text!r}")
                # The second turn begins with the first one's tokens: those blocks are not computed again.
                messages += [ChatMessage("assistant", reply.text), ChatMessage("user", "Say it again.")]
                reply = client.generate(messages, max_tokens=32, temperature=0)
                cached, prompt = reply.usage.cached_tokens.total, reply.usage.prompt_tokens
                print(f"chat: {reply.text!r}; {cached} of {prompt} prompt tokens came from the cache")

            report = answer.report
            for phase in ("queue", "prefill", "decode", "ttft", "e2e"):
                print(f"{phase:>8} {getattr(report, phase + '_ns') / 1e6:8.2f} ms")
        except TiercelError as error:
            print(f"{error.code}: {error.message}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
