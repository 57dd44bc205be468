"""Fitting the stitches: closed form, double-batched, task loss."""
