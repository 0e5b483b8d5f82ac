"""Measures the stack from outside, as a client, beside peers in the same run; `kv_*` measure blocks by their format."""
