"""Every number a stage may be given: the schema of params.yaml and of configs/*.yaml.

A section a stage; the two foreach stages share `sae.<slug>`. The models only *are*: they
open no file but the one they are loaded from, and hold no clock and no randomness.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipelines.errors import ParamsError

_BY_SAE_LENS = ("standard", "gated", "matching_pursuit")
HOOK_POINT = r"^blocks\.\d+\.hook_resid_(pre|mid|post)$"
SLUG = r"^[a-z0-9][a-z0-9_-]*$"


class Section(BaseModel):
    """A frozen part of params.yaml; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class ModelParams(Section):
    """Which language model to study."""

    name: str = "microworld"
    """`microworld`, a local folder, or a name on the model hub."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    weights: Literal["pretrained", "random"] = "pretrained"
    """`random`: the same architecture and tokenizer before any training, as a null."""


class ConceptParams(Section):
    """A concept of one's own, told by its words."""

    name: str = Field(pattern=SLUG)
    words: tuple[str, ...] = Field(min_length=1, strict=False)
    """Whole words, lower case, that show the concept."""
    against: tuple[str, ...] = Field(default=(), strict=False)
    """Words that show its opposite, in the order of `words` where pairs are to be made."""


class SplitParams(Section):
    """Shares of the documents, by hash; they add up to one."""

    train: float = 0.6
    heldout: float = 0.1
    label: float = 0.1
    score: float = 0.1
    test: float = 0.1

    @model_validator(mode="after")
    def _adds_up(self) -> SplitParams:
        total = self.train + self.heldout + self.label + self.score + self.test
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"the shares add up to {total:g}, not to 1")
        return self


class CorpusParams(Section):
    """Where the documents come from."""

    source: Literal["microworld", "file", "dataset"] = "microworld"
    path: str | None = None
    """For `file`: .txt, .json, .jsonl, .csv or .parquet."""
    dataset: str | None = None
    """For `dataset`: a name that `datasets.load_dataset` knows."""
    dataset_split: str = "train"
    text_field: str = "text"
    documents: int = Field(default=4000, ge=1)
    """At most this many documents."""
    context: int = Field(default=256, ge=8)
    """Tokens a document may have, the first special token included."""
    long_documents: Literal["split", "refuse"] = "split"
    prompts: int = Field(default=64, ge=2)
    """Steering prompts a set, half to calibrate and half to test."""
    prompt_tokens: int = Field(default=24, ge=1)
    """Length of a prompt cut from a document (corpora other than the microworld)."""
    pairs: int = Field(default=64, ge=1)
    """Contrast pairs a concept."""
    concepts: tuple[ConceptParams, ...] = Field(default=(), strict=False)
    split: SplitParams = SplitParams()


class DumpParams(Section):
    """Which places of the residual stream to keep."""

    hook_points: tuple[str, ...] = Field(default=("blocks.2.hook_resid_post",), strict=False)
    batch_tokens: int = Field(default=8192, ge=1)
    """Tokens a forward pass, padding included."""
    part_documents: int = Field(default=1024, ge=1)
    """Documents a shard."""
    dtype: Literal["float16", "bfloat16"] = "float16"
    loss: bool = False
    """Also keep each token's loss, which runs the whole forward pass."""

    @field_validator("hook_points")
    @classmethod
    def _hook_points(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            if re.fullmatch(HOOK_POINT, text) is None:
                raise ValueError(
                    f"{text!r} is not a hook point; "
                    "expected blocks.<layer>.hook_resid_<pre|mid|post>"
                )
        if len(set(value)) != len(value) or not value:
            raise ValueError("expected at least one hook point, each once")
        return value


class TrainParams(Section):
    """How a sparse autoencoder is trained."""

    backend: Literal["tiller", "sae_lens"] = "tiller"
    """Our own sparse step, or SAELens' trainer, for kinds that it lacks."""
    kind: Literal[
        "topk",
        "batchtopk",
        "matryoshka",
        "abstopk",
        "jumprelu",
        "standard",
        "gated",
        "matching_pursuit",
    ] = "topk"
    """The last three by SAELens' trainer only."""
    options: dict[str, bool | int | float | str] = Field(default={})
    """Of SAELens' trainer: fields of its config for that kind, such as `l1_coefficient`."""
    d_sae: int = Field(default=1024, ge=2)
    k: int = Field(default=16, ge=1)
    """Latents a token: exactly (topk, abstopk) or on average (the others)."""
    widths: tuple[int, ...] = Field(default=(), strict=False)
    """Of a matryoshka: ascending prefixes of latents, the last one `d_sae`."""
    penalty: Literal["quadratic", "tanh"] = "quadratic"
    """How a jumprelu is pressed towards `k` latents a token."""
    steps: int = Field(default=1500, ge=1)
    batch_rows: int = Field(default=1024, ge=1)
    """Activations a step."""
    lr: float = Field(default=2e-3, gt=0)
    warmup_steps: int = Field(default=50, ge=0)
    decay_share: float = Field(default=0.3, ge=0, le=1)
    """Share of the steps, at the end, in which the rate falls to zero."""
    aux_coefficient: float = Field(default=1 / 32, ge=0)
    """Weight of the loss that revives dead latents."""
    aux_every: int = Field(default=1, ge=1)
    """Steps from one such revival to the next."""
    dead_steps: int = Field(default=100, ge=1)
    """A latent that has not fired for so many steps counts as dead in training."""
    centre: Literal["mean", "geometric_median"] = "mean"
    """Where `b_dec` starts, of the first batch."""
    shuffle: Literal["pool", "buckets"] = "pool"
    """Pools of whole record batches, or rows dealt one by one: see `store.shuffle`."""
    pool_rows: int | None = Field(default=None, ge=1)
    """Rows shuffled together in memory; all of them where left out."""
    seed: int | None = None
    """Of the first weights; the run's own where left out."""
    checkpoint_steps: int = Field(default=200, ge=1)

    @model_validator(mode="after")
    def _fits(self) -> TrainParams:
        if self.k > self.d_sae:
            raise ValueError(f"k is {self.k}, more than d_sae = {self.d_sae}")
        rises = all(low < high for low, high in zip((0, *self.widths), self.widths, strict=False))
        if self.kind == "matryoshka" and (self.widths[-1:] != (self.d_sae,) or not rises):
            raise ValueError(
                f"widths are {list(self.widths)}; expected ascending prefixes that end at "
                f"d_sae = {self.d_sae}"
            )
        if self.kind != "matryoshka" and self.widths:
            raise ValueError(f"widths are given, but only a matryoshka has them, no {self.kind}")
        if self.backend == "tiller" and self.kind in _BY_SAE_LENS:
            raise ValueError(f"kind is {self.kind}, which only `backend: sae_lens` trains")
        if self.backend == "tiller" and self.options:
            raise ValueError("options are given, but only `backend: sae_lens` takes them")
        if self.shuffle == "buckets" and self.pool_rows is None:
            raise ValueError("shuffle is buckets, but pool_rows, the size of one, is missing")
        return self


class HarvestParams(Section):
    """Which activations are kept, and how many contexts."""

    threshold: float = Field(default=0.0, ge=0)
    """Firings at or below this (the stream's units) are not stored."""
    batch_rows: int = Field(default=8192, ge=1)
    part_rows: int = Field(default=2_000_000, ge=1)
    """Activations a part in token order."""
    sort_memory: str = Field(default="2GB", pattern=r"^[1-9]\d*(MB|GB)$")
    """What the sort into feature order may hold; more spills to disk."""
    top_contexts: int = Field(default=20, ge=1)
    promoted_tokens: int = Field(default=20, ge=1)
    neighbours: int = Field(default=10, ge=1)


class SaeParams(Section):
    """One sparse autoencoder: trained here, or loaded."""

    source: Literal["train", "load"] = "train"
    hook_point: str = Field(default="blocks.2.hook_resid_post", pattern=HOOK_POINT)
    path: str | None = None
    """For `load`: a folder or file that others saved, or `release/sae_id` of SAELens' registry."""
    format: Literal["sae_lens", "gemma_scope", "dictionary_learning", "sparsify"] | None = None
    """For `load`, where the folder holds files of several."""
    dict_class: str | None = None
    """For `load`: dictionary_learning's class, for an `ae.pt` without its `config.json`."""
    train: TrainParams = TrainParams()
    harvest: HarvestParams = HarvestParams()

    @model_validator(mode="after")
    def _has_path(self) -> SaeParams:
        if self.source == "load" and not self.path:
            raise ValueError(
                "source is 'load' but path is missing; give a folder or release/sae_id"
            )
        return self


class OwnConceptParams(Section):
    """A concept of one's own: a file of judgements, a pattern, or a list of words."""

    name: str | None = Field(default=None, pattern=SLUG)
    """May be left out for a file, which then gives all of its concepts."""
    file: str | None = None
    """CSV or Parquet with the columns doc_id, sha or tok; concept; y."""
    pattern: str | None = None
    """A regular expression in RE2's syntax."""
    words: str | Annotated[tuple[str, ...], Field(strict=False)] | None = None
    """Whole words, or a text file of them, one a line."""
    level: Literal["token", "document"] | None = None
    """Of a pattern or words: what they tell of; tokens where left out."""
    complete: bool = False
    """Of a file: what it does not list is false, not unknown."""
    ignore_case: bool = True
    """Of words."""

    @property
    def path(self) -> str | None:
        """The file that it names; None where all is said here."""
        return self.words if isinstance(self.words, str) else self.file

    @model_validator(mode="after")
    def _is_one_kind(self) -> OwnConceptParams:
        given = [kind for kind in ("file", "pattern", "words") if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{' and '.join(given) or 'none of them'} given; expected exactly one of file, "
                "pattern, words"
            )
        (kind,) = given
        if kind != "file" and self.name is None:
            raise ValueError(f"a concept by {kind} has no name; expected one")
        if not getattr(self, kind):
            raise ValueError(f"{kind} is empty")
        for key, is_given, owners in (
            ("level", self.level is not None, ("pattern", "words")),
            ("complete", self.complete, ("file",)),
            ("ignore_case", not self.ignore_case, ("words",)),
        ):
            if is_given and kind not in owners:
                raise ValueError(f"{key} is given, but only {' or '.join(owners)} has it")
        return self


class LanguageModelParams(Section):
    """A language model that explains features too."""

    base_url: str | None = None
    """Of any OpenAI-compatible endpoint, such as `http://127.0.0.1:8000/v1`; null: `model` is
    opened in this process."""
    model: str = Field(min_length=1)
    """The endpoint's name for it; without one, a folder or a name on the model hub."""
    key_env: str | None = Field(default=None, pattern=r"^[A-Z_][A-Z0-9_]*$")
    """Name of the environment's variable that holds the key; never the key itself."""
    json_mode: bool = True
    """Ask the endpoint for JSON (`response_format`); false for one that does not know it."""
    scorers: tuple[Literal["detection", "fuzzing", "intruder", "simulation"], ...] = Field(
        default=("detection", "fuzzing"), strict=False
    )
    """How explanations are tested; detection, by which they are chosen, is always one."""
    candidates: int = Field(default=3, ge=1)
    """Explanations a feature, the best of which is kept."""
    features: int = Field(default=50, ge=1)
    """Features explained: those that fire most."""
    budget_requests: int = Field(default=2000, ge=0)
    """Requests a run may make, retries included; cached answers are free."""
    budget_tokens: int = Field(default=2_000_000, ge=0)
    """Tokens a run may use, of questions and answers."""
    timeout_s: float = Field(default=60.0, gt=0)
    concurrency: int = Field(default=4, ge=1)
    """Requests at one time."""

    @field_validator("scorers")
    @classmethod
    def _scorers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "detection" not in value or len(set(value)) != len(value):
            raise ValueError("expected detection among the scorers, and each once")
        return value


class LabelParams(Section):
    """How features get their names."""

    min_firings: int = Field(default=10, ge=1)
    bootstrap: int = Field(default=200, ge=10)
    complexity_penalty: float = Field(default=0.01, ge=0)
    """F1 a rule must gain for each further element."""
    withheld: bool = True
    """Also label without the concept table, to see how names hold up."""
    concepts: tuple[OwnConceptParams, ...] = Field(default=(), strict=False)
    """Concepts of one's own, beside the corpus's."""
    llm: LanguageModelParams | None = None
    """Explanations by a language model, beside the rules; none by default."""


class DirectionsParams(Section):
    """Which concepts to steer, and how their features are chosen."""

    concepts: tuple[str, ...] = Field(
        default=("sea", "farm", "space", "castle", "happy", "sad"), strict=False, min_length=1
    )
    sae: str | None = Field(default=None, pattern=SLUG)
    """Slug of the SAE whose features steer; the first in alphabetical order where left out."""
    candidates: int = Field(default=5, ge=1)
    """Features taken from each ranking (AUROC, cosine, gradient) into the dose-response."""
    finalists: int = Field(default=4, ge=1)
    """Candidates that are tried on the second half of the calibrate prompts too."""
    features: int = Field(default=3, ge=1)
    """Features in the combined direction."""
    budgets: tuple[float, ...] = Field(default=(0.05, 0.1), strict=False, min_length=1)
    """Doses of the dose-response: nats a token that they cost on held-out text."""
    push: float = Field(default=1.0, gt=0)
    """A strong push, for the output score, in multiples of the mean residual norm."""
    output_labels: int = Field(default=1024, ge=0)
    """Features whose output label is made by such a push and scored, at most: those of the
    largest logit footprint. 0 for none."""
    heldout_tokens: int = Field(default=1024, ge=2)
    """Held-out tokens on which a dose's cost is measured."""
    prompts: int = Field(default=32, ge=2)
    """Calibrate prompts of the dose-response, at most."""
    max_new_tokens: int = Field(default=24, ge=1)
    temperature: float = Field(default=1.0, ge=0)


class SteerParams(Section):
    """What is generated, and at what cost to the model."""

    coefficients: tuple[float, ...] = Field(default=(0.25, 0.5, 1.0), strict=False)
    """Of the dose-response, in multiples of the mean residual norm."""
    budgets: tuple[float, ...] = Field(default=(0.05, 0.1, 0.25, 0.5), strict=False, min_length=1)
    """Nats a token that steering may cost on held-out text."""
    tolerance: float = Field(default=0.05, gt=0, lt=1)
    """Largest relative miss of a budget."""
    prompts: int = Field(default=32, ge=1)
    """Prompts of each half, at most."""
    seeds: int = Field(default=3, ge=1)
    """Samples a prompt."""
    heldout_tokens: int = Field(default=1536, ge=2)
    """Held-out tokens on which budgets are solved."""
    max_new_tokens: int = Field(default=32, ge=1)
    temperature: float = Field(default=1.0, ge=0)
    batch_rows: int = Field(default=384, ge=1)
    """Texts generated at once."""


class EvaluateParams(Section):
    """How the generations are judged."""

    bootstrap: int = Field(default=1000, ge=10)
    """Resamples of the prompts for an interval."""
    permutations: int = Field(default=10_000, ge=10)
    """Sign flips of a paired test."""
    heldout_tokens: int = Field(default=1536, ge=2)
    """Held-out tokens, other than those of steer, on which the tax is measured."""


class ReportParams(Section):
    """What the report shows."""

    features: int = Field(default=24, ge=1)
    """Features in the gallery."""
    contexts: int = Field(default=5, ge=1)
    samples: int = Field(default=3, ge=1)
    """Steered samples a concept."""


class ExecutorParams(Section):
    """Where the work runs. Never part of a result, so in no stage's `params`."""

    workers: int = Field(default=1, ge=1)


class Params(Section):
    """A whole params.yaml."""

    seed: int = Field(default=0, ge=0)
    model: ModelParams = ModelParams()
    corpus: CorpusParams = CorpusParams()
    dump: DumpParams = DumpParams()
    sae: dict[str, SaeParams]
    label: LabelParams = LabelParams()
    directions: DirectionsParams = DirectionsParams()
    steer: SteerParams = SteerParams()
    evaluate: EvaluateParams = EvaluateParams()
    report: ReportParams = ReportParams()
    executor: ExecutorParams = ExecutorParams()

    @model_validator(mode="after")
    def _hook_points_are_dumped(self) -> Params:
        if not self.sae:
            raise ValueError("sae: expected at least one entry, for example `sae: {main: {}}`")
        for slug, sae in self.sae.items():
            if sae.hook_point not in self.dump.hook_points:
                raise ValueError(
                    f"sae.{slug}.hook_point is {sae.hook_point}, which dump.hook_points "
                    f"{list(self.dump.hook_points)} does not keep"
                )
        return self


def load_params(path: Path = Path("params.yaml")) -> Params:
    """The parameters of a workspace.

    Raises:
        ParamsError: no such file, not YAML, an unknown key (with its line and the nearest
            right one), a wrong type or an impossible value.
    """
    if not path.is_file():
        raise ParamsError(
            f"{path} does not exist; a workspace needs its parameters there; "
            "run `tiller run --workspace DIR --params FILE` or copy params.yaml"
        )
    text = path.read_text(encoding="utf-8")
    try:
        data = yaml.safe_load(text)
        node = yaml.compose(text)
    except yaml.YAMLError as error:
        raise ParamsError(f"{path} is not YAML: {' '.join(str(error).split())}; mend it") from error
    if not isinstance(data, dict):
        raise ParamsError(f"{path} holds {type(data).__name__}; expected sections such as `model:`")
    _refuse_twice(path, node)
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise ParamsError(_explain(path, error, node)) from None


def _refuse_twice(path: Path, node: yaml.Node | None) -> None:
    """YAML keeps the last of two equal keys in silence; two SAEs of one slug would be one."""
    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if str(key.value) in lines:
            raise ParamsError(
                f"{path}, line {line}: {key.value!r} stands on line {lines[key.value]} already; "
                "expected each name once; rename or remove one of the two"
            )
        lines[str(key.value)] = line
        _refuse_twice(path, value)


def _explain(path: Path, error: ValidationError, node: yaml.Node | None) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    line = _line_of(node, first["loc"])
    place = f"{path}, line {line}" if line else str(path)
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), _keys_at(first["loc"][:-1]), n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else f"known: {', '.join(_keys_at(first['loc'][:-1]))}"
        )
        return f"{place}: unknown key {where!r}; {hint}"
    # Whoever puts a key where its variable's name belongs shall not find it in a log.
    is_shown = _is_plain(first.get("input")) and first["loc"][-1:] != ("key_env",)
    found = f" (found {first['input']!r})" if is_shown else ""
    message = first["msg"].removeprefix("Value error, ")
    return f"{place}: {where or 'parameters'}: {message}{found}; correct it in {path}"


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | bool) or value is None


def _line_of(node: yaml.Node | None, loc: Sequence[int | str]) -> int | None:
    line = None
    for part in loc:
        if isinstance(node, yaml.MappingNode):
            pair = next(((k, v) for k, v in node.value if k.value == str(part)), None)
            if pair is None:
                return line
            line, node = pair[0].start_mark.line + 1, pair[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line + 1
    return line


def _keys_at(loc: Sequence[int | str]) -> list[str]:
    model: type[BaseModel] = Params
    for part in loc:
        if part in model.model_fields:
            inner = _model_in(model.model_fields[str(part)].annotation)
            model = inner or model
    return sorted(model.model_fields)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in get_args(annotation) if (found := _model_in(arg))), None)
