"""One process at a time in a run folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import writing

LOCK_FILE = ".lock"
MAX_HOLDER_BYTES = 500


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder's lock inside the block. The folder is made where it is not there.

    The operating system gives the lock up when its process ends, however that happens: so a lock is never stale.

    Raises:
        UserError: another process works in the folder, or it cannot be made.
        Stopped: it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{folder}: this folder cannot be made: {reason}; name another one") from None
    with writing(folder):
        # Without a buffer, so that closing has nothing left to write.
        file = (folder / LOCK_FILE).open("ab+", buffering=0)
    with file:
        if not _take(file):
            file.seek(0)
            holder = _holder(file.read(MAX_HOLDER_BYTES))
            raise UserError(f"{folder}: another process works in this folder ({holder}); wait, or stop it")
        with writing(folder / LOCK_FILE):
            file.truncate(0)
            file.write(json.dumps({"process": os.getpid(), "machine": socket.gethostname()}).encode())
        yield


def _take(file: FileIO) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows: no such lock; two processes are not kept apart
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _holder(text: bytes) -> str:
    try:
        values = json.loads(text)
        return f"process {values['process']} on {values['machine']}"
    except (ValueError, KeyError, TypeError):
        return "which one is not known"
