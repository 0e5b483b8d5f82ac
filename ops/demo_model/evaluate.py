"""Measure the demo model on held-out text: ``python -m ops.demo_model.evaluate``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, cast

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from ops.demo_model.corpus import Message, conversation
from ops.demo_model.probes import (
    arithmetic_case,
    earlier_turn_case,
    greedy_is_right,
    inline_json_case,
    json_case,
    recall_case,
    talk_cases,
)
from ops.demo_model.tokenizer import encode_chat

CHECKPOINT = Path(__file__).parent / "checkpoint"
DISTANCES = (64, 128, 256, 512, 1024, 1536, 1900)


@dataclass(frozen=True)
class Row:
    """One line of the table. ``value`` is a share in 0..1, except for perplexity."""

    measure: str
    value: float
    samples: int


def load(checkpoint: Path, dtype: torch.dtype) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    model = cast(LlamaForCausalLM, AutoModelForCausalLM.from_pretrained(checkpoint, dtype=dtype))
    model.train(False)
    return model, cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(checkpoint))


def is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@torch.no_grad()
def answer(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, messages: Iterable[Message], room: int) -> str:
    """The greedy answer, at most ``room`` tokens, without the end-of-turn mark."""
    chat = [{"role": role, "content": text} for role, text in messages]
    inputs: Any = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = cast(Any, model).generate(**inputs, max_new_tokens=room, do_sample=False)
    return str(tokenizer.decode(output[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def perplexity(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, chats: int, length: int
) -> tuple[float, float]:
    """(perplexity of all tokens, of the assistant's tokens alone) over held-out chats of ``length`` tokens."""
    loss_all = loss_said = 0.0
    count_all = count_said = 0
    for seed in range(chats):
        ids, said = encode_chat(tokenizer, conversation(seed, length, test=True), length)
        logits = model(torch.tensor([ids[:-1]])).logits[0].float()
        losses = functional.cross_entropy(logits, torch.tensor(ids[1:]), reduction="none")
        mask = torch.tensor(said[1:])
        loss_all, count_all = loss_all + losses.sum().item(), count_all + len(losses)
        loss_said, count_said = loss_said + losses[mask].sum().item(), count_said + int(mask.sum())
    return math.exp(loss_all / count_all), math.exp(loss_said / count_said)


def measure(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, samples: int) -> list[Row]:
    """All rows of the table, ``samples`` held-out cases each."""
    rows: list[Row] = []

    def share(name: str, cases: list[tuple[Message, ...]]) -> None:
        right = sum(greedy_is_right(model, tokenizer, case) for case in cases)
        rows.append(Row(name, right / len(cases), len(cases)))

    for distance in DISTANCES:
        share(
            f"recall, {distance} tokens back",
            [recall_case(tokenizer, seed, distance).messages for seed in range(samples)],
        )
    share("recall of a fact two turns earlier", [earlier_turn_case(seed) for seed in range(samples)])
    for sign in "+-":
        share(f"arithmetic, {sign}", [arithmetic_case(seed, sign) for seed in range(samples)])
    share("small talk", talk_cases(Random(0), samples))
    for name, make in (("from notes", json_case), ("from the question", inline_json_case)):
        cases = [make(seed) for seed in range(samples)]
        said = [answer(model, tokenizer, case[:-1], 64) for case in cases]
        rows.append(Row(f"JSON {name}, valid", sum(map(is_json, said)) / samples, samples))
        exact = sum(text == case[-1][1] for text, case in zip(said, cases, strict=True))
        rows.append(Row(f"JSON {name}, exact", exact / samples, samples))
    chats = max(4, samples // 5)
    everything, assistant = perplexity(model, tokenizer, chats, 1024)
    rows.append(Row("perplexity, all tokens", everything, chats))
    rows.append(Row("perplexity, assistant's tokens", assistant, chats))
    return rows


@click.command()
@click.option("--checkpoint", type=click.Path(path_type=Path), default=CHECKPOINT, help="Folder of the checkpoint.")
@click.option("--samples", default=100, show_default=True, help="Held-out cases per row.")
@click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True)
@click.option("--threads", default=2, show_default=True, help="CPU threads.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON in place of a table.")
def main(checkpoint: Path, samples: int, dtype: str, threads: int, as_json: bool) -> None:
    """Print recall by distance, arithmetic, JSON and perplexity of the demo model."""
    torch.set_num_threads(threads)
    model, tokenizer = load(checkpoint, getattr(torch, dtype))
    rows = measure(model, tokenizer, samples)
    if as_json:
        click.echo(json.dumps([asdict(row) for row in rows], indent=1))
        return
    table = Table("measure", "value", "samples")
    for row in rows:
        value = f"{row.value:.2f}" if "perplexity" in row.measure else f"{100 * row.value:.0f} %"
        table.add_row(row.measure, value, str(row.samples))
    Console().print(table)


if __name__ == "__main__":
    main()
