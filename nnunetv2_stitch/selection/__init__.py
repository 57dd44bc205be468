"""Choosing the position: sweep over validation cases, rules, deployment of the choice."""
