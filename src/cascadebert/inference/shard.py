"""Parts of an input that different machines work on."""

from __future__ import annotations

from dataclasses import dataclass

from cascadebert.errors import CascadeError


@dataclass(frozen=True)
class Shard:
    """One of `count` parts of an input, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read "2/8". Raises CascadeError if it is no such thing."""
        number, slash, count = text.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise CascadeError(f"--shard {text}: expected a number and the number of all shards, such as 2/8")
        return cls(int(number), int(count))

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    @property
    def is_last(self) -> bool:
        """True for the last part, which goes to the end."""
        return self.number == self.count

    def rows(self, total: int) -> range:
        """Its rows of about `total` ones, counted from 0: the chunks that begin there belong to it."""
        return range((self.number - 1) * total // self.count, self.number * total // self.count)
