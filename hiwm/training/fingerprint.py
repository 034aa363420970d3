"""Fingerprints: sixteen hex digits that identify what a result was made from."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def fingerprint(identity: list[Any]) -> str:
    """The fingerprint of plain values: numbers, text, lists, mappings."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
