"""Generated texts and files for tests; no torch here."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

GOOD = ("fine", "great", "lovely", "strong", "warm", "bright")
BAD = ("dull", "weak", "cold", "poor", "grim", "bland")
PLAIN = ("the", "film", "song", "book", "was", "and", "very", "quite", "a", "story", "scene", "not")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def sentences(n: int, *, seed: int, most: int = 12) -> list[str]:
    """Random sentences of mixed length over the tiny vocabulary."""
    rng = np.random.default_rng(seed)
    words = np.array([*GOOD, *BAD, *PLAIN])
    return [" ".join(rng.choice(words, size=rng.integers(1, most + 1))) for _ in range(n)]


def reviews(n: int, *, seed: int) -> tuple[list[str], list[str]]:
    """Distinct learnable sentences: more good than bad words or the other way round."""
    rng = np.random.default_rng(seed)
    rows: dict[str, str] = {}
    while len(rows) < n:
        label = "positive" if rng.random() < 0.5 else "negative"
        told = rng.choice(GOOD if label == "positive" else BAD, size=2)
        filler = rng.choice(PLAIN, size=rng.integers(3, 9))
        rows[" ".join([*filler[:2], told[0], *filler[2:], told[1]])] = label
    return list(rows), list(rows.values())


def write_csv(path: Path, texts: list[str], labels: list[str]) -> Path:
    """A file of two columns."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(texts, labels, strict=True))
    return path
