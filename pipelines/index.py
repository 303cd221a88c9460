"""Stage `index`: one catalog over the features of every SAE, in `data/store/`."""

from __future__ import annotations

from pathlib import Path

from pipelines.params import load_params
from pipelines.stage import run_stage


def main() -> None:
    """Merge the small tables and write the views and macros that people query.

    The SAEs are those of params.yaml, in its order: macros mean the first by default.
    """
    from store.catalog import write_catalog

    write_catalog(Path(), list(load_params().sae))


if __name__ == "__main__":
    run_stage("index", main)
