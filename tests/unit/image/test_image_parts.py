import io
import json
import re
import subprocess
import sys
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentimage import Image, Tree, build, bytecode, debian, python, sbom, tools, write_archive
from agentimage.build import inputs

NOW = 1_700_000_000


def packed(tree, folder, name="layer.tar"):
    tree.write(folder / name, NOW)
    return folder / name


def members(path):
    with tarfile.open(path) as tar:
        return {member.name: member for member in tar}


def test_a_layer_has_the_same_bytes_in_whatever_order_it_is_made(tmp_path):
    one, other = Tree(), Tree()
    one.file("a/b", "1")
    one.link("a/c", "b")
    one.folder("d")
    other.folder("d")
    other.link("a/c", "b")
    other.file("a/b", b"1")
    assert packed(one, tmp_path, "1").read_bytes() == packed(other, tmp_path, "2").read_bytes()


@given(st.integers(0, 0o7777))
def test_nothing_is_setuid_or_anybody_s_to_write(mode):
    tree = Tree()
    tree.file("x", b"", mode)
    assert tree.entries["x"].mode & 0o6022 == 0


def test_everything_is_root_s_and_of_one_time(tmp_path):
    tree = Tree()
    tree.file("opt/a/b", "1", 0o4755)
    found = members(packed(tree, tmp_path))
    assert list(found) == ["opt", "opt/a", "opt/a/b"]
    assert {(one.uid, one.gid, one.uname, one.mtime) for one in found.values()} == {(0, 0, "", NOW)}
    assert found["opt/a/b"].mode == 0o755


def test_what_was_below_lib_is_below_usr_and_devices_are_left_out():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, kind, link in (
            ("./lib/x/libc.so", tarfile.REGTYPE, ""),
            ("./lib/x/hard", tarfile.LNKTYPE, "./lib/x/libc.so"),
            ("./lib64/ld.so", tarfile.SYMTYPE, "/lib/x/libc.so"),
            ("./dev/null", tarfile.CHRTYPE, ""),
            ("./lib", tarfile.DIRTYPE, ""),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, link
            tar.addfile(info)
    buffer.seek(0)
    tree = Tree()
    tree.add_tar(buffer)
    assert sorted(tree.entries) == ["usr/lib/x/hard", "usr/lib/x/libc.so", "usr/lib64/ld.so"]


SOURCES = {
    "a/one.py": "x = {'a', 'b', 'c', 'd'}\ndef f(v): return v in {'e', 'f', 'g', 1, 2, None}\n",
    "a/two.py": "'''Words.'''\nimport os\n",
    "a/bad.py": "print 'of another age'\n",
    "a/empty.py": "",
    "a/data.txt": "x = 1",
}


def test_compiled_python_is_the_same_and_python_takes_it(tmp_path):
    first, second = Tree(), Tree()
    for tree in (first, second):
        for path, text in SOURCES.items():
            tree.file(path, text)
        bytecode.compile_all(tree)
    assert first.entries == second.entries
    made = sorted(path for path in first.entries if path.endswith(".pyc"))
    assert made == ["a/__pycache__/one.cpython-311.pyc", "a/__pycache__/two.cpython-311.pyc"]
    (tmp_path / "a" / "__pycache__").mkdir(parents=True)
    (tmp_path / "a" / "one.py").write_text("a hash that is not looked at: the source is not read")
    (tmp_path / made[0]).write_bytes(first.entries[made[0]].data)
    code = "import one; print(sorted(one.x), one.f('g'))"
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "a", capture_output=True, text=True, check=False
    )
    assert said.stdout == "['a', 'b', 'c', 'd'] True\n", said.stderr


def test_an_archive_of_the_same_images_has_the_same_bytes(tmp_path):
    tree = Tree()
    tree.file("pod", "1", 0o755)
    image = Image("localhost/x:1", "amd64", [("test", packed(tree, tmp_path))], {"Cmd": ["/pod"]}, NOW)
    digests = [write_archive(tmp_path / name, [image]) for name in ("1.tar", "2.tar")]
    assert digests[0] == digests[1]
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()
    with tarfile.open(tmp_path / "1.tar") as tar:
        index = json.load(tar.extractfile("index.json"))
        (manifest,) = index["manifests"]
        assert [manifest["digest"]] == digests[0]
        found = json.load(tar.extractfile(f"blobs/sha256/{digests[0][0].removeprefix('sha256:')}"))
        config = json.load(
            tar.extractfile(f"blobs/sha256/{found['config']['digest'].removeprefix('sha256:')}")
        )
    assert config["rootfs"]["diff_ids"] == [found["layers"][0]["digest"]]
    assert config["created"] == "2023-11-14T22:13:20Z"


@pytest.mark.parametrize("architecture", debian.ARCHITECTURES)
def test_locks_hold_each_package_by_its_hash(architecture):
    time, packages = debian.read_lock(architecture)
    assert re.fullmatch(r"20\d{6}T\d{6}Z", time)
    names = [package.name for package in packages]
    assert {"libc6", "python3.11-minimal", "python3-bpfcc", "libllvm14"} <= set(names)
    assert names == sorted(set(names))
    assert not set(names) & set(debian.LEFT_OUT)
    for package in packages:
        assert re.fullmatch(r"[0-9a-f]{64}", package.sha256)
        assert package.path.startswith("pool/")
        assert package.path.endswith((f"_{architecture}.deb", "_all.deb"))


def test_both_architectures_are_of_the_same_packages():
    names = [[one.name for one in debian.read_lock(each)[1]] for each in debian.ARCHITECTURES]
    assert names[0] == names[1]


def test_the_image_has_what_tpnet_needs_and_nothing_that_only_builds_it():
    from importlib import metadata

    def needs(name):
        for line in metadata.requires(name) or ():
            wanted, _, marker = line.partition(";")
            if "extra" not in marker:
                yield re.match(r"[A-Za-z0-9._-]+", wanted)[0].lower().replace("_", "-").replace(".", "-")

    locked = set(re.findall(r"^([a-z0-9._-]+)==", python.LOCK.read_text(), re.MULTILINE))
    found, todo = set(), {"tpnet"}
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo |= {one for one in needs(name) if one in locked}
    assert locked - set(python.BUILD_ONLY) == found - {"tpnet"}


def test_a_lock_without_some_packages():
    text = "# words\na==1 \\\n    --hash=sha256:1\nb-c==2 \\\n    --hash=sha256:2 \\\n    --hash=sha256:3\nd==4 \\\n    --hash=sha256:5\n"
    left = python.without(text, ["b-c"])
    assert re.findall(r"sha256:(\d)", left) == ["1", "5"]


PACKAGES = [debian.Package("libc6", "1:2.36-9+deb12u14", "glibc", "a" * 64, "pool/x_amd64.deb")]


def test_a_bill_tells_each_part_and_is_the_same_for_the_same_parts():
    parts = sbom.of_debian(PACKAGES, "amd64")
    made = [sbom.bill("x", "1", "amd64", NOW, each) for each in (parts, parts, parts * 2)]
    assert made[0] == made[1]
    assert made[0]["serialNumber"] != made[2]["serialNumber"]
    (part,) = made[0]["components"]
    assert part["purl"] == (
        "pkg:deb/debian/libc6@1%3A2.36-9%2Bdeb12u14?arch=amd64&distro=debian-12&upstream=glibc"
    )
    assert part["hashes"] == [{"alg": "SHA-256", "content": "a" * 64}]


def test_what_is_gone_from_the_archive_is_refused_or_taken_newer(monkeypatch, tmp_path):
    fresh = [PACKAGES[0]._replace(version="2", sha256="b" * 64)]
    monkeypatch.setattr(debian, "read_lock", lambda _: ("20260101T000000Z", PACKAGES))
    monkeypatch.setattr(debian, "resolve", lambda _: fresh)
    monkeypatch.setattr(debian, "fetch", lambda _, wanted, *rest: [one for one in wanted if one not in fresh])
    said = []
    with pytest.raises(tools.BuildError, match=r"(?s)libc6 1:2.36.*make lock"):
        build._packages("amd64", said.append, drift=False)
    assert build._packages("amd64", said.append, drift=True) == (fresh, "20260101T000000Z", ("libc6",))
    assert "libc6" in said[-1]


def test_a_changed_source_makes_another_image(monkeypatch, tmp_path):
    before = inputs("amd64")
    assert inputs("amd64") == before
    assert inputs("arm64") != before
    (tmp_path / "new.py").write_text("1")
    monkeypatch.setattr("agentimage.build.SOURCES", (*build.SOURCES, tmp_path))
    assert inputs("amd64") != before
