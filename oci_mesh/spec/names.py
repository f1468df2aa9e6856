"""What a name in a repository means, and since when.

All nodes share one register of these (`members/names.py` merges it; a store keeps it). A name is
a tag, or a digest:

    tag     -> digest     the tag points there
    tag     -> None       the tag was deleted
    digest  -> None       this content was deleted from the repository, on every node
    digest  -> digest     it was deleted, and has been pushed again since

A digest has a record only once it was deleted: without it, another node's copy would bring
deleted content back. Stamps are made by `members/clock.py`; here they are only compared, as text.
"""

import msgspec


class NameRecord(msgspec.Struct, frozen=True, array_like=True):
    """One entry of the register. Of two for the same name, the one with the later stamp holds."""

    repository: str
    name: str
    target: str | None
    stamp: str

    @property
    def key(self) -> tuple[str, str]:
        """What the record is about."""
        return self.repository, self.name

    @property
    def is_tag(self) -> bool:
        """Whether the name is a tag (no tag has a colon; every digest does)."""
        return ":" not in self.name
