"""`python -m pipelines`: the same as `tiller`."""

from pipelines.cli import main

main()
