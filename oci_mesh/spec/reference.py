"""References: what people call images (the grammar of distribution/reference, with the names and
tags of distribution-spec, "Pulling manifests").

    reference  = [ domain "/" ] path [ ":" tag ] [ "@" digest ]

Docker's two conveniences are applied when parsing, as every client does: a name without a domain
is on docker.io, and there a name without a slash is in `library/`. What this does not do: resolve
anything, or decide which host serves a domain.
"""

import re
from dataclasses import dataclass
from typing import Final

from oci_mesh.errors import NameInvalid, TagInvalid, quoted
from oci_mesh.spec.digest import Digest

# distribution-spec: "<name> MUST match …"; the length limit is the one that clients have
# for host + name, and what a file name can hold.
MAX_REPOSITORY_LENGTH: Final = 255
MAX_TAG_LENGTH: Final = 128
DEFAULT_DOMAIN: Final = "docker.io"
LEGACY_DEFAULT_DOMAIN: Final = "index.docker.io"
DEFAULT_TAG: Final = "latest"

_COMPONENT: Final = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_REPOSITORY: Final = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG: Final = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}", re.ASCII)
_DOMAIN_LABEL: Final = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN: Final = re.compile(
    rf"(?:{_DOMAIN_LABEL}(?:\.{_DOMAIN_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII
)


def parse_repository(text: str) -> str:
    """Return `text` if it is a repository name, else raise `NameInvalid`."""
    if len(text) > MAX_REPOSITORY_LENGTH:
        raise NameInvalid(f"repository name longer than {MAX_REPOSITORY_LENGTH} characters")
    if _REPOSITORY.fullmatch(text) is None:
        raise NameInvalid(
            f"{quoted(text)} is not a repository name: lower-case letters and digits, separated by "
            "one of . _ __ - inside a component, / between components"
        )
    return text


def parse_tag(text: str) -> str:
    """Return `text` if it is a tag, else raise `TagInvalid`."""
    if _TAG.fullmatch(text) is None:
        raise TagInvalid(
            f"{quoted(text)} is not a tag: up to {MAX_TAG_LENGTH} letters, digits, . _ -, "
            "not beginning with . or -"
        )
    return text


def parse_tag_or_digest(text: str) -> str | Digest:
    """A tag, or a digest if there is a colon in it (no tag has one)."""
    return Digest.parse(text) if ":" in text else parse_tag(text)


@dataclass(frozen=True, slots=True)
class Reference:
    """Where an image is: `domain/repository`, and a tag or a digest or both."""

    domain: str
    repository: str
    tag: str | None = None
    digest: Digest | None = None

    @property
    def target(self) -> str:
        """What to ask a registry for: the digest if there is one, else the tag."""
        return str(self.digest) if self.digest is not None else self.tag or DEFAULT_TAG

    def __str__(self) -> str:
        text = f"{self.domain}/{self.repository}"
        if self.tag is not None:
            text += f":{self.tag}"
        if self.digest is not None:
            text += f"@{self.digest}"
        return text


def parse_reference(text: str) -> Reference:
    """Parse what a person types after `docker pull`.

    Raises `NameInvalid`, `TagInvalid` or `DigestInvalid`. A reference with neither tag nor digest
    gets the tag `latest`. `parse_reference(str(r)) == r` for every `r` that this returns.
    """
    rest, at, digest_text = text.partition("@")
    digest = Digest.parse(digest_text) if at else None
    tag: str | None = None
    head, colon, tail = rest.rpartition(":")
    if colon and "/" not in tail:  # else the colon is a port's
        rest, tag = head, parse_tag(tail)
    if tag is None and digest is None:
        tag = DEFAULT_TAG
    domain, repository = _split_domain(rest)
    if domain == DEFAULT_DOMAIN and "/" not in repository:
        repository = f"library/{repository}"
    return Reference(domain, parse_repository(repository), tag, digest)


def looks_like_host(component: str) -> bool:
    """Whether the first of several components of a name is a host: docker's rule."""
    return (
        "." in component
        or ":" in component
        or component == "localhost"
        or component != component.lower()
    )


def names_host(text: str) -> bool:
    """Whether the first component is a host: docker's rule, a dot, a colon, or `localhost`."""
    first, slash, _ = text.partition("/")
    return bool(slash) and looks_like_host(first) and "@" not in first


def _split_domain(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if not slash or not looks_like_host(first):
        return DEFAULT_DOMAIN, name
    if _DOMAIN.fullmatch(first) is None:
        raise NameInvalid(f"{quoted(first)} is not a registry host")
    return (DEFAULT_DOMAIN if first == LEGACY_DEFAULT_DOMAIN else first), rest
