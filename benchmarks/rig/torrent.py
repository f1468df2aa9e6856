"""A BitTorrent peer: libtorrent with its peer list given, so this is a swarm's transfer alone.

`python -m benchmarks.rig.torrent METAINFO DIRECTORY ADDRESS PEER,PEER…` waits at the gate, seeds or
downloads the file in DIRECTORY, seeds on until it is told a line, and then says the file's SHA-256.
Who has the file in DIRECTORY is a seed.

Settings: the best of nine configurations tried with 8 nodes at 200 Mbit/s (pieces of 1 MiB, 64
requests under way), with everything off that only looks for peers, and no encryption.
"""

import hashlib
import importlib
import sys
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.rig.gate import await_start, say_done

NAME: Final = "payload"
PIECE_BYTES: Final = 1024 * 1024
PORT: Final = 6881
POLL_S: Final = 0.05

_SETTINGS: Final = {
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
    "enable_outgoing_utp": False,
    "enable_incoming_utp": False,
    "out_enc_policy": 2,  # none
    "in_enc_policy": 2,
    "mixed_mode_algorithm": 0,  # does not hold TCP back
    "unchoke_slots_limit": -1,
    "connection_speed": 500,
    "smooth_connects": False,
    "close_redundant_connections": False,
    "aio_threads": 2,
    "hashing_threads": 1,
    "send_buffer_watermark": 2 * 1024 * 1024,
    "max_out_request_queue": 64,
    "request_queue_time": 2,
    "whole_pieces_threshold": 2,
}


def _libtorrent() -> Any:
    return importlib.import_module("libtorrent")  # has no types


def metainfo(path: Path) -> bytes:
    """What peers need to know of the file."""
    content = memoryview(path.read_bytes())
    pieces = (content[at : at + PIECE_BYTES] for at in range(0, len(content), PIECE_BYTES))
    info = {
        b"length": len(content),
        b"name": path.name.encode(),
        b"piece length": PIECE_BYTES,
        b"pieces": b"".join(hashlib.sha1(piece).digest() for piece in pieces),
    }
    return bytes(_libtorrent().bencode({b"info": info}))


def main() -> None:
    """Be a peer."""
    lt = _libtorrent()
    torrent, directory, address = sys.argv[1], Path(sys.argv[2]), sys.argv[3]
    others = [each for each in sys.argv[4].split(",") if each != address]
    seeds = (directory / NAME).exists()
    here = {"listen_interfaces": f"{address}:{PORT}", "outgoing_interfaces": address}
    session = lt.session({**_SETTINGS, **here})
    parameters = lt.add_torrent_params()
    parameters.ti = lt.torrent_info(torrent)
    parameters.save_path = str(directory)
    flags = lt.torrent_flags
    parameters.flags = (parameters.flags | flags.paused) & ~flags.auto_managed
    if seeds:
        parameters.flags |= flags.seed_mode
    handle = session.add_torrent(parameters)
    while not session.is_listening():
        time.sleep(POLL_S)
    await_start()
    handle.resume()
    for other in others:
        handle.connect_peer((other, PORT))
    while not handle.status().is_seeding:
        time.sleep(POLL_S)
    say_done([time.monotonic()])
    sys.stdin.readline()
    del handle, session  # writes what it has
    print(hashlib.sha256((directory / NAME).read_bytes()).hexdigest(), flush=True)


if __name__ == "__main__":
    main()
