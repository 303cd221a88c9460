"""The stages of the graph, one file each, and the `tiller` command that walks it.

A stage reads the folder it runs in (the workspace), calls one thing from each package it
needs, and writes one out. It knows files and parameters; the mathematics lives elsewhere.
"""
