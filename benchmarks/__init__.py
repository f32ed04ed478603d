"""Measurements: the bare loop, the embedded model's recipe and its evaluation."""
