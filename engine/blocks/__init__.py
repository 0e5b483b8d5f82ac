"""Which block holds what: keys, the device pool, host slots, the disk's mirror, tickets. Standard library only."""
