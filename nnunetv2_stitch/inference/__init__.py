"""Prediction with a stitched model."""
