import contextlib
import ctypes
import errno
import functools
import json
import os
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from tpnet.datapath import cache, loader
from tpnet.datapath import program as program_module
from tpnet.datapath.netns import NetNs
from tpnet.datapath.program import Program, compile_program, ready_program, source_folder
from tpnet.datapath.redirect import probe
from tpnet.datapath.refusal import explain_refusal
from tpnet.kernel import bpf
from tpnet.kernel.endpoint import ENDPOINT, pack_endpoint
from tpnet.kernel.libc import syscall
from tpnet.kernel.signs import (
    FIRST_PLACE,
    SUPERVISOR,
    SUPERVISOR_SECONDS,
    WITHDRAWN,
    WORKER,
    WORKER_SECONDS,
    Level,
    Signs,
)
from tpnet.kernel.signs import SPEC as SIGNS
from tpnet.model import Refused, TpnetError
from tpnet.proxy import bypass
from tpnet.proxy.bypass import BypassMap

BPF_PROG_TEST_RUN = 10
SO_COOKIE = 57
SK_PASS = 1
CONTEXT = struct.Struct("=QII4s16s2sH4s16sII4x")  # struct bpf_sk_lookup, include/uapi/linux/bpf.h
CONTEXT_FIELDS = {
    "cookie": 0,
    "family": 8,
    "protocol": 12,
    "remote_ip4": 16,
    "remote_ip6": 20,
    "remote_port": 36,
    "local_ip4": 40,
    "local_ip6": 44,
    "local_port": 60,
    "ingress_ifindex": 64,
}


@pytest.fixture(scope="module")
def scratch():
    with NetNs.anonymous("scratch") as netns:
        netns.run(lambda: subprocess.run(["ip", "link", "set", "lo", "up"], check=True))
        yield netns


@pytest.fixture
def life():
    with contextlib.closing(Signs.create()) as life:
        yield life


@pytest.fixture
def loaded(program, life):
    made = program.load(life)
    yield made
    made.close()


def place_of(loaded, life, port, level=Level.ALWAYS):
    """Where the levels of a port are that gets connections."""
    place = life.take_place()
    life.set_levels(place, level)
    bpf.map_update(loaded.maps["places"], struct.pack("=I", port), struct.pack("=I", place))
    return place


@pytest.fixture
def listeners(scratch):
    """Three listeners and their cookies: two dual-stack ones, one that is IPv4 only."""
    made = {}
    for name, family in (("A", socket.AF_INET6), ("B", socket.AF_INET6), ("four", socket.AF_INET)):
        sock = scratch.socket(family, socket.SOCK_STREAM)
        sock.listen()
        made[name] = sock
    yield made
    for sock in made.values():
        sock.close()


def context(packet):
    """What the kernel tells a program about the packet, from the packet's own bytes."""
    layer = packet.getlayer(TCP) or packet.getlayer(UDP)
    raw = bytes(packet)
    ports = bytes(layer)[:4]
    if packet.version == 4:
        addresses = (raw[12:16], bytes(16), raw[16:20], bytes(16))
        family, protocol = socket.AF_INET, raw[9]
    else:
        addresses = (bytes(4), raw[8:24], bytes(4), raw[24:40])
        family, protocol = socket.AF_INET6, raw[6]
    local_port = int.from_bytes(ports[2:], "big")
    return CONTEXT.pack(
        0,
        family,
        protocol,
        addresses[0],
        addresses[1],
        ports[:2],
        0,
        addresses[2],
        addresses[3],
        local_port,
        0,  # a test run takes no interface
    )


def run(program_fd, packet):
    """The program's return value and the cookie of the socket that it selected, 0 for none."""
    before = ctypes.create_string_buffer(context(packet), CONTEXT.size)
    after = ctypes.create_string_buffer(CONTEXT.size)
    attr = ctypes.create_string_buffer(
        struct.pack(
            "=IIIIQQIIIIQQ",
            program_fd, 0, 0, 0, 0, 0, 0, 0,
            CONTEXT.size, CONTEXT.size, ctypes.addressof(before), ctypes.addressof(after),
        )
    )  # fmt: skip
    size = len(attr) - 1
    done = syscall(bpf.BPF_SYSCALL, BPF_PROG_TEST_RUN, ctypes.addressof(attr), size)
    assert done == 0, os.strerror(ctypes.get_errno())
    return struct.unpack_from("=I", attr.raw, 4)[0], CONTEXT.unpack(after.raw)[0]


V4 = IP(src="10.1.2.3", dst="10.1.2.9")
V6 = IPv6(src="fd01:203:405:607:809:a0b:c0d:e0f", dst="fd10:1112:1314:1516:1718:191a:1b1c:1d1e")
ANY4, ANY6 = "0.0.0.0", "::"
TO_80 = TCP(sport=40_001, dport=80, flags="S")

TABLE = {
    # name: packet, listeners' map, bypass map, selected
    "empty maps": (V4 / TO_80, {}, [], None),
    "v4, any address": (V4 / TO_80, {(ANY4, 80): "A"}, [], "A"),
    "v6, any address": (V6 / TO_80, {(ANY6, 80): "A"}, [], "A"),
    "v4, this address": (V4 / TO_80, {("10.1.2.9", 80): "A"}, [], "A"),
    "v6, this address": (V6 / TO_80, {("fd10:1112:1314:1516:1718:191a:1b1c:1d1e", 80): "A"}, [], "A"),
    "this address comes before any": (V4 / TO_80, {(ANY4, 80): "A", ("10.1.2.9", 80): "B"}, [], "B"),
    "this address comes before any, v6": (
        V6 / TO_80,
        {(ANY6, 80): "A", ("fd10:1112:1314:1516:1718:191a:1b1c:1d1e", 80): "B"},
        [],
        "B",
    ),
    "another address": (V4 / TO_80, {("10.1.2.8", 80): "A"}, [], None),
    "another address, v6": (V6 / TO_80, {("fd10:1112:1314:1516:1718:191a:1b1c:1d1f", 80): "A"}, [], None),
    "another port": (V4 / TO_80, {(ANY4, 81): "A"}, [], None),
    "the port's bytes swapped": (V4 / TO_80, {(ANY4, 80 << 8): "A"}, [], None),
    "the client's port is not looked at": (V4 / TCP(sport=80, dport=81), {(ANY4, 80): "A"}, [], None),
    "only v6 is redirected": (V4 / TO_80, {(ANY6, 80): "A"}, [], None),
    "only v4 is redirected": (V6 / TO_80, {(ANY4, 80): "A"}, [], None),
    "the highest port": (V4 / TCP(sport=65_535, dport=65_535), {(ANY4, 65_535): "A"}, [], "A"),
    "port 1": (V4 / TCP(sport=1, dport=1), {(ANY4, 1): "A"}, [], "A"),
    "two ports": (V4 / TO_80, {(ANY4, 80): "A", (ANY4, 81): "B"}, [], "A"),
    "udp": (V4 / UDP(sport=40_001, dport=80), {(ANY4, 80): "A"}, [], None),
    "bypass": (V4 / TO_80, {(ANY4, 80): "A"}, [("10.1.2.3", 40_001)], None),
    "bypass, v6": (V6 / TO_80, {(ANY6, 80): "A"}, [("fd01:203:405:607:809:a0b:c0d:e0f", 40_001)], None),
    "bypass, as accept shows v4": (V4 / TO_80, {(ANY4, 80): "A"}, [("::ffff:10.1.2.3", 40_001)], None),
    "bypass of another port": (V4 / TO_80, {(ANY4, 80): "A"}, [("10.1.2.3", 40_002)], "A"),
    "bypass of another address": (V4 / TO_80, {(ANY4, 80): "A"}, [("10.1.2.4", 40_001)], "A"),
    "bypass of the other end": (V4 / TO_80, {(ANY4, 80): "A"}, [("10.1.2.9", 80)], "A"),
    **{
        f"bypass of an address whose word {word} differs": (
            V6 / TO_80,
            {(ANY6, 80): "A"},
            [(":".join("0" if at == word else part for at, part in enumerate(V6.src.split(":"))), 40_001)],
            "A",
        )
        for word in range(8)
    },
    "bypass with swapped bytes": (V4 / TO_80, {(ANY4, 80): "A"}, [("10.1.2.3", socket.htons(40_001))], "A"),
    "a v4 listener, v4": (V4 / TO_80, {(ANY4, 80): "four"}, [], "four"),
    "a v4 listener, v6": (V6 / TO_80, {(ANY6, 80): "four"}, [], None),
    "an ack, under SYN cookies": (V4 / TCP(sport=40_001, dport=80, flags="A"), {(ANY4, 80): "A"}, [], "A"),
}


@pytest.mark.parametrize("row", TABLE)
def test_packet_table(loaded, life, listeners, row):
    packet, map_entries, bypass_entries, expected = TABLE[row]
    for port in {port for _, port in map_entries}:
        place_of(loaded, life, port)
    for (address, port), name in map_entries.items():
        value = struct.pack("=Q", listeners[name].fileno())
        bpf.map_update(loaded.maps["listeners"], pack_endpoint(address, port), value)
    for address, port in bypass_entries:
        BypassMap(loaded.maps["bypass"]).insert(pack_endpoint(address, port))
    verdict, cookie = run(loaded.program, packet)
    assert verdict == SK_PASS
    wanted = (
        0
        if expected is None
        else int.from_bytes(listeners[expected].getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), sys.byteorder)
    )
    assert cookie == wanted


SHARES = {
    # name: packet, address and seconds from now until which it is passed, whether it is redirected
    "over its share": (V4 / TO_80, "10.1.2.3", 60.0, False),
    "over its share, v6": (V6 / TO_80, "fd01:203:405:607:809:a0b:c0d:e0f", 60.0, False),
    "another was": (V4 / TO_80, "10.1.2.4", 60.0, True),
    "it was, a while ago": (V4 / TO_80, "10.1.2.3", -1.0, True),
}


@pytest.mark.parametrize("row", SHARES)
def test_an_address_that_has_its_share_is_passed_until_its_time(loaded, life, listeners, row):
    packet, address, seconds, redirected = SHARES[row]
    place_of(loaded, life, 80)
    value = struct.pack("=Q", listeners["A"].fileno())
    for everywhere in (ANY4, ANY6):
        bpf.map_update(loaded.maps["listeners"], pack_endpoint(everywhere, 80), value)
    assert run(loaded.program, packet)[1]
    until = int((time.monotonic() + seconds) * 1e9)
    BypassMap(loaded.maps["bypass"]).insert(pack_endpoint(address, 0), until)
    assert bool(run(loaded.program, packet)[1]) == redirected


NEVER = 1 << 62
LIFE = {
    # name: level, ages of the worker's and the supervisor's last signs in seconds, withdrawn, selected
    "both live": (Level.SERVES, 0.0, 0.0, 0, True),
    "the worker alone": (Level.SERVES, 0.0, NEVER, 0, True),
    "the worker a moment ago": (Level.SERVES, 0.8, NEVER, 0, True),
    "the worker hangs": (Level.SERVES, 1.2, 0.0, 0, False),
    "the worker was never there": (Level.SERVES, NEVER, 0.0, 0, False),
    "low, both live": (Level.LOW, 0.0, 0.0, 0, True),
    "low, both a moment ago": (Level.LOW, 0.8, 0.1, 0, True),
    "low, the supervisor hangs": (Level.LOW, 0.0, 0.5, 0, False),
    "low, the worker hangs": (Level.LOW, 1.2, 0.0, 0, False),
    "away, both live": (Level.AWAY, 0.0, 0.0, 0, False),
    "withdrawn, both live": (Level.SERVES, 0.0, 0.0, 1, False),
    "tried, nobody lives": (Level.ALWAYS, NEVER, NEVER, 1, True),
    "a level that is none": (4, 0.0, 0.0, 0, False),
    "a level that is a huge number": (2**64 - 1, 0.0, 0.0, 0, False),
    "a sign from a little ahead": (Level.LOW, -0.005, -0.005, 0, True),
    "a sign from far ahead": (Level.SERVES, -1000.0, 0.0, 0, False),
}


@pytest.mark.parametrize("packet", [V4 / TO_80, V6 / TO_80], ids=["v4", "v6"])
@pytest.mark.parametrize("row", LIFE)
def test_signs_of_life(loaded, life, listeners, row, packet):
    level, worker, supervisor, withdrawn, selected = LIFE[row]
    value = struct.pack("=Q", listeners["A"].fileno())
    for address in (ANY4, ANY6):
        bpf.map_update(loaded.maps["listeners"], pack_endpoint(address, 80), value)
    place = place_of(loaded, life, 80, Level.AWAY)
    life._words[place + (packet.version == 6)] = level
    life._words[WITHDRAWN] = withdrawn
    deadline = time.monotonic() + 10
    while True:  # again if this process was not on time
        began = time.monotonic()
        for who, age in ((WORKER, worker), (SUPERVISOR, supervisor)):
            life._words[who] = 0 if age == NEVER else max(time.monotonic_ns() - int(age * 1e9), 0)
        verdict, cookie = run(loaded.program, packet)
        if time.monotonic() - began < 0.1 or time.monotonic() > deadline:
            break
    assert verdict == SK_PASS
    assert bool(cookie) == selected


def test_a_level_is_of_its_family_and_port_alone(loaded, life, listeners):
    value = struct.pack("=Q", listeners["A"].fileno())
    for port in (80, 81):
        for address in (ANY4, ANY6):
            bpf.map_update(loaded.maps["listeners"], pack_endpoint(address, port), value)
    one, other = place_of(loaded, life, 80), place_of(loaded, life, 81)
    packets = {(one, True): V4 / TO_80, (one, False): V6 / TO_80}
    packets |= {(other, True): V4 / TCP(dport=81), (other, False): V6 / TCP(dport=81)}
    for place, v4 in packets:
        life.set_level(place, Level.AWAY, v4=v4)
        assert life.level(place, v4=v4) is Level.AWAY
        for (where, family), packet in packets.items():
            assert bool(run(loaded.program, packet)[1]) == ((where, family) != (place, v4))
        life.set_level(place, Level.ALWAYS, v4=v4)


def test_a_port_without_a_place_is_the_apps(loaded, listeners):
    value = struct.pack("=Q", listeners["A"].fileno())
    bpf.map_update(loaded.maps["listeners"], pack_endpoint(ANY4, 80), value)
    assert run(loaded.program, V4 / TO_80) == (SK_PASS, 0)


def test_places_are_had_once_and_again_when_they_are_given_back(life):
    places = [life.take_place() for _ in range((SIGNS.entries - FIRST_PLACE) // 2)]
    assert len(set(places)) == len(places)
    assert min(places) == FIRST_PLACE
    assert max(places) == SIGNS.entries - 2
    with pytest.raises(OSError, match="4094 targets"):
        life.take_place()
    life.set_levels(places[7], Level.SERVES)
    life.free_place(places[7])
    assert life.level(places[7], v4=True) is Level.AWAY
    assert life.take_place() == places[7]


def test_a_sign_costs_no_system_call(life):
    """Written by another process, seen here: it is the same memory."""
    code = "import sys, resource\nfrom tpnet.kernel.signs import *\nsigns = Signs(int(sys.argv[1]))\nsigns.beat(WORKER)"
    assert life.last(WORKER) == 0
    subprocess.run([sys.executable, "-c", code, str(life.fd)], pass_fds=[life.fd], check=True)
    assert 0 <= time.monotonic() - life.last(WORKER) < 20


def test_an_entry_goes_with_its_listener(loaded, life, scratch):
    place_of(loaded, life, 80)
    listener = scratch.socket(socket.AF_INET6, socket.SOCK_STREAM)
    listener.listen()
    bpf.map_update(
        loaded.maps["listeners"], pack_endpoint("0.0.0.0", 80), struct.pack("=Q", listener.fileno())
    )
    assert run(loaded.program, V4 / TO_80)[1]
    listener.close()
    assert run(loaded.program, V4 / TO_80) == (SK_PASS, 0)


def test_the_bypass_map_forgets_the_oldest_when_full_and_never_refuses(loaded):
    ours = BypassMap(loaded.maps["bypass"])
    for port in range(1, 6000):
        ours.insert(pack_endpoint("10.1.2.3", port))
    ours.delete(pack_endpoint("10.1.2.3", 5999))
    ours.delete(pack_endpoint("10.1.2.3", 1))


def test_a_closed_map_is_an_error_and_not_silence():
    with pytest.raises(OSError, match="does not take"):
        BypassMap(-1).insert(pack_endpoint("10.1.2.3", 1))
    with pytest.raises(OSError, match="does not give"):
        BypassMap(-1).delete(pack_endpoint("10.1.2.3", 1))


def asserting(tmp_path, facts):
    """The result of compiling the real program with these statements about C added to it."""
    source = tmp_path / "redirect.c"
    lines = [f'_Static_assert({fact}, "{fact}");' for fact in facts]
    source.write_text((source_folder() / "redirect.c").read_text() + "\n".join(lines) + "\n")
    done = subprocess.run(
        [sys.executable, "-I", loader.__file__, str(source), str(source_folder()), "redirect"],
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout), done.stderr


def test_the_layouts_are_those_of_c(tmp_path):
    element = bypass._Element
    facts = [
        f"sizeof(struct endpoint) == {ENDPOINT.size}",
        "__builtin_offsetof(struct endpoint, addr) == 0",
        f"__builtin_offsetof(struct endpoint, port) == {struct.calcsize('=16s')}",
        f"__builtin_offsetof(struct endpoint, zero) == {struct.calcsize('=16sH')}",
        f"sizeof(struct bpf_sk_lookup) == {CONTEXT.size}",
        *(f"__builtin_offsetof(struct bpf_sk_lookup, {name}) == {at}" for name, at in CONTEXT_FIELDS.items()),
        *(
            f"__builtin_offsetof(union bpf_attr, {name}) == {getattr(element, name).offset}"
            for name in ("map_fd", "key", "value", "flags")
        ),
        "__builtin_offsetof(union bpf_attr, map_name) == 28",
        "__builtin_offsetof(union bpf_attr, prog_name) == 48",
        "__builtin_offsetof(union bpf_attr, expected_attach_type) == 68",
        "__builtin_offsetof(union bpf_attr, link_create.attach_type) == 8",
        "BPF_SK_LOOKUP == 36",
        "BPF_PROG_TYPE_SK_LOOKUP == 30",
        f"BPF_MAP_UPDATE_ELEM == {bpf.BPF_MAP_UPDATE_ELEM}",
        f"BPF_MAP_DELETE_ELEM == {bpf.BPF_MAP_DELETE_ELEM}",
        f"BPF_LINK_CREATE == {bpf.BPF_LINK_CREATE}",
        f"WORKER == {WORKER} && SUPERVISOR == {SUPERVISOR} && WITHDRAWN == {WITHDRAWN}",
        f"FIRST_PLACE == {FIRST_PLACE}",
        *(f"{level.name} == {level.value}" for level in Level),
        f"WORKER_NS == {int(WORKER_SECONDS * 1e9)}",
        f"SUPERVISOR_NS == {int(SUPERVISOR_SECONDS * 1e9)}",
    ]
    result, told = asserting(tmp_path, facts)
    assert "error" not in result, told


def test_a_wrong_layout_would_be_found(tmp_path):
    result, told = asserting(tmp_path, ["__builtin_offsetof(struct endpoint, port) == 18"])
    assert result == {"error": "compile"}
    assert "offsetof(struct endpoint, port) == 18" in told


def test_the_maps_are_as_python_takes_them(program):
    maps = {spec.name: spec for spec in program.maps}
    assert set(maps) == {"listeners", "bypass", "places", "signs"}
    assert maps.pop("signs") == SIGNS
    assert (maps["places"].key_size, maps.pop("places").value_size) == (4, 4)
    assert {spec.key_size for spec in maps.values()} == {ENDPOINT.size}
    assert (maps["listeners"].value_size, maps["bypass"].value_size) == (8, 8)


def test_each_load_has_maps_of_its_own(program, life, listeners):
    first, second = program.load(life), program.load(life)
    try:
        for one in (first, second):
            place_of(one, life, 80)
        value = struct.pack("=Q", listeners["A"].fileno())
        bpf.map_update(first.maps["listeners"], pack_endpoint("0.0.0.0", 80), value)
        assert run(first.program, V4 / TO_80)[1]
        assert not run(second.program, V4 / TO_80)[1]
    finally:
        first.close()
        second.close()


def test_llvm_never_comes_into_this_process(program):
    assert "bcc" not in sys.modules
    assert "libLLVM" not in Path("/proc/self/maps").read_text()


def test_the_verifiers_word_is_passed_on(life):
    exit_at_once = struct.pack("=BBhi", 0x95, 0, 0, 0)  # R0 was never set
    with pytest.raises(Refused, match=r"verifier says: .*R0") as refused:
        Program(exit_at_once, (), ()).load(life)
    assert "EACCES" in refused.value.message


def test_compiling_when_bcc_is_missing_says_what_to_install(monkeypatch, tmp_path):
    fake = tmp_path / "python"  # a Python that sees no system packages
    fake.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} -I -S "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(fake))
    with pytest.raises(TpnetError, match="BCC's Python module") as refused:
        compile_program()
    assert "python3-bpfcc" in refused.value.hint


def test_a_compiler_that_dies_is_reported(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(TpnetError, match="status 1"):
        compile_program()


def test_a_source_that_does_not_compile_names_the_error(monkeypatch, tmp_path):
    (tmp_path / "redirect.c").write_text("int redirect(struct bpf_sk_lookup *ctx) { return nonsense; }\n")
    (tmp_path / "include").symlink_to(source_folder() / "include")
    monkeypatch.setattr("tpnet.datapath.program.source_folder", lambda: tmp_path)
    with pytest.raises(TpnetError, match="nonsense"):
        compile_program()


WITHOUT = """
import ctypes, sys
from tpnet.datapath.program import compile_program
from tpnet.model import TpnetError
libc = ctypes.CDLL(None)
header = (ctypes.c_uint32 * 2)(0x20080522, 0)
sets = (ctypes.c_uint32 * 6)()
libc.capget(header, sets)
for capability in map(int, sys.argv[1].split(",")):
    at = capability // 32 * 3
    for which in range(3):
        sets[at + which] &= ~(1 << capability % 32) & 0xFFFFFFFF
assert libc.capset(header, sets) == 0
try:
    compile_program()
except TpnetError as error:
    print(type(error).__name__, "|", error.message, "|", error.hint)
"""


def test_a_process_without_the_capabilities_is_told_which(program):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, "12,21,39"], capture_output=True, text=True, check=True
    )
    kind, message, hint = done.stdout.split(" | ")
    assert kind == "Refused"
    assert "no CAP_BPF" in message
    assert "CAP_BPF" in hint


def test_attaching_to_something_that_is_no_namespace_is_explained(loaded):
    with open("/dev/null") as null, pytest.raises(OSError) as refused:
        bpf.link_to_netns(loaded.program, null.fileno())
    error = explain_refusal(refused.value, "link")
    assert errno.errorcode[refused.value.errno] in error.message


@pytest.fixture
def kept(monkeypatch, tmp_path):
    """An empty place for what is compiled, and how often something was."""
    compiled = []
    once = functools.cache(program_module._compile)
    monkeypatch.setenv("TPNET_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(program_module, "_compile", lambda sources: (compiled.append(1), once(sources))[1])
    return tmp_path / "programs", compiled


def test_the_next_start_compiles_nothing_and_proves_what_it_found(kept):
    folder, compiled = kept
    proven = []
    first = ready_program(proven.append)
    again = ready_program(lambda program: (proven.append(program), probe(program)))
    assert first == again
    assert proven == [first, again]
    assert len(compiled) == 1
    assert len(list(folder.iterdir())) == 1


def test_something_odd_that_was_kept_is_compiled_anew_and_replaced(kept):
    folder, compiled = kept
    good = ready_program(probe)
    (entry,) = folder.iterdir()
    whole = entry.read_bytes()
    odd = [
        {},
        {"code": "zz", "maps": [], "relocations": []},
        {"code": "95" + "00" * 7, "maps": [], "relocations": []},  # the verifier refuses it
        {"code": "00", "maps": [{"nonsense": 1}], "relocations": []},
        {"code": good.code.hex(), "maps": [], "relocations": list(good.relocations)},
        {
            "code": "b700000001000000" + "95" + "00" * 7,
            "maps": [],
            "relocations": [],
        },  # valid, and does nothing
        [1, 2],
    ]
    for number, content in enumerate(odd):
        cache.keep(folder, entry.name, content)
        assert ready_program(probe) == good
        assert len(compiled) == number + 2
        assert entry.read_bytes() == whole


def test_what_cannot_be_proven_is_not_kept(kept):
    folder, compiled = kept

    def prove(program):
        raise TpnetError("It does not work.")

    with pytest.raises(TpnetError, match="does not work"):
        ready_program(prove)
    assert compiled == [1]
    assert not folder.exists()
