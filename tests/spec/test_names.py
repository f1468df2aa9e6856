"""Name records: what two nodes tell each other, and what a store keeps."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.spec.digest import Digest
from oci_mesh.spec.names import NameRecord
from tests.spec import strategies


@given(strategies.repositories, strategies.tags, st.none() | strategies.digests)
def test_round_trip(repository: str, tag: str, target: Digest | None) -> None:
    """A record survives its JSON form, deletions too."""
    record = NameRecord(repository, tag, str(target) if target else None, "stamp")
    assert msgspec.json.decode(msgspec.json.encode(record), type=NameRecord) == record
    assert record.key == (repository, tag)


@given(strategies.tags, strategies.digests)
def test_tags_and_digests_are_told_apart(tag: str, digest: Digest) -> None:
    """The name says whether a record is about a tag or about content."""
    assert NameRecord("a", tag, None, "stamp").is_tag
    assert not NameRecord("a", str(digest), None, "stamp").is_tag
