"""The protocol: a request of one verb, answered by lines of JSON.

    POST /control/v1/VERB     the verb's request -> one document a line, the last one is the result

An empty line says that work goes on. A last line `{"error": ..., "hint": ...}` says that it failed.
The documents of a verb are in its module beside this one (`status`, `sync`, ...): they are what
`oci-mesh VERB --json` prints, so fields are only ever added.
"""

from typing import Final

import msgspec

PATH: Final = "/control/v1/"

# A request is some names.
MAX_REQUEST_BYTES: Final = 1024 * 1024

# One document: the state of a thousand nodes with a thousand images.
MAX_LINE_BYTES: Final = 64 * 1024 * 1024

# How often the node says that it still works, and how long its silence is taken for that.
ALIVE_S: Final = 2.0
SILENCE_S: Final = 20.0


class Document(msgspec.Struct, rename="camel"):
    """What is said over the socket, and printed with `--json`."""


class Fault(Document):
    """That a verb failed: what happened, to what, and what to do next."""

    error: str
    hint: str = ""
