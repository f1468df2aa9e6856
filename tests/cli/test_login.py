"""What a registry is answered that asks who this is."""

import asyncio
import json
from pathlib import Path

import pytest

from oci_mesh.cli.failure import Failure
from oci_mesh.cli.login import Login, TokenRequest
from tests.cli.guarded import BASIC, log_in

REALM = 'Bearer realm="https://auth.corp/token?x=1",service="r",scope="repository:app:pull a:b:c"'


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Nobody is logged in anywhere."""
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    return tmp_path / "docker"


class Realm:
    """Where tokens come from: gives these in turn."""

    def __init__(self, *bodies: str) -> None:
        self.bodies = [*bodies]
        self.asked: list[TokenRequest] = []

    async def fetch(self, asked: TokenRequest) -> bytes:
        """As `login.Fetch`."""
        self.asked.append(asked)
        await asyncio.sleep(0)
        return self.bodies.pop(0).encode()


def token(text: str) -> str:
    """An answer of a realm."""
    return json.dumps({"token": text})


async def test_a_token_for_anybody() -> None:
    """Asked for with the service and the scopes that the registry named."""
    realm = Realm(token("t1"))
    login = Login("r.corp", "https://r.corp", realm.fetch)
    assert login.header("app") is None
    assert await login.answer([REALM], "app", None) == "Bearer t1"
    assert login.header("app") == "Bearer t1"
    assert login.header("other") is None
    (asked,) = realm.asked
    query = "x=1&service=r&scope=repository%3Aapp%3Apull&scope=a%3Ab%3Ac"
    assert asked == TokenRequest(f"https://auth.corp/token?{query}", None)


async def test_a_password_for_a_token(place: Path) -> None:
    """The place of tokens gets it, and only the token is shown to the registry."""
    log_in(place, "r.corp")
    realm = Realm(json.dumps({"access_token": "t1"}))
    login = Login("r.corp", "https://r.corp", realm.fetch)
    assert await login.answer(["Basic realm=x", REALM], "app", None) == BASIC
    login = Login("r.corp", "https://r.corp", realm.fetch)
    assert await login.answer([REALM], "app", None) == "Bearer t1"
    assert realm.asked[0].authorization == BASIC


async def test_many_requests_ask_once() -> None:
    """Requests that are refused together share the new token; one that is void is replaced."""
    realm = Realm(token("t1"), token("t2"))
    login = Login("r.corp", "https://r.corp", realm.fetch)
    answers = await asyncio.gather(*(login.answer([REALM], "app", None) for _ in range(5)))
    assert set(answers) == {"Bearer t1"}
    assert len(realm.asked) == 1
    assert await login.answer([REALM], "app", "Bearer t1") == "Bearer t2"


async def test_the_same_again_is_no_answer(place: Path) -> None:
    """What was refused is not shown again: nothing goes round in circles."""
    realm = Realm(token("t1"), token("t1"))
    login = Login("r.corp", "https://r.corp", realm.fetch)
    assert await login.answer([REALM], "app", None) == "Bearer t1"
    assert await login.answer([REALM], "app", "Bearer t1") is None
    log_in(place, "r.corp")
    login = Login("r.corp", "https://r.corp", realm.fetch)
    assert await login.answer(["Basic realm=x"], "app", None) == BASIC
    assert await login.answer(["Basic realm=x"], "app", BASIC) is None


@pytest.mark.parametrize("challenge", ["Basic realm=x", "Negotiate", "", "Bearer service=r"])
async def test_nothing_to_show(challenge: str) -> None:
    """Without credentials, or in ways that are not ours; the hint says to log in."""
    login = Login("r.corp", "https://r.corp", Realm().fetch)
    assert await login.answer([challenge], "app", None) is None
    assert "docker login r.corp" in login.hint


@pytest.mark.parametrize(
    ("realm", "said"),
    [
        ("http://auth.corp/token", "not TLS"),
        ("ftp://auth.corp/token", "no such URL"),
        ("https:///token", "no such URL"),
        ("/token", "no such URL"),
    ],
)
async def test_places_that_get_no_password(place: Path, realm: str, said: str) -> None:
    """Nothing is sent there."""
    log_in(place, "r.corp")
    asked = Realm()
    login = Login("r.corp", "https://r.corp", asked.fetch)
    with pytest.raises(Failure, match=said):
        await login.answer([f'Bearer realm="{realm}"'], "app", None)
    assert asked.asked == []


@pytest.mark.parametrize("body", ["", "[]", "{}", token(""), token("a\nb"), token("a b")])
async def test_answers_without_a_token(body: str) -> None:
    """They are in no header, and not repeated in the error."""
    login = Login("r.corp", "https://r.corp", Realm(body).fetch)
    with pytest.raises(Failure, match="sent no token"):
        await login.answer([REALM], "app", None)
