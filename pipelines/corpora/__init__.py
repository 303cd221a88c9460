"""Where documents and their concepts come from: the microworld, local files, a dataset."""
