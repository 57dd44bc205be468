"""The two-party demo."""
