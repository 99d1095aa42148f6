"""Experiments, ablations, reports: models compared."""
