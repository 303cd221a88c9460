"""What SQL from outside may say: one SELECT over the catalog's views, macros and harmless rows.

The second wall. The first is DuckDB's own configuration (`store.sandbox_worker`), which
opens no file but those that the views read; this one reads the parsed statement, so that
what would be refused anyway is refused before it is bound, and in words that help.
"""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

MAX_CHARACTERS = 100_000
"""Longest statement; the parser's time and depth grow with it."""

_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_ROW_MAKERS = frozenset(
    {
        "duckdb_columns",
        "duckdb_functions",
        "duckdb_keywords",
        "duckdb_tables",
        "duckdb_types",
        "duckdb_views",
        "generate_series",
        "icu_calendar_names",
        "json_each",
        "json_tree",
        "pg_timezone_names",
        "pragma_table_info",
        "pragma_version",
        "range",
        "repeat",
        "unnest",
    }
)
_RUN_TEXT = frozenset({"query", "json_execute_serialized_sql"})
_TELL_OF_THE_PROCESS = frozenset({"current_setting", "getenv", "write_log"})
_SETTINGS_VIEWS = frozenset({"pg_settings", "duckdb_settings", "duckdb_logs", "duckdb_secrets"})
_OF_A_PATH = re.compile(r"[./\\:*?~]")


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a statement is not run."""

    found: str
    """What in it is refused, by the name it was given."""
    expected: str
    """What may stand there."""


_ONE_SELECT = "exactly one SELECT"
_VIEWS_ONLY = "the name of a view of the catalog, since nothing else may be read"
_PLAIN_FUNCTIONS = "functions that work on the rows of the catalog alone"


@dataclass(frozen=True, slots=True)
class Rules:
    """What a connection's catalog offers to SQL from outside."""

    tables: frozenset[str]
    """The views of the catalog."""
    macros: frozenset[str]
    """Its macros that give rows."""

    @classmethod
    def of(cls, connection: duckdb.DuckDBPyConnection) -> "Rules":
        """The rules for a connection that has the catalog."""
        views = connection.sql("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        macros = connection.sql(
            """
            SELECT DISTINCT function_name FROM duckdb_functions()
            WHERE function_type = 'table_macro' AND NOT internal
            """
        )
        return cls(
            frozenset(row[0] for row in views.fetchall()),
            frozenset(row[0] for row in macros.fetchall()),
        )

    def why_not(self, connection: duckdb.DuckDBPyConnection, sql: str) -> Refusal | None:
        """Why the text is not exactly one SELECT that only reads the catalog, or None if it is."""
        if "\0" in sql:
            return Refusal("a NUL character", _ONE_SELECT)
        statements = connection.extract_statements(sql)
        if len(statements) != 1:
            return Refusal(f"{len(statements)} statements", _ONE_SELECT)
        if statements[0].type != duckdb.StatementType.SELECT:
            kind = str(statements[0].type).rsplit(".", 1)[-1]
            return Refusal(f"a statement of type {kind}", _ONE_SELECT)
        parsed = connection.sql("SELECT json_serialize_sql($sql)", params={"sql": sql}).fetchall()
        tree = json.loads(parsed[0][0])
        if tree["error"]:
            why = tree.get("error_message", "unknown")
            return Refusal(f"a statement that is no plain SELECT ({why})", _ONE_SELECT)
        reasons = (self._why_not_part(part) for part in _parts(tree["statements"]))
        return next((reason for reason in reasons if reason is not None), None)

    def _why_not_part(self, part: dict[str, Any]) -> Refusal | None:
        """What in one node of a parsed SELECT does more than read the catalog, or None.

        A WITH clause of DuckDB 2.0 may hold COPY, INSERT, UPDATE or DELETE, and the
        statement is still of type SELECT; some functions run a statement given as text.
        """
        kind = part.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE") and kind not in _READING_NODES:
            return Refusal(f"a {kind.removesuffix('_NODE')} inside the statement", _ONE_SELECT)
        if kind == "BASE_TABLE":
            return _why_not_table(part)
        if kind == "TABLE_FUNCTION":
            called = str(part["function"].get("function_name", "")).lower()
            if called not in _ROW_MAKERS | _RUN_TEXT | self.macros:
                hint = _nearest(called, self.macros)
                return Refusal(f"the table function {called!r}{hint}", self._in_from())
        name = part.get("function_name")
        if isinstance(name, str) and name.lower() in _RUN_TEXT:
            return Refusal(f"the function {name}, which runs text as SQL", _PLAIN_FUNCTIONS)
        if isinstance(name, str) and name.lower() in _TELL_OF_THE_PROCESS:
            found = f"the function {name}, which reaches beyond the tables"
            return Refusal(found, _PLAIN_FUNCTIONS)
        return None

    def _in_from(self) -> str:
        """What FROM may call, and that no file may be read but through a view."""
        macros = ", ".join(sorted(self.macros))
        return (
            "in FROM the views of the catalog, which are all that may be read, its macros "
            f"({macros}), or a function that makes rows, such as range or unnest"
        )

    def in_one_line(self, error: BaseException, sql: str) -> str:
        """DuckDB's error on one line: what, where, and the nearest name that there is."""
        text = str(error).strip() or type(error).__name__
        unknown = re.search(r"Table with name (\S+) does not exist", text)
        if unknown is not None:
            hint = _nearest(unknown[1], self.tables)
            return f"no table {unknown[1]!r}{_place(sql, unknown[1])}{hint}"
        unknown = re.search(r'Referenced column "([^"]+)" not found', text)
        place = _place(sql, unknown[1]) if unknown is not None else ""
        at = re.search(r"\n\nLINE (\d+): ([^\n]*)\n( *)\^", text)
        if at is not None:
            text = text[: at.start()]
            column = len(at[3]) - len(f"LINE {at[1]}: ") + 1
            place = f" (line {at[1]}, column {column})"
        text = " ".join(text.split())
        return (text if len(text) <= 500 else f"{text[:500]} ...") + place


def _why_not_table(part: dict[str, Any]) -> Refusal | None:
    """Why a name in FROM may not stand there: it is a file's, or tells of the process."""
    name = str(part["table_name"])
    if any(_OF_A_PATH.search(step) for step in (part["catalog_name"], part["schema_name"], name)):
        return Refusal(f"the file {name!r} in place of a table", _VIEWS_ONLY)
    if name.lower() in _SETTINGS_VIEWS:
        return Refusal(f"the table {name}, which tells of the process", _VIEWS_ONLY)
    return None


def _parts(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of a parsed statement."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting.extend(part)
        elif isinstance(part, dict):
            yield part
            waiting.extend(part.values())


def _nearest(name: str, known: frozenset[str]) -> str:
    near = difflib.get_close_matches(name.lower(), sorted(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _place(sql: str, name: str) -> str:
    """Where a name stands first in a statement, lines and columns from 1."""
    found = re.search(rf"(?<!\w){re.escape(name)}(?!\w)", sql, flags=re.IGNORECASE)
    if found is None:
        return ""
    before = sql[: found.start()]
    line = before.count("\n") + 1
    return f" (line {line}, column {len(before) - before.rfind(chr(10))})"
