"""OpenVINO's logits of whole texts, from the runtime itself. Variants: f32, bf16, the precision of arithmetic."""

from pathlib import Path

import numpy as np
import openvino
from logits import Texts, answer


def logits(variant: str, folder: Path, texts: Texts) -> np.ndarray:
    properties = {"INFERENCE_PRECISION_HINT": variant, "INFERENCE_NUM_THREADS": 2}
    model = openvino.Core().compile_model(folder / "openvino_model.xml", "CPU", properties)
    found = []
    for ids in texts:
        # The keys and values are the request's state, so each text has a request of its own.
        inputs = {
            "input_ids": ids[None],
            "attention_mask": np.ones((1, len(ids)), np.int64),
            "position_ids": np.arange(len(ids))[None],
            "beam_idx": np.zeros(1, np.int32),
        }
        found.append(model.create_infer_request().infer(inputs)["logits"][0].copy())
    return np.stack(found)


if __name__ == "__main__":
    answer(logits)
