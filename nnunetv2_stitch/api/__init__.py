"""The jobs of the commands as functions: one keyword per flag, with the flag's default and meaning."""


def silent(line: str) -> None:
    """What is said when nobody listens."""
