"""hosts.toml: which hosts containerd asks for the images of one registry, and in which order.

They are asked as they stand in the file; the registry itself comes last, whether or not `server`
says where it is. Everything that others wrote stays: lines are put in, and only what is ours is
changed. The outcome is read again and compared with what it should mean.
"""

import tomllib
from collections.abc import Callable, Mapping
from typing import Any, Final

import tomlkit
from tomlkit.exceptions import TOMLKitError

from oci_mesh.cli.failure import Failure

HEADER: Final = (
    "# Written by `oci-mesh containerd configure`; `oci-mesh containerd undo` removes it.\n"
)

Settings = Mapping[str, Any]
"""What is said of a host: `capabilities` and others."""


def read_hosts(text: str, path: str) -> dict[str, dict[str, Any]]:
    """The hosts of a hosts.toml, in order. Raises `Failure` for what containerd cannot read."""
    hosts = parse(text, path).get("host", {})
    if not isinstance(hosts, dict) or not all(isinstance(said, dict) for said in hosts.values()):
        raise Failure(f'{path}: `host` has to be tables, as [host."https://…"]')
    return hosts


def with_first_host(text: str | None, path: str, url: str, settings: Settings) -> str:
    """A hosts.toml in which `url` is asked first, as `settings` say.

    `text` is what the file holds now, None if there is none.
    """
    if text is None:
        return _checked("", path, f"{HEADER}{_block(url, settings)}", url, settings)
    hosts = read_hosts(text, path)
    if url in hosts:
        if next(iter(hosts)) == url:
            return _checked(text, path, _updated(text, url, settings), url, settings)
        settings = {**hosts[url], **settings}
        text = _without(text, url)
    start = first_table(text)
    if text.startswith(HEADER):
        start = max(start, len(HEADER))
    above, below = text[:start], text[start:]
    gap = "\n" if above and not above.endswith("\n") else ""
    gap += "\n" if above.strip() and not (above + gap).endswith("\n\n") else ""
    block = _block(url, settings) + ("\n" if below else "")
    return _checked(text, path, f"{above}{gap}{block}{below}", url, settings)


def with_server(text: str, path: str, url: str) -> str:
    """A hosts.toml in which the registry itself is at `url`."""
    said = parse(text, path).get("server")
    if said == url:
        return text
    if said is not None:
        raise Failure(
            f"{path} says that the registry is at {said}",
            hint="leave --own away: it is for names that only the mesh has",
        )
    line = f'server = "{url}"\n\n'
    head = HEADER if text.startswith(HEADER) else ""
    return f"{head}{line}{text.removeprefix(head)}"


def parse(text: str, path: str) -> dict[str, Any]:
    """TOML, or `Failure`."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise Failure(f"{path} is not valid TOML: {error}") from None


def _block(url: str, settings: Settings) -> str:
    lines = [f"  {key} = {_shown(value)}\n" for key, value in settings.items()]
    return f'[host."{url}"]\n{"".join(lines)}'


def _shown(value: object) -> str:
    """On one line."""
    if not isinstance(value, dict):
        return tomlkit.item(value).as_string()
    table = tomlkit.inline_table()
    table.update(value)
    return table.as_string()


def _updated(text: str, url: str, settings: Settings) -> str:
    said = parse(text, "")["host"][url]
    wrong = {key: value for key, value in settings.items() if said.get(key) != value}

    def update(document: tomlkit.TOMLDocument) -> None:
        for key, value in wrong.items():
            document["host"][url][key] = value

    return edited(text, update) if wrong else text


def _without(text: str, url: str) -> str:
    def remove(document: tomlkit.TOMLDocument) -> None:
        del document["host"][url]

    return edited(text, remove)


def edited(text: str, change: Callable[[tomlkit.TOMLDocument], None]) -> str:
    """`text` with a change, comments and order kept. What it means now is to be checked."""
    try:
        document = tomlkit.parse(text)
        change(document)
        return tomlkit.dumps(document)
    except (TOMLKitError, KeyError, TypeError) as error:
        raise Failure(f"cannot change this TOML: {error}", hint="change it by hand") from None


def first_table(text: str) -> int:
    """Where the first table begins, comments right above it included; the end if there is none."""
    offset, above = 0, 0
    for line in text.splitlines(keepends=True):
        if line.lstrip().startswith("[") and _is_toml(text[:offset]):
            return above
        offset += len(line)
        if not line.lstrip().startswith("#"):
            above = offset
    return len(text)


def _is_toml(text: str) -> bool:
    """Not so where it was cut within an array or a string."""
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return False
    return True


def _checked(before: str, path: str, after: str, url: str, settings: Settings) -> str:
    """`after`, if it means what `before` did, with `url` first. Or `Failure`."""
    wanted = parse(before, path)
    host = wanted.setdefault("host", {}).setdefault(url, {})
    host.update(settings)
    meant = tomllib.loads(after) if _is_toml(after) else {}
    if meant != wanted or next(iter(meant["host"])) != url:
        raise Failure(
            f"{path} is written in a way that cannot be added to",
            hint=f"put this before all other hosts in it, by hand:\n{_block(url, settings)}",
        )
    return after
