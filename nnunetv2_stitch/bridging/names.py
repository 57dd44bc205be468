"""Channels and labels of two parties, matched by name."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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

    Where names are equal but for case, spaces and hyphens on one side already, those that are spelled alike on both
    belong together, and the rest by their order, as many on either side: nnU-Net itself goes by order alone.

    Raises:
        StitchError: synonyms name something that neither side has, or one name stands for several of either side, and
            not for as many of the other.
    """
    known_host, known_partner = {canonical(n) for n in host}, {canonical(n) for n in partner}
    for theirs, ours in synonyms.items():
        if canonical(theirs) not in known_partner:
            raise StitchError(f"-{what}_map: the partner has no {what} {theirs!r}, only {', '.join(partner)}")
        if ours is not None and canonical(ours) not in known_host:
            raise StitchError(f"-{what}_map: the host has no {what} {ours!r}, only {', '.join(host)}")
    spelled = {k: v for k, v in synonyms.items() if k in partner}
    loosely = {canonical(k): v for k, v in synonyms.items() if k not in partner}
    mapped = [n in spelled or canonical(n) in loosely for n in partner]
    meaning = [spelled[n] if n in spelled else loosely.get(canonical(n), n) for n in partner]
    sources: list[tuple[int, ...]] = [()] * len(host)
    for name in dict.fromkeys(map(canonical, host)):
        ours = [i for i, n in enumerate(host) if canonical(n) == name]
        theirs = [i for i, n in enumerate(meaning) if n is not None and canonical(n) == name]
        if len(ours) > 1 or sum(not mapped[k] for k in theirs) > 1:
            for i, group in _pairs(ours, theirs, host, meaning, what).items():
                sources[i] = group
        else:
            sources[ours[0]] = tuple(theirs)
    used = {i for group in sources for i in group}
    return NameMatch(tuple(sources), tuple(n for i, n in enumerate(partner) if i not in used))


def _pairs(ours: Sequence[int], theirs: Sequence[int], host: Sequence[str], meaning: Sequence[str | None],
           what: str) -> dict[int, tuple[int, ...]]:
    """Of names that are nearly equal: index among the host's -> indices among the partner's."""
    spellings = [host[i] for i in ours]
    found = {i: tuple(k for k in theirs if meaning[k] == host[i]) for i in ours if spellings.count(host[i]) == 1}
    found = {i: group for i, group in found.items() if len(group) == 1}
    rest = [k for k in theirs if (k,) not in found.values()]
    left = [i for i in ours if i not in found]
    if left and rest and len(left) != len(rest):
        raise StitchError(f"the host has {len(ours)} {what}s and the partner {len(theirs)} that mean {host[ours[0]]}, "
                          f"so which is which? Tell them apart by their names in dataset.json, or give -{what}_map")
    return {**found, **{i: (k,) for i, k in zip(left, rest)}}


@dataclass(frozen=True)
class NameMaps:
    """Synonyms: the partner's names to the host's, or to None for what is not wanted. `files`: where labels and
    channels were read from, for commands that are shown."""

    labels: Mapping[str, str | None]
    channels: Mapping[str, str | None]
    files: tuple[str | None, str | None] = field(default=(None, None), compare=False)

    @classmethod
    def read(cls, labels: str | None, channels: str | None) -> NameMaps:
        """From files; see `read_synonyms`."""
        files = tuple(None if path is None else os.path.abspath(path) for path in (labels, channels))
        return cls(read_synonyms(labels), read_synonyms(channels), files)


NO_MAPS = NameMaps({}, {})
