"""Jinja templates of the pages, and their style sheet."""
