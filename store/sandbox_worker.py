"""The child process that runs SQL from outside; started by `store.sandbox`, never imported.

Settings go in one order: where spills may land, memory and threads, which files may be
read, then external access off, then the configuration locked. Only the files that the
catalog's views read may be read, not all of `data/`. The process itself may write no
byte to any file. It answers one request a line on standard input with one header line
and, if all went well, an Arrow stream of the length that the header gives.
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

from store.catalog import files_of, read_catalog
from store.sandbox import LATE_EXIT
from store.sandbox_rules import Rules

_LAST_WORD_S = 1.0
"""Seconds between the interrupt of a late query and the end of this process."""

_OWN_SPACE = 4 << 30
"""Address space of an idle process, mostly reserved and never touched, and some to spare."""

_BATCH_ROWS = 2048


def main() -> None:
    """Answers requests until standard input ends."""
    workspace, memory, threads = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asking process's to hear
    _limit_process(memory)
    connection = _locked(workspace, memory, threads)
    rules = Rules.of(connection)
    _send(answers, {"ready": True})
    for line in sys.stdin:
        request = json.loads(line)
        with _deadline(connection, request["timeout_s"]) as late:
            header, body = _answer(connection, rules, request, late)
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
    catalog = read_catalog(workspace)
    connection.execute(catalog)
    allowed = ", ".join("'" + path.replace("'", "''") + "'" for path in files_of(catalog))
    connection.execute(
        f"""
        SET temp_directory = '';
        SET memory_limit = '{memory}';
        SET threads = {threads};
        SET allowed_paths = [{allowed}];
        SET enable_external_access = false;
        SET lock_configuration = true
        """
    )
    return connection


def _answer(
    connection: duckdb.DuckDBPyConnection,
    rules: Rules,
    request: dict[str, Any],
    late: threading.Event,
) -> tuple[dict[str, Any], bytes]:
    try:
        refused = rules.why_not(connection, request["sql"])
        if refused is not None:
            return {"refused": refused.found, "expected": refused.expected}, b""
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
        return {"failed": rules.in_one_line(error, request["sql"])}, b""


def _read(reader: pa.RecordBatchReader, max_bytes: int) -> pa.Table | None:
    """The whole answer, or None once it is larger than it may be."""
    batches, size = [], 0
    for batch in reader:
        batches.append(batch)
        size += batch.nbytes
        if size > max_bytes:
            return None
    return pa.Table.from_batches(batches, schema=reader.schema)


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
