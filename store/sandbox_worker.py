"""The child process that runs SQL from outside; started by `store.sandbox`, never imported.

Settings go in one order: where spills may land, memory and threads, which folder may be
read, then external access off, then the configuration locked. The process itself may
write no byte to any file. It answers one request a line on standard input with one
header line and, if all went well, an Arrow stream of the length that the header gives.
"""

import contextlib
import json
import os
import re
import resource
import signal
import sys
import threading
from pathlib import Path
from typing import Any, BinaryIO

import duckdb
import pyarrow as pa

from store.catalog import read_catalog
from store.sandbox import LATE_EXIT

_LAST_WORD_S = 1.0
"""Seconds between the interrupt of a late query and the end of this process."""

_OWN_SPACE = 4 << 30
"""Address space of an idle process, mostly reserved and never touched, and some to spare."""

_BATCH_ROWS = 2048
_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_RUN_TEXT = frozenset({"query", "json_execute_serialized_sql"})


def main() -> None:
    """Answers requests until standard input ends."""
    workspace, memory, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    _limit_process(memory)
    connection = _locked(workspace, memory, threads)
    _send(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        with _deadline(connection, request["timeout_s"]) as late:
            header, body = _answer(connection, request, late)
        _send(answers, header, body)


def _limit_process(memory: str) -> None:
    """No byte to any file, no core dump, and an end to memory that DuckDB does not count."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    number, unit = re.split(r"(?<=[\d.]) ?(?=[KMGT])", memory)
    space = _OWN_SPACE + 2 * int(float(number) * 1024 ** ("KMGT".index(unit[0]) + 1))
    with contextlib.suppress(ValueError, OSError):  # macOS does not bound address space
        resource.setrlimit(resource.RLIMIT_AS, (space, space))


def _locked(workspace: Path, memory: str, threads: int) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        ":memory:",
        config={
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "python_enable_replacements": False,
            "allow_persistent_secrets": False,
        },
    )
    connection.execute(read_catalog(workspace))
    allowed = (workspace.resolve() / "data").as_posix().replace("'", "''")
    connection.execute(
        f"""
        SET temp_directory = '';
        SET memory_limit = '{memory}';
        SET threads = {threads};
        SET allowed_directories = ['{allowed}/'];
        SET enable_external_access = false;
        SET lock_configuration = true
        """
    )
    return connection


def _answer(
    connection: duckdb.DuckDBPyConnection, request: dict[str, Any], late: threading.Event
) -> tuple[dict[str, Any], bytes]:
    try:
        refused = _why_not(connection, request["sql"])
        if refused is not None:
            return {"refused": refused}, b""
        limit = int(request["max_rows"])
        rows = connection.sql(request["sql"]).limit(limit + 1)
        kept = _read(rows.to_arrow_reader(_BATCH_ROWS), int(request["max_bytes"]))
        if kept is None:
            return {"too_large": True}, b""
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, kept.schema) as out:
            out.write_table(kept.slice(0, limit))
        body = sink.getvalue()
        return {"bytes": body.size, "is_cut": kept.num_rows > limit}, body.to_pybytes()
    except duckdb.InterruptException:
        return {"late": True}, b""
    except (duckdb.Error, pa.ArrowException, MemoryError, RuntimeError, ValueError) as error:
        if late.is_set():
            return {"late": True}, b""
        return {"failed": " ".join(str(error).split()) or type(error).__name__}, b""


def _read(reader: pa.RecordBatchReader, max_bytes: int) -> pa.Table | None:
    """The whole answer, or None once it is larger than it may be."""
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > max_bytes:
            return None
    return pa.Table.from_batches(batches, schema=reader.schema)


def _why_not(connection: duckdb.DuckDBPyConnection, sql: str) -> str | None:
    """Why the text is not exactly one SELECT that only reads, or None if it is."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        return f"{len(statements)} statements"
    if statements[0].type != duckdb.StatementType.SELECT:
        return f"a statement of type {str(statements[0].type).rsplit('.', 1)[-1]}"
    parsed = connection.sql("SELECT json_serialize_sql($sql)", params={"sql": sql}).fetchall()
    tree = json.loads(parsed[0][0])
    if tree["error"]:
        return f"a statement that is no plain SELECT ({tree.get('error_message', 'unknown')})"
    return _what_else(tree["statements"])


def _what_else(tree: Any) -> str | None:
    """What in a parsed SELECT does more than read, or None.

    A WITH clause of DuckDB 2.0 may hold COPY, INSERT, UPDATE or DELETE, and the statement
    is still of type SELECT; some table functions run a statement that is given as text.
    """
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            kind = part.get("type")
            if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING_NODES:
                return f"a {kind.removesuffix('_NODE')} inside the statement"
            name = part.get("function_name")
            if isinstance(name, str) and name.lower() in _RUN_TEXT:
                return f"the function {name}, which runs text as SQL"
            waiting.extend(part.values())
    return None


class _deadline:  # noqa: N801 (a context manager reads as a noun of its block)
    """Interrupts the connection when time is up, and ends the process if that is not heard."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, timeout_s: float) -> None:
        self._connection = connection
        self._late = threading.Event()
        self._timers = [
            threading.Timer(timeout_s, self._interrupt),
            threading.Timer(timeout_s + _LAST_WORD_S, os._exit, args=(LATE_EXIT,)),
        ]

    def __enter__(self) -> threading.Event:
        for timer in self._timers:
            timer.daemon = True
            timer.start()
        return self._late

    def __exit__(self, *_error: object) -> None:
        for timer in self._timers:
            timer.cancel()

    def _interrupt(self) -> None:
        self._late.set()
        self._connection.interrupt()


def _send(answers: BinaryIO, header: dict[str, Any], body: bytes = b"") -> None:
    with contextlib.suppress(BrokenPipeError):
        answers.write(json.dumps(header).encode() + b"\n" + body)
        answers.flush()


if __name__ == "__main__":
    main()
