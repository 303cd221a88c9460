"""Ratios against peers and against bare passes, in one run on one machine."""
