"""The demo model: a small chat model trained on generated text, used as a probe for cache correctness."""
