"""Every table of the store: its columns, and what each value means and is measured in.

Nothing here opens a file. Names and types are part of the public interface; changing one
raises SCHEMA_VERSION and is written down in docs/store-format.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

SCHEMA_VERSION = 2
"""Version of the tables and files below; a store of another version is refused."""

_TEXT, _BOOL = pa.string(), pa.bool_()
_INT8, _INT16, _INT32, _INT64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
_REAL, _DOUBLE = pa.float32(), pa.float64()


@dataclass(frozen=True, slots=True)
class Column:
    """One column: its Arrow type, and in words its unit, range and when it is NULL."""

    name: str
    type: pa.DataType
    unit: str
    is_json: bool = False
    """Stored as text, offered as JSON by the catalog."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its columns in order, and the columns its rows are sorted by."""

    name: str
    columns: tuple[Column, ...]
    order_by: tuple[str, ...]

    def arrow_schema(self, metadata: Mapping[str, str] | None = None) -> pa.Schema:
        """The Arrow schema, each field carrying its unit, with file metadata if given."""
        fields = [pa.field(c.name, c.type, metadata={"unit": c.unit}) for c in self.columns]
        known = {"table": self.name, "schema_version": str(SCHEMA_VERSION), **(metadata or {})}
        return pa.schema(fields, metadata=dict(sorted(known.items())))


def _table(name: str, *columns: Column, order_by: str) -> Table:
    return Table(name, columns, tuple(order_by.split()))


_RUN = Column("run_id", _TEXT, "slug of the SAE")
_FEATURE = Column("feature_id", _INT32, "latent, 0 <= i < d_sae")
_TOK = Column("tok", _INT64, "global token number")
_VALUE = Column("value", _REAL, "activation in the stream's own units (decoder rows unit)")
_DOC = Column("doc_id", _INT32, "document number")
_TOKEN_ID = Column("token_id", _INT32, "id in vocab")
_DIRECTION = Column("direction_id", _TEXT, "name of the direction")
_SPLIT = Column("split", _TEXT, "train|heldout|label|score|test, by document hash")
_LO = Column("lo", _REAL, "lower end of the 95 % interval, unit of value")
_HI = Column("hi", _REAL, "upper end of the 95 % interval, unit of value")
_NULL_VALUE = Column("null_value", _REAL, "the same measure where nothing is to be found")
_SEED = Column("seed", _INT32, "seed of the resampling or generation")
_METHOD = Column("method", _TEXT, "way to steer; none if unsteered")
_COEFFICIENT = Column("coefficient", _REAL, "how far to steer, in unit")
_UNIT = Column("unit", _TEXT, "norm|max_act|raw")
_BUDGET = Column("budget", _TEXT, "cost solved for, such as dce=0.1; NULL if none")
_CONCEPT = Column("concept", _TEXT, "name of the concept; NULL if none")

_CORPUS_TABLES = (
    _table(
        "doc",
        _DOC,
        Column("tok_start", _INT64, "tok of its first token"),
        Column("n_tok", _INT32, "tokens"),
        _SPLIT,
        Column("source", _TEXT, "where the text came from"),
        Column("sha", _TEXT, "sha256 of the text, hex"),
        order_by="doc_id",
    ),
    _table(
        "token",
        _TOK,
        _DOC,
        Column("pos", _INT32, "0-based place in the document"),
        _TOKEN_ID,
        Column("is_special", _BOOL, "position 0 or a special token: left out of statistics"),
        Column("loss", _REAL, "nats, from token_loss; NULL unless dump.loss"),
        order_by="tok",
    ),
    _table(
        "vocab",
        _TOKEN_ID,
        Column("piece", _TEXT, "as the tokenizer spells it"),
        Column("text", _TEXT, "as a reader sees it"),
        Column("is_word_start", _BOOL, "begins a word"),
        Column("is_byte", _BOOL, "a byte that is no whole character"),
        order_by="token_id",
    ),
    _table("text", _DOC, Column("text", _TEXT, "the document"), order_by="doc_id"),
    _table(
        "concept",
        Column("concept_id", _INT32, "concept number"),
        Column("name", _TEXT, "unique name"),
        Column("kind", _TEXT, "document|token"),
        Column("source", _TEXT, "who knows it: grammar|lexicon, or one's own file|pattern|words"),
        Column(
            "defined_on",
            _TEXT,
            "everywhere|documents|tokens: where it means something, all or those with a row; "
            "NULL: documents if a row is FALSE, else everywhere",
        ),
        order_by="concept_id",
    ),
    _table(
        "concept_label",
        Column("concept_id", _INT32, "concept number"),
        _DOC,
        Column("tok", _INT64, "global token number; NULL for a document concept"),
        Column("y", _BOOL, "whether it holds; where defined but unlisted it is false"),
        order_by="concept_id doc_id tok",
    ),
    _table(
        "prompt",
        Column("prompt_id", _INT32, "prompt number"),
        Column("prompt_set", _TEXT, "which set it belongs to, such as neutral"),
        Column("concept", _TEXT, "concept it is for; NULL if any"),
        Column("text", _TEXT, "the prompt"),
        Column("split", _TEXT, "calibrate|test"),
        Column("latents", _TEXT, "what the grammar knows of it", is_json=True),
        order_by="prompt_id",
    ),
    _table(
        "pair",
        Column("concept", _TEXT, "concept that sets the two texts apart"),
        Column("pair_id", _INT32, "number within the concept"),
        Column("positive", _TEXT, "text that has it"),
        Column("negative", _TEXT, "the same text without it"),
        order_by="concept pair_id",
    ),
)

_SAE_TABLES = (
    _table(
        "run",
        _RUN,
        Column("model", _TEXT, "name of the language model"),
        Column("model_sha", _TEXT, "sha256 of its weights, hex"),
        Column("sae", _TEXT, "name or source of the SAE"),
        Column("sae_sha", _TEXT, "sha256 of its weights, hex"),
        Column("hook_point", _TEXT, "blocks.<layer>.hook_resid_<site>"),
        Column("layer", _INT32, "0-based block"),
        Column("d_model", _INT32, "width of the stream"),
        Column("d_sae", _INT32, "number of latents"),
        Column("corpus", _TEXT, "source of the documents"),
        Column("corpus_sha", _TEXT, "sha256 of the corpus, hex"),
        Column("n_docs", _INT64, "documents"),
        Column("n_tokens", _INT64, "tokens, special ones included"),
        Column("n_act", _INT64, "activations stored"),
        Column("act_threshold", _REAL, "activations at or below this are not stored"),
        Column("value_bits", _INT8, "explicit mantissa bits kept"),
        Column("n_clipped", _INT64, "too small for value_bits: stored as the smallest that fits"),
        Column("n_overflow", _INT64, "too large for value_bits: stored as the largest that fits"),
        Column("n_not_finite", _INT64, "NaN or infinite: left out, and in no other count"),
        Column("mean_norm", _REAL, "mean norm of a residual, special tokens left out"),
        Column("gamma", _REAL, "norm of the mean residual over root mean squared deviation"),
        Column("l0", _REAL, "latents that fire on a token, mean"),
        Column("explained_variance", _REAL, "1 - FVU"),
        Column("ce_recovered", _REAL, "share of the loss of mean ablation won back"),
        Column("schema_version", _INT32, "SCHEMA_VERSION of the writer"),
        order_by="run_id",
    ),
    _table(
        "sae_metric",
        _RUN,
        Column("metric", _TEXT, "name of the measure"),
        Column("value", _REAL, "in the metric's unit"),
        _LO,
        _HI,
        Column("data", _TEXT, "what it was measured on"),
        _SEED,
        order_by="run_id metric data seed",
    ),
    _table(
        "feature_stats",
        _RUN,
        _FEATURE,
        Column("n_act", _INT64, "tokens it fires on"),
        Column("n_docs", _INT32, "documents it fires in"),
        Column("density", _DOUBLE, "share of tokens it fires on"),
        Column("max_value", _REAL, "largest activation, the stream's units; NULL if dead"),
        Column("mean_value", _REAL, "mean where it fires; NULL if dead"),
        Column("std_value", _REAL, "standard deviation where it fires; NULL if dead"),
        Column("p50", _REAL, "median where it fires; NULL if dead"),
        Column("p90", _REAL, "90th percentile where it fires; NULL if dead"),
        Column("p99", _REAL, "99th percentile where it fires; NULL if dead"),
        Column("is_dead", _BOOL, "never fired on the corpus"),
        Column("is_dense", _BOOL, "fires on so many tokens that it says little"),
        Column("dec_norm", _REAL, "norm of its decoder row as the SAE was saved"),
        Column("enc_dec_cos", _REAL, "cosine of its encoder column and decoder row"),
        Column("top_token_share", _REAL, "share of firings on its commonest token; NULL if dead"),
        Column("token_entropy", _REAL, "bits, of the tokens it fires on; NULL if dead"),
        Column("burstiness", _REAL, "firings a document over chance; NULL if dead"),
        Column("logit_footprint", _REAL, "norm of the direct change of the logits by one unit"),
        Column("logit_kurtosis", _REAL, "excess kurtosis of that change over the vocabulary"),
        order_by="run_id feature_id",
    ),
    _table(
        "feature_hist",
        _RUN,
        _FEATURE,
        Column("bin", _INT8, "0-based bin"),
        Column("lo", _REAL, "lower edge, the stream's units"),
        Column("hi", _REAL, "upper edge, the stream's units"),
        Column("n", _INT64, "activations in [lo, hi)"),
        order_by="run_id feature_id bin",
    ),
    _table(
        "topk",
        _RUN,
        _FEATURE,
        Column("rank", _INT16, "0-based within the stratum"),
        Column("stratum", _INT8, "0 top, 1..9 deciles, 10 random silent, 11 hard negative"),
        _TOK,
        _VALUE,
        _SPLIT,
        order_by="run_id feature_id stratum rank",
    ),
    _table(
        "logit",
        _RUN,
        _FEATURE,
        Column("side", _TEXT, "promotes|suppresses"),
        Column("rank", _INT16, "0-based, strongest first"),
        _TOKEN_ID,
        Column("logit", _REAL, "change of the token's logit a unit written along the decoder row"),
        order_by="run_id feature_id side rank",
    ),
    _table(
        "neighbour",
        _RUN,
        _FEATURE,
        Column("kind", _TEXT, "dec_cos|coact_jaccard|value_corr"),
        Column("rank", _INT16, "0-based, nearest first"),
        Column("other_id", _INT32, "latent, 0 <= i < d_sae"),
        Column("score", _REAL, "cosine, share or correlation, by kind"),
        order_by="run_id feature_id kind rank",
    ),
    _table(
        "decoder",
        _RUN,
        _FEATURE,
        Column("vec", pa.list_(_REAL), "its decoder row, unit norm, d_model numbers"),
        order_by="run_id feature_id",
    ),
)

_ACTIVATION_TABLES = (
    _table("act", _FEATURE, _TOK, _VALUE, order_by="feature_id tok"),
    _table("act_token", _TOK, _FEATURE, _VALUE, order_by="tok feature_id"),
)

_LABEL_TABLES = (
    _table(
        "feature_concept",
        _RUN,
        _FEATURE,
        Column("concept_id", _INT32, "concept number"),
        Column("auroc", _REAL, "0..1, of the activation as a sign of the concept"),
        Column("lo", _REAL, "lower end of the 95 % interval of auroc"),
        Column("hi", _REAL, "upper end of the 95 % interval of auroc"),
        Column("best_f1", _REAL, "0..1, at threshold"),
        Column("threshold", _REAL, "activation above which it says yes, chosen on score"),
        Column("q_value", _REAL, "Benjamini-Hochberg, over features and concepts"),
        Column("n_pos", _INT32, "positives"),
        Column("n_neg", _INT32, "negatives"),
        _SPLIT,
        Column("reason", _TEXT, "why figures are NULL; NULL if none is"),
        order_by="run_id feature_id concept_id split",
    ),
    _table(
        "label",
        _RUN,
        Column("label_id", _INT64, "label number, unique in a run"),
        _FEATURE,
        Column("name", _TEXT, "for a reader; begins with weak: if it does not beat its null"),
        Column("slug", _TEXT, "for a command line; unique in a run"),
        Column("text", _TEXT, "one sentence"),
        Column("rule", _TEXT, "the executable rule", is_json=True),
        Column("method", _TEXT, "what made it: token set, concept, language model ..."),
        Column("model", _TEXT, "language model that wrote it; NULL if none"),
        Column("prompt_sha", _TEXT, "sha256 of what that model was asked; NULL if none"),
        Column("side", _TEXT, "input|output|both"),
        Column("status", _TEXT, "ok|weak|unscored; spare: not clearly better than the rule"),
        order_by="run_id label_id",
    ),
    _table(
        "label_score",
        _RUN,
        Column("label_id", _INT64, "label number, unique in a run"),
        Column("metric", _TEXT, "detection|fuzzing|coverage|purity ...; output_gain: nats"),
        Column("value", _REAL, "0..1 unless the metric says otherwise; NULL with a reason"),
        _LO,
        _HI,
        _NULL_VALUE,
        Column("n_pos", _INT32, "positives"),
        Column("n_neg", _INT32, "negatives"),
        Column("n_unanswered", _INT32, "examples without an answer"),
        Column("negatives", _TEXT, "how the negatives were chosen"),
        Column("scorer", _TEXT, "rule, or the language model that answered"),
        Column(
            "split",
            _TEXT,
            "train|heldout|label|score|test, by document hash; calibrate: of the prompts",
        ),
        _SEED,
        Column("reason", _TEXT, "why the value is NULL; else NULL"),
        order_by="run_id label_id metric split scorer seed",
    ),
    _table(
        "label_candidate",
        _RUN,
        Column("label_id", _INT64, "label number, unique in a run"),
        Column("rank", _INT16, "0 the rule that was chosen, then the next best"),
        Column("rule", _TEXT, "the executable rule", is_json=True),
        Column("threshold", _REAL, "the feature counts as firing above this, unit of act.value"),
        Column("f1", _REAL, "0..1, on the split of chosen_on; NULL if the feature is silent"),
        Column("skill", _REAL, "f1 stretched: 0 the rule always, 1 perfect; NULL as f1"),
        Column("complexity", _REAL, "elements of the rule, 1 for a plain one"),
        Column("made_from", _TEXT, "label|train: the split the rule was made from"),
        Column("chosen_on", _TEXT, "score; the split of made_from if the feature is silent there"),
        order_by="run_id label_id rank",
    ),
    _table(
        "withheld_label",
        _RUN,
        _FEATURE,
        Column("slug", _TEXT, "the name made without the concept table"),
        Column("text", _TEXT, "one sentence"),
        Column("rule", _TEXT, "the executable rule", is_json=True),
        Column("status", _TEXT, "ok|weak"),
        Column("detection", _REAL, "balanced accuracy, 0..1, on the test split; NULL if undefined"),
        _LO,
        _HI,
        _NULL_VALUE,
        Column("concept", _TEXT, "concept whose best feature this is; NULL if none's"),
        Column("concept_f1", _REAL, "0..1, the rule as a sign of the concept; NULL if undefined"),
        Column("finds_concept", _BOOL, "concept_f1 is at least .7; NULL without a concept"),
        order_by="run_id feature_id",
    ),
    _table(
        "llm_answer",
        Column("prompt_sha", _TEXT, "sha256 of model, settings and prompt, hex"),
        Column("model", _TEXT, "language model that answered"),
        Column("task", _TEXT, "explain|detection|fuzzing|intruder|simulation|rating"),
        Column("settings", _TEXT, "all else that may change an answer", is_json=True),
        Column("prompt", _TEXT, "what was asked: system, user", is_json=True),
        Column("answer", _TEXT, "what it said, word for word"),
        Column("prompt_tokens", _INT32, "tokens of the question; NULL if nobody counted"),
        Column("completion_tokens", _INT32, "tokens of the answer; NULL if nobody counted"),
        order_by="prompt_sha",
    ),
)

_LOSS_TABLE = _table(
    "token_loss",
    _TOK,
    Column("loss", _REAL, "nats; NULL for a document's first token"),
    order_by="tok",
)

_SWEEP_TABLE = _table(
    "sweep",
    Column("sweep", _TEXT, "name of the sweep"),
    Column("slug", _TEXT, "name of the SAE within it"),
    Column("hook_point", _TEXT, "place of the stream"),
    Column("kind", _TEXT, "topk|batchtopk|matryoshka|abstopk|jumprelu"),
    Column("d_sae", _INT32, "latents asked for"),
    Column("k", _INT32, "latents a token asked for"),
    Column("train_seed", _INT32, "seed of the first weights"),
    Column("metric", _TEXT, "name of the measure, as in sae_metric; also stability"),
    Column("value", _REAL, "in the metric's unit, on held-out documents"),
    _LO,
    _HI,
    Column("is_pareto", _BOOL, "no other SAE of its width does better at its L0 or below"),
    order_by="sweep slug metric",
)

_STEERING_TABLES = (
    _table(
        "steerability",
        _RUN,
        _FEATURE,
        Column("output_score", _REAL, "0..1, of its promoted tokens under a strong push"),
        Column("delta_conf", _REAL, "change of the top token's probability"),
        Column("logit_footprint", _REAL, "norm of the direct change of the logits"),
        Column("self_share", _REAL, "0..1, of the change in all features that is its own"),
        Column("best_coefficient", _REAL, "multiples of the mean residual norm"),
        Column("hm", _REAL, "0..1, harmonic mean of concept, preservation and fluency"),
        Column("lo", _REAL, "lower end of the 95 % interval of hm"),
        Column("hi", _REAL, "upper end of the 95 % interval of hm"),
        order_by="run_id feature_id",
    ),
    _table(
        "output_label",
        _RUN,
        _FEATURE,
        Column("rank", _INT16, "0 the list that was chosen, which the view label shows; else 1"),
        Column("label_id", _INT64, "label number, unique in a run"),
        Column("method", _TEXT, "promoted_tokens: by the decoder row; steered_tokens: by a push"),
        Column("name", _TEXT, "for a reader; begins with weak: if it does not beat its nulls"),
        Column("slug", _TEXT, "for a command line; unique in a run; NULL if not chosen"),
        Column("text", _TEXT, "one sentence"),
        Column("rule", _TEXT, "the tokens, most promoted first", is_json=True),
        Column("status", _TEXT, "ok|weak: lo exceeds null_value and other_value, or not"),
        Column("choice_value", _REAL, "value, on the calibrate prompts that chose"),
        Column(
            "value",
            _REAL,
            "nats that the feature adds to the log-probability of a listed token beyond random "
            "directions of that length; on calibrate prompts that neither made nor chose the list",
        ),
        _LO,
        _HI,
        Column("null_value", _REAL, "value of the list for a random direction, 95th percentile"),
        Column(
            "other_value",
            _REAL,
            "value for this feature of other features' lists, 95th percentile; NULL without others",
        ),
        Column(
            "random_value",
            _REAL,
            "value of a list made for a random direction, for that direction, 95th percentile",
        ),
        Column("share", _REAL, "0..1, probability under the push that a listed token comes next"),
        Column("random_share", _REAL, "the same under random directions, their mean"),
        Column("n", _INT32, "prompts"),
        _COEFFICIENT,
        _UNIT,
        order_by="run_id feature_id rank",
    ),
    _table(
        "direction",
        _DIRECTION,
        Column("source", _TEXT, "method that found it"),
        _CONCEPT,
        Column("hook_point", _TEXT, "blocks.<layer>.hook_resid_<site>"),
        Column("run_id", _TEXT, "slug of the SAE; NULL if it is no feature"),
        Column("feature_id", _INT32, "latent; NULL if it is no feature"),
        Column("norm", _REAL, "length before it was made unit, the stream's units"),
        Column("provenance", _TEXT, "what it was made of", is_json=True),
        order_by="direction_id",
    ),
    _table(
        "coefficient",
        _DIRECTION,
        _METHOD,
        _CONCEPT,
        _BUDGET,
        _UNIT,
        Column("coefficient", _REAL, "how far to steer, in unit; NULL with a reason"),
        Column("cost", _REAL, "what it cost where it was solved, nats a token"),
        Column("evaluations", _INT32, "evaluations that the solver took"),
        Column("reason", _TEXT, "why no coefficient meets the budget; else NULL"),
        order_by="concept method budget",
    ),
    _table(
        "generation",
        Column("prompt_id", _INT32, "prompt number"),
        _CONCEPT,
        _METHOD,
        _DIRECTION,
        _BUDGET,
        _COEFFICIENT,
        _UNIT,
        _SEED,
        Column("split", _TEXT, "calibrate|test"),
        Column("prompt", _TEXT, "the text that was continued"),
        Column("text", _TEXT, "prompt and continuation"),
        Column("ids", pa.list_(_INT32), "generated ids"),
        Column("nats", pa.list_(_REAL), "of each generated id, under the unsteered model"),
        order_by="concept method budget coefficient split prompt_id seed",
    ),
    _table(
        "steer_score",
        _DIRECTION,
        Column("prompt_set", _TEXT, "prompts steered"),
        _BUDGET,
        _COEFFICIENT,
        _UNIT,
        Column("metric", _TEXT, "name of the measure"),
        Column("value", _REAL, "in the metric's unit"),
        _LO,
        _HI,
        _NULL_VALUE,
        Column("n", _INT32, "prompts"),
        _SEED,
        order_by="direction_id prompt_set budget coefficient unit metric seed",
    ),
    _table(
        "frontier",
        _DIRECTION,
        Column("source", _TEXT, "method that found it"),
        _CONCEPT,
        _BUDGET,
        _COEFFICIENT,
        _UNIT,
        Column("metric", _TEXT, "name of the measure"),
        Column("value", _REAL, "in the metric's unit, at the budget"),
        _LO,
        _HI,
        order_by="direction_id budget metric",
    ),
    _table(
        "explanation",
        _DIRECTION,
        Column("rank", _INT16, "0-based, in the order the pursuit chose"),
        _FEATURE,
        Column("weight", _REAL, "signed; positive promotes"),
        Column("cosine", _REAL, "of the direction and its first rank + 1 features"),
        Column("recovery", _REAL, "share of the direction's effect that they give back"),
        Column("null_value", _REAL, "95th percentile of cosine over random directions"),
        order_by="direction_id rank",
    ),
)

CORPUS_TABLES = tuple(table.name for table in _CORPUS_TABLES)
"""Written by the stage `corpus` to `data/corpus/<table>.parquet`."""

SAE_TABLES = tuple(table.name for table in _SAE_TABLES)
"""Written by the stage `harvest` to `data/features/<slug>/<table>.parquet`."""

LATER_TABLES = tuple(
    table.name for table in (_LOSS_TABLE, _SWEEP_TABLE, *_LABEL_TABLES, *_STEERING_TABLES)
)
"""Written by a stage other than `corpus` and `harvest`, to `data/<stage>/<file>.parquet`."""

FILE_STEMS: Mapping[str, str] = {"steerability": "causal", "token_loss": "loss"}
"""Tables whose file is not named after them."""

TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        *_CORPUS_TABLES,
        *_SAE_TABLES,
        *_ACTIVATION_TABLES,
        _LOSS_TABLE,
        _SWEEP_TABLE,
        *_LABEL_TABLES,
        *_STEERING_TABLES,
    )
}
"""Every table by its name in SQL."""
