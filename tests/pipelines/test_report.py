from __future__ import annotations

import pytest

from pipelines import report


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "<|bos|> & <b>"])
def test_text_of_corpus_and_model_is_escaped(text: str) -> None:
    from jinja2 import Environment, FileSystemLoader

    page = Environment(loader=FileSystemLoader(report.TEMPLATES), autoescape=True)
    html = page.get_template("report.html.j2").render(
        model=text,
        title=text,
        subtitle="",
        runs=[],
        summary=[text],
        names=[],
        cards=[],
        figures={"training": [], "steering": []},
        league={"columns": [text], "rows": [], "note": ""},
        aims=[],
        samples=[{"title": text, "rows": [{"prompt": text, "base": text, "steered": text}]}],
        samples_note="",
    )
    assert text not in html
    assert "&lt;" in html
