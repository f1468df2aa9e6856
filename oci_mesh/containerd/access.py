"""Who may have the blobs of private images: the nodes whose containerd was given their manifest.

A registry gives a manifest only to who has the secret, and its bytes name things that cannot be
guessed. So whoever knows them had the secret, or had them from somebody who had. A node shows that
it does without showing them: by an HMAC under a key made of them, over its own name and the blob,
so that nobody else can show the same for himself, or for another blob.
"""

import hmac
from typing import Final

from oci_mesh.containerd.content import ContainerdContent
from oci_mesh.spec.digest import Digest

# A blob that many images share: each proof is 65 characters of a header on each request. Two nodes
# that pull one image now both have it among their newest.
MAX_SHOWN: Final = 4
# How many of its own manifests a node compares them with, in a tenth of a millisecond.
MAX_COMPARED: Final = 64

# What a node shows that has no manifest, to meshes where none is needed.
_MEMBER: Final = "member"


class ContainerdAccess:
    """An `Access`. With `any_node` every node of the mesh has a right to everything, by the
    operator's choice: then whoever may run a pod may have any private image that the mesh has.
    """

    def __init__(self, content: ContainerdContent, *, any_node: bool = False) -> None:
        self._content = content
        self._any_node = any_node

    def proof(self, repository: str, digest: Digest, node_id: str) -> str:
        """As `Access.proof`: one for each of a few manifests that name the blob."""
        keys = self._content.keys(digest, MAX_SHOWN)
        shown = ",".join(_proof(key, node_id, digest) for key in keys)
        return shown or (_MEMBER if self._any_node else "")

    async def is_proven(self, repository: str, digest: Digest, node_id: str, proof: str) -> bool:
        """As `Access.is_proven`: with the manifests that containerd has now, also of just now."""
        if self._any_node or self._is_right(digest, node_id, proof):
            return True
        await self._content.entitled(digest)
        return self._is_right(digest, node_id, proof)

    def _is_right(self, digest: Digest, node_id: str, proof: str) -> bool:
        shown = [text.encode(errors="replace") for text in proof.split(",", MAX_SHOWN)[:MAX_SHOWN]]
        keys = self._content.keys(digest, MAX_COMPARED)
        right = [_proof(key, node_id, digest).encode() for key in keys]
        # Every pair is compared, in constant time: how long it takes tells nothing.
        return sum(hmac.compare_digest(ours, theirs) for ours in right for theirs in shown) > 0


def _proof(key: bytes, node_id: str, digest: Digest) -> str:
    return hmac.digest(key, f"{node_id}\0{digest}".encode(), "sha256").hex()
