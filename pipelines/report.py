"""report: everything that was measured, on one page that opens offline.

Reads metrics, plots and the store; measures nothing itself. Every text of the corpus and of the
model is escaped by the template.
"""

from __future__ import annotations

import base64
import csv
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

from pipelines.errors import require
from pipelines.page import plots
from pipelines.page.gallery import cards
from pipelines.params import Params, load_params
from pipelines.stage import run_stage
from store.atomic import whole_dir

OUT = Path("reports")
TEMPLATES = Path(__file__).parent / "page" / "templates"
HEADLINE = "dce=0.1"
"""The budget whose texts are shown."""
log = logging.getLogger(__name__)

Row = Mapping[str, Any]


def main() -> None:
    """Write `reports/index.html` and its pictures."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from store import open as open_store

    params = load_params()
    require(Path("data/store/catalog.sql"), "index")
    names = _json(require(Path("metrics/labels.json"), "label"))
    steering = _json(require(Path("metrics/steering.json"), "evaluate"))
    con = open_store(Path())
    pictures = draw(params)
    page = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    ).get_template("report.html.j2")
    html = page.render(
        model=Path(params.model.name).name,
        title=f"Features of {Path(params.model.name).name}",
        subtitle=_subtitle(con, params),
        runs=_runs(con, params),
        names=_names(names),
        cards=cards(
            con,
            features=params.report.features,
            contexts=params.report.contexts,
            first=params.directions.concepts,
        ),
        figures={"sae": _figures(pictures, "training"), "steering": _figures(pictures, "steering")},
        league=_league(steering),
        findings=_findings(steering),
        samples=_samples(con, params.report.samples),
        samples_note=f"Method causal, budget {HEADLINE} nats a token.",
    )
    with whole_dir(OUT) as scratch:
        (scratch / "plots").mkdir()
        for name, (picture, _) in pictures.items():
            (scratch / "plots" / f"{name}.png").write_bytes(picture)
        (scratch / "index.html").write_text(html, encoding="utf-8")
    log.info("report: %s", OUT / "index.html")


def draw(params: Params) -> dict[str, tuple[bytes, str]]:
    """The report's pictures by name, each with its caption."""
    steps = {
        slug: _numbers(path)
        for slug in params.sae
        if (path := Path(f"plots/train-{slug}.csv")).exists()
    }
    steps = {slug: rows for slug, rows in steps.items() if rows}
    found = {}
    if steps:
        found["training"] = (
            plots.training(steps),
            "Training: explained variance and the share of latents that have not fired lately.",
        )
    frontier = _numbers(require(Path("plots/steering-frontier.csv"), "evaluate"))
    if frontier:
        panels = [
            (title, plots.curves(frontier, name="method", x="budget", y=column))
            for column, title in (("value", "HM"), ("concept", "C, concept"), ("fluency", "F"))
        ]
        found["steering-frontier"] = (
            plots.lines(panels, x_label="ΔCE, nats a token", y_label="score", log_x=True),
            "The frontier: what each method reaches at equal cost. Bands are 95 % intervals of HM "
            "over concepts' prompts; grey lines are controls.",
        )
    dose = _numbers(require(Path("plots/steering-dose.csv"), "evaluate"))
    if dose:
        panels = [
            (title, plots.curves(dose, name="method", x="coefficient", y=column))
            for column, title in (("value", "C, concept"), ("fluency", "F"), ("hm", "HM"))
        ]
        found["steering-dose"] = (
            plots.lines(panels, x_label="coefficient, multiples of the mean norm", y_label="score"),
            "Dose and response: the concept rises with the coefficient, fluency pays for it.",
        )
    return found


def _figures(pictures: Mapping[str, tuple[bytes, str]], prefix: str) -> list[dict[str, str]]:
    return [
        {"alt": name, "caption": caption, "data": base64.b64encode(picture).decode("ascii")}
        for name, (picture, caption) in pictures.items()
        if name.startswith(prefix)
    ]


def _subtitle(con: duckdb.DuckDBPyConnection, params: Params) -> str:
    row = con.execute("SELECT count(*), sum(n_tok) FROM doc").fetchone()
    assert row is not None
    return (
        f"{row[0]:,} documents of {params.corpus.source}, {row[1]:,} tokens; "
        f"hook points {', '.join(params.dump.hook_points)}; seed {params.seed}."
    )


def _runs(con: duckdb.DuckDBPyConnection, params: Params) -> list[dict[str, str]]:
    rows = _rows(
        con,
        """
        SELECT r.*, (SELECT count(*) FILTER (is_dead) / count(*) FROM feature_stats AS f
                     WHERE f.run_id = r.run_id) AS dead
        FROM run AS r ORDER BY list_position($slugs, run_id), run_id
        """,
        {"slugs": list(params.sae)},
    )
    return [
        {
            "run_id": row["run_id"],
            "hook_point": row["hook_point"],
            "d_sae": f"{row['d_sae']:,}",
            "l0": _number(row["l0"], ".1f"),
            "explained_variance": _number(row["explained_variance"], ".3f"),
            "ce_recovered": _number(row["ce_recovered"], ".3f"),
            "dead": _number(row["dead"], ".1%"),
            "gamma": _number(row["gamma"], ".2f"),
            "n_act": f"{row['n_act']:,}",
        }
        for row in rows
    ]


def _names(metrics: Row) -> list[dict[str, str]]:
    """Every plain number of metrics/labels.json, SAE by SAE, as it is called there."""
    shown = []
    for slug, found in metrics.items():
        for key, value in found.items():
            if isinstance(value, dict):
                kinds = sorted(value.items(), key=lambda item: (-item[1], item[0]))
                text = ", ".join(f"{kind.replace('_', ' ')} {count}" for kind, count in kinds)
            elif isinstance(value, list):
                text = ", ".join(map(str, value))
            else:
                text = f"{value:.3f}" if isinstance(value, float) else f"{value}"
            shown.append({"slug": slug, "what": key.replace("_", " "), "value": text})
    return shown


def _league(steering: Row) -> dict[str, Any]:
    budgets = steering["budgets"]
    methods = list(dict.fromkeys(name for found in budgets.values() for name in found))
    headline = HEADLINE if HEADLINE in budgets else next(iter(budgets), None)
    ranked = sorted(
        methods,
        key=lambda name: -(budgets.get(headline, {}).get(name, {}).get("hm") or 0.0),
    )
    columns = ["method"]
    columns += [f"HM at {budget.partition('=')[2]}" for budget in budgets]
    columns += [f"{name} at {str(headline).partition('=')[2]}" for name in ("C", "P", "F", "ΔCE")]
    rows = []
    for name in ranked:
        cells = [name, *(_with_interval(found.get(name, {}), "hm") for found in budgets.values())]
        at = budgets[headline].get(name, {}) if headline else {}
        cells += [_number(at.get(key), ".2f") for key in ("concept", "preservation", "fluency")]
        cells.append(_number(at.get("delta_ce"), ".3f"))
        rows.append({"cells": cells, "control": name in plots.CONTROLS})
    for name in ("prompt", "unsteered"):
        found = steering.get(name) or {}
        if found:
            blank = ["–"] * max(0, len(budgets) - 1)
            cells = [f"{name} (no budget)", _with_interval(found, "hm"), *blank]
            cells += [
                _number(found.get(key), ".2f") for key in ("concept", "preservation", "fluency")
            ]
            cells.append(_number(found.get("delta_ce"), ".3f"))
            rows.append({"cells": cells, "control": name == "unsteered"})
    note = (
        "Means over concepts, with 95 % bootstrap intervals over prompts. HM is the harmonic mean "
        "of C, P and F. A dash is a budget that no coefficient met, or a score that is not defined."
    )
    return {"columns": columns, "rows": rows, "note": note}


def _findings(steering: Row) -> list[str]:
    """Causal choice against choice by label, and against the mean difference, as sentences."""
    said = []
    for key, ours, theirs in (
        ("causal_against_label", "the feature chosen by what it causes", "the best-reading one"),
        ("causal_against_diff_mean", "the feature chosen by what it causes", "the mean difference"),
        ("causal3_against_diff_mean", "three such features together", "the mean difference"),
    ):
        found = (steering.get(key) or {}).get(HEADLINE) or {}
        hm = found.get("hm") or {}
        if hm.get("value") is None:
            continue
        verdict = "better" if hm["lo"] > 0 else "worse" if hm["hi"] < 0 else "not told apart"
        said.append(
            f"At ΔCE {HEADLINE.partition('=')[2]}, {ours} against {theirs}: HM "
            f"{hm['value']:+.3f} [{hm['lo']:+.3f}, {hm['hi']:+.3f}], {verdict}; better on "
            f"{found['concepts_better']} of {found['n_concepts']} concepts."
        )
    return said


def _samples(con: duckdb.DuckDBPyConnection, most: int) -> list[dict[str, Any]]:
    """Test prompts with the unsteered and the steered text of the same random numbers."""
    require(Path("data/steer/generations.parquet"), "steer")
    rows = _rows(
        con,
        """
        WITH told AS (
            SELECT concept, method, budget, prompt_id, prompt, coefficient, unit,
                   substr(text, length(prompt) + 1) AS text,
                   row_number() OVER (
                       PARTITION BY concept, method, budget ORDER BY prompt_id
                   ) AS place
            FROM read_parquet('data/steer/generations.parquet')
            WHERE split = 'test' AND seed = 0
        )
        SELECT s.concept, s.prompt, b.text AS base, s.text AS steered, s.coefficient
        FROM told AS s
        JOIN told AS b USING (concept, prompt_id)
        WHERE s.method = 'causal' AND s.budget = $budget AND s.place <= $most
          AND b.method = 'unsteered'
        ORDER BY s.concept, s.prompt_id
        """,
        {"budget": HEADLINE, "most": most},
    )
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        title = f"{row['concept']} {row['coefficient']:+.2f} norm"
        groups.setdefault(title, {"title": title, "rows": []})["rows"].append(row)
    return list(groups.values())


def _with_interval(found: Row, name: str) -> str:
    value, lo, hi = found.get(name), found.get(f"{name}_lo"), found.get(f"{name}_hi")
    if value is None:
        return "–"
    return f"{value:.2f}" if lo is None or hi is None else f"{value:.2f} [{lo:.2f}, {hi:.2f}]"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _rows(
    con: duckdb.DuckDBPyConnection, sql: str, values: Mapping[str, object]
) -> list[dict[str, Any]]:
    cursor = con.execute(sql, dict(values))
    names = [column[0] for column in cursor.description or []]
    return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _numbers(path: Path) -> Sequence[dict[str, Any]]:
    """Rows of a CSV, its numbers as floats, an empty cell as None."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(lines)]


def _value(text: str) -> float | str | None:
    if text == "":
        return None
    try:
        return float(text)
    except ValueError:
        return text


if __name__ == "__main__":
    run_stage("report", main)
