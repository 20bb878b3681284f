"""A disk that forgets at a power cut what was not forced onto it."""

import os
from pathlib import Path


def path_of(descriptor):
    return Path(f"/proc/self/fd/{descriptor}").readlink()


class Disk:
    """A file system that keeps, at a power cut, what was forced to disk, and of the rest what it likes.

    Attributes:
        cuts: What could be there after a power cut at each moment (name to content), with ``written`` then.
        written: What has been promised to be there; to be set by whoever writes.
    """

    def __init__(self, folder):
        self.folder = folder
        self.synced = {}  # content by inode
        self.entries = {}  # inode by name, as of the last time that the folder was forced
        self.cuts = []
        self.written = 0

    def fsync(self, descriptor):
        self.cut()
        path = path_of(descriptor)
        if path.is_dir():
            self.entries = self._now()
        else:
            self.synced[os.fstat(descriptor).st_ino] = path.read_bytes()
        self.cut()

    def cut(self):
        """The power may go now: old or new entries, and of what was not forced nothing, zeros or half."""
        for entries in (self.entries, self._now()):
            for lost in (lambda raw: b"", lambda raw: bytes(len(raw)), lambda raw: raw[: len(raw) // 2]):
                left = {
                    name: self.synced.get(inode, lost(self._content(name))) for name, inode in entries.items()
                }
                self.cuts.append((left, self.written))

    def restore(self, folder):
        """Write what each cut has left into a folder of its own; gives the folders, and what was promised."""
        for number, (left, written) in enumerate(self.cuts):
            restored = folder / str(number)
            restored.mkdir()
            for name, content in left.items():
                (restored / name).write_bytes(content)
            yield restored, written

    def _now(self):
        return {path.name: path.stat().st_ino for path in self.folder.iterdir()}

    def _content(self, name):
        path = self.folder / name
        return path.read_bytes() if path.exists() else b"gone"
