"""What FP8 blocks cost in quality, beside other formats and against fp32 blocks, as a table.

    python -m bench.kv_quality [--checkpoint DIR] [--samples 20] [--json]

All models compute in fp32 where nothing else is said, so whatever differs comes from the blocks. Random-weight
checkpoints (made once and kept) have narrow margins between their best tokens: they show the size of the error, not
what a trained model makes of it. The second part is the demo model, or any with its chat template: how often the most
likely token is the text's own (accuracy) and the one that fp32 blocks give (agreement), perplexity, and recall by
distance.

Text that nobody can predict, as a code that is stated for the first time, has many tokens of equal merit, and any
rounding chooses among them anew. Agreement is therefore also given for where the model is sure, and for the same
formats in a model that computes in bf16, which is what that rounding alone does.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import click
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bench.checkpoints import Shape, cache_folder, checkpoint
from bench.kv_formats import FORMATS, TRUTH
from bench.kv_scorer import Scorer
from engine.execution.loading import LoadedModel, load_model
from ops.demo_model.corpus import conversation
from ops.demo_model.evaluate import CHECKPOINT, DISTANCES
from ops.demo_model.probes import recall_case
from ops.demo_model.tokenizer import encode_chat

RANDOM_SHAPES = (
    Shape("llama-9q3kv-64", "llama", 576, 6, 9, 3, 64, 768, 4096, 10_000.0, 4096, 0.04),
    Shape("llama-4q1kv-128", "llama", 512, 4, 4, 1, 128, 768, 4096, 500_000.0, 4096, 0.04),
    Shape("mistral-8q2kv-80", "mistral", 640, 4, 8, 2, 80, 768, 4096, 10_000.0, 4096, 0.04),
    Shape("qwen2-8q8kv-64", "qwen2", 512, 4, 8, 8, 64, 768, 4096, 1_000_000.0, 4096, 0.04),
    Shape("qwen3-8q4kv-128", "qwen3", 512, 4, 8, 4, 128, 768, 4096, 1_000_000.0, 4096, 0.04),
)
RANDOM_TEXTS = 4
RANDOM_TOKENS = 1024
CHAT_TOKENS = 1024
SURE = 0.5
"""Probability of the most likely token, from which on a position counts as sure."""
FORMATS_AND_TRUTH = (TRUTH, *FORMATS)
JUDGED = "fp8"
"""The format whose distance from fp32 has a column of its own."""


@dataclass(frozen=True, slots=True)
class Measure:
    """A row of the table: one number per format."""

    model: str
    name: str
    unit: str
    values: dict[str, float]
    samples: int


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one text's distributions from those with fp32 blocks."""

    agreement: float
    """Share of positions with the same most likely token."""
    kl_nats: float
    """Mean of KL(fp32 ‖ format) over positions."""


def difference(truth: torch.Tensor, logits: torch.Tensor) -> Difference:
    """Of logits [tokens, vocab_size]."""
    same = (truth.argmax(dim=-1) == logits.argmax(dim=-1)).float().mean()
    kl = F.kl_div(logits.log_softmax(dim=-1), truth.log_softmax(dim=-1), log_target=True, reduction="batchmean")
    return Difference(float(same), float(kl))


def compare_texts(name: str, loaded: LoadedModel, texts: list[list[int]]) -> Iterator[Measure]:
    """Top-1 agreement and KL over all positions of the texts."""
    truth = Scorer(loaded, TRUTH)
    scorers = {kv_format.name: Scorer(loaded, kv_format) for kv_format in FORMATS}
    found: dict[str, list[Difference]] = {format_name: [] for format_name in scorers}
    for ids in texts:
        want = truth.logits(ids)
        for format_name, scorer in scorers.items():
            found[format_name].append(difference(want, scorer.logits(ids)))
    num_tokens = sum(map(len, texts))
    agreement = {key: 100 * sum(d.agreement for d in each) / len(each) for key, each in found.items()}
    kl = {key: sum(d.kl_nats for d in each) / len(each) for key, each in found.items()}
    yield Measure(name, "top-1 agreement", "%", {TRUTH.name: 100.0, **agreement}, num_tokens)
    yield Measure(name, "KL", "nats", {TRUTH.name: 0.0, **kl}, num_tokens)


def random_weights(folder: Path) -> Iterator[Measure]:
    """Random ids through random weights of several families and head sizes."""
    for shape in RANDOM_SHAPES:
        loaded = load_model(
            checkpoint(shape, folder), dtype=torch.float32, device=torch.device("cpu"), max_model_tokens=RANDOM_TOKENS
        )
        generator = torch.Generator().manual_seed(7)
        shape_of_texts = (RANDOM_TEXTS, RANDOM_TOKENS)
        texts: list[list[int]] = torch.randint(0, shape.vocab_size, shape_of_texts, generator=generator).tolist()
        yield from compare_texts(shape.name, loaded, texts)


def trained_model(path: Path, samples: int) -> Iterator[Measure]:
    """Held-out chats, and facts asked for from a distance."""
    loaded = load_model(path, dtype=torch.float32, device=torch.device("cpu"))
    tokenizer = cast(PreTrainedTokenizerFast, AutoTokenizer.from_pretrained(path))
    chats = [encode_chat(tokenizer, conversation(seed, CHAT_TOKENS, test=True), CHAT_TOKENS) for seed in range(samples)]
    yield from compare_texts(path.name, loaded, [ids for ids, _ in chats])
    yield from predictions(path.name, loaded, chats)
    in_bf16 = load_model(path, dtype=torch.bfloat16, device=torch.device("cpu"), isa=None)
    yield bf16_agreement(path.name, loaded, in_bf16, [ids for ids, _ in chats])
    for distance in DISTANCES:
        if distance + 200 <= loaded.max_model_tokens:
            yield recall(path.name, loaded, tokenizer, distance, samples)


def predictions(name: str, loaded: LoadedModel, chats: list[tuple[list[int], list[bool]]]) -> Iterator[Measure]:
    """How well the next token is predicted, over all text and over what the assistant says."""
    targets = [torch.tensor(ids[1:]) for ids, _ in chats]
    said = torch.cat([torch.tensor(said[1:], dtype=torch.bool) for _, said in chats])
    losses: dict[str, torch.Tensor] = {}
    chosen: dict[str, torch.Tensor] = {}
    sure = torch.empty(0, dtype=torch.bool)
    for kv_format in FORMATS_AND_TRUTH:
        scorer = Scorer(loaded, kv_format)
        found: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []
        for (ids, _), target in zip(chats, targets, strict=True):
            logits = scorer.logits(ids[:-1])
            best = logits.max(dim=-1)
            is_sure = best.values - logits.logsumexp(dim=-1) >= math.log(SURE)
            found.append((F.cross_entropy(logits, target, reduction="none"), best.indices, is_sure))
        losses[kv_format.name], chosen[kv_format.name], is_sure = (torch.cat(each) for each in zip(*found, strict=True))
        if kv_format is TRUTH:
            sure = is_sure
    flat_targets = torch.cat(targets)
    agrees = {key: ids == chosen[TRUTH.name] for key, ids in chosen.items()}
    correct = {key: ids == flat_targets for key, ids in chosen.items()}
    for suffix, part in (("", torch.ones_like(said)), (", answers", said)):
        count = int(part.sum())
        perplexity = {key: math.exp(each[part].mean().item()) for key, each in losses.items()}
        yield Measure(name, f"perplexity{suffix}", "", perplexity, count)
        yield Measure(name, f"top-1 accuracy{suffix}", "%", _percent(correct, part), count)
    yield Measure(name, "top-1 agreement, answers", "%", _percent(agrees, said), int(said.sum()))
    yield Measure(name, f"top-1 agreement, p ≥ {SURE}", "%", _percent(agrees, sure), int(sure.sum()))


def bf16_agreement(name: str, loaded: LoadedModel, in_bf16: LoadedModel, texts: list[list[int]]) -> Measure:
    """Top-1 agreement of the model in bf16, by format of its blocks, with the model in fp32 and fp32 blocks."""
    truth = Scorer(loaded, TRUTH)
    want = torch.cat([truth.logits(ids).argmax(dim=-1) for ids in texts])
    agrees: dict[str, torch.Tensor] = {}
    for kv_format in FORMATS_AND_TRUTH:
        scorer = Scorer(in_bf16, kv_format)
        agrees[kv_format.name] = torch.cat([scorer.logits(ids).argmax(dim=-1) for ids in texts]) == want
    everywhere = torch.ones_like(want, dtype=torch.bool)
    return Measure(name, "top-1 agreement, bf16 model", "%", _percent(agrees, everywhere), len(want))


def _percent(hits: dict[str, torch.Tensor], part: torch.Tensor) -> dict[str, float]:
    return {key: 100 * each[part].float().mean().item() for key, each in hits.items()}


def recall(name: str, loaded: LoadedModel, tokenizer: PreTrainedTokenizerFast, distance: int, samples: int) -> Measure:
    """Share of facts, stated that many tokens back, that a greedy answer repeats without a mistake."""
    cases: list[tuple[list[int], int]] = []
    for seed in range(samples):
        messages = recall_case(tokenizer, seed, distance).messages
        prompt, _ = encode_chat(tokenizer, messages[:-1], 1 << 20)
        ids, _ = encode_chat(tokenizer, messages, 1 << 20)
        # The assistant's opening mark is part of the prompt too.
        cases.append((ids, len(ids) - len(prompt) - 1))
    right: dict[str, float] = {}
    for kv_format in FORMATS_AND_TRUTH:
        scorer = Scorer(loaded, kv_format)
        correct = sum(
            torch.equal(scorer.logits(ids[:-1], count).argmax(dim=-1), torch.tensor(ids[-count:]))
            for ids, count in cases
        )
        right[kv_format.name] = 100 * correct / len(cases)
    return Measure(name, f"recall at {distance}", "%", right, samples)


def show(console: Console, measures: list[Measure]) -> None:
    formats = [kv_format.name for kv_format in FORMATS_AND_TRUTH]
    table = Table("model", "measure", *formats, f"{JUDGED} off by", "samples")
    for measure in measures:
        values = (number(measure)(measure.values[kv_format.name]) for kv_format in FORMATS_AND_TRUTH)
        table.add_row(measure.model, measure.name, *values, distance_from_truth(measure), str(measure.samples))
    console.print(table)


def distance_from_truth(measure: Measure) -> str:
    """Of the judged format from fp32 blocks: in points, or as a part."""
    value, truth = measure.values[JUDGED], measure.values[TRUTH.name]
    match measure.unit:
        case "%":
            return f"{value - truth:+.2f} points"
        case "nats":
            return ""
        case _:
            return f"{100 * (value / truth - 1):+.2f} %"


def number(measure: Measure) -> Callable[[float], str]:
    """How the measure's numbers are written."""
    match measure.unit:
        case "%":
            return "{:.2f} %".format
        case "nats":
            return "{:.2g}".format
        case _:
            return "{:.4f}".format


@click.command()
@click.option(
    "--checkpoint",
    "path",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=CHECKPOINT,
    help="A trained model with a chat template; default: the bundled one.",
)
@click.option("--samples", type=click.IntRange(1), default=20, show_default=True, help="Chats, and cases per distance.")
@click.option("--random/--no-random", "with_random", default=True, help="The random-weight part.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object in place of the table.")
def main(path: Path, samples: int, with_random: bool, as_json: bool) -> None:
    """Top-1 agreement, KL, perplexity and recall by the format of the KV blocks."""
    console = Console(stderr=True)
    measures: list[Measure] = []
    sources = [trained_model(path, samples)]
    if with_random:
        sources.insert(0, random_weights(cache_folder() / "quality"))
    with console.status("measuring") as status:
        for source in sources:
            for measure in source:
                measures.append(measure)
                status.update(f"{measure.model}: {measure.name} done")
    if as_json:
        click.echo(json.dumps({"measures": [asdict(measure) for measure in measures]}))
    else:
        show(Console(width=max(Console().width, 150)), measures)


if __name__ == "__main__":
    main()
