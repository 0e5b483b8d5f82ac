"""What config.json may say, and what it is told when it may not."""

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import ConfigError
from engine.execution.loading import default_device_cache_bytes, load_model, longest_context, num_blocks_for
from engine.models.config import ModelConfig
from tests.checkpoints import edit_config, make_checkpoint

CPU = torch.device("cpu")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return make_checkpoint(tmp_path / "model")


def test_eos_ids_come_from_both_files_as_number_or_list(checkpoint: Path) -> None:
    edit_config(checkpoint, eos_token_id=7)
    (checkpoint / "generation_config.json").write_text('{"eos_token_id": [9, 7, 11]}')
    assert ModelConfig.from_hf(checkpoint).eos_token_ids == (7, 9, 11)


def test_the_dtype_of_the_checkpoint_is_kept_unless_another_is_asked_for(tmp_path: Path) -> None:
    directory = make_checkpoint(tmp_path, dtype=torch.float16)
    assert load_model(directory, device=CPU).model.dtype == torch.float16
    edit_config(directory, dtype=None)
    assert load_model(directory, device=CPU).model.dtype == torch.float16, "read from the tensors"
    assert load_model(directory, device=CPU, dtype=torch.float32).model.dtype == torch.float32


def test_an_old_style_rope_scaling_is_the_same_as_a_new_one(tmp_path: Path) -> None:
    parameters = {"rope_type": "linear", "factor": 2.0, "rope_theta": 5000.0}
    new = make_checkpoint(tmp_path / "new", rope_parameters=parameters)
    old = make_checkpoint(tmp_path / "old")
    edit_config(old, rope_parameters=None, rope_theta=5000.0, rope_scaling={"type": "linear", "factor": 2.0})
    wanted = ModelConfig.from_hf(new).rope_parameters
    found = ModelConfig.from_hf(old).rope_parameters
    assert {key: found[key] for key in wanted} == dict(wanted)


def test_a_context_is_stretched_by_scalings_that_stretch_it(tmp_path: Path) -> None:
    for rope_type, expected in (("dynamic", 512), ("linear", 512), ("yarn", 128)):
        rope = {"rope_type": rope_type, "factor": 4.0, "rope_theta": 1e4}
        directory = make_checkpoint(tmp_path / rope_type, max_position_embeddings=128, rope_parameters=rope)
        assert longest_context(ModelConfig.from_hf(directory)) == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPT2LMHeadModel"]},
            "GPT2LMHeadModel is not supported; supported are LlamaForCausalLM, Mis",
        ),
        ({"architectures": None}, "architecture not named is not supported"),
        (
            {"rope_parameters": {"rope_type": "mrope", "rope_theta": 1e4}},
            "'mrope' is not supported; supported are default",
        ),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "one flat object for all layers"),
        ({"rope_parameters": {"rope_type": "linear"}}, "inconsistent.*factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor 0.5"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"quantized \(gptq\)"),
        ({"num_key_value_heads": 3}, "4 attention heads cannot share 3"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'"),
        ({"head_dim": 7}, "head_dim"),
        ({"hidden_size": "big"}, "inconsistent.*hidden_size"),
        ({"num_hidden_layers": 0}, "num_layers 0"),
        ({"dtype": "int8"}, "dtype 'int8' is not supported; supported are bfloat16"),
    ],
)
def test_what_cannot_be_served_is_refused_with_the_reason(
    checkpoint: Path, changes: dict[str, Any], message: str
) -> None:
    edit_config(checkpoint, **changes)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_hf(checkpoint)


def test_a_longrope_factor_list_of_wrong_length_is_refused(checkpoint: Path) -> None:
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [1.0] * 8}
    edit_config(checkpoint, rope_parameters=rope)
    with pytest.raises(ConfigError, match="short_factor has 4 entries; head_dim 16 needs 8"):
        ModelConfig.from_hf(checkpoint)


@pytest.mark.parametrize(("text", "message"), [("{", "cannot be read as JSON"), ("[1]", "holds a list")])
def test_a_broken_config_is_a_clear_error(checkpoint: Path, text: str, message: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        ModelConfig.from_hf(checkpoint)


def test_a_directory_without_a_model_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.json does not exist; a model directory holds"):
        ModelConfig.from_hf(tmp_path)


def test_blocks_fill_the_size_up_to_what_all_sequences_can_use() -> None:
    sizes = {"block_bytes": 1000, "block_size": 16, "max_model_tokens": 160}
    assert num_blocks_for(50_500, **sizes) == 50
    assert num_blocks_for(50_500, max_seqs=4, **sizes) == 40


def test_a_pool_below_one_sequence_is_refused_with_the_size_that_is_needed() -> None:
    with pytest.raises(ConfigError, match=r"holds 144 tokens, fewer than one sequence of 160; .* 10000 bytes"):
        num_blocks_for(9_999, block_bytes=1000, block_size=16, max_model_tokens=160)


def test_the_default_pool_on_the_cpu_is_a_quarter_of_memory_within_its_bounds() -> None:
    assert default_device_cache_bytes(CPU, 4000, min_bytes=10, max_bytes=9999) == 1000
    assert default_device_cache_bytes(CPU, 4000, min_bytes=10, max_bytes=300) == 300
    assert default_device_cache_bytes(CPU, 4000, min_bytes=1500, max_bytes=9999) == 1500
    assert default_device_cache_bytes(CPU, 4000, min_bytes=3000, max_bytes=9999) == 1000, "too large a share to take"
