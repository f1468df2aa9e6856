"""`witness`: whether a request with a certain name in it reaches this node's registry.

The repository is `oci-mesh-doctor/NONCE`, of whatever registry. The first document says that the
node looks out for it from now on, the last one whether it came.
"""

from typing import Final

from oci_mesh.control.wire import Document

VERB: Final = "witness"

REPOSITORY: Final = "oci-mesh-doctor"

# Random hexadecimal digits, so that nobody else's request is taken for this one.
NONCE_LENGTH: Final = 32

# The longest that a node looks out: a runtime may try other mirrors before it.
MAX_WITHIN_S: Final = 60.0


class WitnessRequest(Document):
    """Asks to look out for it, for `within_s` seconds at most."""

    nonce: str
    within_s: float


class Sighting(Document):
    """Whether the request has come."""

    seen: bool
    registry: str = ""
    """Which registry the image would be of, as the client said; empty: it said none."""
