"""Baselines, measures and figures."""
