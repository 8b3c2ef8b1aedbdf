"""Files that are to be in an image, and the one tar file that the same files always make."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_NO_MODE = 0o6022  # setuid, setgid, writable for others than the owner
MERGED = ("bin", "lib", "lib64", "sbin")
"""Folders of the root that are links into ``usr``."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One file (``data``), link (``link``) or folder (neither)."""

    mode: int
    data: bytes | None = None
    link: str = ""


@dataclass(slots=True)
class Tree:
    """Paths without a leading slash, and what is there. Everything is root's."""

    entries: dict[str, Entry] = field(default_factory=dict)

    def file(self, path: str, data: bytes | str, mode: int = 0o644) -> None:
        """A file. Setuid, setgid and write permissions for others do not get into an image."""
        self.entries[path] = Entry(mode & ~_NO_MODE, data.encode() if isinstance(data, str) else data)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self.entries[path] = Entry(0o777, link=target)

    def folder(self, path: str, mode: int = 0o755) -> None:
        """A folder. Those above files are there without being told."""
        self.entries[path] = Entry(mode)

    def add_tar(self, stream: io.BufferedIOBase) -> None:
        """What a tar file holds, ``/lib`` and its like put into ``/usr``. Devices are left out."""
        with tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                path = merged(member.name.removeprefix("./").strip("/"))
                if member.isreg():
                    data = tar.extractfile(member)
                    assert data is not None
                    self.file(path, data.read(), member.mode)
                elif member.issym():
                    self.link(path, member.linkname)
                elif member.islnk():
                    self.entries[path] = self.entries[merged(member.linkname.removeprefix("./").strip("/"))]

    def add_folder(self, source: Path, path: str) -> None:
        """All files below a folder of this machine."""
        for file in sorted(source.rglob("*")):
            if file.is_file():
                self.file(
                    f"{path}/{file.relative_to(source)}",
                    file.read_bytes(),
                    0o755 if file.stat().st_mode & 0o100 else 0o644,
                )

    def write(self, target: Path, epoch: int) -> None:
        """The tar file: sorted, root's, every time ``epoch``."""
        every = dict(self.entries)
        for path in self.entries:
            for parent in list(PurePosixPath(path).parents)[:-1]:
                every.setdefault(str(parent), Entry(0o755))
        with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as tar:
            for path, entry in sorted(every.items()):
                info = tarfile.TarInfo(path)
                info.mode, info.mtime = entry.mode, epoch
                if entry.link:
                    info.type, info.linkname = tarfile.SYMTYPE, entry.link
                elif entry.data is None:
                    info.type = tarfile.DIRTYPE
                else:
                    info.size = len(entry.data)
                tar.addfile(info, io.BytesIO(entry.data or b""))


def merged(path: str) -> str:
    """Where a path is when ``/lib`` and its like are links into ``/usr``."""
    first, slash, rest = path.partition("/")
    return f"usr/{path}" if first in MERGED and slash and rest else path
