"""A Hugging Face checkpoint as OpenVINO's IR: python convert_openvino.py TYPE CHECKPOINT OUT.

TYPE is that of the weights: bf16, f16 or int8 (symmetric, a scale per row). Runs in the environment of the conversion.
"""

import sys
import tempfile
from pathlib import Path

import torch
from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig
from transformers import AutoModelForCausalLM

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "int8": torch.bfloat16}


def convert(type_name: str, checkpoint: Path, out: Path) -> None:
    quantization = OVWeightQuantizationConfig(bits=8, sym=True) if type_name == "int8" else None
    # The export keeps the type that the checkpoint has on disk, whatever it is told.
    with tempfile.TemporaryDirectory() as folder:
        AutoModelForCausalLM.from_pretrained(checkpoint, dtype=DTYPES[type_name]).save_pretrained(folder)
        model = OVModelForCausalLM.from_pretrained(
            folder, export=True, compile=False, load_in_8bit=False, quantization_config=quantization
        )
        model.save_pretrained(out)


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
