"""Results of texts that were predicted before: traffic repeats."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from cascadebert.server.scheduling.requests import Row
from cascadebert.server.types import RowResult
from cascadebert.types import Texts


class _Key(NamedTuple):
    text: bytes  # a digest, so that long texts take no more memory than short ones
    operating_point: int
    last: int  # latest stage that may predict


class ResultCache:
    """The most recently used results, at most `size` of them.

    At one operating point and latest stage a prediction depends on the text alone, so the stages would give
    the remembered one again.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._results = OrderedDict[_Key, RowResult]()

    def get_all(self, texts: Texts, operating_point: int, last: int) -> list[RowResult | None]:
        """The result of each text, None if it is not known; `last` is the latest stage that may predict."""
        if not self._size:
            return [None] * len(texts)
        keys = [_key(text, operating_point, last) for text in texts]
        for key in keys:
            if key in self._results:
                self._results.move_to_end(key)
        return [self._results.get(key) for key in keys]

    def put(self, row: Row) -> None:
        """Remember the result of a row, as one that took no time."""
        if not self._size or row.result is None or row.result.degraded:
            return
        stage_results = tuple(result._replace(seconds=0.0) for result in row.result.stage_results)
        request = row.request
        key = _key(request.texts[row.index], request.operating_point, request.last)
        self._results[key] = row.result._replace(stage_results=stage_results)
        if len(self._results) > self._size:
            self._results.popitem(last=False)


def _key(text: str | Sequence[str], operating_point: int, last: int) -> _Key:
    parts, digest = (text,) if isinstance(text, str) else text, hashlib.blake2b(digest_size=16)
    for part in parts:
        content = part.encode("utf-8", "surrogatepass")
        digest.update(b"%d:" % len(content))
        digest.update(content)
    return _Key(digest.digest(), operating_point, last)
