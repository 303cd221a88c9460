"""Stage `train`: residuals in, one sparse autoencoder out, with its held-out figures.

The autoencoder is trained on the documents of split `train`, or loaded from what others saved.
Half of the held-out documents set the threshold, the other half are measured. Killed and run
again, the stage goes on from its last checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import csv
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipelines.errors import ParamsError
from pipelines.params import Params, SaeParams, load_params
from pipelines.stage import INPUTS, argument, model_source, run_stage
from sae.errors import MetricError, SaeFileError, TrainingError
from store.atomic import whole_dir, whole_file
from store.manifest import content_hash, fingerprint, write_json
from store.residuals import Residuals
from store.schema import read_table

if TYPE_CHECKING:
    from sae.model import SparseAutoencoder
    from sae.train import StepReport, TrainConfig

CORPUS = Path("data/corpus")
CE_TOKENS = 20_000
"""Held-out tokens on which the model runs with its stream replaced."""
MEASURED_ROWS = 8192
COLUMNS = ("step", "explained_variance", "l0", "dead", "loss", "aux_loss", "lr")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """Rows of the residuals by purpose; documents are never shared between two of them."""

    residuals: Residuals
    train: np.ndarray
    calibrate: np.ndarray
    measure: np.ndarray
    measured_docs: np.ndarray


def main() -> None:
    """Train or load the autoencoder whose slug is the argument."""
    slug, params = argument(), load_params()
    if slug not in params.sae:
        raise ParamsError(
            f"there is no sae.{slug}; params.yaml has {', '.join(sorted(params.sae))}; choose one"
        )
    settings = params.sae[slug]
    material = gather(settings.hook_point)
    rows: list[dict[str, Any]] = []
    if settings.source == "load":
        sae = loaded(slug, settings, material)
    else:
        sae, rows = trained(slug, params, material)
    figures = measured(sae, params, material)
    write(slug, sae, figures, rows)


def gather(hook_point: str) -> Material:
    """The residuals at a hook point, divided by the documents' splits."""
    residuals = Residuals.open(Path("data/residuals") / hook_point)
    doc = read_table(CORPUS / "doc.parquet", "doc")
    split, doc_id = np.array(doc["split"].to_pylist()), doc["doc_id"].to_numpy()
    heldout = np.sort(doc_id[split == "heldout"])
    material = Material(
        residuals=residuals,
        train=residuals.rows(doc_id[split == "train"]),
        calibrate=residuals.rows(heldout[::2]),
        measure=residuals.rows(heldout[1::2]),
        measured_docs=heldout[1::2],
    )
    if not len(material.train) or not len(material.calibrate) or len(material.measure) < 2:
        raise TrainingError(
            f"{len(material.train)} rows to train on, {len(material.calibrate)} to calibrate with "
            f"and {len(material.measure)} to measure; expected some of each; raise "
            "corpus.documents or the heldout share"
        )
    return material


def trained(
    slug: str, params: Params, material: Material
) -> tuple[SparseAutoencoder, list[dict[str, Any]]]:
    """A new autoencoder and its training steps, resumed where a killed run had stopped."""
    from sae.train import TrainConfig, train

    told = params.sae[slug].train
    config = TrainConfig(seed=params.seed, **told.model_dump(exclude={"batch_rows"}))
    run = [told.model_dump(), params.seed, material.residuals.hook_point]
    run.append(content_hash(material.residuals.dir / "stats.json"))
    checkpoint_dir = Path(".work/train") / f"{slug}-{fingerprint(run)}"

    def batches_from(step: int) -> Iterator[np.ndarray]:
        return material.residuals.shuffled(material.train, told.batch_rows, params.seed, step)

    heldout = material.residuals.take(material.calibrate)
    _announce(slug, config, told.batch_rows, material, batches_from)
    with _Progress(config.steps * told.batch_rows, config.d_sae) as progress:
        sae, rows = train(
            batches_from,
            heldout,
            config,
            checkpoint_dir=checkpoint_dir,
            on_step=progress,
            hook_point=material.residuals.hook_point,
        )
    shutil.rmtree(checkpoint_dir, ignore_errors=True)
    return replace(sae, metadata={**sae.metadata, "model_name": params.model.name}), rows


def loaded(slug: str, settings: SaeParams, material: Material) -> SparseAutoencoder:
    """An autoencoder that others trained, checked against the residuals it shall read.

    Raises:
        SaeFileError: it is for another width or another place of the stream.
    """
    import torch

    from sae.calibrate import calibrated
    from sae.checkpoint import load
    from sae.pretrained import load_pretrained

    folder, path = INPUTS / "sae" / slug, str(settings.path)
    sae = load(folder) if folder.is_dir() else load_pretrained(*_registry_names(slug, path))
    here = material.residuals
    if sae.d_model != here.d_model:
        raise SaeFileError(
            f"{path} reads a stream of width {sae.d_model}; expected {here.d_model}, the "
            f"residuals' at {here.hook_point}; choose an autoencoder of this model"
        )
    if sae.hook_point not in ("", here.hook_point):
        raise SaeFileError(
            f"{path} was trained at {sae.hook_point}; expected {here.hook_point}; set "
            f"sae.{slug}.hook_point and dump.hook_points to its place"
        )
    if sae.threshold is None:
        sae = calibrated(sae, torch.from_numpy(here.take(material.calibrate)))
    return replace(sae, hook_point=here.hook_point)


def measured(sae: SparseAutoencoder, params: Params, material: Material) -> dict[str, Any]:
    """Reconstruction on held-out documents, and what of the model's predictions survives it."""
    from sae.metrics import reconstruction

    rows = material.measure
    batches = (
        material.residuals.take(rows[start : start + MEASURED_ROWS])
        for start in range(0, len(rows), MEASURED_ROWS)
    )
    figures: dict[str, Any] = dict(reconstruction(sae, batches))
    figures |= predictions(sae, params, material)
    return {
        name: round(value, 6) if isinstance(value, float) else value
        for name, value in figures.items()
    }


def predictions(sae: SparseAutoencoder, params: Params, material: Material) -> dict[str, Any]:
    """Cross entropy with the stream as it is, reconstructed and ablated, on held-out documents.

    Only tokens that are neither first nor special are replaced. Where ablation costs nothing
    (a model that predicts nothing) the shares are null.
    """
    import torch

    from lm import HookPoint, open_model, token_losses
    from lm.tap import Step
    from sae.metrics import Replacement, ce_recovered

    lm = open_model(model_source(params.model), params.model.device, params.model.dtype)
    point = HookPoint.parse(material.residuals.hook_point)
    texts = _texts(material.measured_docs)
    special = torch.tensor(sorted(lm.special_ids), dtype=torch.int64)
    sae = sae.to(lm.device, torch.float32)

    def loss(replacement: Replacement | None) -> float:
        def edit(resid: torch.Tensor, step: Step) -> torch.Tensor:
            plain = ~torch.isin(step.token_ids, special.to(step.token_ids))
            mask = step.is_real & (step.positions > 0) & plain
            assert replacement is not None
            out = resid.clone()
            out[mask] = replacement(resid[mask].float()).to(resid.dtype)
            return out

        edits = None if replacement is None else {point: edit}
        return float(np.concatenate(token_losses(lm, texts, edits)).mean(dtype=np.float64))

    mean = torch.tensor(material.residuals.stats["mean"], dtype=torch.float32)
    try:
        return dict(ce_recovered(loss, sae, mean))
    except MetricError as error:
        log.warning("CE recovered is undefined: %s", error)
        return {"ce_clean": loss(None), "ce_recovered_mean": None, "ce_recovered_zero": None}


def write(
    slug: str, sae: SparseAutoencoder, figures: dict[str, Any], rows: list[dict[str, Any]]
) -> None:
    """The autoencoder with its figures beside it, the metrics and the curve."""
    from sae.checkpoint import save

    with whole_file(Path(f"plots/train-{slug}.csv")) as scratch, scratch.open("w") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    write_json(Path(f"metrics/train-{slug}.json"), figures)
    with whole_dir(Path("data/sae") / slug) as folder:
        save(sae, folder)
        write_json(folder / "figures.json", figures)
        (folder / "README.md").write_text(_readme(slug, sae, figures), encoding="utf-8")
    log.info(
        "%s: explained variance %.4f at L0 %.2f, dead %.1f %%, CE recovered %s",
        slug,
        figures["explained_variance"],
        figures["l0"],
        100 * figures["dead"],
        figures["ce_recovered_mean"],
    )


class _Progress:
    """A bar on the terminal: activations a second, figures of the last step, time left."""

    def __init__(self, activations: int, d_sae: int) -> None:
        from tqdm import tqdm

        quiet = not sys.stderr.isatty()
        self._bar = tqdm(
            total=activations,
            unit="act",
            unit_scale=True,
            mininterval=15.0 if quiet else 0.2,
            file=sys.stderr,
        )
        self._d_sae = d_sae

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def __call__(self, report: StepReport) -> None:
        if self._bar.n == 0:  # a resumed run begins in the middle, and must not look fast for it
            self._bar.initial = self._bar.n = report.activations
        figures = f"EV {report.explained_variance:.3f} L0 {report.l0:.1f} dead {report.dead:.1%}"
        self._bar.set_postfix_str(figures, refresh=False)
        self._bar.update(report.activations - self._bar.n)


def _announce(
    slug: str,
    config: TrainConfig,
    batch_rows: int,
    material: Material,
    batches_from: Callable[[int], Iterator[np.ndarray]],
) -> None:
    """One line before the start; the time is what three trial steps took, times the rest."""
    from sae.train import train

    d_model, total = material.residuals.d_model, config.steps * batch_rows
    ticks: list[float] = []
    trial = replace(config, steps=3, report_steps=1)
    train(
        batches_from,
        next(batches_from(0))[:64],
        trial,
        on_step=lambda _: ticks.append(time.perf_counter()),
    )
    weights = 4 * 4 * 2 * config.d_sae * d_model
    batch = 4 * batch_rows * (6 * d_model + 12 * config.k)
    log.info(
        "%s: %s of %d latents, k %d; %.1f M activations (%.1f passes over %d); about %d MB beside "
        "the program; about %.0f s",
        slug,
        config.kind,
        config.d_sae,
        config.k,
        total / 1e6,
        total / len(material.train),
        len(material.train),
        (weights + batch) >> 20,
        (ticks[2] - ticks[0]) / 2 * config.steps,
    )


def _texts(doc_ids: np.ndarray) -> list[list[int]]:
    """Token ids of these documents, as many whole ones as make `CE_TOKENS`, at least one."""
    token = read_table(CORPUS / "token.parquet", "token")
    chosen = token.filter(pa.compute.is_in(token["doc_id"], pa.array(doc_ids, pa.int32())))
    doc, ids = chosen["doc_id"].to_numpy(), chosen["token_id"].to_numpy()
    starts = np.flatnonzero(np.diff(doc, prepend=-1))
    texts: list[list[int]] = []
    total = 0
    for start, stop in zip(starts, [*starts[1:], len(doc)], strict=True):
        if texts and total + stop - start > CE_TOKENS:
            break
        texts.append(ids[start:stop].tolist())
        total += stop - start
    return texts


def _registry_names(slug: str, path: str) -> tuple[str, str]:
    release, _, sae_id = path.partition("/")
    if not sae_id:
        raise SaeFileError(
            f"sae.{slug}.path is {path!r}, and inputs/sae/{slug} does not exist; expected a folder "
            "or release/sae_id; correct the path"
        )
    return release, sae_id


def _readme(slug: str, sae: SparseAutoencoder, figures: dict[str, Any]) -> str:
    rule = type(sae.sparsity).__name__
    lines = [f"- {name}: {value}" for name, value in sorted(figures.items())]
    return (
        f"# {slug}\n\n"
        f"A sparse autoencoder ({rule}) of {sae.d_sae} latents at `{sae.hook_point}` of "
        f"{sae.metadata.get('model_name', 'a language model')}, in SAELens' format: "
        "`sae_lens.SAE.load_from_disk(folder)`.\n"
        "Decoder rows have length one, so activations are in the stream's own units.\n\n"
        "On held-out documents:\n\n" + "\n".join(lines) + "\n"
    )


if __name__ == "__main__":
    run_stage("train", main)
