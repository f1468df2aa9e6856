"""config.toml of containerd: what becomes of real ones, and that it can be undone."""

import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from oci_mesh.cli import containerd_config, edits
from tests.cli.machine import (
    CERTS_D,
    CONFIG,
    CONFIGS,
    NODE,
    PLUGIN_2,
    PLUGIN_3,
    PLUGINS,
    call,
    configured,
    done,
    failed,
    files,
    hosts,
    put,
    said_of_registries,
)


@pytest.mark.parametrize("name", PLUGINS)
def test_real_configurations_are_added_to_and_put_back(name: str, tmp_path: Path) -> None:
    """Only what has to change does; again changes nothing; undone there is no trace left."""
    config = configured(tmp_path, name)
    config.chmod(0o640)
    before, untouched = config.read_text(), files(tmp_path)
    shown = done(tmp_path, "configure", "--migrate", "--dry-run")
    assert files(tmp_path) == untouched
    changed = done(tmp_path, "configure", "--migrate")
    assert changed.count("changed ") == shown.count("\n+++ ")
    after = config.read_text()
    said = said_of_registries(after, PLUGINS[name])
    assert said["config_path"] == CERTS_D
    assert not said.get("mirrors")
    assert not any("tls" in entry for entry in said.get("configs", {}).values())
    assert hosts(tmp_path, "_default")["host"][NODE] == {"capabilities": ["pull"]}
    assert config.stat().st_mode & 0o777 == 0o640
    removed = {line.strip() for line in before.splitlines()} - {
        line.strip() for line in after.splitlines()
    }
    assert all("#" not in line.split('"')[0] or "nobody uses" in line for line in removed)

    everything = files(tmp_path)
    assert done(tmp_path, "configure") == "nothing to change\n"
    assert files(tmp_path) == everything
    assert done(tmp_path, "undo").count("put back") == changed.count("changed ")
    assert files(tmp_path) == untouched
    assert done(tmp_path, "undo") == "nothing to change\n"


@pytest.mark.parametrize("name", [n for n in PLUGINS if n not in ("old-mirrors", "default-1.4")])
def test_all_else_means_what_it_did(name: str, tmp_path: Path) -> None:
    """As TOML: nothing but `config_path` is another."""
    config = configured(tmp_path, name)
    wanted = tomllib.loads(config.read_text())
    registry = wanted.setdefault("plugins", {}).setdefault(PLUGINS[name], {})
    registry.setdefault("registry", {})["config_path"] = CERTS_D
    done(tmp_path, "configure")
    assert tomllib.loads(config.read_text()) == wanted


def test_lines_of_others_stay_where_they_are(tmp_path: Path) -> None:
    """Comments among them; what is new is at the end."""
    config = configured(tmp_path, "commented")
    before = config.read_text()
    done(tmp_path, "configure")
    assert config.read_text() == (
        f'{before}\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "{CERTS_D}"\n'
    )


def test_without_a_configuration_one_is_made(tmp_path: Path) -> None:
    """It says nothing else; undone it is gone, and so are the directories."""
    done(tmp_path, "configure")
    said = tomllib.loads((tmp_path / CONFIG).read_text())
    assert said == {"version": 2, "plugins": {PLUGIN_2: {"registry": {"config_path": CERTS_D}}}}
    done(tmp_path, "undo")
    assert files(tmp_path) == {}


def test_a_directory_that_is_set_is_used(tmp_path: Path) -> None:
    """Then there is nothing to restart."""
    text = '[plugins.cri.registry]\nconfig_path = "/opt/hosts/"\n'
    config = put(tmp_path, CONFIG, text)
    result = call(tmp_path, "configure", "docker.io")
    assert result.stdout == "changed /opt/hosts/docker.io/hosts.toml\n"
    assert "restart" not in result.stderr
    assert config.read_text() == text


def test_a_second_directory_that_is_in_use_is_for_a_person(tmp_path: Path) -> None:
    """containerd 2.2 takes `a:b` for one path."""
    configured(tmp_path, "two-directories")
    put(tmp_path, "etc/docker/certs.d/registry.corp/ca.crt", "")
    assert "move what is in /etc/docker/certs.d" in failed(tmp_path)


def test_containerd_has_to_be_restarted(tmp_path: Path) -> None:
    """For config.toml, also when that is put back; and CRI may be switched off."""
    configured(tmp_path, "docker-package")
    said = call(tmp_path, "configure").stderr
    assert "systemctl restart containerd" in said
    assert "switches the CRI plugin off" in said
    assert "is of version 1" in said
    assert "systemctl restart containerd" in call(tmp_path, "undo").stderr


def test_the_old_way_is_not_mixed_with_the_new_one(tmp_path: Path) -> None:
    """containerd would load no CRI plugin: it says what is in the way, and what to do."""
    configured(tmp_path, "old-mirrors")
    said = failed(tmp_path)
    assert "mirrors.docker.io" in said
    assert "configs.registry.corp.tls" in said
    assert "--migrate" in said


def test_the_old_way_is_moved_with_its_meaning(tmp_path: Path) -> None:
    """In the same order, TLS and paths with it; secrets stay where they may."""
    config = configured(tmp_path, "old-mirrors")
    result = call(tmp_path, "configure", "--migrate", "docker.io", "_default", "--resolve")
    assert result.exit_code == 0
    said = said_of_registries(config.read_text(), PLUGIN_2)
    assert said == {
        "config_path": CERTS_D,
        "configs": {"registry.corp": {"auth": {"username": "robot"}}},
    }
    assert "# scraped" in config.read_text()
    ours = {NODE: {"capabilities": ["pull", "resolve"]}}
    both = ["pull", "resolve"]
    mirror = {
        "capabilities": both,
        "ca": "/etc/ssl/corp.pem",
        "client": [["/etc/ssl/node.pem", "/etc/ssl/node.key"]],
    }
    proxy = {"capabilities": both, "override_path": True}
    assert hosts(tmp_path, "docker.io") == {"host": {**ours, "https://mirror.corp:5443": mirror}}
    assert hosts(tmp_path, "_default") == {"host": {**ours, "http://10.0.0.5:5000/v2/proxy": proxy}}
    own = {"capabilities": both, "skip_verify": True}
    assert hosts(tmp_path, "registry.corp") == {"host": {"https://registry.corp": own}}
    assert "_default is not for them: registry.corp;" in result.stderr


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("docker.io", 'rewrite = {"^a" = "b"}', "`rewrite` of mirrors.docker.io"),
        ("../../x", "", "is not the name of a registry"),
        ("docker.io", "endpoint = ['https://a\"b']", "cannot be added to"),
    ],
)
def test_what_has_no_form_in_the_new_way_is_not_moved(
    name: str, settings: str, says: str, tmp_path: Path
) -> None:
    """k3s adds `rewrite` to the old way."""
    table = f'[plugins."{PLUGIN_2}".registry.mirrors."{name}"]'
    put(tmp_path, CONFIG, f"version = 2\n{table}\n{settings}\n")
    assert says in failed(tmp_path, "--migrate")


@pytest.mark.parametrize("program", ["k3s", "rke2"])
def test_what_another_program_writes_is_left_to_it(program: str, tmp_path: Path) -> None:
    """It says what to tell that one."""
    text = (CONFIGS / "k3s.toml").read_text()
    put(tmp_path, f"var/lib/rancher/{program}/agent/etc/containerd/config.toml", text)
    said = failed(tmp_path, "docker.io", "_default")
    assert f"/var/lib/rancher/{program}/" in said
    assert "registries.yaml" in said
    wanted = '  "docker.io":\n    endpoint:\n      - "http://127.0.0.1:5000"\n  "*":\n'
    assert wanted in said


# -- imports

IMPORTING = 'version = 2\nimports = ["conf.d/*.toml"]\n'


def test_an_import_that_has_the_plugin_decides(tmp_path: Path) -> None:
    """containerd takes all of a plugin's settings from the last file that has any."""
    main_text = f'{IMPORTING}[plugins."{PLUGIN_2}".registry]\nconfig_path = "/a"\n'
    config = put(tmp_path, CONFIG, main_text)
    put(tmp_path, "etc/containerd/conf.d/1.toml", "version = 2\noom_score = 1\n")
    decides = put(
        tmp_path, "etc/containerd/conf.d/2.toml", f'version = 2\n[plugins."{PLUGIN_2}"]\nx = 1\n'
    )
    said = done(tmp_path, "configure")
    assert "changed /etc/containerd/conf.d/2.toml" in said
    assert config.read_text() == main_text
    assert said_of_registries(decides.read_text(), PLUGIN_2)["config_path"] == CERTS_D


def test_imports_that_set_the_directory_are_followed(tmp_path: Path) -> None:
    """By absolute paths too, and one that is not there is none."""
    text = 'version = 2\nimports = ["/opt/c.toml", "/opt/none.toml"]\n'
    put(tmp_path, CONFIG, text)
    put(tmp_path, "opt/c.toml", '[plugins.cri.registry]\nconfig_path = "/opt/hosts"\n')
    assert done(tmp_path, "configure") == "changed /opt/hosts/_default/hosts.toml\n"


def test_imports_that_import_each_other_end(tmp_path: Path) -> None:
    """Each file counts once."""
    put(tmp_path, CONFIG, 'version = 2\nimports = ["/etc/containerd/*.toml"]\n')
    done(tmp_path, "configure")


def test_too_many_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Are refused."""
    monkeypatch.setattr(containerd_config, "MAX_IMPORTED", 2)
    put(tmp_path, CONFIG, IMPORTING)
    for number in range(2):
        put(tmp_path, f"etc/containerd/conf.d/{number}.toml", "")
    assert "more than 2 files" in failed(tmp_path)


# -- configurations that cannot be used


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"version = ", "not valid TOML"),
        (b"\xff\xfe", "not UTF-8"),
        (b'version = "2"', "`version` has to be a number"),
        (b"version = 4", "this program knows 3"),
        (b"plugins = 3", "has to be a table"),
        (b"[plugins]\ncri = 1", "has to be a table"),
        (b"[plugins.cri]\nregistry = []", "has to be a table"),
        (b"[plugins.cri.registry]\nconfig_path = 7", "has to be text"),
        (b"imports = 1", "`imports` has to be a list"),
        ((CONFIGS / "inline.toml").read_bytes(), "cannot be added to"),
        (b"#" * (edits.MAX_FILE_BYTES + 1), "larger than"),
    ],
)
def test_a_configuration_that_cannot_be_used(text: bytes, says: str, tmp_path: Path) -> None:
    """One sentence, and which file it is."""
    put(tmp_path, CONFIG, text)
    said = failed(tmp_path)
    assert says in said
    assert "/etc/containerd/config.toml" in said


def test_a_newer_version_with_a_known_plugin(tmp_path: Path) -> None:
    """Is taken for what it says."""
    config = put(tmp_path, CONFIG, f"version = 4\n[plugins.'{PLUGIN_3}']\n")
    done(tmp_path, "configure")
    assert said_of_registries(config.read_text(), PLUGIN_3)["config_path"] == CERTS_D


def test_a_configuration_that_is_a_directory(tmp_path: Path) -> None:
    """As any that cannot be read."""
    (tmp_path / CONFIG).mkdir(parents=True)
    assert "cannot read /etc/containerd/config.toml: Is a directory" in failed(tmp_path)


# -- a real one


@pytest.mark.parametrize("name", [n for n in PLUGINS if n not in ("docker-package",)])
def test_a_real_containerd_reads_it(name: str, tmp_path: Path) -> None:
    """`containerd config dump` says what our file means."""
    # 1.x does not know version 3, and 2.x takes no settings of plugins from version 1.
    path = os.environ.get("CONTAINERD2", "") if PLUGINS[name] == PLUGIN_3 else None
    program = shutil.which("containerd", path=path)
    if program is None:
        pytest.skip("no containerd for this version: not installed, or CONTAINERD2 does not say")
    config = configured(tmp_path, name)
    done(tmp_path, "configure", "--migrate")
    dumped = subprocess.run(
        [program, "--config", str(config), "config", "dump"],
        capture_output=True,
        text=True,
        check=True,
    )
    plugins = tomllib.loads(dumped.stdout)["plugins"]
    plugin = plugins.get(PLUGIN_3) or plugins.get(PLUGINS[name]) or plugins[PLUGIN_2]
    assert plugin["registry"]["config_path"] == CERTS_D
    assert not plugin["registry"].get("mirrors")
