"""What every file of the disk tier agrees on."""

SCHEMA_VERSION = 1
"""Of the index, the slab files and the records together. A change of any of them raises it."""

DIGEST_BYTES = 32
"""A namespace and a block key."""
