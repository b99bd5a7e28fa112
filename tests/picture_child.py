"""A process of its own that decodes pictures for a test, so that a hang or a crash of a decoder is seen and named, and memory is measured.

As a script it answers a line of JSON with a line of JSON, until its input ends; `Decoder` is the other end.
"""

import json
import os
import select
import subprocess
import sys
from pathlib import Path


class Decoder:
    """Decodes pictures in a child process, which is started anew after one that killed it or took too long."""

    def __init__(self, limit=30.0, nobody=False):
        self.limit, self.child, self.peak = limit, None, 0
        self.flags = ["nobody"] if nobody else []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.child:
            self.child.kill()
            self.child.communicate()

    def __call__(self, path, side=None, probes=()):
        """What became of a file: {"reason": ...} or {"size": ..., "pixels": ...}; {"died": ...} when the decoder took the process along."""
        if self.child is None:
            command = [sys.executable, __file__, *self.flags]
            self.child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.child.stdout.readline()  # it is ready
        request = {"path": os.fspath(path), "side": side, "probes": probes}
        self.child.stdin.write(json.dumps(request).encode() + b"\n")
        self.child.stdin.flush()
        ready, _, _ = select.select([self.child.stdout], [], [], self.limit)
        line = self.child.stdout.readline() if ready else b""
        if not line:
            self.child.kill()
            self.child.communicate()
            code, self.child = self.child.returncode, None
            return {"died": f"signal or code {code}" if ready else f"more than {self.limit:.0f} s"}
        answer = json.loads(line)
        self.peak = max(self.peak, answer.pop("peak"))
        return answer


def peak():
    """The most memory that this process ever held, in bytes; ru_maxrss would begin with the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main():
    import warnings

    warnings.simplefilter("error")
    from fedstyle.picture import UnusableError, _formats, look, read

    _formats()  # imports every plugin, while it may
    if "nobody" in sys.argv:
        os.setegid(65534)
        os.seteuid(65534)
    say({})
    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        path = Path(request["path"])
        try:
            look(path)
            answer["looked"] = ""
        except UnusableError as why:
            answer["looked"] = why.reason
        try:
            image = read(path, request["side"])
            answer |= {"size": image.size, "mode": image.mode, "pixels": [image.getpixel(tuple(place)) for place in request["probes"]]}
        except UnusableError as why:
            answer["reason"] = why.reason
        say(answer | {"peak": peak()})


if __name__ == "__main__":
    main()
