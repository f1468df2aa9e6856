"""Where to look for other nodes at first: `--join HOST:PORT`, each name with all its addresses.

A DNS name with many addresses (a Kubernetes headless Service) stands for all of them. Names are
looked up again each time, since what they stand for changes.
"""

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Final

_log = logging.getLogger(__name__)

LOOKUP_S: Final = 5.0


async def resolve_seeds(join: Sequence[str]) -> list[str]:
    """All addresses behind `join`, as `host:port` with numeric hosts. A name that does not resolve
    now is logged and left out.
    """
    async with asyncio.TaskGroup() as group:
        lookups = [group.create_task(_look_up(seed)) for seed in join]
    return list(dict.fromkeys(address for lookup in lookups for address in lookup.result()))


async def _look_up(seed: str) -> list[str]:
    host, _, port = seed.rpartition(":")
    try:
        async with asyncio.timeout(LOOKUP_S):
            answers = await asyncio.get_running_loop().getaddrinfo(
                host.strip("[]"), int(port), type=socket.SOCK_STREAM
            )
    except (OSError, UnicodeError) as error:  # UnicodeError: `a..b` has no form in DNS
        _log.warning("join: %s cannot be looked up now: %s", seed, str(error) or "no answer")
        return []
    return [
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        for host, port in ((str(address[0]), int(address[1])) for *_, address in answers)
    ]
