"""`tiller run`: the graph of dvc.yaml, read and walked without DVC or git."""
