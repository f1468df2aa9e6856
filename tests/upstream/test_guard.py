"""Where an upstream may lead: every kind of place, and that nothing is sent to any other."""

import json
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from yarl import URL

from oci_mesh.errors import ConfigError, UpstreamError, UpstreamRefused, UpstreamUnavailable
from oci_mesh.spec.digest import Digest
from oci_mesh.spec.manifest import encode_index, parse_manifest
from oci_mesh.upstream import guard, http
from oci_mesh.upstream.guard import Guard, Trust, is_public, place_of, public_socket
from oci_mesh.upstream_config import UpstreamConfig
from tests.upstream.conftest import Authority, client_of
from tests.upstream.fake import FakeRegistry, TokenServer, redirect, serving, status

INDEX = parse_manifest(encode_index([]))
BLOB = b"some bytes of a blob"

_dialled: list[Any] = []


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.connect":
        _dialled.append(arguments[1][:2])


sys.addaudithook(_note)  # it cannot be taken away again, and sees what no patching would


@pytest.fixture
def dialled() -> Iterator[list[Any]]:
    """Every address that this process connects to."""
    _dialled.clear()
    yield _dialled
    _dialled.clear()


@pytest.mark.parametrize(
    "address",
    [
        *("8.8.8.8", "1.1.1.1", "172.15.255.255", "172.32.0.1", "192.169.0.1", "100.128.0.1"),
        *("2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1"),
    ],
)
def test_public_addresses(address: str) -> None:
    """In any form that leads to one."""
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.255.254", "0.0.0.0", "0.1.2.3", "10.0.0.1", "172.16.0.1"),
        *("172.31.255.255", "192.168.1.1", "169.254.169.254", "169.254.170.2", "100.64.0.1"),
        *("100.100.100.200", "168.63.129.16", "192.0.0.192", "192.0.2.1", "198.18.0.1"),
        *("198.51.100.1", "203.0.113.1", "224.0.0.1", "239.1.1.1", "240.0.0.1"),
        *("255.255.255.255", "::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254"),
        *("fec0::1", "ff02::1", "2001:db8::1", "::127.0.0.1", "::ffff:127.0.0.1"),
        *("::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
        *("2002:7f00:1::1", "2002:a9fe:a9fe::", "2001:0:7f00:1:0:0:0:0", "100::1"),
    ],
)
def test_other_addresses(address: str) -> None:
    """Of this machine, its networks, its cloud, of nobody, of many; in any form."""
    assert not is_public(address)
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with pytest.raises(OSError, match="not a public address"):
        public_socket((family, socket.SOCK_STREAM, 0, "", (address, 443)))


GUARD = Guard(
    UpstreamConfig(
        name="registry.test",
        urls=("https://registry.test:5000/sub", "http://10.0.0.1"),
        redirects=("http://store.test:9000", "other.test"),
        realms=("auth.test",),
    )
)


@pytest.mark.parametrize(
    ("url", "trust"),
    [
        ("https://registry.test:5000/x", Trust.TRUSTED),
        ("https://REGISTRY.test:5000/x", Trust.TRUSTED),
        ("http://10.0.0.1:80/", Trust.TRUSTED),
        ("http://store.test:9000/", Trust.TRUSTED),
        ("https://other.test/", Trust.TRUSTED),
        ("https://auth.test:443/", Trust.TRUSTED),
        ("https://registry.test/", Trust.PUBLIC),
        ("https://registry.test:5001/", Trust.PUBLIC),
        ("https://10.0.0.1/", Trust.PUBLIC),
        ("https://store.test:9000/", Trust.PUBLIC),
        ("https://other.test.evil.test/", Trust.PUBLIC),
    ],
)
def test_what_is_listed_is_trusted(url: str, trust: Trust) -> None:
    """With its scheme and port; the rest has to prove its address."""
    assert GUARD.trust(URL(url)) is trust


@pytest.mark.parametrize("url", ["http://registry.test:5000/", "http://other.test/", "http://x/"])
def test_plain_http_is_for_what_is_listed_so(url: str) -> None:
    """Anybody on the way could read and change it."""
    with pytest.raises(UpstreamError, match="plain HTTP"):
        GUARD.trust(URL(url))


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/a?b=%2F%20+c%2b", "https://registry.test:5000/a?b=%2F%20+c%2b"),
        ("b", "https://registry.test:5000/v2/b"),
        ("//x.test/y#z", "https://x.test/y"),
        ("https://x.test/y?sig=a%3D%3D", "https://x.test/y?sig=a%3D%3D"),
        ("", "https://registry.test:5000/v2/a"),
    ],
)
def test_redirects_keep_every_byte(location: str, target: str) -> None:
    """They may be signed."""
    url = URL("https://registry.test:5000/v2/a")
    assert str(GUARD.target(url, location)) == target


@pytest.mark.parametrize(
    "location",
    [
        *("ftp://x/", "file:///etc/passwd", "javascript:x", "unix:/run/x", "https://u:p@x/"),
        *("https://u@x/", "https://:p@x/", "https://x:0/", "https://x:99999/", "https://[::1"),
        *("https:///x", "https://x y/", "https://é.test/", "https://x/\r\nA: b", "https://x/é"),
        *("https:/x", "http:", "https://"),
    ],
)
def test_redirects_to_nowhere(location: str) -> None:
    """Anything that is not plainly a place of http or https, or has a user in it."""
    with pytest.raises(UpstreamError):
        GUARD.target(URL("https://registry.test:5000/v2/a"), location)


def realm(text: str, url: str = "https://registry.test:5000", **settings: Any) -> str:
    """Where the tokens of a registry at `url` come from, if it says so."""
    realms = ("auth.test", "http://auth.lan:81")
    config = UpstreamConfig(name="registry.test", urls=(url,), realms=realms, **settings)
    return str(Guard(config).realm(place_of(URL(url)), text))


def test_realms(secret: Path) -> None:
    """Itself and what is listed; if there are no credentials to show, a public one will do."""
    ours: dict[str, Any] = {"username": "mesh", "password_file": secret}
    none: dict[str, Any] = {}
    lan = "http://10.0.0.1"
    for settings in (ours, none):
        for right in ("https://registry.test:5000/token?a=b", "https://auth.test/token"):
            assert realm(right, **settings) == right
        for right in ("http://10.0.0.1/token", "http://auth.lan:81/token"):
            assert realm(right, lan, **settings) == right
        for wrong in ("http://auth.lan:81/token", "http://10.0.0.1/", "http://auth.test/", "x"):
            with pytest.raises(UpstreamRefused):
                realm(wrong, **settings)
        for wrong in ("http://public.test/", "http://10.0.0.1:81/", "http://auth.test/"):
            with pytest.raises(UpstreamRefused):
                realm(wrong, lan, **settings)
    assert realm("https://public.test/token") == "https://public.test/token"
    for wrong in ("https://public.test/", "https://auth.test:444/", "https://evil.auth.test/"):
        with pytest.raises(UpstreamRefused, match="realms = "):
            realm(wrong, **ours)


HOSTILE = [
    "https://169.254.169.254/latest/meta-data/iam",
    "http://169.254.169.254/latest/meta-data/iam",
    "http://metadata.google.internal/computeMetadata/v1/",
    "https://127.0.0.1:{port}/",
    "http://127.0.0.1:{port}/",
    "//127.0.0.1:{port}/",
    "https://localhost:{port}/",
    "https://2130706433:{port}/",
    "https://017700000001:{port}/",
    "https://0x7f.1:{port}/",
    "https://127.1:{port}/",
    "https://0:{port}/",
    "https://0.0.0.0:{port}/",
    "https://[::1]:{port}/",
    "https://[::]:{port}/",
    "https://[::ffff:127.0.0.1]:{port}/",
    "https://[::ffff:7f00:1]:{port}/",
    "https://[64:ff9b::7f00:1]:{port}/",
    "https://[2002:7f00:1::]:{port}/",
    "https://[fe80::1]:{port}/",
    "https://rebound.test:{port}/",
    "https://10.0.0.1/",
    "https://100.100.100.200/",
    "https://168.63.129.16/",
    "https://user:password@127.0.0.1:{port}/",
    "https://127.0.0.1:{port}\\@registry.test/",
]


@pytest.fixture
def rebound(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name of somebody else's that leads here; the machine's own resolver is asked nothing."""
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *more: Any, **named: Any) -> Any:
        known = {"rebound.test": "127.0.0.1", "localhost": "127.0.0.1"}
        host = known.get(host, host)
        if host.replace(".", "").replace(":", "").isalpha():
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return real(host, port, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


@pytest.mark.usefixtures("rebound")
@pytest.mark.parametrize("url", HOSTILE)
async def test_no_redirect_leads_inside(
    registry: FakeRegistry, dialled: list[Any], url: str
) -> None:
    """Nothing is sent but to the registry: from manifests and blobs, and after a good redirect."""
    trap, store = FakeRegistry(), FakeRegistry()
    digest = registry.add_blob(BLOB)
    async with (
        serving(trap),
        serving(store),
        client_of(registry.url, redirects=(store.url,)) as client,
    ):
        location = url.format(port=URL(trap.url).port)
        registry.faults = [redirect(location), redirect(location)]
        with pytest.raises(UpstreamError):
            await client.manifest("app", "v1")
        registry.faults = [redirect(location), redirect(location)]
        with pytest.raises(UpstreamError):
            await anext(client.read_blob("app", digest, 0, 9))
        registry.faults = [redirect(f"{store.url}/x")] * 3
        store.faults = [redirect(location)] * 3
        with pytest.raises(UpstreamError):
            await client.resolve("app", "v1")
        allowed = {place_of(URL(each))[1:] for each in (registry.url, store.url)}
        assert set(dialled) == allowed
        assert trap.seen == []


@pytest.mark.usefixtures("rebound")
@pytest.mark.parametrize("credentials", [False, True])
@pytest.mark.parametrize("url", HOSTILE)
async def test_no_realm_leads_inside(
    registry: FakeRegistry, dialled: list[Any], secret: Path, url: str, credentials: bool
) -> None:
    """With credentials or without; nor does a realm lead on."""
    trap = FakeRegistry()
    settings = {"username": "mesh", "password_file": secret} if credentials else {}
    async with serving(trap), client_of(registry.url, **settings) as client:
        location = url.format(port=URL(trap.url).port)
        challenge = f'Bearer realm="{location}",service="x"'
        registry.faults = [status(401, WWW_Authenticate=challenge)] * 3
        with pytest.raises(UpstreamError):
            await client.manifest("app", "v1")
        registry.faults = [status(401, WWW_Authenticate=f'Bearer realm="{registry.url}/token"')]
        registry.faults += [redirect(location)]
        with pytest.raises(UpstreamError):
            await client.manifest("app", "v2")
        assert set(dialled) == {place_of(URL(registry.url))[1:]}
        assert trap.seen == []


async def test_a_redirect_loop_ends(registry: FakeRegistry, dialled: list[Any]) -> None:
    """Soon."""
    registry.gates = [redirect("/v2/app/manifests/v1")]
    async with client_of(registry.url) as client:
        with pytest.raises(UpstreamError, match="redirects more than"):
            await client.manifest("app", "v1")
    assert len(registry.seen) == 6


async def test_the_environment_leads_nowhere(
    registry: FakeRegistry, dialled: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No proxy, no password of a .netrc, no cookie."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine localhost login somebody password netrc-password\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    trap = FakeRegistry()
    async with serving(trap):
        for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, trap.url)
        registry.add_manifest(INDEX, "v1")

        async def cookie(_: web.Request) -> web.StreamResponse:
            return web.Response(status=500, headers={"Set-Cookie": "a=b; Path=/"})

        registry.faults = [cookie]
        # By name: nobody keeps cookies of addresses.
        async with client_of(registry.url.replace("127.0.0.1", "localhost")) as client:
            assert await client.manifest("app", "v1") == INDEX
    assert {port for _, port in dialled} == {URL(registry.url).port}
    assert len(registry.seen) == 2
    for seen in registry.seen:
        assert not {"Authorization", "Proxy-Authorization", "Cookie"} & set(seen.headers)


async def test_credentials_stay_where_they_belong(
    registry: FakeRegistry, secret: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A redirect to a store takes the Range along, not the token; one at the registry both."""
    tokens, store = TokenServer(), FakeRegistry()
    registry.gates = [tokens.gate]
    digest = registry.add_blob(BLOB)
    store.add_blob(BLOB)
    async with serving(tokens), serving(store):
        settings: dict[str, Any] = {"username": "mesh", "password_file": secret}
        settings |= {"realms": (tokens.url,), "redirects": (store.url,)}
        async with client_of(registry.url, **settings) as client:
            registry.faults = [
                redirect(f"/moved/{digest}"),
                redirect(f"{store.url}/blobs/{digest}"),
            ]
            got = b"".join([chunk async for chunk in client.read_blob("app", digest, 3, 7)])
    assert got == BLOB[3:7]
    assert "Authorization" in registry.seen[-1].headers
    assert registry.lines[-1] == f"GET /moved/{digest}"
    assert "Authorization" not in store.seen[0].headers
    assert store.seen[0].headers["Range"] == "bytes=3-6"


async def test_a_store_does_not_ask_for_tokens(registry: FakeRegistry) -> None:
    """Whatever it says: only the upstream itself is answered."""
    tokens, store = TokenServer(), FakeRegistry()
    digest = registry.add_blob(BLOB)
    store.gates = [tokens.gate]
    async with serving(tokens), serving(store):
        registry.gates = [redirect(f"{store.url}/blobs/{digest}")]
        lists = {"realms": (tokens.url,), "redirects": (store.url,)}
        async with client_of(registry.url, **lists) as client:
            with pytest.raises(UpstreamUnavailable, match="answered 401, at"):
                await anext(client.read_blob("app", digest, 3, 7))
    assert tokens.seen == []


async def test_a_public_place_is_gone_to(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, secret: Path
) -> None:
    """Over TLS that the system trusts, and with no credentials; the upstream's own CA is for the
    upstream.
    """
    registry, store, tokens = FakeRegistry(), FakeRegistry(), TokenServer()
    registry.gates = [tokens.gate]
    digest = registry.add_blob(BLOB)
    store.add_blob(BLOB)
    context = authority.server_context()
    asked: list[str] = []

    def judge(address: str) -> bool:
        asked.append(address)
        return True

    monkeypatch.setattr(guard, "is_public", judge)
    async with (
        serving(registry, context),
        serving(store, context),
        serving(tokens, context),
    ):
        registry.faults = [redirect(f"{store.url}/blobs/{digest}")] * 3
        async with client_of(registry.url, ca=authority.ca) as client:
            with pytest.raises(UpstreamError, match="no TLS"):
                await anext(client.read_blob("app", digest, 0, 5))
        assert tokens.seen == store.seen == []
        trusting = authority.client_context()
        monkeypatch.setattr(http, "_system_context", lambda: trusting)
        async with client_of(registry.url) as client:
            got = b"".join([chunk async for chunk in client.read_blob("app", digest, 0, 5)])
    assert got == BLOB[:5]
    assert set(asked) <= {"127.0.0.1", "::1"}
    assert len(tokens.seen) == 1
    assert "Authorization" not in store.seen[0].headers


async def test_an_upstream_may_be_anywhere(authority: Authority, tmp_path: Path) -> None:
    """The operator wrote it down; with TLS, its CA is believed, and another is not."""
    registry = FakeRegistry()
    registry.add_manifest(INDEX, "v1")
    async with serving(registry, authority.server_context()) as url:
        async with client_of(url, ca=authority.ca) as client:
            assert await client.manifest("app", "v1") == INDEX
        for ca in (Authority(tmp_path).ca, None):
            async with client_of(url, ca=ca) as client:
                with pytest.raises(UpstreamError, match="no TLS"):
                    await client.manifest("app", "v1")
        async with client_of(url.replace("localhost", "127.0.0.1"), ca=authority.ca) as client:
            with pytest.raises(UpstreamError, match="no TLS"):
                await client.manifest("app", "v1")


@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
async def test_a_ca_that_cannot_be_read(tmp_path: Path, content: bytes | None) -> None:
    """Is found at the start."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=f"^upstream registry.test: ca {path}"):
        async with client_of("https://x", ca=path):
            pass


async def test_layers_elsewhere_are_left_there(registry: FakeRegistry, dialled: list[Any]) -> None:
    """`urls` of a descriptor are nobody's to follow (CVE-2020-15157)."""
    trap = FakeRegistry()
    async with serving(trap), client_of(registry.url) as client:
        layer = {
            "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "digest": str(Digest.of(BLOB)),
            "size": len(BLOB),
            "urls": [f"{trap.url}/layer"],
        }
        media_type = "application/vnd.oci.image.manifest.v1+json"
        document = {"schemaVersion": 2, "mediaType": media_type, "config": layer, "layers": [layer]}
        manifest = parse_manifest(json.dumps(document).encode(), media_type)
        registry.add_manifest(manifest, "v1")
        assert await client.manifest("app", "v1") == manifest
        assert await client.stat_blob("app", Digest.of(BLOB)) is None
        with pytest.raises(UpstreamError):
            await anext(client.read_blob("app", Digest.of(BLOB), 0, 5))
        assert trap.seen == []
        assert set(dialled) == {place_of(URL(registry.url))[1:]}
