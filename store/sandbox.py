"""SQL from outside: exactly one SELECT, read-only, bounded in rows, bytes, memory and time.

The statement runs in a child process that may read the files of the catalog's views, those
and no others, and write nothing (`store.sandbox_worker`); what it may say is in
`store.sandbox_rules`. A query that is late is interrupted, and where an
interrupt is not heard, as inside some functions, the child is ended; so a query from
outside never runs in a process that has anything else to do.
"""

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import pyarrow as pa

from store.catalog import files_of, read_catalog
from store.errors import QueryRefused, QueryTimeout, StoreError
from store.sandbox_rules import MAX_CHARACTERS

MAX_BYTES = 256 * 1024 * 1024
"""Largest answer, as an Arrow stream."""

LATE_EXIT = 75
"""Exit status of a child that ended itself because its query did not hear an interrupt."""

_START_S = 60.0
_GRACE_S = 2.0
_ROOT = Path(__file__).resolve().parent.parent
_WORKER = (
    f"import sys; sys.path.insert(0, {str(_ROOT)!r}); from store.sandbox_worker import main; main()"
)
_KEPT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TZ")
"""What the child sees of the environment: no keys, no home folder."""

_NEXT_STEP = (
    "ask one SELECT over the views and macros of data/store/catalog.sql; "
    "`FROM duckdb_views()` lists them"
)


def query(
    workspace: Path,
    sql: str,
    *,
    max_rows: int = 10_000,
    timeout_s: float = 30.0,
    memory: str = "1GB",
) -> pa.Table:
    """The rows of one SELECT, run in a child process of its own.

    Args:
        workspace: the folder that holds `data/store`.
        sql: one SELECT; views and macros are those of the catalog.
        max_rows: at most so many rows; the table's schema metadata says `is_cut` `true`
            where there were more.
        timeout_s: seconds the query may take, the child's start not counted.
        memory: what DuckDB may hold, in its own words, such as `1GB`.

    Raises:
        QueryRefused: not one SELECT, or one that DuckDB refuses or cannot run.
        QueryTimeout: the query took too long.
        MissingArtefact: the workspace has no catalog.
    """
    with Sandbox(workspace, memory=memory) as sandbox:
        return sandbox.query(sql, max_rows=max_rows, timeout_s=timeout_s)


class Sandbox:
    """A child process that answers one SELECT after another, started again if it is ended.

    Nothing of a query outlives it: the configuration is locked and there is no table to
    change. A stage that has run in between is seen: the child is started again. Calls
    from several threads wait for each other.
    """

    def __init__(self, workspace: Path, *, memory: str = "1GB", threads: int = 2) -> None:
        """Checks the arguments; the child starts with the first query."""
        if re.fullmatch(r"\d+(\.\d+)? ?[KMGT]i?B", memory) is None:
            raise QueryRefused(
                f"{memory!r} is not an amount of memory; expected a number and a unit; "
                "write for example 1GB"
            )
        self._workspace = workspace.resolve()
        self._memory = memory
        self._threads = threads
        self._child: subprocess.Popen[bytes] | None = None
        self._seen: tuple[str, list[str]] | None = None
        self._turn = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for stream in (child.stdin, child.stdout, child.stderr):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def query(self, sql: str, *, max_rows: int = 10_000, timeout_s: float = 30.0) -> pa.Table:
        """The rows of one SELECT; see `store.sandbox.query`."""
        if max_rows < 0 or timeout_s <= 0:
            raise QueryRefused(
                f"max_rows {max_rows} and timeout_s {timeout_s}; expected rows of at least 0 and "
                "seconds above 0; correct them"
            )
        if len(sql) > MAX_CHARACTERS:
            raise QueryRefused(
                f"a statement of {len(sql):,} characters; expected at most {MAX_CHARACTERS:,}; "
                "join a table instead of listing values"
            )
        request = {
            "sql": sql,
            "max_rows": max_rows,
            "timeout_s": timeout_s,
            "max_bytes": MAX_BYTES,
        }
        with self._turn:
            child = self._running_child()
            try:
                header, body = self._ask(child, request, timeout_s + _GRACE_S)
            except BaseException:
                self.close()
                raise
        return _rows(header, body, timeout_s)

    def _running_child(self) -> subprocess.Popen[bytes]:
        catalog = read_catalog(self._workspace)
        seen = (catalog, files_of(catalog))
        if self._child is not None and self._child.poll() is None and self._seen == seen:
            return self._child
        self.close()
        self._seen = seen
        arguments = [str(self._workspace), self._memory, str(self._threads)]
        self._child = subprocess.Popen(
            [sys.executable, "-I", "-c", _WORKER, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=self._workspace,
            env={name: os.environ[name] for name in _KEPT if name in os.environ},
        )
        header, _body = _within(self._child, _START_S)
        if header is None or "ready" not in header:
            self.close()
            raise StoreError(
                f"the query process of {self._workspace} did not start; expected its catalog to "
                "fit its files; run `dvc repro index` again"
            )
        return self._child

    def _ask(
        self, child: subprocess.Popen[bytes], request: dict[str, Any], patience_s: float
    ) -> tuple[dict[str, Any], bytes]:
        stdin = cast(BinaryIO, child.stdin)
        with contextlib.suppress(BrokenPipeError):
            stdin.write(json.dumps(request).encode() + b"\n")
            stdin.flush()
        begun = time.monotonic()
        header, body = _within(child, patience_s)
        if header is not None:
            return header, body
        is_late = child.wait() == LATE_EXIT or time.monotonic() - begun >= patience_s
        self.close()
        return {"late": True} if is_late else {"failed": "it ended its process"}, b""


def _within(
    child: subprocess.Popen[bytes], patience_s: float
) -> tuple[dict[str, Any] | None, bytes]:
    """The child's next answer, or None if it ends, or is ended, before it gives one."""
    stdout = cast(BinaryIO, child.stdout)
    last_word = threading.Timer(patience_s, child.kill)
    last_word.start()
    try:
        line = stdout.readline()
        if not line:
            return None, b""
        header = cast(dict[str, Any], json.loads(line))
        size = int(header.get("bytes", 0))
        body = stdout.read(size)
        return (header, body) if len(body) == size else (None, b"")
    finally:
        last_word.cancel()


def _rows(header: dict[str, Any], body: bytes, timeout_s: float) -> pa.Table:
    if "refused" in header:
        raise QueryRefused(
            f"found {header['refused']}; expected {header['expected']}; {_NEXT_STEP}"
        )
    if "failed" in header:
        raise QueryRefused(
            f"the query failed: {header['failed']}; expected a SELECT that runs within its "
            f"limits; {_NEXT_STEP}"
        )
    if "too_large" in header:
        raise QueryRefused(
            f"the answer has more than {MAX_BYTES:,} bytes; expected at most so many; "
            "ask for fewer rows or columns"
        )
    if "late" in header:
        raise QueryTimeout(
            f"the query ran past its {timeout_s:g} s and was ended; expected an answer by then; "
            "ask for less, filter by feature_id or tok, or allow more time"
        )
    table = pa.ipc.open_stream(pa.py_buffer(body)).read_all()
    is_cut = "true" if header["is_cut"] else "false"
    return table.replace_schema_metadata({"is_cut": is_cut})
