import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.commands.sql import statement_of, views, write
from pipelines.errors import PipelineError

ROWS = pa.table({"slug": ["sea", "[red]x[/red]\x1b[31m", None], "score": [0.5, 1.0, None]})


def test_a_table_prints_names_numbers_and_nulls(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    write(ROWS, format="table", out=None)
    text = capsysbinary.readouterr().out.decode()
    assert "slug" in text
    assert "sea" in text
    assert "NULL" in text


def test_markup_and_terminal_codes_in_the_data_are_printed_as_text(
    capsysbinary: pytest.CaptureFixture[bytes],
) -> None:
    write(ROWS, format="table", out=None)
    text = capsysbinary.readouterr().out.decode()
    assert "[red]x[/red]" in text
    assert "\x1b[31m" not in text


def test_csv_and_json_hold_the_same_rows(tmp_path: Path) -> None:
    write(ROWS, format="csv", out=tmp_path / "rows.csv")
    write(ROWS, format="json", out=tmp_path / "rows.json")
    lines = (tmp_path / "rows.csv").read_text().splitlines()
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert lines[0] == "slug,score"
    assert lines[1] == "sea,0.5"
    assert rows == ROWS.to_pylist()


def test_parquet_reads_back_as_it_was(tmp_path: Path) -> None:
    write(ROWS, format="parquet", out=tmp_path / "rows.parquet")
    assert pq.read_table(tmp_path / "rows.parquet").equals(ROWS)


def test_an_unknown_format_names_the_known_ones() -> None:
    with pytest.raises(PipelineError, match="table, csv, json or parquet"):
        write(ROWS, format="xml", out=None)


def test_a_dash_reads_the_statement_from_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("SELECT 1"))
    assert statement_of("-") == "SELECT 1"
    assert statement_of("SELECT 2") == "SELECT 2"


@pytest.mark.parametrize("argument", [None, "", "-"])
def test_no_statement_says_how_to_give_one(
    argument: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(" "))
    with pytest.raises(PipelineError, match="tiller sql --tables"):
        statement_of(argument)


def test_views_are_listed_with_the_unit_of_each_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    columns = [
        {"view": "doc", "column": "n_tok", "type": "INTEGER"},
        {"view": "mine", "column": "n_tok", "type": "INTEGER"},
    ]
    monkeypatch.setattr("store.sandbox.query", lambda *_: pa.Table.from_pylist(columns))
    schema = {"tables": {"doc": {"columns": [{"name": "n_tok", "unit": "tokens"}]}}}
    (tmp_path / "data/store").mkdir(parents=True)
    (tmp_path / "data/store/schema.json").write_text(json.dumps(schema))
    found = views(tmp_path)
    assert found["meaning, unit"].to_pylist() == ["tokens", ""]
    assert found["view"].to_pylist() == ["doc", "mine"]
