"""Stitch layers, switches, the joined graph and the StitchedEnsemble network."""
