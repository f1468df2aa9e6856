"""Writes down all that goes over the links of the namespace it runs in: `… capture FILE`.

Frames one after the other, as they are, loopback's too. Root.
"""

import socket
import sys
from typing import Final

ETH_P_ALL: Final = 3
MAX_FRAME_BYTES: Final = 256 * 1024  # with the sender's offloads


def main() -> None:
    """Until killed."""
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as link,
        open(sys.argv[1], "wb", buffering=0) as file,
    ):
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        print("listening", flush=True)
        while True:
            file.write(link.recv(MAX_FRAME_BYTES))


if __name__ == "__main__":
    main()
