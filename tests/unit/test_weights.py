"""Loading is strict: every tensor has its place, and every place its tensor."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.errors import ConfigError
from engine.execution.loading import load_model
from engine.models import fingerprint
from engine.models.fingerprint import namespace
from tests.checkpoints import edit_config, make_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def change(directory: Path, **tensors: torch.Tensor | None) -> None:
    """Replace, add or (None) remove tensors of a single-file checkpoint; `__` in names stands for a dot."""
    path = directory / "model.safetensors"
    state = load_file(path)
    for name, tensor in tensors.items():
        name = name.replace("__", ".")
        if tensor is None:
            del state[name]
        else:
            state[name] = tensor
    save_file(state, path, metadata={"format": "pt"})


def load(directory: Path) -> None:
    load_model(directory, device=CPU)


def test_sharded_and_single_files_give_the_same_model(tmp_path: Path) -> None:
    single = make_checkpoint(tmp_path / "single")
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="60KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    one, many = load_model(single, device=CPU), load_model(sharded, device=CPU)
    assert one.fingerprint == many.fingerprint
    stored = load_file(single / "model.safetensors")
    targets = many.model.targets()
    assert targets.keys() == stored.keys()
    for name, target in targets.items():
        assert torch.equal(target, stored[name]), name


def test_a_missing_tensor_is_named(checkpoint: Path) -> None:
    change(checkpoint, model__layers__1__self_attn__k_proj__weight=None)
    with pytest.raises(ConfigError, match=r"lacks model\.layers\.1\.self_attn\.k_proj\.weight"):
        load(checkpoint)


def test_a_left_over_tensor_is_named(checkpoint: Path) -> None:
    change(checkpoint, model__layers__0__self_attn__q_proj__bias=torch.zeros(64))
    with pytest.raises(ConfigError, match=r"has model\.layers\.0\.self_attn\.q_proj\.bias"):
        load(checkpoint)


def test_a_wrong_shape_is_named_with_both_shapes(checkpoint: Path) -> None:
    change(checkpoint, model__norm__weight=torch.ones(63))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight has shape \[63\]; config.json asks for \[64\]"):
        load(checkpoint)


def test_a_quantized_tensor_is_refused(checkpoint: Path) -> None:
    change(checkpoint, model__norm__weight=torch.ones(64, dtype=torch.int8))
    with pytest.raises(ConfigError, match=r"model\.norm\.weight is stored as torch\.int8"):
        load(checkpoint)


def test_rotary_buffers_of_older_checkpoints_are_ignored(checkpoint: Path) -> None:
    change(checkpoint, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(8))
    load(checkpoint)


def test_a_tied_projection_may_be_stored_if_it_is_equal(tmp_path: Path) -> None:
    tied = make_checkpoint(tmp_path / "tied", tie_word_embeddings=True)
    embedding = load_file(tied / "model.safetensors")["model.embed_tokens.weight"]
    change(tied, lm_head__weight=embedding.clone())
    load(tied)
    change(tied, lm_head__weight=embedding + 1)
    with pytest.raises(ConfigError, match=r"ties lm_head\.weight to model\.embed_tokens\.weight"):
        load(tied)


def test_no_weights_file_is_a_clear_error(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"model\.safetensors does not exist"):
        load(checkpoint)


def test_a_truncated_file_is_a_clear_error(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="not a readable safetensors file"):
        load(checkpoint)


def test_a_missing_shard_is_a_clear_error(tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="60KB")
    lost = sorted(sharded.glob("*.safetensors"))[1]
    lost.unlink()
    with pytest.raises(ConfigError, match=lost.name):
        load(sharded)


def test_an_index_without_a_map_is_a_clear_error(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weights": 1}))
    with pytest.raises(ConfigError, match="has no usable weight_map"):
        load(checkpoint)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    sharded = make_checkpoint(tmp_path / "sharded", max_shard_size="60KB")
    first, second = sorted(sharded.glob("*.safetensors"))[:2]
    name, tensor = next(iter(load_file(first).items()))
    save_file({**load_file(second), name: tensor}, second)
    with pytest.raises(ConfigError, match=f"tensor {name} is in both"):
        load(sharded)


def test_weights_are_cast_to_the_asked_dtype(checkpoint: Path) -> None:
    model = load_model(checkpoint, dtype=torch.float16, device=CPU).model
    stored = load_file(checkpoint / "model.safetensors")["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(model.targets()["model.layers.0.mlp.up_proj.weight"], stored.half())


def test_progress_ends_at_the_total(checkpoint: Path) -> None:
    calls: list[tuple[int, int]] = []
    load_model(checkpoint, device=CPU, progress=lambda loaded, total: calls.append((loaded, total)))
    loaded = [call[0] for call in calls]
    assert loaded == sorted(loaded)
    assert calls[-1][0] == calls[-1][1]


def test_the_fingerprint_tells_weights_and_configs_apart(checkpoint: Path, tmp_path: Path) -> None:
    original = load_model(checkpoint, device=CPU).fingerprint
    assert load_model(make_checkpoint(tmp_path / "again"), device=CPU).fingerprint == original
    assert load_model(make_checkpoint(tmp_path / "other", seed=1), device=CPU).fingerprint != original
    edit_config(checkpoint, rms_norm_eps=1e-5)
    eps = load_model(checkpoint, device=CPU).fingerprint
    assert eps != original
    edit_config(checkpoint, rms_norm_eps=1e-6, eos_token_id=[3, 4])
    assert load_model(checkpoint, device=CPU).fingerprint == original, "an EOS id changes no logits"


def test_namespaces_differ_wherever_blocks_are_not_exchangeable(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(checkpoint, device=CPU)
    base = {
        "dtype": torch.bfloat16,
        "arithmetic": "torch",
        "kv_dtype": torch.bfloat16,
        "scale_mode": "none",
        "block_size": 16,
    }

    def of(**changes: object) -> bytes:
        return namespace(loaded.config, loaded.weights_digest, **{**base, **changes})  # type: ignore[arg-type]

    edit_config(checkpoint, rope_parameters={"rope_type": "default", "rope_theta": 50000.0})
    other_rope = load_model(checkpoint, device=CPU)
    other_weights = load_model(make_checkpoint(tmp_path / "other", seed=1), device=CPU)
    names = [
        of(),
        of(dtype=torch.float32),
        of(arithmetic="native-avx2"),
        of(kv_dtype=torch.float32),
        of(block_size=32),
        of(kv_dtype=torch.float8_e4m3fn, scale_mode="token-head-bf16"),
        of(kv_dtype=torch.float8_e4m3fn, scale_mode="block-bf16"),
        of(tensor_parallel_size=2),
        of(tensor_parallel_size=2, tensor_parallel_rank=1),
        namespace(other_rope.config, other_rope.weights_digest, **base),  # type: ignore[arg-type]
        namespace(other_weights.config, other_weights.weights_digest, **base),  # type: ignore[arg-type]
    ]
    assert len(set(names)) == len(names)
    assert {len(name) for name in names} == {32}
    assert of() == of()
    monkeypatch.setattr(fingerprint, "ARITHMETIC_VERSION", fingerprint.ARITHMETIC_VERSION + 1)
    assert of() not in names
