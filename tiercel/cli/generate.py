"""`infer-cli generate`: one answer, as text that streams or as one JSON object."""

import json
import sys
from pathlib import Path
from typing import Any, cast

import click

from tiercel.cli.console import Consoles
from tiercel.cli.failure import EXIT_USAGE, CommandFailed
from tiercel.cli.target import Address, borrowed_stack
from tiercel.cli.tracing import tracing
from tiercel.cli.values import BoundedFloat, Target, TokenIds
from tiercel.client import (
    ChatMessage,
    Choice,
    Client,
    Completion,
    Delta,
    GenerateOptions,
    Prompt,
    RequestReport,
    TokenLogprob,
)
from tiercel.client.completion import CompletionBuilder

NS_PER_MS = 1e6


@click.command()
@click.argument("prompt", required=False)
@click.option("--prompt-ids", type=TokenIds(), help="Token ids instead of a text.")
@click.option("--chat", "as_chat", is_flag=True, help="PROMPT is a user's message: use the model's chat template.")
@click.option("--max-tokens", type=click.IntRange(min=1), help="Tokens of the answer at most.")
@click.option("--temperature", type=BoundedFloat(0), help="0 is greedy; default 1.")
@click.option("--top-p", type=BoundedFloat(0, 1, above_minimum=True), help="Nucleus; default 1.")
@click.option("--top-k", type=click.IntRange(min=0), help="0, the default, is off.")
@click.option("--min-p", type=BoundedFloat(0, 1), help="Of the likeliest token's probability; default 0.")
@click.option("--seed", type=click.IntRange(0, 2**64 - 1), help="The same seed gives the same answer.")
@click.option("--stop", multiple=True, help="End before this text; may be given several times.")
@click.option("--ignore-eos", is_flag=True, help="Go on past the model's end of text.")
@click.option("--logprobs", type=click.IntRange(0, 20), help="Show log probabilities, with N alternatives.")
@click.option("--n", type=click.IntRange(1, 64), help="Answers to give; default 1.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--timeout", type=BoundedFloat(0, above_minimum=True), help="Seconds to wait for the whole answer.")
@click.option("--model", metavar="PATH|HUB_ID|demo", help="What to serve where no stack is running; default demo.")
@click.option("--target", type=Target(), help="The stack to ask, by its address.")
@click.option("--port", type=click.IntRange(1, 65535), help="The stack to ask, by its port on this machine.")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority to trust; switches TLS on.")
@click.option("--otlp", metavar="ENDPOINT", help="OpenTelemetry collector that this command's span goes to.")
@click.pass_obj
def generate(
    consoles: Consoles,
    /,
    prompt: str | None,
    prompt_ids: list[int] | None,
    as_chat: bool,
    as_json: bool,
    model: str | None,
    target: str | None,
    port: int | None,
    ca: Path | None,
    otlp: str | None,
    **sampling: Any,
) -> int:
    """Answer PROMPT; `-` reads it from standard input.

    With no stack running and no --target, starts one for itself, answers and stops it.
    """
    asked = _prompt(prompt, prompt_ids, as_chat)
    options = given_options(sampling)
    with tracing(otlp), borrowed_stack(Address(target, port, ca), model, consoles.err) as client:
        if as_json:
            completion = client.generate(asked, **options)
            consoles.write(json.dumps(as_object(completion, "logprobs" in options), ensure_ascii=False) + "\n")
        else:
            completion = _stream(consoles, client, asked, options)
            _show_rest(consoles, completion)
    return 0


def given_options(flags: dict[str, Any]) -> GenerateOptions:
    """The flags that were given; the server has the defaults of the others."""
    given = {name: value for name, value in flags.items() if value is not None and value is not False and value != ()}
    return cast(GenerateOptions, given)


def _prompt(prompt: str | None, prompt_ids: list[int] | None, as_chat: bool) -> Prompt:
    if prompt_ids is not None:
        if prompt is not None or as_chat:
            raise click.UsageError("--prompt-ids stands for the whole prompt; leave PROMPT and --chat out")
        return prompt_ids
    if prompt is None:
        raise click.UsageError("no prompt: give PROMPT, `-` to read it from standard input, or --prompt-ids 1,2,3")
    text = _standard_input() if prompt == "-" else prompt
    if not text:
        raise click.UsageError("the prompt is empty; give at least one character")
    return [ChatMessage("user", text)] if as_chat else text


def _standard_input() -> str:
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise CommandFailed(
            f"standard input is not UTF-8 text ({error.reason} at byte {error.start})", EXIT_USAGE
        ) from None
    # The newline that echo and editors put at the end is not meant.
    return text.removesuffix("\n").removesuffix("\r")


def _stream(consoles: Consoles, client: Client, prompt: Prompt, options: GenerateOptions) -> Completion:
    """Writes the text of a single answer as it comes; several answers would run into one another."""
    builder = CompletionBuilder()
    is_single = options.get("n", 1) == 1
    ends_line = True
    try:
        with client.stream(prompt, **options) as stream:
            for event in stream:
                builder.add(event)
                if is_single and isinstance(event, Delta) and event.text:
                    consoles.write(event.text)
                    ends_line = event.text.endswith("\n")
    finally:
        # Also where the answer broke off: what is said about that starts on a line of its own.
        if not ends_line:
            consoles.write("\n")
    completion = builder.build()
    if not is_single:
        for choice in completion.choices:
            consoles.write(f"[{choice.index}] {choice.text}\n")
    elif not completion.text:
        consoles.write("\n")
    return completion


def _show_rest(consoles: Consoles, completion: Completion) -> None:
    for choice in completion.choices:
        for row in choice.logprobs:
            top = "  ".join(f"{alternative.token_id}:{alternative.logprob:.4f}" for alternative in row.top)
            consoles.write(f"{row.token_id}\t{row.logprob:.4f}\trank {row.rank}\t{top}\n")
    usage, report = completion.usage, completion.report
    speed = ""
    if report.decode_ns and usage.completion_tokens > len(completion.choices):
        speed = f", {(usage.completion_tokens - len(completion.choices)) / report.decode_ns * 1e9:.1f} tokens/s"
    consoles.note(
        f"{usage.prompt_tokens} prompt tokens ({usage.cached_tokens.total} cached), {usage.completion_tokens} "
        f"generated, the first after {report.ttft_ns / NS_PER_MS:.0f} ms{speed}; {completion.finish_reason}; "
        f"request {completion.request_id}"
    )


def as_object(completion: Completion, with_logprobs: bool) -> dict[str, Any]:
    """What `--json` prints. The fields are a public contract."""
    cached = completion.usage.cached_tokens
    first = completion.choices[0]
    content: dict[str, Any] = {
        "request_id": completion.request_id,
        **_choice(first),
        "usage": {
            "prompt_tokens": completion.usage.prompt_tokens,
            "completion_tokens": completion.usage.completion_tokens,
            "cached_tokens": {"device": cached.device, "host": cached.host, "disk": cached.disk},
        },
        "report": _report(completion.report),
    }
    if with_logprobs:
        content["logprobs"] = _logprobs(first.logprobs)
    if len(completion.choices) > 1:
        content["choices"] = [
            {"index": choice.index, **_choice(choice)}
            | ({"logprobs": _logprobs(choice.logprobs)} if with_logprobs else {})
            for choice in completion.choices
        ]
    return content


def _choice(choice: Choice) -> dict[str, Any]:
    return {"text": choice.text, "token_ids": choice.token_ids, "finish_reason": str(choice.finish_reason)}


def _report(report: RequestReport) -> dict[str, Any]:
    return {
        "queue_ms": report.queue_ns / NS_PER_MS,
        "fetch_ms": report.fetch_ns / NS_PER_MS,
        "load_ms": report.load_ns / NS_PER_MS,
        "prefill_ms": report.prefill_ns / NS_PER_MS,
        "decode_ms": report.decode_ns / NS_PER_MS,
        "ttft_ms": report.ttft_ns / NS_PER_MS,
        "e2e_ms": report.e2e_ns / NS_PER_MS,
        "tokenize_ms": report.tokenize_ns / NS_PER_MS,
        "lookup_ms": report.lookup_ns / NS_PER_MS,
        "transit_ms": report.transit_ns / NS_PER_MS,
        "detokenize_ms": report.detokenize_ns / NS_PER_MS,
        "preemptions": report.preemptions,
        "prefill_chunks": report.prefill_chunks,
        "worker": report.worker,
    }


def _logprobs(rows: tuple[TokenLogprob, ...]) -> list[dict[str, Any]]:
    return [
        {
            "token_id": row.token_id,
            "logprob": row.logprob,
            "rank": row.rank,
            "top": [{"token_id": other.token_id, "logprob": other.logprob} for other in row.top],
        }
        for row in rows
    ]
