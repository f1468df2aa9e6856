"""What of a store's content is in use, and what was read lately.

Reads are noted in memory and written now and then: a transaction for each would make reads cost
what pushes cost. Of the event loop's thread.
"""

import time
from collections import Counter

from oci_mesh.spec.digest import Digest


class Uses:
    """Of one store: since `take` was called last, and open now."""

    def __init__(self) -> None:
        self._read: dict[Digest, int] = {}
        self._open: Counter[Digest] = Counter()

    def note(self, digest: Digest) -> None:
        """It was read just now."""
        self._read[digest] = int(time.time())

    def open(self, digest: Digest) -> None:
        """Somebody begins to read it; `close` is called once for each."""
        self._open[digest] += 1

    def close(self, digest: Digest) -> None:
        """Somebody has read it, just now."""
        self._open[digest] -= 1
        if not self._open[digest]:
            del self._open[digest]
        self.note(digest)

    def has(self, digest: Digest) -> bool:
        """Whether it is open, or was read since `take`."""
        return digest in self._open or digest in self._read

    def take(self) -> dict[str, int]:
        """When what was last read, in seconds since 1970; and begin anew."""
        read, self._read = self._read, {}
        return {str(digest): at_s for digest, at_s in read.items()}
