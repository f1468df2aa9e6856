"""containerd's config.toml: where it says which directory has the hosts.toml files.

    version 1   [plugins.cri.registry]                              config_path
    version 2   [plugins."io.containerd.grpc.v1.cri".registry]      config_path
    version 3   [plugins."io.containerd.cri.v1.images".registry]    config_path

A file without `version` is of version 1; containerd 2 still reads it, but for its plugins, without
a word (seen with 2.1). `imports` may bring more files, of which the last one with
that plugin decides. The old way, `registry.mirrors` and `registry.configs.*.tls`, excludes the new
one: with both, containerd does not load its CRI plugin, and no pod starts. So where these are in
use nothing is changed unless they are to be moved into hosts.toml files.

What this does not do: restart containerd (which a change here needs, and one of hosts.toml does
not), or look at what containerd's package has built in.
"""

import copy
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from oci_mesh.cli import hosts_toml
from oci_mesh.cli.edits import Machine
from oci_mesh.cli.failure import Failure
from oci_mesh.cli.old_mirrors import Moved, move
from oci_mesh.cli.runtime import DEFAULT_NAME, Plan, Wish

CONFIG: Final = "/etc/containerd/config.toml"
HOSTS: Final = "/etc/containerd/certs.d"

RESTART: Final = "restart containerd: `systemctl restart containerd` (what runs goes on running)"

# Where k3s and RKE2 put theirs, which they write anew at each start.
_GENERATED: Final = tuple(
    f"/var/lib/rancher/{name}/agent/etc/containerd/config.toml" for name in ("k3s", "rke2")
)

# The plugin that pulls images for Kubernetes, by the version of the file.
_PLUGINS: Final = {
    1: "cri",
    2: "io.containerd.grpc.v1.cri",
    3: "io.containerd.cri.v1.images",
}
_NEW_FILE: Final = "version = 2\n"  # every containerd since 1.3 reads it

MAX_IMPORTED: Final = 64


@dataclass(frozen=True)
class ConfigFile:
    """One file of containerd's configuration."""

    path: str
    text: str
    data: dict[str, Any]

    @property
    def version(self) -> int:
        """Of the format."""
        version = self.data.get("version", 1)
        if not isinstance(version, int) or version < 0:
            raise Failure(f"{self.path}: `version` has to be a number")
        return version or 1

    @property
    def plugin(self) -> str:
        """What the plugin that pulls images is called in such a file."""
        newest = max(_PLUGINS)
        if self.version > newest and _PLUGINS[newest] not in self.data.get("plugins", {}):
            raise Failure(
                f"{self.path} is of version {self.version}, and this program knows {newest} and "
                "older ones",
                hint="set `config_path` of the plugin that pulls images there by hand, and run "
                "this again",
            )
        return _PLUGINS.get(self.version, _PLUGINS[newest])

    @property
    def has_plugin(self) -> bool:
        """Whether it says anything of that plugin."""
        return self.plugin in _table(self.data, self.path, "plugins")

    @property
    def registry(self) -> dict[str, Any]:
        """What it says of registries."""
        return _table(self.data, self.path, "plugins", self.plugin, "registry")

    @property
    def hosts(self) -> str:
        """The directory of hosts.toml files; empty if it names none."""
        path = self.registry.get("config_path", "")
        if not isinstance(path, str):
            raise Failure(f"{self.path}: `config_path` has to be text")
        return path

    @property
    def old(self) -> list[str]:
        """What of the old way is in it."""
        mirrors = [f"mirrors.{name}" for name in self.registry.get("mirrors", {})]
        configs = self.registry.get("configs", {})
        return mirrors + [f"configs.{name}.tls" for name, said in configs.items() if "tls" in said]


@dataclass(frozen=True)
class Configuration:
    """All files, the main one first."""

    files: list[ConfigFile]

    @property
    def deciding(self) -> ConfigFile:
        """The file whose `config_path` counts."""
        return next((file for file in reversed(self.files) if file.has_plugin), self.files[0])

    @property
    def is_generated(self) -> bool:
        """Whether another program writes it, and will do so again."""
        return any("DO NOT EDIT" in file.text[:1000] for file in self.files)


def load(machine: Machine, path: str = CONFIG) -> Configuration:
    """The configuration. One that is not there is empty: containerd then takes its defaults."""
    if path == CONFIG and machine.read(path) is None:
        path = next((other for other in _GENERATED if machine.read(other) is not None), path)
    main = _load(machine, path) or ConfigFile(path, _NEW_FILE, {"version": 2})
    files = [main]
    for file in files:  # which may grow meanwhile: what is imported may import
        for imported in _imports(machine, file):
            if imported not in {known.path for known in files}:
                found = _load(machine, imported)
                files += [found] if found else []
        if len(files) > MAX_IMPORTED:
            raise Failure(f"{path} imports more than {MAX_IMPORTED} files")
    return Configuration(files)


def plan(machine: Machine, config: str, wish: Wish, *, migrate: bool) -> Plan:
    """What to change for containerd. Raises `Failure` where a person has to decide first."""
    found = load(machine, config)
    if found.is_generated:
        raise _generated(found, wish)
    made = Plan()
    moved = _move_old(machine, found, migrate=migrate)
    directory = _set_directory(machine, found, moved, made)
    _edit_hosts(machine, directory, moved, wish, made)
    _add_notes(machine, found, directory, wish, made)
    return made


def hosts_path(machine: Machine, directory: str, name: str) -> str:
    """The hosts.toml of a registry. containerd looks for both forms of a name with a port."""
    host, _, port = name.rpartition(":")
    other = f"{host}_{port}_"
    if host and other in machine.names(directory):
        name = other
    return f"{directory}/{name}/hosts.toml"


# -- how it is planned


def _move_old(machine: Machine, found: Configuration, *, migrate: bool) -> list[Moved]:
    old = [(file, file.old) for file in found.files if file.old]
    if not old:
        return []
    if not migrate:
        names = "; ".join(f"{', '.join(names)} in {file.path}" for file, names in old)
        raise Failure(
            f"containerd is configured the old way: {names}. It would not start pods with both "
            "this and hosts.toml files",
            hint="--migrate moves that into hosts.toml files, with the same meaning; see it first "
            "with --migrate --dry-run",
        )
    return [move(file.registry, file.path) for file, _ in old]


def _set_directory(machine: Machine, found: Configuration, moved: list[Moved], made: Plan) -> str:
    """Have containerd look into one directory; return which."""
    deciding = found.deciding
    said = [path for path in deciding.hosts.split(":") if path]
    directory = said[0].rstrip("/") if said else HOSTS
    rest = [path for path in said[1:] if machine.names(path)]
    if rest:
        raise Failure(
            f"{deciding.path}: `config_path` names {len(said)} directories, and containerd 2.2 "
            "takes that for one (containerd#12808)",
            hint=f"move what is in {', '.join(rest)} to {directory}, and run this again",
        )
    for file in found.files:
        data = copy.deepcopy(file.data)
        if file.old:
            _drop_old(data, file.plugin)
        if file is deciding and [path.rstrip("/") for path in said] != [directory]:
            _registry(data, file.plugin)["config_path"] = directory
        if data != file.data:
            made.edits[file.path] = _rewritten(file, data).encode()
    if made.edits:
        made.notes.append(RESTART)
    return directory


def _edit_hosts(
    machine: Machine, directory: str, moved: list[Moved], wish: Wish, made: Plan
) -> None:
    texts: dict[str, str | None] = {}

    def text(path: str) -> str | None:
        if path not in texts:
            texts[path] = machine.text(path)
        return texts[path]

    for old in moved:
        for name, hosts in old.hosts.items():
            path = hosts_path(machine, directory, name)
            for url, settings in reversed(hosts.items()):
                texts[path] = hosts_toml.with_first_host(text(path), path, url, settings)
    for name in wish.names:
        path = hosts_path(machine, directory, name)
        settings = {"capabilities": wish.capabilities}
        after = hosts_toml.with_first_host(text(path), path, wish.node, settings)
        texts[path] = hosts_toml.with_server(after, path, wish.node) if wish.own else after
    made.edits.update({path: after.encode() for path, after in texts.items() if after is not None})


def _add_notes(
    machine: Machine, found: Configuration, directory: str, wish: Wish, made: Plan
) -> None:
    if "cri" in found.files[0].data.get("disabled_plugins", []):
        made.notes.append(
            f"{found.files[0].path} switches the CRI plugin off: only what reads {directory} by "
            "itself (nerdctl, ctr with --hosts-dir) will ask the mesh"
        )
    if found.deciding.plugin == _PLUGINS[1]:
        made.notes.append(
            f"{found.deciding.path} is of version 1, and containerd 2 passes over what such a file "
            "says of plugins: if it is one, write the file anew for it"
        )
    if DEFAULT_NAME in wish.names:
        there = [path.split("/")[-2] for path in made.edits if path.endswith("/hosts.toml")]
        own = {*machine.names(directory), *there} - {DEFAULT_NAME, *wish.names}
        if own:
            made.notes.append(
                f"these have settings of their own, so {DEFAULT_NAME} is not for them: "
                f"{', '.join(sorted(own))}; name them as well if the mesh is to be asked"
            )


def _generated(found: Configuration, wish: Wish) -> Failure:
    mirrors = "\n".join(
        f'  "{"*" if name == DEFAULT_NAME else name}":\n    endpoint:\n      - "{wish.node}"'
        for name in wish.names
    )
    return Failure(
        f"{found.files[0].path} and the hosts.toml files of this machine are written anew by "
        "another program, k3s or RKE2, at each start",
        hint="put this into /etc/rancher/k3s/registries.yaml (or rke2/), and restart it:\n"
        f"mirrors:\n{mirrors}",
    )


# -- reading and writing TOML


def _load(machine: Machine, path: str) -> ConfigFile | None:
    text = machine.text(path)
    return None if text is None else ConfigFile(path, text, hosts_toml.parse(text, path))


def _imports(machine: Machine, file: ConfigFile) -> Iterator[str]:
    patterns = file.data.get("imports", [])
    if not isinstance(patterns, list):
        raise Failure(f"{file.path}: `imports` has to be a list")
    for pattern in patterns:
        yield from machine.glob(posixpath.join(posixpath.dirname(file.path), str(pattern)))


def _table(data: dict[str, Any], path: str, *names: str) -> dict[str, Any]:
    """A table within tables; empty if it is not there."""
    for name in names:
        data = data.get(name, {})
        if not isinstance(data, dict):
            raise Failure(f"{path}: {'.'.join(names)} has to be a table")
    return data


def _registry(data: Any, plugin: str) -> Any:
    for name in ("plugins", plugin, "registry"):
        data = data.setdefault(name, {})
    return data


def _drop_old(data: Any, plugin: str) -> None:
    registry = data["plugins"][plugin]["registry"]
    registry.pop("mirrors", None)
    for name in list(registry.get("configs", {})):
        registry["configs"][name].pop("tls", None)
        if not registry["configs"][name]:
            del registry["configs"][name]


def _rewritten(file: ConfigFile, wanted: dict[str, Any]) -> str:
    """The file's text, changed to mean `wanted`: what others wrote in it stays as it is."""
    text = file.text
    if file.old:
        text = hosts_toml.edited(text, lambda document: _drop_old(document, file.plugin))
    directory = _registry(copy.deepcopy(wanted), file.plugin).get("config_path", "")

    def change() -> str:
        return hosts_toml.edited(text, lambda document: _set(document, file, directory))

    # A table of its own at the end needs no place among what others wrote, if it may be there.
    add: list[Callable[[], str]] = [lambda: _appended(text, file.plugin, directory), change]
    is_said = "config_path" in file.registry
    candidates: list[Callable[[], str]] = [lambda: text, *([change] if is_said else add)]
    for candidate in candidates:
        try:
            after = candidate()
            if hosts_toml.parse(after, file.path) == wanted:
                return after
        except Failure:
            continue
    raise Failure(
        f"{file.path} is written in a way that cannot be added to",
        hint="put this into it by hand, and run this again:\n"
        + _appended("", file.plugin, directory),
    )


def _set(document: Any, file: ConfigFile, directory: str) -> None:
    """In its table, if that is there: a `KeyError` or `Failure` otherwise."""
    document["plugins"][file.plugin]["registry"]["config_path"] = directory


def _appended(text: str, plugin: str, directory: str) -> str:
    gap = "" if not text or text.endswith("\n") else "\n"
    gap += "\n" if text else ""
    name = plugin if plugin.isidentifier() else f'"{plugin}"'
    return f'{text}{gap}[plugins.{name}.registry]\n  config_path = "{directory}"\n'
