"""What `tiller sql`, `tiller features` and `tiller steer` do."""
