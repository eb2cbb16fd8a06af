"""One process at a time in a run folder."""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from seekr_lite.common.errors import UserError
from seekr_lite.common.files import writing

LOCK_FILE = ".lock"
MAX_HOLDER_BYTES = 500
NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK}  # a disk says that it knows none


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
    # The file stays when the lock is given up: who waits for a deleted one would hold a lock that nobody else sees.
    path = folder / LOCK_FILE
    lock = FileLock(path, blocking=False, preserve_lock_file=True, on_acquired=_write_holder)
    with writing(folder):
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{folder}: another process works in this folder ({_holder(path)}); wait, or stop it"
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            logging.getLogger(__name__).warning(
                "%s: this disk knows no file locks; see to it that no other process works in this folder", folder
            )
    try:
        yield
    finally:
        lock.release()


def _write_holder(descriptor: int) -> None:
    """Names this process in the lock file. Its first byte is a blank: on Windows the lock hides it from others."""
    holder = json.dumps({"process": os.getpid(), "machine": socket.gethostname()})
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f" {holder}".encode())


def _holder(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(1)
            values = json.loads(file.read(MAX_HOLDER_BYTES))
        return f"process {values['process']} on {values['machine']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "which one is not known"
