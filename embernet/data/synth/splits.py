"""Which split a drawing belongs to: its content decides, so that no content is both trained and tested."""

import hashlib


def split_of(content: str) -> str:
    """10 % of all contents are "test", 5 % "validation", the rest "train", by hash."""
    share = hashlib.sha256(content.encode()).digest()[0] / 256
    return "test" if share < 0.10 else "validation" if share < 0.15 else "train"
