"""The agents' image as it is built: what is in it, that nothing is missing, and that the same sources make the same bytes."""

import json
import re
import struct
import subprocess
import tarfile
from pathlib import PurePosixPath

import pytest
from kubelab.images import Images

from agentimage import build as building
from agentimage import debian, python, wireguard


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return Images(tmp_path_factory.getbasetemp()).agent()


@pytest.fixture(scope="module")
def image(archive):
    """The configuration, and every file of all layers as (member, bytes), later layers over earlier ones."""
    with tarfile.open(archive) as tar:
        index = json.load(tar.extractfile("index.json"))
        manifest = blob(tar, index["manifests"][0]["digest"])
        config = blob(tar, manifest["config"]["digest"])
        found = {}
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=tar.extractfile(name_of(layer["digest"]))) as inner:
                for member in inner:
                    data = inner.extractfile(member).read() if member.isreg() else b""
                    found[member.name] = member, data
    return config, found


def blob(tar, digest):
    return json.load(tar.extractfile(name_of(digest)))


def name_of(digest):
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


@pytest.fixture(scope="module")
def bill(image):
    return json.loads(image[1][building.BILL][1])


def test_nothing_is_setuid_writable_for_others_or_a_device(image):
    _, found = image
    for name, (member, _) in found.items():
        assert member.isreg() or member.isdir() or member.issym(), name
        assert member.mode & 0o6000 == 0, name
        assert member.issym() or name == "tmp" or member.mode & 0o022 == 0, name
        assert (member.uid, member.gid) == (0, 0), name
        assert "security.capability" not in str(member.pax_headers), name


def test_it_has_three_programs(image):
    """No shell, no package manager, no tools: what takes the agent over finds none."""
    _, found = image
    programs = {
        name
        for name, (member, data) in found.items()
        if member.isreg() and member.mode & 0o111 and (data[:2] == b"#!" or is_program(data))
    }
    programs -= {name for name in programs if name.startswith(("usr/lib/", python.SITE))}
    assert programs == {"usr/bin/python3.11", "opt/tpnet/bin/tpnet", "opt/tpnet/bin/wireguard-go"}


def is_program(data):
    """An ELF file that the kernel starts: it is of the type EXEC, or has an interpreter."""
    if data[:4] != b"\x7fELF":
        return False
    return struct.unpack_from("<H", data, 16)[0] == 2 or any(kind == 3 for kind, *_ in segments(data))


def segments(data):
    at, (size, number) = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<HH", data, 54)
    for offset in range(at, at + size * number, size):
        kind, _, where, address, _, length = struct.unpack_from("<IIQQQQ", data, offset)
        yield kind, where, address, length


def needed(data):
    """The libraries that an ELF file asks for."""
    parts = list(segments(data))
    dynamic = next((part for part in parts if part[0] == 2), None)
    if dynamic is None:
        return []
    entries = [struct.unpack_from("<QQ", data, at) for at in range(dynamic[1], dynamic[1] + dynamic[3], 16)]
    table = next(value for tag, value in entries if tag == 5)
    at = next(
        where + table - address
        for kind, where, address, length in parts
        if kind == 1 and address <= table < address + length
    )
    return [data[at + value : data.index(b"\0", at + value)].decode() for tag, value in entries if tag == 1]


def test_every_library_that_anything_asks_for_is_there(image):
    _, found = image
    there = {PurePosixPath(name).name for name in found}
    checked = 0
    for name, (member, data) in found.items():
        if member.isreg() and data[:4] == b"\x7fELF":
            # Wheels bring libraries of their own, whose names have a hash.
            assert set(needed(data)) <= there, name
            checked += 1
    assert checked > 50


def test_every_link_leads_somewhere(image):
    _, found = image
    for name, (member, _) in found.items():
        if member.issym() and not member.linkname.startswith("/run"):
            target = PurePosixPath("/", PurePosixPath(name).parent, member.linkname)
            parts = []
            for part in target.parts[1:]:
                parts = parts[:-1] if part == ".." else [*parts, part]
            wanted = "/".join(parts)
            wanted = f"usr/{wanted}" if parts[0] in {"lib", "lib64", "bin"} else wanted
            assert wanted in found or any(one.startswith(f"{wanted}/") for one in found), name


def test_everything_is_compiled(image):
    _, found = image
    sources = [name for name in found if name.startswith((python.SITE, "usr/lib/python3"))]
    missing = []
    for name in sources:
        if name.endswith(".py") and found[name][1]:
            path = PurePosixPath(name)
            if str(path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc") not in found:
                missing.append(name)
    assert len(sources) > 1000
    assert missing == [], "of these Python says that they are none"


def test_the_bill_of_materials_tells_each_part(image, bill):
    _, found = image
    names = {part["purl"].partition("@")[0]: part for part in bill["components"]}
    for path in found:
        if path.startswith("var/lib/dpkg/status.d/"):
            assert f"pkg:deb/debian/{PurePosixPath(path).name}".replace("+", "%2B") in names
        if (
            path.startswith(python.SITE)
            and (dist := re.search(r"/([^/]+)-([^-/]+)\.dist-info/METADATA$", path))
            and dist[1] != "tpnet"
        ):
            assert names[f"pkg:pypi/{dist[1].lower().replace('_', '-')}"]["version"] == dist[2]
    assert "pkg:golang/golang.zx2c4.com/wireguard" in names
    assert "pkg:golang/stdlib" in names
    for name, part in names.items():
        assert part["bom-ref"] == part["purl"]
        assert part["version"]
        assert name == "pkg:golang/stdlib" or re.fullmatch("[0-9a-f]{64}", part["hashes"][0]["content"])
    assert len({part["bom-ref"] for part in bill["components"]}) == len(bill["components"])
    assert set(bill["dependencies"][0]["dependsOn"]) == {part["bom-ref"] for part in bill["components"]}


def test_the_bill_of_materials_is_of_its_format(bill):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(bill)) is None


def test_licences_are_there(image, bill):
    _, found = image
    said = {PurePosixPath(path).parent.name for path in found if path.startswith("usr/share/doc/")}
    said |= {PurePosixPath(path).name for path, (member, _) in found.items() if member.issym()}
    for package in debian.read_lock(building.machine())[1]:
        assert package.name in said, package.name
    assert any("golang.zx2c4.com/wireguard/LICENSE" in path for path in found)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_built_twice_it_is_the_same_to_the_byte(archive, tmp_path, monkeypatch):
    """In another folder, from nothing but what was fetched; also wireguard-go, which Go then compiles anew."""
    go = wireguard.toolchain(print)
    monkeypatch.setattr(wireguard, "toolchain", lambda _: go)
    for module in (building, wireguard):
        monkeypatch.setattr(module, "CACHE", tmp_path)
    monkeypatch.setenv("GOCACHE", str(tmp_path / "go"))
    again = building.build_image(tmp_path / "again.tar", drift=True)
    assert again.digest == manifest_of(archive)
    assert again.archive.read_bytes() == archive.read_bytes()


def manifest_of(archive):
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]


IMPORTS = """
import importlib, pkgutil, bcc, kubernetes.aio, tpnet, tpnet_cli
number = 0
for package in (tpnet, tpnet_cli):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            number += 1
print(number)
"""


def test_it_runs_by_itself(archive, tmp_path):
    """Every module of tpnet's can be imported, and wireguard-go starts, with nothing but what is in the image."""
    with tarfile.open(archive) as tar:
        manifest = blob(tar, manifest_of(archive))
        for layer in manifest["layers"]:
            with tarfile.open(fileobj=tar.extractfile(name_of(layer["digest"]))) as inner:
                inner.extractall(tmp_path)
    here = ["chroot", tmp_path]
    said = subprocess.run(
        [*here, "/opt/tpnet/bin/python", "-c", IMPORTS], capture_output=True, text=True, check=False
    )
    assert int(said.stdout or 0) > 200, said.stderr
    said = subprocess.run(
        [*here, "/opt/tpnet/bin/wireguard-go", "--version"], capture_output=True, text=True, check=False
    )
    assert said.stdout.startswith("wireguard-go v"), said.stderr
