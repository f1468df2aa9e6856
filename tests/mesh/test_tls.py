"""Nodes prove to each other who they are: real nodes, and strangers of each kind at their door."""

import asyncio
import shutil
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from oci_mesh import ConfigError, Node, NodeConfig, PeerError
from oci_mesh.members.table import Member
from oci_mesh.mesh import enrolment, wire
from oci_mesh.mesh.client import PeerClient
from oci_mesh.mesh.wire import Attend, Exchange, Replicate
from oci_mesh.pki import authority, certificates
from oci_mesh.pki.application import Application
from oci_mesh.pki.authority import Authority
from oci_mesh.pki.certificates import server_name
from oci_mesh.pki.keys import KeyPair
from oci_mesh.registry import server
from oci_mesh.registry.server import RegistryServer
from oci_mesh.swarm.view import Entry
from tests.images import sha256
from tests.nodes import (
    DEADLINE_S,
    Client,
    configured,
    eventually,
    free_port,
    make_image,
    meet,
    metric,
    running,
    seen_by,
    stop,
)

pytestmark = pytest.mark.usefixtures("fast_gossip")

HOUR = 3600.0
IMAGE = make_image("tls", 3_000_000)


class Mesh:
    """An authority, and what it gives out."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        authority.init(directory, "test", time.time())

    @property
    def now(self) -> Authority:
        """As it is on disk."""
        return Authority.load(self.directory)

    def token(self, ttl: float = HOUR) -> str:
        """A new one."""
        return self.now.make_token("t", ttl, time.time()).text()

    def node(self, node_id: str, *, since: float = 0.0, life: float = HOUR) -> "Shown":
        """A certificate for a node."""
        key = KeyPair.new()
        issued = self.now.issue(node_id, key.public_key, [], life, time.time() + since)
        return Shown(issued, key)

    def enrolment(self) -> "Shown":
        """What a token holds."""
        token = self.now.make_token("t", HOUR, time.time())
        return Shown(token.certificate, token.key)


class Shown:
    """A certificate with its key, as a stranger may have one."""

    def __init__(self, certificate: bytes, key: KeyPair) -> None:
        self.certificate = certificate
        self.key = key


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    """A new one."""
    return Mesh(tmp_path / "ca")


@pytest.fixture
def context(tmp_path: Path) -> Callable[[Shown | None], ssl.SSLContext]:
    """Makes the context of a client that believes anybody and shows what it is given."""

    def make(shown: Shown | None) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
        if shown is not None:
            file = tmp_path / "shown.pem"
            pem = ssl.DER_cert_to_PEM_cert(shown.certificate).encode()
            file.write_bytes(shown.key.pem() + pem)
            made.load_cert_chain(file)
        return made

    return make


Contexts = Callable[[Shown | None], ssl.SSLContext]


class Holding:
    """A `PeerClient`'s TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.client = context


async def ask(
    address: str,
    context: ssl.SSLContext,
    method: str = "GET",
    path: str = "/v2/",
    body: bytes = b"",
) -> tuple[int, str]:
    """One request by a stranger; (0, why) if the handshake was refused."""
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, f"https://{address}{path}", ssl=context, data=body) as answer,
        ):
            return answer.status, await answer.text()
    except (aiohttp.ClientError, OSError) as error:
        return 0, str(error)


def known_to(node: Node) -> set[str]:
    """Other nodes that it has heard of, alive or not."""
    assert node._gossip is not None
    return {member.id for member in node._gossip.table.entries()} - {node.id}


# -- who is let in


async def test_nodes_with_a_token_join_and_share(
    tmp_path: Path, mesh: Mesh, client: Client
) -> None:
    """By way of a node that signs, and of one that cannot; what is sent is booked on the right
    node, and nothing between them can be read without a certificate.
    """
    token = mesh.token()
    async with (
        running(tmp_path, "a", ca=mesh.directory) as a,
        running(tmp_path, "b", a.mesh_address, token=token) as b,
        running(tmp_path, "c", b.mesh_address, token=token) as c,
    ):
        await meet(a, b, c)
        await client.push(a, "app", IMAGE)
        assert await client.has(b, "app", IMAGE)
        assert await client.has(c, "app", IMAGE)
        size = sum(map(len, IMAGE.blobs))
        assert metric(b, "oci_mesh_peer_received_bytes_total") == size
        assert metric(a, "oci_mesh_peer_sent_bytes_total", peer="unknown") == 0
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://{a.mesh_address}/v2/")


async def test_strangers_are_refused_in_the_handshake(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """No certificate, another mesh's, an expired one, an old TLS; a node's is taken."""
    other = Mesh(tmp_path / "other")
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        strangers = {
            "none": context(None),
            "foreign": context(other.node("b")),
            "foreign token": context(other.enrolment()),
            "expired": context(mesh.node("b", since=-2 * HOUR)),
            "of the future": context(mesh.node("b", since=2 * HOUR)),
            "self-made": context(_self_signed()),
            "old": context(mesh.node("b")),
        }
        strangers["old"].maximum_version = ssl.TLSVersion.TLSv1_2
        for kind, stranger in strangers.items():
            for path in ("/v2/", wire.ENROL_PATH, wire.TRUST_PATH):
                assert (await ask(a.mesh_address, stranger, path=path))[0] == 0, kind
        assert (await ask(a.mesh_address, context(mesh.node("b"))))[0] == 200


def _self_signed() -> Shown:
    key = KeyPair.new()
    made = certificates.make_authority(key, "self", time.time())
    return Shown(certificates.der(made), key)


async def test_the_handshake_does_not_depend_on_a_name(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """A client may name a host, or none: the rules are the same."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        host, _, port = a.mesh_address.rpartition(":")
        for name in ("", "a.test"):
            for shown, expected in ((mesh.node("b"), True), (None, False)):
                assert await _answers(host, int(port), context(shown), name) == expected


async def _answers(host: str, port: int, context: ssl.SSLContext, name: str) -> bool:
    try:
        reader, writer = await asyncio.open_connection(
            host, port, ssl=context, server_hostname=name
        )
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
    except OSError:
        return False
    return answer.startswith(b"HTTP/1.1 200")


async def test_no_session_is_resumed(tmp_path: Path, mesh: Mesh, context: Contexts) -> None:
    """It would spare a node that is no longer trusted the proof."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        host, _, port = a.mesh_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=context(mesh.node("b")))
        writer.write(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        await reader.read()
        session: ssl.SSLObject = writer.get_extra_info("ssl_object")
        assert session.session is None or not session.session.has_ticket
        writer.close()


async def test_who_says_nothing_is_dropped(
    tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the handshake has ended nobody is known: that is bounded in time."""
    monkeypatch.setattr(server, "HANDSHAKE_S", 0.2)
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        host, _, port = a.mesh_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        async with asyncio.timeout(DEADLINE_S):
            assert await reader.read() == b""
        writer.close()


async def test_strangers_take_up_a_bounded_number_of_handshakes(
    tmp_path: Path, mesh: Mesh, context: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those beyond are turned away at once; a node gets in again when one of them has gone."""
    monkeypatch.setattr(server, "MAX_HANDSHAKES", 3)
    node = context(mesh.node("b"))
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        host, _, port = a.mesh_address.rpartition(":")
        silent = [await asyncio.open_connection(host, int(port)) for _ in range(4)]
        async with asyncio.timeout(DEADLINE_S):
            assert await silent[3][0].read() == b""
        assert (await ask(a.mesh_address, node))[0] == 0
        silent[0][1].close()
        status = 0
        async with asyncio.timeout(DEADLINE_S):
            while status == 0:
                status, _ = await ask(a.mesh_address, node)
        assert status == 200
        for _, writer in silent:
            writer.close()


# -- what a certificate allows


async def test_a_token_is_for_enrolling_only(tmp_path: Path, mesh: Mesh, context: Contexts) -> None:
    """Everything else is for nodes."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        newcomer = context(mesh.enrolment())
        body = wire.encode(Exchange(Member("t", "127.0.0.1:1")))
        for method, path in (
            ("GET", "/v2/"),
            ("GET", "/v2/_catalog"),
            ("POST", wire.EXCHANGE_PATH),
            ("POST", wire.REPLICATE_PATH),
            ("POST", wire.TAKE_PATH),
            ("GET", wire.TRUST_PATH),
            ("GET", wire.ENROL_PATH),
            ("POST", f"{wire.ENROL_PATH}/"),
        ):
            status, text = await ask(a.mesh_address, newcomer, method, path, body)
            assert (status, "enrol first" in text) == (403, True), path
        status, _ = await ask(a.mesh_address, newcomer, "POST", wire.ENROL_PATH, b"nonsense")
        assert status == 400
        assert known_to(a) == set()


async def test_a_message_is_from_who_sent_it(tmp_path: Path, mesh: Mesh, context: Contexts) -> None:
    """A node cannot speak for another."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        b = context(mesh.node("b"))
        truth, lie = Member("b", "127.0.0.1:1"), Member("c", "127.0.0.1:1")
        digest = IMAGE.digest
        for path, message in (
            (wire.EXCHANGE_PATH, Exchange(lie)),
            (wire.REPLICATE_PATH, Replicate(lie, "app", digest)),
            (wire.TAKE_PATH, wire.Take(lie, "app", digest)),
            (wire.SWARM_PATH, Attend("app", digest, Entry("c", "127.0.0.1:1"))),
        ):
            status, text = await ask(a.mesh_address, b, "POST", path, wire.encode(message))
            assert (status, text) == (400, "a message as 'c' by b")
        assert known_to(a) == set()
        body = wire.encode(Exchange(truth))
        assert (await ask(a.mesh_address, b, "POST", wire.EXCHANGE_PATH, body))[0] == 200
        assert known_to(a) == {"b"}


async def test_a_node_is_only_who_it_proves_to_be(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """Who means a node reaches that one or none; a token's holder is no server at all."""
    seen: list[str] = []

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.path)
        return web.Response(body=b"x")

    async with running(tmp_path, "a", ca=mesh.directory) as a:
        ours = a.credentials
        assert ours is not None
        for shown, expected in ((mesh.node("b"), True), (mesh.enrolment(), False)):
            serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context(shown)  # writes it
            serving.load_cert_chain(tmp_path / "shown.pem")
            async with (
                RegistryServer(answer, "127.0.0.1", 0, tls=serving) as impostor,
                PeerClient("a", ours) as client,
            ):
                address = impostor.authority
                with pytest.raises(PeerError, match="certificate"):
                    await client.fetch(address, "/", member_id="c")
                assert seen == []
                for member_id in ("b", None):
                    if expected:
                        await client.fetch(address, "/", member_id=member_id)
                        assert seen.pop() == "/"
                    else:
                        with pytest.raises(PeerError, match="certificate"):
                            await client.fetch(address, "/", member_id=member_id)
                key = await client.public_key(address, "b")
                assert key == (shown.key.public_key if expected else None)
                assert await client.public_key(address, "c") is None


# -- names and addresses are their owners'


async def test_a_living_nodes_id_is_not_given_out(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """Nor that of the node that signs; one that is gone may come back with another disk."""
    token = mesh.token()
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        async with running(tmp_path, "b", a.mesh_address, token=token) as b:
            await meet(a, b)
            for taken in ("a", "b"):
                with pytest.raises(ConfigError, match=f"another node is called {taken}"):
                    await Node(
                        configured(tmp_path / "thief", taken, b.mesh_address, token=token)
                    ).__aenter__()
        async with running(tmp_path / "new", "b", a.mesh_address, token=token) as b:
            await meet(a, b)


async def test_a_node_renews_as_itself_only(tmp_path: Path, mesh: Mesh, context: Contexts) -> None:
    """Neither as another, nor for another key; tokens cannot be made of a node's certificate."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        shown, other = mesh.node("b"), KeyPair.new()
        async with PeerClient("b", Holding(_named(context(shown), mesh))) as client:

            async def renew(node_id: str, key: KeyPair) -> tuple[int, bytes]:
                application = Application.make(node_id, (), key, shown.certificate, shown.key)
                return await client.enrol(a.mesh_address, application, "a")

            assert (await renew("b", shown.key))[0] == 200
            for node_id, key in (("c", shown.key), ("a", shown.key), ("b", other), ("a b", other)):
                assert (await renew(node_id, key))[0] == 403


def _named(context: ssl.SSLContext, mesh: Mesh) -> ssl.SSLContext:
    context.load_verify_locations(cadata=mesh.now.trust(time.time()).pem())
    context.verify_mode = ssl.CERT_REQUIRED
    context.check_hostname = True
    return context


async def test_another_nodes_address_is_not_given_out(tmp_path: Path, mesh: Mesh) -> None:
    """Unless the applicant is there as well: several nodes may share a machine."""
    token = mesh.token()
    async with running(tmp_path, "a", ca=mesh.directory, mesh_listen="127.0.0.2:0") as a:
        with pytest.raises(ConfigError, match=r"127\.0\.0\.2 is the address of a"):
            await Node(
                configured(tmp_path, "b", a.mesh_address, token=token, advertise="127.0.0.2:9")
            ).__aenter__()
        port = free_port()
        address = f"127.0.0.3:{port}"
        async with running(tmp_path, "c", a.mesh_address, token=token, mesh_listen=address) as c:
            assert c.credentials is not None
            assert c.credentials.certificate is not None
            text = ssl.DER_cert_to_PEM_cert(c.credentials.certificate)
            (tmp_path / "c.pem").write_text(text)
            decoded = ssl._ssl._test_decode_cert(str(tmp_path / "c.pem"))  # type: ignore[attr-defined]
            assert set(decoded["subjectAltName"]) == {
                ("URI", "oci-mesh://node/c"),
                ("DNS", server_name(None)),
                ("DNS", server_name("c")),
                ("IP Address", "127.0.0.3"),
            }


# -- joining, and what can be wrong with it


@pytest.mark.parametrize("signs", [True, False])
async def test_an_expired_or_foreign_token_is_refused_with_what_to_do(
    signs: bool, tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a node without any, and one that knows nobody to join."""
    monkeypatch.setattr(enrolment, "ENROL_S", 0.0)
    old = mesh.now.make_token("t", 1, time.time() - 60).text()
    foreign = Mesh(tmp_path / "other").token()
    async with (
        running(tmp_path, "a", ca=mesh.directory) as a,
        running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b,
    ):
        address = (a if signs else b).mesh_address

        async def fails(error: type[Exception], match: str, *join: str, **settings: str) -> None:
            with pytest.raises(error, match=match):
                await Node(configured(tmp_path, "c", *join, **settings)).__aenter__()

        await fails(ConfigError, "token expired at .*token create", address, token=old)
        await fails(PeerError, "no node gave a certificate", address, token=foreign)
        await fails(ConfigError, "--join", token=mesh.token())
        await fails(ConfigError, "neither a join token", address, token="none")
        await fails(ConfigError, "ca init", address, ca=str(tmp_path / "none"))
        await fails(PeerError, "no node gave", f"127.0.0.1:{free_port()}", token=mesh.token())


async def test_a_token_that_expires_on_the_way_is_refused_by_who_signs(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """Handed on by a node, past the handshake: the clock of who signs counts."""
    token = mesh.now.make_token("t", 1, time.time() - 60)
    application = Application.make("c", (), KeyPair.new(), token.certificate, token.key)
    application.seen = "127.0.0.1"
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        shown = Holding(_named(context(mesh.node("b")), mesh))
        async with PeerClient("b", shown) as client:
            status, text = await client.enrol(a.mesh_address, application, "a")
        assert (status, b"expired" in text) == (403, True)


async def test_a_node_waits_for_one_that_signs(tmp_path: Path, mesh: Mesh) -> None:
    """All may be started at once; and where the one that signs is gone, that is said."""
    port = free_port()
    address = f"127.0.0.1:{port}"
    async with asyncio.TaskGroup() as group:
        node = Node(configured(tmp_path, "b", address, token=mesh.token()))
        joining = group.create_task(node.__aenter__())
        await asyncio.sleep(0)
        async with running(tmp_path, "a", ca=mesh.directory, mesh_listen=address) as a:
            b = await joining
            await meet(a, b)
        # a is gone; b knows that, and cannot sign
        await eventually("a is gone", lambda: not seen_by(b))
        answers = []
        enrol = PeerClient.enrol

        async def noted(self: PeerClient, *arguments: object) -> tuple[int, bytes]:
            answers.append(await enrol(self, *arguments))  # type: ignore[arg-type]
            return answers[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(enrolment, "ENROL_S", 0.0)
            patch.setattr(PeerClient, "enrol", noted)
            with pytest.raises(PeerError, match="no node that signs"):
                await Node(
                    configured(tmp_path, "c", b.mesh_address, token=mesh.token())
                ).__aenter__()
        assert [status for status, _ in answers] == [503]
        await stop(b)


async def test_a_node_needs_its_token_once(tmp_path: Path, mesh: Mesh) -> None:
    """Restarted without, nobody there to ask; its secrets are its own."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()):
            pass
        directory = tmp_path / "b" / "identity"
        modes = {path.name: path.stat().st_mode & 0o777 for path in directory.iterdir()}
        assert modes == {"node.key": 0o600, "node.crt": 0o644, "trust": 0o644}
        assert directory.stat().st_mode & 0o777 == 0o700
        for token in (None, mesh.token(), mesh.now.make_token("t", 1, time.time() - 60).text()):
            async with running(tmp_path, "b", a.mesh_address, token=token) as b:
                await meet(a, b)
    async with running(tmp_path, "b", token=mesh.token()):
        pass  # nobody is asked
    with pytest.raises(ConfigError, match=r"certificate .* is of 'b'.*token create"):
        await Node(_renamed(configured(tmp_path, "b"), "other")).__aenter__()


def _renamed(config: NodeConfig, name: str) -> NodeConfig:
    return NodeConfig(root=config.root, name=name, listen="127.0.0.1:0", mesh_listen="127.0.0.1:0")


async def test_what_expired_while_it_was_off_needs_a_new_token(tmp_path: Path, mesh: Mesh) -> None:
    """It says so, and with one it comes back as who it was; the node that signs needs none."""
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b:
            key = b.identity.public_key
        expired = mesh.now.issue("b", key, [], 1.0, time.time() - 60)
        file = tmp_path / "b" / "identity" / "node.crt"
        file.write_text(ssl.DER_cert_to_PEM_cert(expired))
        with pytest.raises(ConfigError, match=r"expired.*token create"):
            await Node(configured(tmp_path, "b", a.mesh_address)).__aenter__()
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b:
            await meet(a, b)
            assert b.identity.public_key == key
    file = tmp_path / "a" / "identity" / "node.crt"
    file.write_text(ssl.DER_cert_to_PEM_cert(expired))
    async with running(tmp_path, "a", ca=mesh.directory):
        pass


@pytest.mark.parametrize("name", ["node.crt", "trust"])
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff"])
async def test_damaged_credentials_are_said_to_be_so(
    name: str, content: bytes, tmp_path: Path, mesh: Mesh
) -> None:
    """With the way out."""
    async with running(tmp_path, "a", ca=mesh.directory):
        pass
    (tmp_path / "a" / "identity" / name).write_bytes(content)
    with pytest.raises(ConfigError, match="new token"):
        await Node(configured(tmp_path, "a")).__aenter__()


async def test_on_loopback_nothing_is_needed(tmp_path: Path) -> None:
    """But every node has a key, for what it signs."""
    async with running(tmp_path, "a") as a, running(tmp_path, "b", a.mesh_address) as b:
        await meet(a, b)
        assert a.credentials is None
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{a.mesh_address}/v2/") as answer,
        ):
            assert answer.status == 200
    assert (tmp_path / "a" / "identity" / "node.key").stat().st_mode & 0o777 == 0o600


# -- certificates change while connections are open


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes a minute takes a moment."""
    monkeypatch.setattr(enrolment, "PULL_S", 0.1)


def serial(node: Node) -> int:
    """Of the certificate that it shows."""
    assert node.credentials is not None
    return hash(node.credentials.certificate)


async def pull(client: Client, a: Node, b: Node, number: int) -> None:
    """A push to one and a pull from the other, of an image of their own."""
    image = make_image(str(number), 50_000)
    await client.push(a, "app", image, f"v{number}")
    assert await client.has(b, "app", image, f"v{number}")


@pytest.mark.usefixtures("hasty")
async def test_certificates_are_renewed_while_work_goes_on(
    tmp_path: Path, mesh: Mesh, client: Client
) -> None:
    """Both nodes', many times over, by a node that signs and by one that only knows it."""
    life = {"certificate_life": 3.0}
    async with (
        running(tmp_path, "a", ca=mesh.directory, **life) as a,
        running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b,
        running(tmp_path, "c", b.mesh_address, token=mesh.token()) as c,
    ):
        await meet(a, b, c)
        first = [serial(node) for node in (a, b, c)]
        start, number = time.monotonic(), 0
        while time.monotonic() - start < 7.0:  # more than two lives
            number += 1
            await pull(client, a, c, number)
            await pull(client, c, b, -number)
        assert all(serial(node) != old for node, old in zip((a, b, c), first, strict=True))
        assert all(metric(node, "oci_mesh_peer_faults_total") == 0 for node in (a, b, c))
        files = [tmp_path / name / "identity" / "node.crt" for name in "abc"]
        for file in files:
            shown = certificates.read(ssl.PEM_cert_to_DER_cert(file.read_text()))
            assert shown.not_after > time.time()


@pytest.mark.usefixtures("hasty")
async def test_a_transfer_outlives_the_certificate_that_it_began_with(
    tmp_path: Path, mesh: Mesh, context: Contexts
) -> None:
    """An answer that is under way is finished; what is asked on that connection afterwards is not
    answered, and the connection ends.
    """
    async with running(tmp_path, "a", ca=mesh.directory) as a, aiohttp.ClientSession() as session:
        client = Client(session)
        blob = b"x" * 8_000_000
        await client.push_blob(a, "app", blob)
        shown = context(mesh.node("b", life=2.0))
        host, _, port = a.mesh_address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), ssl=shown, limit=65536)
        request = f"GET /v2/app/blobs/{sha256(blob)} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"200 OK" in head
        await asyncio.sleep(3.0)  # longer than the certificate is valid
        assert await reader.readexactly(len(blob)) == blob
        writer.write(request)
        rest = await reader.read()
        assert rest == b"" or rest.startswith(b"HTTP/1.1 403")
        writer.close()


@pytest.mark.usefixtures("hasty")
async def test_the_authority_changes_while_work_goes_on(
    tmp_path: Path,
    mesh: Mesh,
    client: Client,
    context: Contexts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From the old key by way of both to the new one: no node is restarted, no request fails. Then
    what the old key has signed is refused, on a new connection as on one that was open.
    """
    old, old_token = mesh.node("old", life=10 * HOUR), mesh.token()
    async with (
        running(tmp_path, "a", ca=mesh.directory) as a,
        running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b,
        running(tmp_path, "c", b.mesh_address, token=mesh.token()) as c,
        aiohttp.ClientSession() as session,
    ):
        nodes = (a, b, c)
        await meet(*nodes)
        before = mesh.now.trust(time.time())
        stranger = context(old)
        url = f"https://{b.mesh_address}/v2/"
        async with session.get(url, ssl=stranger) as answer:
            assert answer.status == 200
        mesh.now.rotate(4.0, time.time())

        def reached(version: int, issuers: frozenset[str]) -> bool:
            return all(
                node.credentials is not None
                and node.credentials.trust is not None
                and node.credentials.trust.version == version
                and node.credentials.holder is not None
                and node.credentials.holder.issuer in issuers
                for node in nodes
            )

        both, new = mesh.now.trust(time.time()), mesh.now.trust(time.time() + 9)
        await eventually("all trust both", lambda: reached(1, before.names))
        assert both.names == before.names | new.names
        number = 0
        deadline = time.monotonic() + DEADLINE_S
        while not reached(2, new.names):
            assert time.monotonic() < deadline
            number += 1
            await pull(client, a, c, number)
            await pull(client, c, b, -number)
        assert number
        assert all(metric(node, "oci_mesh_peer_faults_total") == 0 for node in nodes)
        async with session.get(url, ssl=stranger) as answer:  # the connection of before
            assert answer.status == 403
        for node in nodes:
            assert (await ask(node.mesh_address, context(old)))[0] == 0
        mesh.now.finish_rotation(time.time(), early=True)
        async with running(tmp_path, "d", c.mesh_address, token=mesh.token()) as d:
            await meet(*nodes, d)
        monkeypatch.setattr(enrolment, "ENROL_S", 0.0)
        with pytest.raises(PeerError):
            await Node(configured(tmp_path, "e", c.mesh_address, token=old_token)).__aenter__()


async def test_a_token_of_another_mesh_takes_a_node_there(tmp_path: Path, mesh: Mesh) -> None:
    """Though its certificate for the one before would still be good."""
    other = Mesh(tmp_path / "other")
    async with (
        running(tmp_path, "a", ca=mesh.directory) as a,
        running(tmp_path, "c", ca=other.directory) as c,
    ):
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b:
            await meet(a, b)
        async with running(tmp_path, "b", c.mesh_address, token=other.token()) as b:
            await meet(b, c)


@pytest.mark.usefixtures("hasty")
async def test_after_a_hasty_rotation_whoever_missed_it_needs_a_token(
    tmp_path: Path, mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old key is gone at once, as if it were stolen: the node that signs follows its directory,
    nobody else believes it, and with a new token they come back.
    """
    async with running(tmp_path, "a", ca=mesh.directory) as a:
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b:
            await meet(a, b)
            hasty = mesh.now
            hasty.rotate(HOUR, time.time())
            hasty.finish_rotation(time.time(), early=True)
            await eventually("a follows", lambda: _trusts(a, 2))
            assert _trusts(b, 0) or _trusts(b, 1)
        monkeypatch.setattr(enrolment, "ENROL_S", 0.0)
        async with running(tmp_path, "b", a.mesh_address, token=mesh.token()) as b:
            await meet(a, b)
            assert _trusts(b, 2)


def _trusts(node: Node, version: int) -> bool:
    assert node.credentials is not None
    assert node.credentials.trust is not None
    return node.credentials.trust.version == version


async def test_an_old_copy_of_the_authority_signs_nothing(
    tmp_path: Path, mesh: Mesh, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would cut off whoever takes its certificates."""
    shutil.copytree(mesh.directory, tmp_path / "copy")
    async with running(tmp_path, "a", ca=mesh.directory):
        pass
    mesh.now.rotate(HOUR, time.time())
    async with running(tmp_path, "a", ca=mesh.directory):
        pass
    monkeypatch.setattr(enrolment, "ENROL_S", 0.0)
    async with running(tmp_path, "a", ca=tmp_path / "copy") as a:  # by what it got before
        assert "older than what the mesh trusts" in caplog.text
        with pytest.raises(PeerError, match="no node that signs"):
            await Node(configured(tmp_path, "b", a.mesh_address, token=mesh.token())).__aenter__()
