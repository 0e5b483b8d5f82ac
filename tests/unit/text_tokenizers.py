"""Real tokenizers, trained here on a little text: byte-level BPE, and BPE with Metaspace and byte fallback."""

import json
from collections.abc import Mapping, Sequence

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

TEXT = [
    "The quick brown fox jumps over the lazy dog. The dog sleeps, the fox runs.",
    "A cache keeps what was computed; a tier below keeps what the tier above drops.",
    "naïve café, Straße, Ελληνικά, русский язык, 你好世界, こんにちは, 안녕하세요",
    "emoji 😀 😃 👍🏽 👩‍👩‍👧 🏳️‍🌈 and     many  spaces\n\nand\ttabs",
    "def main():\n    return 'the cache'\n",
] * 4

SPECIALS = ["<s>", "</s>", "<|user|>", "<|end|>"]


class TrainedTokenizer:
    """`engine.text.tokenizer.Tokenizer` over a `tokenizers.Tokenizer`; its template is plain Python."""

    has_chat_template = True

    def __init__(self, inner: Tokenizer) -> None:
        self.inner = inner

    def token_id(self, token: str) -> int:
        token_id = self.inner.token_to_id(token)
        assert token_id is not None
        return token_id

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        ids = list(self.inner.encode(text, add_special_tokens=False).ids)
        return [self.token_id("<s>"), *ids] if add_special_tokens else ids

    def decode(self, ids: Sequence[int], skip_special_tokens: bool) -> str:
        return str(self.inner.decode(list(ids), skip_special_tokens=skip_special_tokens))

    def apply_chat_template(self, messages: Sequence[Mapping[str, str]]) -> str:
        return "".join(f"<|{m['role']}|>{m['content']}<|end|>" for m in messages) + "<|assistant|>"


def byte_level() -> TrainedTokenizer:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(TEXT, trainer)
    return TrainedTokenizer(inner)


def metaspace() -> TrainedTokenizer:
    """Like Llama 2's: "▁" for spaces, one put before the text and stripped on decoding, bytes for rare characters."""
    common = [line.encode("ascii", "ignore").decode() for line in TEXT] + ["你好世界"] * 9
    inner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=["<unk>", *SPECIALS, *bytes_], limit_alphabet=60, show_progress=False
    )
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("(?=▁)"), "isolated")
    inner.train_from_iterator(common, trainer)
    return TrainedTokenizer(_without_special_bytes(inner))


def _without_special_bytes(inner: Tokenizer) -> Tokenizer:
    """The byte tokens were reserved as special ones; as in real files they must be plain vocabulary."""
    data = json.loads(inner.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(data))
