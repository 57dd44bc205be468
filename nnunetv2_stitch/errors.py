"""The one exception that users see."""


class StitchError(Exception):
    """Bad input or a missing file, said in one line that names the thing and the next step.

    The commands print it to stderr without a traceback and exit with code 2.
    """


class NotMergeableError(StitchError):
    """Models that no weights can be mixed of, because their networks differ."""


class LostProcess(Exception):
    """Another process of the same job is gone, so that this one cannot go on."""


def last_line(error: BaseException) -> str:
    """What an error of another library says, as far as it fits into a message of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
