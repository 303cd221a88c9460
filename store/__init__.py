"""Rows on disk: residuals, activations, tables, and the SQL that reads them.

Knows columns and files; no tensors and no models. Names are fetched when they are first
used, so that importing `store.errors` loads neither pyarrow nor DuckDB. What works on
many rows is imported from its module: `store.residuals`, `store.activations`.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from store.catalog import open, write_catalog
    from store.errors import StoreError
    from store.manifest import content_hash, fingerprint, read_json, write_json
    from store.sandbox import Sandbox, query
    from store.schema import empty, read_table, write_table
    from store.tables import SCHEMA_VERSION, TABLES

_HOMES = {
    "SCHEMA_VERSION": "store.tables",
    "TABLES": "store.tables",
    "Sandbox": "store.sandbox",
    "StoreError": "store.errors",
    "content_hash": "store.manifest",
    "empty": "store.schema",
    "fingerprint": "store.manifest",
    "open": "store.catalog",
    "query": "store.sandbox",
    "read_json": "store.manifest",
    "read_table": "store.schema",
    "write_catalog": "store.catalog",
    "write_json": "store.manifest",
    "write_table": "store.schema",
}

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "Sandbox",
    "StoreError",
    "content_hash",
    "empty",
    "fingerprint",
    "open",
    "query",
    "read_json",
    "read_table",
    "write_catalog",
    "write_json",
    "write_table",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'store' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
