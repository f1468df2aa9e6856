"""Uploads: every event in every state, and where a chunk belongs."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oci_mesh.errors import BlobUploadUnknown, OciError, SizeInvalid, UploadBusy, UploadRangeInvalid
from oci_mesh.spec.upload import (
    TRANSITIONS,
    UploadEvent,
    UploadState,
    advance,
    check_chunk,
    progress,
)
from tests.spec import strategies
from tests.spec.attempt import attempt

_S, _E = UploadState, UploadEvent

ENDED = {_S.COMMITTED, _S.CANCELLED}


@pytest.mark.parametrize(("state", "event"), list(product(UploadState, UploadEvent)))
def test_every_event_in_every_state(state: UploadState, event: UploadEvent) -> None:
    """An event leads on, or is the client's fault with its own error, or is a bug of ours."""
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
    elif state in ENDED:
        with pytest.raises(BlobUploadUnknown):
            advance(state, event)
    elif state is _S.WRITING and event in (_E.BEGIN, _E.CANCEL):
        with pytest.raises(UploadBusy):
            advance(state, event)
    else:
        with pytest.raises(AssertionError):
            advance(state, event)


def test_an_upload_can_always_end() -> None:
    """From every state there is a way to an end, and from an end there is none."""
    reach = set(ENDED)
    for _ in UploadState:
        reach |= {before for (before, _), after in TRANSITIONS.items() if after in reach}
    assert reach == set(UploadState)
    assert not ENDED & {before for before, _ in TRANSITIONS}


# offset, expected, Content-Range, Content-Length
Chunk = tuple[int, int | None, str | None, int | None]

# -> how long the chunk must be
CHUNKS: dict[Chunk, int | None] = {
    (0, None, None, None): None,  # docker: one stream of unknown length
    (0, 0, None, None): None,
    (0, None, None, 0): 0,
    (0, 0, "0-99", 100): 100,
    (100, 100, None, 50): 50,
    (100, 100, "100-149", 50): 50,
    (100, None, "100-149", None): 50,  # chunked encoding: the range alone says how long
    (100, 0, "100-149", 50): 50,  # an old Location, but a range that is right
}
CHUNKS_REFUSED: dict[Chunk, type[OciError]] = {
    (100, None, "0-99", 100): UploadRangeInvalid,  # already stored
    (100, None, "200-299", 100): UploadRangeInvalid,  # a gap
    (100, None, "99-149", 51): UploadRangeInvalid,  # overlaps by one
    (100, 0, None, 100): UploadRangeInvalid,  # jib: the same PATCH again
    (0, 100, None, 100): UploadRangeInvalid,  # sent to a Location from the future
    (100, 100, "0-99", 100): UploadRangeInvalid,  # a right Location, but a range that is not
    (0, None, "nonsense", 1): UploadRangeInvalid,
    (0, None, "5-3", 1): UploadRangeInvalid,
    (0, 0, "0-99", 99): SizeInvalid,
    (0, 0, "0-99", 0): SizeInvalid,
}


@pytest.mark.parametrize("arguments", CHUNKS)
def test_chunks_that_continue(arguments: Chunk) -> None:
    """A chunk that begins where the upload ends is taken, and its length known if it was said."""
    assert check_chunk(*arguments) == CHUNKS[arguments]


@pytest.mark.parametrize("arguments", CHUNKS_REFUSED)
def test_chunks_that_do_not(arguments: Chunk) -> None:
    """A chunk from elsewhere is refused before a byte of it is written."""
    with pytest.raises(CHUNKS_REFUSED[arguments]):
        check_chunk(*arguments)


@given(
    st.integers(0, 2**62),
    st.none() | st.integers(0, 2**62),
    st.none() | strategies.text | st.from_regex(r"[0-9]{1,19}-[0-9]{1,19}", fullmatch=True),
    st.none() | st.integers(0, 2**62),
)
def test_any_chunk(
    offset: int, expected: int | None, content_range: str | None, content_length: int | None
) -> None:
    """Whatever a client says of a chunk: taken at the offset, or refused with an `OciError`."""
    length = attempt(check_chunk, offset, expected, content_range, content_length)
    if isinstance(length, OciError):
        assert isinstance(length, (UploadRangeInvalid, SizeInvalid))
        assert length.headers in ({}, {"Range": progress(offset)})
    else:
        assert content_length is None or length == content_length
        assert content_range is not None or expected in (None, offset)


@pytest.mark.parametrize(("offset", "expected"), [(0, "0-0"), (1, "0-0"), (2, "0-1"), (9, "0-8")])
def test_progress(offset: int, expected: str) -> None:
    """`Range` of an upload names its last byte, and can be parsed by docker when it has none."""
    assert progress(offset) == expected
