"""Parties that differ: what differs between two models, and how the partner is brought to the host's terms."""
