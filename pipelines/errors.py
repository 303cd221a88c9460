"""What can go wrong at the edge, drawn as a tree.

PipelineError
├── ParamsError        params.yaml: unknown key, wrong type, impossible value
├── MissingInput       a stage was run before the stage that writes its input
├── CorpusError        no documents, unreadable text, text that does not fit the model
├── NotEnoughDisk      the expected output is larger than the free space
└── StageFailed        a stage of the graph ended with an error
"""

from __future__ import annotations

from pathlib import Path


class PipelineError(Exception):
    """Any expected failure of a stage or of the command line."""


class ParamsError(PipelineError):
    """params.yaml holds something that no stage understands."""


class MissingInput(PipelineError):
    """A stage's input does not exist yet."""


class CorpusError(PipelineError):
    """The corpus cannot be turned into documents that the model reads."""


class NotEnoughDisk(PipelineError):
    """The stage would fill the disk, so it did not begin."""


class StageFailed(PipelineError):
    """A stage of the graph ended with an error."""

    def __init__(self, message: str, *, is_told: bool = False) -> None:
        """`is_told`: the stage has printed its one line itself, so there is nothing to add."""
        super().__init__(message)
        self.is_told = is_told


def require(path: Path, stage: str) -> Path:
    """`path`, which must exist already because `stage` writes it."""
    if not path.exists():
        raise MissingInput(
            f"{path} does not exist; `{stage}` writes it; run `tiller run --to {stage}`"
        )
    return path
