"""A round in one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NODE = "node "  # begins what a party is called that has not told its name


def summary(entry: Mapping[str, Any]) -> str:
    """Who took part in the round of an entry of `GuidedMerging`, and what came of it."""
    ages = {m["party"]: m["age"] for m in entry["models"]}
    parts = [", ".join(f"{name} {_aged(ages.get(name, 0))}" for name in entry["answered"]) or "nobody answered"]
    held = [f"{name} ({_rounds(age)})" for name, age in ages.items() if name not in entry["answered"]]
    if held:
        parts.append(f"held from before: {', '.join(held)}")
    if entry["waiting_for"]:
        unknown = sum(name.startswith(NODE) for name in entry["waiting_for"])
        named = [name for name in entry["waiting_for"] if not name.startswith(NODE)]
        named += [f"{unknown} not heard of so far"] if unknown else []
        parts.append(f"not waited for: {', '.join(named)}")
    parts += [f"{name} failed: {reason}" for name, reason in entry["failed"].items()]
    if entry["merge"]:
        scores = ", ".join(f"{k} {v:.4f}" for k, v in entry["merge"]["scores"].items())
        parts.append(f"written is {entry['merge']['chosen']} ({entry['merge']['scored_by']}: {scores})")
    else:
        parts.append(entry["remark"])
    return f"{'; '.join(parts)} ({entry['seconds']:.0f} s)"


def _aged(age: int) -> str:
    return f"late ({_rounds(age)})" if age else "in time"


def _rounds(age: int) -> str:
    return f"{age} round{'' if age == 1 else 's'} old"
