"""directions, steer and evaluate on a tiny random model, after the real stages before them.

The model has learned nothing, so what is tested is what the files promise, not that steering works.
"""

from __future__ import annotations

import itertools
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml

from pipelines.trial.arms import METHODS
from store.manifest import content_hash
from store.schema import read_metadata, read_table

POINT = "blocks.0.hook_resid_post"
BUDGETS = {"dce=0.02", "dce=0.05"}
OF_CORPUS = {"source", "corpus_sha", "tokenizer_sha"}
OF_SAE = {"model", "model_sha", "sae_sha", "hook_point", "corpus_sha", "tokenizer_sha"}
OF_SAE |= {"act_threshold", "value_bits"}
SAYS = {"corpus": OF_CORPUS, "features": OF_SAE} | dict.fromkeys(
    ("store", "labels", "directions", "steer", "evaluation"), OF_SAE | {"run_id"}
)
"""What the files of each folder under `data` say that they were made of."""


def stories(n: int) -> list[str]:
    rng = random.Random(0)
    who = [("She", "her"), ("He", "his")]
    places, animals = ["barn", "sea", "house", "sky"], ["dog", "horse", "gato"]
    combos = list(itertools.product(who, places, animals, ["happy", "sad", "far away", "blue"]))
    found: list[str] = []
    for subject, place, animal, mood in rng.choices(combos, k=n):
        one, owner = subject
        found.append(
            f"{one} saw the {animal} on day {len(found)}. Then {one.lower()} went to the {place} "
            f"with {owner} horse and said that it was {mood}."
        )
    return found


def parameters(model: Path) -> dict[str, object]:
    train = {"d_sae": 32, "k": 4, "steps": 30, "batch_rows": 64, "warmup_steps": 2}
    concepts = [
        {"name": "she", "words": ["she", "her"], "against": ["he", "his"]},
        {"name": "he", "words": ["he", "his"], "against": ["she", "her"]},
    ]
    return {
        "seed": 3,
        "model": {"name": str(model), "device": "cpu", "dtype": "float32"},
        "corpus": {
            "source": "file",
            "path": "stories.json",
            "documents": 120,
            "context": 40,
            "prompts": 8,
            "prompt_tokens": 14,
            "pairs": 8,
            "concepts": concepts,
        },
        "dump": {"hook_points": [POINT]},
        "sae": {"main": {"hook_point": POINT, "train": train}},
        "label": {"min_firings": 2, "bootstrap": 20},
        "directions": {
            "concepts": ["she"],
            "candidates": 2,
            "finalists": 2,
            "budgets": [0.02],
            "heldout_tokens": 120,
            "prompts": 4,
            "max_new_tokens": 6,
        },
        "steer": {
            "coefficients": [0.5],
            "budgets": [0.02, 0.05],
            "prompts": 4,
            "seeds": 2,
            "heldout_tokens": 120,
            "max_new_tokens": 6,
            "batch_rows": 64,
        },
        "evaluate": {"bootstrap": 20, "permutations": 50, "heldout_tokens": 120},
    }


def run(*names: str) -> None:
    import importlib

    for name in names:
        stage, _, slug = name.partition("@")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["stage", *([slug] if slug else [])])
            importlib.import_module(f"pipelines.{stage}").main()


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory, tiny_lm_dir: Path) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        Path("inputs/corpus").mkdir(parents=True)
        Path("inputs/corpus/stories.json").write_text(json.dumps(stories(120)))
        Path("params.yaml").write_text(yaml.safe_dump(parameters(tiny_lm_dir)))
        run("corpus", "dump", "train@main", "harvest@main", "index", "label")
        run("directions", "steer", "evaluate")
        yield folder


def test_every_parquet_file_says_what_it_was_made_of(workspace: Path) -> None:
    paths = sorted(Path("data").rglob("*.parquet"))
    assert {path.parts[1] for path in paths} == set(SAYS)
    known = read_metadata(Path("data/features/main/run.parquet")) | {"run_id": "main"}
    assert known["hook_point"] == POINT
    assert known["sae_sha"] == content_hash(Path("data/sae/main/sae_weights.safetensors"))
    known["source"] = "stories.json"
    for path in paths:
        stored = pq.read_schema(path).metadata
        assert {b"table", b"schema_version"} <= set(stored), path
        said = read_metadata(path)
        assert set(said) >= SAYS[path.parts[1]], path
        assert all(said[key] == known[key] for key in SAYS[path.parts[1]]), path
    corpus = json.loads(Path("data/corpus/corpus.json").read_text())
    assert {key: corpus[key] for key in OF_CORPUS} == {key: known[key] for key in OF_CORPUS}


def test_every_method_has_a_direction_and_every_row_its_vector(workspace: Path) -> None:
    from steering.direction import load_directions

    table = read_table(Path("data/directions/direction.parquet"), "direction")
    assert set(table["source"].to_pylist()) == set(METHODS)
    directions = load_directions(Path("data/directions/directions.safetensors"))
    for name in table["direction_id"].to_pylist():
        assert any(key == name or key.startswith(f"{name}/") for key in directions)


def test_the_causal_feature_is_a_candidate_and_the_control_is_not(workspace: Path) -> None:
    table = read_table(Path("data/directions/direction.parquet"), "direction")
    feature = dict(zip(table["source"].to_pylist(), table["feature_id"].to_pylist(), strict=True))
    tried = read_table(Path("data/directions/causal.parquet"), "steerability")
    assert feature["causal"] in tried["feature_id"].to_pylist()
    assert feature["label"] in tried["feature_id"].to_pylist()
    assert feature["random_feature"] not in tried["feature_id"].to_pylist()
    assert pc.min(tried["output_score"]).as_py() >= 0
    assert pc.max(tried["self_share"]).as_py() <= 1


def test_every_output_label_has_two_lists_and_the_better_on_the_choosing_prompts_is_chosen(
    workspace: Path,
) -> None:
    rows = read_table(Path("data/directions/output_label.parquet"), "output_label").to_pylist()
    labels = read_table(Path("data/labels/label.parquet"), "label").to_pylist()
    own = {row["label_id"]: row for row in labels if row["side"] == "output"}
    assert len(rows) == 2 * len(own) > 0
    for first, second in zip(rows[::2], rows[1::2], strict=True):
        assert (first["rank"], second["rank"]) == (0, 1)
        assert {first["method"], second["method"]} == {"promoted_tokens", "steered_tokens"}
        assert first["choice_value"] >= second["choice_value"]
        assert second["slug"] is None
        label = own[first["label_id"]]
        promoted = first if first["method"] == "promoted_tokens" else second
        assert json.loads(promoted["rule"]) == json.loads(label["rule"])
        assert first["feature_id"] == label["feature_id"]
        if promoted is first:
            assert first["slug"] == label["slug"]
    for row in rows:
        assert row["lo"] <= row["value"] <= row["hi"]
        is_sure = row["lo"] > max(row["null_value"], row["other_value"])
        assert row["status"] == ("ok" if is_sure else "weak")
        assert row["name"].startswith("weak: ") != is_sure
        assert 0 < row["share"] < 1
    slugs = [row["slug"] for row in rows[::2]]
    slugs += [row["slug"] for row in labels if row["side"] == "input"]
    assert len(set(slugs)) == len(slugs)


def test_the_store_shows_the_chosen_output_labels_with_score_interval_and_null(
    workspace: Path,
) -> None:
    from store.catalog import open as open_store

    with open_store(workspace) as con:
        shown = con.sql(
            """
            SELECT f.output_slug, f.output_gain, f.output_lo, f.output_hi, f.output_null
            FROM feature AS f WHERE f.output_slug IS NOT NULL ORDER BY f.feature_id
            """
        ).fetchall()
        wanted = con.sql(
            """
            SELECT slug, value, lo, hi, greatest(null_value, other_value)
            FROM output_label WHERE rank = 0 ORDER BY feature_id
            """
        ).fetchall()
        unscored = con.sql("SELECT count(*) FROM label WHERE status = 'unscored'").fetchall()
    assert shown == wanted
    assert shown
    assert unscored == [(0,)]


def test_every_budget_is_met_within_tolerance_or_says_why_not(workspace: Path) -> None:
    for row in pq.read_table("data/steer/coefficient.parquet").to_pylist():
        wanted = float(row["budget"].partition("=")[2])
        assert row["budget"] in BUDGETS
        if row["reason"] is None:
            assert row["cost"] == pytest.approx(wanted, rel=0.051)
        else:
            assert row["coefficient"] is None


def test_arms_draw_the_same_random_numbers_and_see_the_same_prompts(workspace: Path) -> None:
    table = pq.read_table("data/steer/generation.parquet")
    tested = table.filter(pc.equal(table["split"], "test"))
    keys: dict[tuple[str, str | None], set[tuple[int, int]]] = {}
    for row in tested.to_pylist():
        if row["budget"] or row["method"] in ("none", "prompt"):
            asked = keys.setdefault((row["method"], row["budget"]), set())
            asked.add((row["prompt_id"], row["seed"]))
    assert len(set(map(frozenset, keys.values()))) == 1
    assert ("prompt", None) in keys


def test_a_row_holds_its_prompt_its_text_and_a_number_of_nats_for_each_id(workspace: Path) -> None:
    for row in pq.read_table("data/steer/generation.parquet").to_pylist():
        assert row["text"].startswith(row["prompt"])
        assert len(row["ids"]) == len(row["nats"]) > 0
        assert min(row["nats"]) >= 0


def test_nats_are_the_unsteered_models(workspace: Path, tiny_lm_dir: Path) -> None:
    from lm import open_model, token_losses

    lm = open_model(tiny_lm_dir, device="cpu", dtype="float32")
    rows = pq.read_table("data/steer/generation.parquet").to_pylist()
    for row in [rows[0], rows[len(rows) // 2], rows[-1]]:
        losses = token_losses(lm, [[*lm.encode(row["prompt"]), *row["ids"]]])[0]
        np.testing.assert_allclose(losses[-len(row["ids"]) :], row["nats"], atol=1e-3)


def test_the_unsteered_model_alone_continues_the_calibrate_prompts(workspace: Path) -> None:
    table = pq.read_table("data/steer/generation.parquet")
    calibrate = table.filter(pc.equal(table["split"], "calibrate"))
    assert set(calibrate["method"].to_pylist()) == {"none"}


def test_scores_have_a_null_and_lie_between_zero_and_one(workspace: Path) -> None:
    table = read_table(Path("data/evaluation/steer_score.parquet"), "steer_score")
    for metric in ("concept", "fluency", "hm"):
        rows = table.filter(pc.equal(table["metric"], metric))
        assert rows.num_rows > 0
        assert 0 <= pc.min(rows["value"]).as_py() <= pc.max(rows["value"]).as_py() <= 1
    rows = table.filter(pc.and_(pc.equal(table["metric"], "hm"), table["budget"].is_valid()))
    control = {
        row["budget"]: row["value"]
        for row in rows.to_pylist()
        if row["direction_id"] == "she/random_feature"
    }
    assert all(row["null_value"] == control.get(row["budget"]) for row in rows.to_pylist())


def test_without_other_concepts_preservation_is_null_and_not_zero(workspace: Path) -> None:
    table = read_table(Path("data/evaluation/steer_score.parquet"), "steer_score")
    rows = table.filter(pc.equal(table["metric"], "preservation"))
    assert rows["value"].null_count == rows.num_rows > 0


def test_metrics_and_plots_are_whole(workspace: Path) -> None:
    metrics = json.loads(Path("metrics/steering.json").read_text())
    assert metrics["concepts"] == ["she"]
    assert set(metrics["budgets"]) <= BUDGETS
    for name in ("frontier", "dose"):
        lines = Path(f"plots/steering-{name}.csv").read_text().splitlines()
        assert lines[0].startswith("method,")
        assert len(lines) > 4


def test_the_same_inputs_give_the_same_bytes(workspace: Path) -> None:
    outs = [Path("data/directions"), Path("data/steer"), Path("data/evaluation"), Path("metrics")]
    before = [content_hash(out) for out in outs]
    run("directions", "steer", "evaluate")
    assert [content_hash(out) for out in outs] == before


def test_test_prompts_and_test_documents_change_nothing_before_they_are_scored(
    workspace: Path,
) -> None:
    import pyarrow as pa

    from store.schema import write_table

    before = content_hash(Path("data/directions"))
    solved = content_hash(Path("data/steer/coefficient.parquet"))
    prompt, token = Path("data/corpus/prompt.parquet"), Path("data/corpus/token.parquet")
    old_prompts, old_tokens = read_table(prompt, "prompt"), read_table(token, "token")
    said = read_metadata(token)
    doc = read_table(Path("data/corpus/doc.parquet"), "doc")
    tested = doc.filter(pc.equal(doc["split"], "test"))["doc_id"]
    marked = pc.if_else(pc.is_in(old_tokens["doc_id"], tested), 7, old_tokens["token_id"])
    texts = pc.if_else(pc.equal(old_prompts["split"], "test"), "A star", old_prompts["text"])
    changed = {
        token: ("token", old_tokens.set_column(3, "token_id", marked.cast(pa.int32()))),
        prompt: ("prompt", old_prompts.set_column(3, "text", texts)),
    }
    try:
        for path, (name, rows) in changed.items():
            write_table(path, name, rows, {})
        run("directions", "steer")
        assert content_hash(Path("data/directions")) == before
        assert content_hash(Path("data/steer/coefficient.parquet")) == solved
    finally:
        write_table(prompt, "prompt", old_prompts, said)
        write_table(token, "token", old_tokens, said)


def test_a_missing_input_names_the_stage_that_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_dir: Path
) -> None:
    from pipelines.errors import MissingInput

    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(parameters(tiny_lm_dir)))
    for stage, before in (("directions", "index"), ("steer", "directions"), ("evaluate", "steer")):
        with pytest.raises(MissingInput, match=f"`{before}` writes it"):
            run(stage)
    assert not Path("data").exists()
