"""Zips for the tests: read, changed and written again."""

import hashlib
import io
import json
import zipfile
from pathlib import Path


def members(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_zip(path: Path, contents: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return path


def nested_members(path) -> dict[str, bytes]:
    """Every member by name, and every member of those that are zips themselves, as checkpoints are."""
    with zipfile.ZipFile(path) as archive:
        found = {name: archive.read(name) for name in archive.namelist()}
    for name, data in list(found.items()):
        if data[:2] == b"PK":
            found |= {f"{name}/{inner}": contents for inner, contents in nested_members(io.BytesIO(data)).items()}
    return found


def require_absent(path, secrets) -> None:
    """No secret is in any byte or name. Short ones are looked for in text only: weights hold any few bytes."""
    for name, data in nested_members(path).items():
        text = name.endswith((".json", ".md", "data.pkl"))
        for secret in secrets:
            if text or len(secret) > 5:
                assert secret.encode() not in data and secret not in name, (name, secret)


def as_told(contents: dict[str, bytes]) -> dict[str, bytes]:
    """With every sha256 in party.json made right again: what a sender with bad intentions would do."""
    party = json.loads(contents["party.json"])
    party["files"] = {n: hashlib.sha256(d).hexdigest() for n, d in contents.items() if n != "party.json"}
    return {**contents, "party.json": json.dumps(party).encode()}


def everything_below(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() if p.is_file() else ""
            for p in sorted(folder.rglob("*"))}
