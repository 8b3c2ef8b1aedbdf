"""The lowest layer: files of Debian 12's packages. No shell, no package manager, nothing setuid.

``debian-ARCH.lock`` holds each package by version and SHA-256. ``fetch`` brings exactly those, from Debian's archive, or
from its snapshot where they are not the newest any more; ``resolve`` asks apt what they are today. Packages' own scripts
are not run: what those would have made and the agent needs is made here.
"""

from __future__ import annotations

import fnmatch
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agentimage.tools import CACHE, HERE, BuildError, run, sha256
from agentimage.tree import MERGED, Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCHIVE = "http://deb.debian.org/{archive}"
SNAPSHOT = "http://snapshot.debian.org/archive/{archive}/{time}"

WANTED = ("base-files", "python3", "python3-bpfcc")
"""What the agent runs on: BCC compiles the redirect's program."""

# Packages that those depend on, and the agent does not.
LEFT_OUT = {
    "dpkg": "packages' scripts",
    "install-info": "packages' scripts",
    "debconf": "packages' scripts",
    "libacl1": "of tar",
    "libcom-err2": "of Kerberos",
    "libdb5.3": "Python's dbm",
    "libgdbm*": "of perl",
    "libgssapi-krb5-2": "of Kerberos",
    "libk5crypto3": "of Kerberos",
    "libkeyutils1": "of Kerberos",
    "libkrb5*": "of Kerberos",
    "libncursesw6": "Python's curses",
    "libnsl2": "Python's nis",
    "libpcre2-8-0": "of tar",
    "libperl5.36": "packages' scripts",
    "libreadline8": "Python's prompt",
    "libselinux1": "of tar",
    "libtirpc*": "Python's nis",
    "libuuid1": "Python's uuid does without",
    "mailcap": "a list for desktops",
    "mawk": "packages' scripts",
    "media-types": "a list for servers",
    "mime-support": "a list for desktops",
    "perl*": "packages' scripts",
    "readline-common": "Python's prompt",
    "tar": "packages' scripts",
    "tzdata": "logs are in UTC",
}

# Files of the others that nothing needs. What is licensed stays said: usr/share/doc/*/copyright.
NOT_NEEDED = (
    "etc/*",
    "usr/bin/*",
    "usr/games/*",
    "usr/include/*",
    "usr/sbin/*",
    "usr/share/*",
    "var/*",
    "usr/lib/*/gconv/*",
    "usr/lib/*/audit/*",
    "usr/lib/debug/*",
    "usr/lib/mime/*",
    "usr/lib/valgrind/*",
    "usr/lib/python3*/config-*",
    "usr/lib/python3.11/curses/*",
    "usr/lib/python3.11/dbm/*",
    "usr/lib/python3.11/distutils/*",
    "usr/lib/python3.11/ensurepip/*",
    "usr/lib/python3.11/idlelib/*",
    "usr/lib/python3.11/lib2to3/*",
    "usr/lib/python3.11/pydoc_data/*",
    "usr/lib/python3.11/tkinter/*",
    "usr/lib/python3.11/turtledemo/*",
    "usr/lib/python3.11/venv/*",
    "usr/lib/python3.11/lib-dynload/_curses*",
    "usr/lib/python3.11/lib-dynload/_dbm.*",
    "usr/lib/python3.11/lib-dynload/_gdbm.*",
    "usr/lib/python3.11/lib-dynload/_uuid.*",
    "usr/lib/python3.11/lib-dynload/nis.*",
    "usr/lib/python3.11/lib-dynload/readline.*",
    "usr/lib/python3/dist-packages/*.egg-info/*",
)
NEEDED = (
    "etc/debian_version",
    "etc/os-release",
    "usr/bin/python3",
    "usr/bin/python3.11",
    "usr/share/doc/*/copyright",
    "usr/share/common-licenses/*",
)
# The C library and Debian's Python say so themselves.
ARCHITECTURES = {"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}


class Package(NamedTuple):
    """One binary package; ``path`` is where Debian's archive has it, ``source`` the package that it was built from."""

    name: str
    version: str
    source: str
    sha256: str
    path: str

    @property
    def file(self) -> Path:
        """Where it is kept when it was fetched."""
        return CACHE / "debs" / f"{self.sha256}.deb"


def lock_file(architecture: str) -> Path:
    """The lock of one architecture."""
    return HERE / f"debian-{architecture}.lock"


def read_lock(architecture: str) -> tuple[str, list[Package]]:
    """When the lock was made, as snapshot.debian.org writes it, and its packages."""
    lines = lock_file(architecture).read_text().splitlines()
    time = next(line.split()[-1] for line in lines if line.startswith("# snapshot "))
    return time, [Package(*line.split()) for line in lines if line and not line.startswith("#")]


def write_lock(architecture: str, time: str, packages: Iterable[Package]) -> None:
    """Write the lock of one architecture."""
    words = [
        "# Debian's packages in the agents' image: name, version, source, SHA-256, path. Made by: make lock",
        f"# snapshot {time}",
        *(" ".join(package) for package in packages),
    ]
    lock_file(architecture).write_text("\n".join(words) + "\n")


class Apt:
    """An apt with lists and settings of its own, for one architecture and one source."""

    def __init__(self, folder: Path, architecture: str, place: str) -> None:
        """``place`` is a URL with ``{archive}`` in it. Raises ``BuildError`` when its lists cannot be had."""
        for name in ("state/lists/partial", "cache/archives/partial", "etc"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        main, security = place.format(archive="debian"), place.format(archive="debian-security")
        known = f"[signed-by={KEYRING} check-valid-until=no]"
        (folder / "sources.list").write_text(
            f"deb {known} {main} bookworm main\n"
            f"deb {known} {main} bookworm-updates main\n"
            f"deb {known} {security} bookworm-security main\n"
        )
        settings = {
            "Dir::State": folder / "state",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "APT::Sandbox::User": "",
            "APT::Install-Recommends": "0",
            "APT::Update::Error-Mode": "any",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
        }
        self._options = [part for name, value in settings.items() for part in ("-o", f"{name}={value}")]
        self._folder = folder
        run("apt-get", *self._options, "update", "-qq")

    def needed(self, names: Iterable[str]) -> list[Package]:
        """What apt would install for ``names`` on an empty machine."""
        said = run("apt-get", *self._options, "install", "-s", "-qq", *names)
        found = re.findall(r"^Inst (\S+) \((\S+) ", said, re.MULTILINE)
        return self.known([f"{name}={version}" for name, version in found])

    def known(self, wanted: Iterable[str]) -> list[Package]:
        """Those of ``wanted``, which are ``NAME=VERSION``, that this source has."""
        said = run("apt-cache", *self._options, "show", *wanted, check=False)
        found = {}
        for record in said.split("\n\n"):
            fields = dict(re.findall(r"^([A-Z][A-Za-z0-9-]*): (.*)$", record, re.MULTILINE))
            if fields:
                source = fields.get("Source") or fields["Package"]
                package = Package(
                    fields["Package"],
                    fields["Version"],
                    source.split()[0],
                    fields["SHA256"],
                    fields["Filename"],
                )
                found[package.name, package.version, package.sha256] = package
        return sorted(found.values())

    def download(self, packages: Iterable[Package]) -> None:
        """Fetch them into the cache, those alone whose hash is right. Raises ``BuildError``."""
        into = self._folder / "fetched"
        into.mkdir(exist_ok=True)
        names = [f"{package.name}={package.version}" for package in packages]
        if names:
            run("apt-get", *self._options, "download", "-qq", *names, cwd=into)
        by_hash = {sha256(file): file for file in into.glob("*.deb")}
        for package in packages:
            if file := by_hash.get(package.sha256):
                package.file.parent.mkdir(parents=True, exist_ok=True)
                shutil.move(file, package.file)


@contextmanager
def apt(architecture: str, place: str) -> Iterator[Apt]:
    """An ``Apt`` in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Apt(Path(folder), architecture, place)


def resolve(architecture: str) -> list[Package]:
    """The packages that the image needs as Debian has them now. Raises ``BuildError``."""
    with apt(architecture, ARCHIVE) as now:
        return [package for package in now.needed(WANTED) if not _left_out(package.name)]


def fetch(
    architecture: str, packages: Iterable[Package], time: str, say: Callable[[str], None]
) -> list[Package]:
    """Bring what is not in the cache, and return what nobody has any more."""
    missing = [package for package in packages if not package.file.exists()]
    for place in (ARCHIVE, SNAPSHOT.replace("{time}", time)):
        if not missing:
            break
        say(f"fetching {len(missing)} of Debian's packages from {place.format(archive='debian')}")
        try:
            with apt(architecture, place) as source:
                there = set(source.known([f"{one.name}={one.version}" for one in missing]))
                hashes = {package.sha256 for package in there}
                source.download([package for package in missing if package.sha256 in hashes])
        except BuildError as error:
            say(str(error))
        missing = [package for package in missing if not package.file.exists()]
    return missing


def unpack(packages: Iterable[Package]) -> Tree:
    """The layer's files, without compiled Python."""
    tree = Tree()
    for package in packages:
        with subprocess.Popen(
            ["dpkg-deb", "--fsys-tarfile", package.file], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            tree.add_tar(process.stdout)  # type: ignore[arg-type]
            process.stdout.read()
        if process.returncode:
            raise BuildError(f"dpkg-deb could not read {package.name}.")
        # As distroless images have it, where scanners look.
        about = run("dpkg-deb", "--field", package.file)
        tree.file(f"var/lib/dpkg/status.d/{package.name}", about)
    for path in list(tree.entries):
        # A folder of documentation may be a link to another package's, where what they are licensed by stands.
        is_said = (
            tree.entries[path].link and fnmatch.fnmatch(path, "usr/share/doc/*") and path.count("/") == 3
        )
        if _not_needed(path) and not is_said:
            del tree.entries[path]
    _remove_dangling(tree)
    for name in MERGED:
        tree.link(name, f"usr/{name}")
    for path, text in _SETTINGS.items():
        tree.file(path, text)
    for path in ("dev", "proc", "sys", "run", "root", "usr/sbin", "var/cache"):
        tree.folder(path, 0o700 if path == "root" else 0o755)
    tree.folder("tmp", 0o1777)
    tree.link("var/run", "/run")
    return tree


# What packages' scripts would have made.
_SETTINGS = {
    "etc/passwd": "root:x:0:0:root:/root:/nonexistent\nnobody:x:65534:65534:nobody:/nonexistent:/nonexistent\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


def _left_out(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in LEFT_OUT)


def _not_needed(path: str) -> bool:
    if path.startswith("var/lib/dpkg/status.d/") or any(fnmatch.fnmatch(path, one) for one in NEEDED):
        return False
    return any(fnmatch.fnmatch(path, one) for one in NOT_NEEDED)


def _remove_dangling(tree: Tree) -> None:
    """Links whose target was not needed."""
    folders = {str(parent) for path in tree.entries for parent in Path(path).parents}
    for path, entry in list(tree.entries.items()):
        if entry.link:
            target = entry.link if entry.link.startswith("/") else f"{Path(path).parent}/{entry.link}"
            parts: list[str] = []
            for part in target.strip("/").split("/"):
                if part == "..":
                    parts.pop()
                elif part != ".":
                    parts.append(part)
            first = "/".join(parts)
            wanted = f"usr/{first}" if parts[0] in MERGED else first
            if wanted not in tree.entries and wanted not in folders:
                del tree.entries[path]
