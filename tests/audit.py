"""What a piece of code opens, imports, connects to and starts, as Python's audit hooks see it.

They see what Python code does, and C code that tells them; C++ that opens a file by itself (PyTorch's reader of zip
archives, safetensors) does not.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

_CONNECT = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto",
            "socket.bind", "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect")  # fmt: skip
_START = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty",
          "pty.spawn", "os.startfile", "webbrowser.open", "ctypes.dlopen")  # fmt: skip


@dataclass
class Seen:
    """What happened in a block, in order; of each event its first argument or its name, as text.

    Attributes:
        opened: paths of files that were opened, or tried; descriptors of open files are left out.
        imported: modules that were imported, or tried, and had not been.
        connected: addresses.
        started: programs, processes and shared libraries.
    """

    opened: list[str] = field(default_factory=list)
    imported: list[str] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)
    started: list[str] = field(default_factory=list)


_watching: list[Seen] = []
_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open" and args and not isinstance(args[0], int):
        for seen in _watching:
            seen.opened.append(os.fsdecode(args[0]))
    elif event == "import":
        for seen in _watching:
            seen.imported.append(str(args[0]))
    elif event in _CONNECT:
        for seen in _watching:
            seen.connected.append(f"{event} {args[1] if event == 'socket.connect' else args[:2]}")
    elif event in _START and args[:1] != (None,):  # dlopen(None) is this process itself
        for seen in _watching:
            seen.started.append(f"{event} {args[:2]}")


@contextmanager
def watched() -> Iterator[Seen]:
    """Record what happens in the block, in all threads of this process.

    What is imported when it is first used (by torch, for example) is seen too: do the same once before, unwatched.
    """
    global _installed
    if not _installed:
        sys.addaudithook(_hook)  # can't be taken away again
        _installed = True
    seen, before = Seen(), set(sys.modules)
    _watching.append(seen)
    try:
        yield seen
    finally:
        _watching[:] = [other for other in _watching if other is not seen]
        # importlib.import_module tells no hook
        seen.imported += sorted(set(sys.modules) - before - set(seen.imported))
