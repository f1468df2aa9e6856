"""A registry client of a few lines, for what no real client will do; it verifies every byte."""

import json
from pathlib import Path
from typing import Any

from tests import images
from tests.e2e.daemon import Daemon, Response

_ACCEPT = f"{images.IMAGE_MANIFEST}, {images.IMAGE_INDEX}, {images.DOCKER_MANIFEST}, */*"


def get(daemon: Daemon, path: str) -> Response:
    """GET `/v2/{path}`; AssertionError unless it is a 200 with the digest it says."""
    response = daemon.request("GET", f"/v2/{path}", "--header", f"Accept: {_ACCEPT}")
    assert response.status == 200, f"GET {path}: {response.status} {response.body[:500]!r}"
    if "docker-content-digest" in response.headers:
        assert response.headers["docker-content-digest"] == images.sha256(response.body)
    return response


def pull(daemon: Daemon, repository: str, reference: str) -> dict[str, bytes]:
    """Everything an image or index is made of, digest -> bytes, as a client of `daemon` gets it."""
    body = get(daemon, f"{repository}/manifests/{reference}").body
    document: dict[str, Any] = json.loads(body)
    found = {images.sha256(body): body}
    for child in document.get("manifests", []):
        found |= pull(daemon, repository, child["digest"])
    for blob in [
        *([document["config"]] if "config" in document else []),
        *document.get("layers", []),
    ]:
        data = get(daemon, f"{repository}/blobs/{blob['digest']}").body
        assert images.sha256(data) == blob["digest"]
        found[blob["digest"]] = data
    return found


def push_blob(daemon: Daemon, repository: str, data: bytes, scratch: Path) -> str:
    """Upload a blob in one request; its digest."""
    scratch.write_bytes(data)
    digest = images.sha256(data)
    path = f"/v2/{repository}/blobs/uploads/?digest={digest}"
    octets = ["--header", "Content-Type: application/octet-stream"]
    response = daemon.request("POST", path, *octets, "--data-binary", f"@{scratch}")
    assert response.status == 201, response
    return digest


def push_manifest(
    daemon: Daemon, repository: str, reference: str, document: dict[str, Any], scratch: Path
) -> Response:
    """PUT a manifest under a tag or its digest."""
    scratch.write_bytes(images.encode(document))
    header = f"Content-Type: {document['mediaType']}"
    path = f"/v2/{repository}/manifests/{reference}"
    response = daemon.request("PUT", path, "--header", header, "--data-binary", f"@{scratch}")
    assert response.status == 201, response
    return response


def push_image(
    daemon: Daemon, repository: str, tag: str, scratch: Path, data: bytes = b""
) -> dict[str, bytes]:
    """Push an image of one layer that only this `repository:tag` has; everything it is made of."""
    folder = scratch / f"{repository}-{tag}".replace("/", "-")
    digest = images.build_layout(
        folder, tag, {"name": f"{repository}:{tag}".encode(), "data": data}
    )
    blobs = layout_blobs(folder)
    for blob in blobs.values():
        push_blob(daemon, repository, blob, scratch / "upload")
    push_manifest(daemon, repository, tag, json.loads(blobs[digest]), scratch / "upload")
    return blobs


def layout_blobs(directory: Path) -> dict[str, bytes]:
    """Every blob of an OCI layout directory, digest -> bytes."""
    blobs = (directory / "blobs" / "sha256").iterdir()
    return {f"sha256:{path.name}": path.read_bytes() for path in blobs}
