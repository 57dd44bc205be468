"""The page of troubleshooting explains messages that the package says today."""

import ast
import re
from functools import cache
from pathlib import Path

import numpy as np

from nnunetv2_stitch.selection.retention import retained

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "how-to" / "troubleshooting.md"


def words(text: str) -> list[str]:
    return re.findall(r"[a-z]{2,}", text.lower())


@cache
def said() -> set[frozenset[str]]:
    """The words of every sentence of the package, of f-strings those that do not change."""
    found = []
    for file in (f for folder in ("nnunetv2_stitch", "trainers", "entrypoints") for f in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(" ".join(p.value for p in node.values if isinstance(p, ast.Constant)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return {frozenset(words(text)) for text in found if text.count(" ") > 2}


def explained(page: str) -> list[str]:
    """Messages in the first column, but for those of others, which are marked: (nnU-Net's), (torch's), (Flower's)."""
    cells = [line.split(" | ")[0] for line in page.splitlines() if line.startswith("| `")]
    return [message for cell in cells if "'s)" not in cell for message in re.findall(r"`([^`]+)`", cell)
            if len(words(message)) > 3]


def stale(messages: list[str]) -> dict[str, float]:
    """Messages most of whose words no string of the package has, with the share of the nearest. Names of files, cases
    and numbers stand in a message and in no string."""
    strings = said()
    share = {m: max(len(s.intersection(words(m))) for s in strings) / len(set(words(m))) for m in messages}
    return {message: found for message, found in share.items() if found < 0.6}


def test_every_message_that_is_explained_is_said():
    """Kind: a page that explains what the commands no longer say, where nobody finds what they do say."""
    messages = explained(PAGE.read_text())
    assert len(messages) > 80
    assert stale(messages) == {}


def test_a_message_that_nothing_says_is_seen():
    assert stale(["the moon is in the way of the second network; wait until tomorrow morning"])


def test_what_retention_says_where_no_point_is_near_is_explained():
    """Kind: a message of several forms, of which one is explained. Positions behind a gate need to be near the host
    alone only; a path of gates ends at the host."""
    near, page = np.array([[0.1, 0.2], [0.2, 0.3]]), PAGE.read_text()
    forms = {retained(near, near[0] + 0.5, host_at_end=end, near_best=best).reason for end, best in
             ((True, True), (False, True), (False, False))}
    assert len(forms) == 3 and [reason for reason in forms if reason not in page] == []
