"""Channels and labels of two parties, matched by name."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunetv2_stitch.errors import StitchError
from nnunetv2_stitch.fileio import read_json


def canonical(name: str) -> str:
    """Names are equal but for case, spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", " ", str(name)).strip().casefold()


def read_synonyms(path: str | None) -> dict[str, str | None]:
    """A file of synonyms, `{"name of the partner": "name of the host", "not wanted": null}`; none without a file.

    Raises:
        StitchError: not readable, or not of this form.
    """
    if path is None:
        return {}
    found = read_json(path)
    if not isinstance(found, dict) or not all(v is None or isinstance(v, str) for v in found.values()):
        raise StitchError(f'{path} must hold {{"name of the partner": "name of the host" or null, ...}}')
    return found


@dataclass(frozen=True)
class NameMatch:
    """`sources`: for each host name the indices of the partner's names that mean it. `unmatched`: the partner's names
    that mean nothing of the host's."""

    sources: tuple[tuple[int, ...], ...]
    unmatched: tuple[str, ...]


def match_names(host: Sequence[str], partner: Sequence[str], synonyms: Mapping[str, str | None],
                what: str) -> NameMatch:
    """Match the partner's names to the host's; `synonyms` maps names of the partner to names of the host, or to None
    for those that are not wanted. Several names may map to one.

    Raises:
        StitchError: synonyms name something that neither side has, or two names of one side are the same.
    """
    for side, names in (("host", host), ("partner", partner)):
        if len({canonical(n) for n in names}) < len(names):
            raise StitchError(f"two {what}s of the {side} have the same name: {', '.join(names)}")
    known_host, known_partner = {canonical(n) for n in host}, {canonical(n) for n in partner}
    renamed = {canonical(k): None if v is None else canonical(v) for k, v in synonyms.items()}
    for theirs, ours in renamed.items():
        if theirs not in known_partner:
            raise StitchError(f"-{what}_map: the partner has no {what} {theirs!r}, only {', '.join(partner)}")
        if ours is not None and ours not in known_host:
            raise StitchError(f"-{what}_map: the host has no {what} {ours!r}, only {', '.join(host)}")
    meaning = [renamed.get(canonical(n), canonical(n)) for n in partner]
    sources = tuple(tuple(i for i, m in enumerate(meaning) if m == canonical(name)) for name in host)
    used = {i for group in sources for i in group}
    return NameMatch(sources, tuple(n for i, n in enumerate(partner) if i not in used))


@dataclass(frozen=True)
class NameMaps:
    """Synonyms: the partner's names to the host's, or to None for what is not wanted."""

    labels: Mapping[str, str | None]
    channels: Mapping[str, str | None]


NO_MAPS = NameMaps({}, {})
