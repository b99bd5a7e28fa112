"""Where processes take connections, from Linux's /proc."""

import contextlib
import ipaddress
from pathlib import Path


def listening(numbers):
    """The address and port of every TCP socket on which these processes listen."""
    sockets = {}
    for kind in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):  # a machine may have no IPv6
            rows = [line.split() for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]]
            sockets |= {f"socket:[{row[9]}]": _place(row[1]) for row in rows if row[3] == "0A"}
    found = set()
    for number in numbers:
        with contextlib.suppress(OSError):  # it may have ended
            for file in Path(f"/proc/{number}/fd").iterdir():
                with contextlib.suppress(OSError):
                    found |= {sockets[link] for link in [str(file.readlink())] if link in sockets}
    return found


def _place(text):
    """`0100007F:1F90` is 127.0.0.1, port 8080: words of four bytes, the last byte first."""
    address, port = text.split(":")
    words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
    found = ipaddress.ip_address(b"".join(words))
    return str(getattr(found, "ipv4_mapped", None) or found), int(port, 16)


def family(number):
    """A process and all that it started, and that these started."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
    known, before = {number}, set()
    while known != before:
        before, known = known, known | {child for child, parent in parents.items() if parent in known}
    return known
