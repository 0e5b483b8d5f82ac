"""Which block holds what: keys, the device pool, tickets. Standard library only."""
