"""Why a tier cannot be had or has stopped. Whoever opens a tier catches `TierError`, says it, and goes on without."""


class TierError(Exception):
    """A tier is unusable. The message says what was wrong, what is allowed and what to do."""


class HostMemoryError(TierError):
    """The memory of the host tier cannot be had."""


class TierConfigError(TierError):
    """A size or a directory that no tier can have."""


class DiskTierError(TierError):
    """The disk tier is unusable."""


class DirectoryNotWritable(DiskTierError):
    """The directory cannot be made or written: missing rights, or mounted read-only."""


class SchemaMismatch(DiskTierError):
    """The directory was written by another version of this program."""


class ForeignFile(DiskTierError):
    """A file under one of our names is not ours, or is damaged beyond use."""


class DirectoryLocked(DiskTierError):
    """Someone holds the directory for themselves."""


class NoSpaceLeft(DiskTierError):
    """The file system has no room for as much as an empty tier."""


class FilesReplaced(DiskTierError):
    """The files under an open tier are no longer the ones that it opened."""
