"""Guided model merging: several finished nnU-Nets with a common ancestor become one network of the same size."""
