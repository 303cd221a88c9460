"""What can go wrong with rows on disk, and what to do about it.

StoreError
├── MissingArtefact   a file or folder that an earlier stage writes is not there
├── TruncatedShard    a file ends before its rows do
├── NotFinite         a value is NaN or infinite
├── Overflow          a value does not fit the type it would be stored in
├── SchemaMismatch    columns, types, keys or versions are not what the format says
├── QueryRefused      SQL from outside that is not one bounded SELECT
├── QueryTimeout      SQL from outside that ran past its time limit
└── DiskFull          the disk had no room for the file

Every message says on one line what was found, what was expected and what to do next.
"""


class StoreError(Exception):
    """Root of every error that `store` raises on purpose."""


class MissingArtefact(StoreError):
    """A file or folder that an earlier stage writes is not there."""


class TruncatedShard(StoreError):
    """A file ends before its rows do: a copy or a download was cut short."""


class NotFinite(StoreError):
    """A value is NaN or infinite."""


class Overflow(StoreError):
    """A value does not fit the type it would be stored in."""


class SchemaMismatch(StoreError):
    """Columns, types, keys or versions are not what the format says."""


class QueryRefused(StoreError):
    """SQL from outside that is not one bounded SELECT, or that DuckDB cannot run."""


class QueryTimeout(StoreError):
    """SQL from outside that ran past its time limit."""


class DiskFull(StoreError):
    """The disk had no room for the file; what was half-written has been removed."""
