"""infer-cli: starts a stack, asks it things, stops it."""
