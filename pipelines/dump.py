"""Stage `dump`: the residual stream of every token, at several hook points in one pass.

Written in parts of a fixed number of documents, each a pure function of the corpus and the
model. Finished parts wait in `.work/dump/<fingerprint>/`, so that a killed run goes on where it
was and ends in the same bytes.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from tqdm import tqdm

from lm import HookPoint, LanguageModel, open_model, token_losses
from lm.collect import collect
from pipelines.errors import NotEnoughDisk, require
from pipelines.params import DumpParams, load_params
from pipelines.stage import model_source, run_stage
from store.atomic import link_tree, whole_dir, whole_file
from store.manifest import content_hash, fingerprint
from store.residuals import ResidualBatch, Residuals, RunningStats, write_part, write_stats
from store.schema import read_metadata, read_table, write_table

CORPUS = Path("data/corpus")
RESIDUALS = Path("data/residuals")
WORK = Path(".work/dump")
BYTES_BESIDE = 13
"""doc_id, pos, token_id and is_special of a row."""
TRIAL_TOKENS = 4096
log = logging.getLogger("tiller.dump")


@dataclass(frozen=True, slots=True)
class Corpus:
    """The corpus's tokens, and where each document begins."""

    token_id: npt.NDArray[np.int32]
    starts: npt.NDArray[np.int64]
    """One more than there are documents: the last one is the number of tokens."""
    test: npt.NDArray[np.int32]
    """Documents of the split `test`: stored as the others are, and in no statistic."""

    @classmethod
    def read(cls) -> Corpus:
        """The corpus of the folder this runs in."""
        token = read_table(require(CORPUS / "token.parquet", "corpus"), "token")
        doc = read_table(require(CORPUS / "doc.parquet", "corpus"), "doc")
        starts = np.append(doc["tok_start"].to_numpy(), token.num_rows)
        test = doc.filter(pc.equal(doc["split"], "test"))["doc_id"].to_numpy()
        return cls(token["token_id"].to_numpy(), starts.astype(np.int64), test)

    @property
    def n_docs(self) -> int:
        """Documents in all."""
        return len(self.starts) - 1

    def documents(self, numbers: range) -> Iterator[tuple[int, list[int]]]:
        """Numbers and ids of some documents."""
        for doc_id in numbers:
            yield doc_id, self.token_id[self.starts[doc_id] : self.starts[doc_id + 1]].tolist()

    def n_tokens(self, numbers: range) -> int:
        """Tokens of some documents."""
        return int(self.starts[numbers.stop] - self.starts[numbers.start])


@dataclass(frozen=True, slots=True)
class Part:
    """A shard to be: its documents, and its file at each hook point."""

    documents: range
    files: dict[HookPoint, Path]
    loss: Path | None

    @property
    def is_done(self) -> bool:
        """Whether every file of it is there."""
        return all(path.is_file() for path in self.files.values()) and (
            self.loss is None or self.loss.is_file()
        )


def main() -> None:
    """Write `data/residuals` of the folder this runs in."""
    params = load_params()
    corpus = Corpus.read()
    model = params.model
    lm = open_model(model_source(model), model.device, model.dtype, model.weights)
    points = [HookPoint.parse(text) for text in params.dump.hook_points]
    for point in points:
        point.check(lm)
    work = WORK / fingerprint(
        [
            lm.weights_sha(),
            content_hash(CORPUS / "token.parquet"),
            params.dump.model_dump(mode="json"),
        ]
    )
    parts = list(_parts(corpus, points, params.dump, work))
    waiting = [part for part in parts if not part.is_done]
    _announce(lm, corpus, points, params.dump, waiting)
    _run(lm, corpus, params.dump, parts)
    of_corpus = read_metadata(CORPUS / "token.parquet")
    metadata = {**of_corpus, "model_sha": lm.weights_sha(), "stage": "dump"}
    _finish(points, params.dump, parts, work, corpus.test, metadata)
    shutil.rmtree(WORK, ignore_errors=True)


def _parts(
    corpus: Corpus, points: Sequence[HookPoint], params: DumpParams, work: Path
) -> Iterator[Part]:
    for number, start in enumerate(range(0, corpus.n_docs, params.part_documents)):
        documents = range(start, min(start + params.part_documents, corpus.n_docs))
        files = {point: work / str(point) / f"part-{number:05d}.arrow" for point in points}
        loss = work / "loss" / f"part-{number:05d}.npy" if params.loss else None
        yield Part(documents, files, loss)


def _announce(
    lm: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    params: DumpParams,
    waiting: Sequence[Part],
) -> None:
    """Say what the run will take, before its first byte.

    Raises:
        NotEnoughDisk: more than is free.
    """
    sizes = [corpus.n_tokens(part.documents) for part in waiting]
    n_tokens = sum(sizes)
    disk = n_tokens * (2 * lm.d_model + BYTES_BESIDE) * len(points)
    memory = max(sizes, default=0) * 4 * lm.d_model * len(points)
    free = shutil.disk_usage(Path()).free
    if disk > free:
        raise NotEnoughDisk(
            f"the dump needs {_megabytes(disk)} and {_megabytes(free)} are free; expected room "
            "for all of it; free some, or keep fewer hook points or documents"
        )
    if n_tokens:
        speed = _trial(lm, corpus, points, params, waiting[0].documents)
        log.info(
            "%s tokens at %d hook points: %s on disk, about %s in memory, about %.0f s at %s "
            "tokens/s",
            f"{n_tokens:,}",
            len(points),
            _megabytes(disk),
            _megabytes(memory),
            n_tokens / speed,
            f"{speed:,.0f}",
        )


def _trial(
    lm: LanguageModel,
    corpus: Corpus,
    points: Sequence[HookPoint],
    params: DumpParams,
    documents: range,
) -> float:
    """Tokens a second, over the first few documents."""
    last = int(np.searchsorted(corpus.starts, corpus.starts[documents.start] + TRIAL_TOKENS))
    few = range(documents.start, max(documents.start + 1, min(last, documents.stop)))
    began = time.perf_counter()
    for _ in collect(lm, corpus.documents(few), points, params.batch_tokens):
        pass
    return corpus.n_tokens(few) / (time.perf_counter() - began)


def _run(lm: LanguageModel, corpus: Corpus, params: DumpParams, parts: Sequence[Part]) -> None:
    done = sum(corpus.n_tokens(part.documents) for part in parts if part.is_done)
    total = int(corpus.starts[-1])
    with tqdm(
        total=total, initial=done, unit="tok", unit_scale=True, desc="dump", disable=None
    ) as bar:
        for part in parts:
            if not part.is_done:
                write_one(lm, corpus, params, part, bar.update)


def write_one(
    lm: LanguageModel,
    corpus: Corpus,
    params: DumpParams,
    part: Part,
    progress: Callable[[int], object],
) -> None:
    """Every file of a part; the pass through the model is shared by its hook points.

    Args:
        progress: told how many more tokens have been through the model.

    Raises:
        NotFinite: an activation is not a number; the message names document and position.
        Overflow: an activation is too large for the type it is stored in.
    """
    chunks = []
    points = list(part.files)
    for rows in collect(lm, corpus.documents(part.documents), points, params.batch_tokens):
        chunks.append(rows)
        progress(len(rows.doc_id))
    for point, path in part.files.items():
        batches = (
            ResidualBatch(c.doc_id, c.pos, c.token_id, c.is_special, c.resid[point]) for c in chunks
        )
        write_part(path, batches, str(point), params.dtype)
    if part.loss is not None:
        ids = [ids for _, ids in corpus.documents(part.documents)]
        losses = token_losses(lm, ids, batch_tokens=params.batch_tokens)
        # A document's first token is predicted from nothing.
        rows_of = [np.concatenate([[np.nan], loss]) for loss in losses]
        with whole_file(part.loss) as scratch, scratch.open("wb") as file:
            np.save(file, np.concatenate(rows_of).astype(np.float32))


def _finish(
    points: Sequence[HookPoint],
    params: DumpParams,
    parts: Sequence[Part],
    work: Path,
    test: npt.NDArray[np.int32],
    metadata: Mapping[str, str],
) -> None:
    """Link the shards into the out, with statistics of the documents that are not for testing."""
    with whole_dir(RESIDUALS) as out:
        for point in points:
            stats = RunningStats()
            for batch in Residuals.open(work / str(point)).batches():
                stats.add(batch, left_out=test)
            link_tree(work / str(point), out / str(point))
            write_stats(out / str(point), stats, str(point), params.dtype)
        if params.loss:
            files = [part.loss for part in parts if part.loss]
            _write_losses(out / "loss.parquet", files, metadata)


def _write_losses(path: Path, files: Sequence[Path], metadata: Mapping[str, str]) -> None:
    loss = np.concatenate([np.load(file) for file in files])
    rows = pa.table({"tok": np.arange(len(loss), dtype=np.int64), "loss": loss})
    write_table(path, "token_loss", rows, metadata)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.0f} MB"


if __name__ == "__main__":
    run_stage("dump", main)
