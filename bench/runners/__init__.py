"""Programs that run beside us, each in its peer's own environment; they import nothing of ours but `lines`."""
