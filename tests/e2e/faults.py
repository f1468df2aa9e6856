"""A registry's front that misbehaves: a proxy with TLS that does wrong to some requests, as told.

`python -m tests.e2e.faults PORT BACKEND-URL CERTIFICATE KEY RULES LOG` forwards all that comes to
PORT to BACKEND-URL, and writes a line of JSON to LOG for each request. RULES is a file that is read
before each: a JSON list of objects, of which the first one counts whose `path` and `agent` (regular
expressions) are found in the request's path and User-Agent, and which has been used less than
`times` times, if that is there. `do` says what happens then:

    status  answer with `status` (and `retry_after`, in seconds), and do not forward
    hang    say nothing, without an end
    stall   go silent after `after` bytes of the body, without an end
    cut     close the connection after `after` bytes of the body
    lie     flip a bit of the body's byte at `after`
    whole   leave out the Range header, as registries do that have none

Nothing else is changed, so what is not told to be wrong is right.
"""

import asyncio
import json
import re
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

CHUNK_BYTES: Final = 64 * 1024
FOREVER_S: Final = 3600.0

_HOP: Final = ("Connection", "Keep-Alive", "Transfer-Encoding", "Host")

Rule = dict[str, Any]


class Front:
    """What answers."""

    def __init__(
        self, backend: str, rules: Path, log: Path, session: aiohttp.ClientSession
    ) -> None:
        self._backend = backend
        self._rules = rules
        self._log = log
        self._session = session
        self._used: Counter[str] = Counter()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Forward a request, or what the rules say."""
        rule = self._rule(request)
        note = {
            "at_s": time.time(),
            "client": request.remote,
            "method": request.method,
            "path": request.path_qs,
            "range": request.headers.get("Range", ""),
            "agent": request.headers.get("User-Agent", ""),
            "authorized": "Authorization" in request.headers,
            "did": rule.get("do", ""),
        }
        with self._log.open("a") as log:
            log.write(json.dumps(note) + "\n")
        if rule.get("do") == "hang":
            await asyncio.sleep(FOREVER_S)
        if rule.get("do") == "status":
            later = {"Retry-After": str(rule["retry_after"])} if "retry_after" in rule else {}
            return web.Response(status=rule["status"], headers=later)
        return await self._forward(request, rule)

    def _rule(self, request: web.BaseRequest) -> Rule:
        for rule in json.loads(self._rules.read_text()):
            name = json.dumps(rule)
            if (
                re.search(rule["path"], request.path)
                and re.search(rule.get("agent", ""), request.headers.get("User-Agent", ""))
                and self._used[name] < rule.get("times", float("inf"))
            ):
                self._used[name] += 1
                return dict(rule)
        return {}

    async def _forward(self, request: web.BaseRequest, rule: Rule) -> web.StreamResponse:
        headers = _without(request.headers, *_HOP)
        if rule.get("do") == "whole":
            headers.popall("Range", None)
        url = URL(self._backend + request.path_qs, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, allow_redirects=False
        ) as found:
            response = web.StreamResponse(status=found.status)
            response.headers.extend(_without(found.headers, *_HOP))
            await response.prepare(request)
            async for chunk in _wronged(found, rule, request):
                await response.write(chunk)
            await response.write_eof()
            return response


async def _wronged(
    found: aiohttp.ClientResponse, rule: Rule, request: web.BaseRequest
) -> AsyncIterator[bytes]:
    """The body, with what the rule does to it."""
    do, after, sent = rule.get("do"), rule.get("after", 0), 0
    async for chunk in found.content.iter_chunked(CHUNK_BYTES):
        here = after - sent
        sent += len(chunk)
        if do == "lie" and 0 <= here < len(chunk):
            yield chunk[:here] + bytes([chunk[here] ^ 1]) + chunk[here + 1 :]
        elif do in ("stall", "cut") and here < len(chunk):
            yield chunk[: max(0, here)]
            if do == "stall":
                await asyncio.sleep(FOREVER_S)
            assert request.transport is not None
            await asyncio.sleep(0.05)  # for what was written to leave this process
            request.transport.abort()
            raise ConnectionResetError("cut")
        else:
            yield chunk


def _without(headers: Any, *names: str) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in names:
        kept.popall(name, None)
    return kept


async def main() -> None:
    """Serve until killed."""
    port, backend, certificate, key, rules, log = sys.argv[1:]
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with aiohttp.ClientSession(
        auto_decompress=False,
        timeout=aiohttp.ClientTimeout(total=None),
        skip_auto_headers=("Accept-Encoding", "User-Agent", "Accept"),
    ) as session:
        front = Front(backend, Path(rules), Path(log), session)
        runner = web.ServerRunner(web.Server(front.answer, access_log=None))
        await runner.setup()
        await web.TCPSite(runner, "0.0.0.0", int(port), ssl_context=tls).start()
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
