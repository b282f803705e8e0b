"""The helper that other tests rely on sees what they ask it for, or they mean nothing."""

import contextlib
import importlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from .audit import watched


def test_files_modules_addresses_and_processes_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("audited_one", "audited_two"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    with watched() as seen:
        (tmp_path / "a").write_text("")
        os.close(os.open(tmp_path / "b", os.O_CREAT))
        with pytest.raises(FileNotFoundError):
            (tmp_path / "missing").read_text()
        __import__("audited_one")
        importlib.import_module("audited_two")
        with pytest.raises(ImportError):
            __import__("audited_missing")
        with socket.socket() as connection, contextlib.suppress(OSError):
            connection.connect(("127.0.0.1", 9))
        subprocess.run([sys.executable, "-c", ""], check=True)
        os.system("true")
    with open(tmp_path / "after", "w"):
        pass
    assert {str(tmp_path / name) for name in ("a", "b", "missing")} <= set(seen.opened)
    assert str(tmp_path / "after") not in seen.opened
    assert {"audited_one", "audited_two", "audited_missing"} <= set(seen.imported)
    assert "127.0.0.1" in str(seen.connected)
    assert "subprocess.Popen" in str(seen.started)
    assert "os.system" in str(seen.started)


def test_nothing_is_nothing() -> None:
    with watched() as seen:
        sum(range(10))
    assert (seen.opened, seen.imported, seen.connected, seen.started) == ([], [], [], [])
