"""Filters, run by an interpreter of classic BPF over every number that a call may have."""

import ast
import itertools
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tpnet.kernel import tcp
from tpnet.kernel.confined import NEVER, PROFILES
from tpnet.kernel.seccomp import RET_ALLOW, RET_EPERM, RET_KILL_PROCESS, Allow, Is, Refuse, Without, assemble
from tpnet.kernel.syscalls import MACHINES, NUMBERS, number_of
from tpnet.proxy.confinement import CALLS

ARGUMENTS = (0,) * 6
NUMBERS_TRIED = [*range(1024), *range(0x4000_0000, 0x4000_0000 + 1024), 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF]


def run(program, number, audit, arguments=ARGUMENTS):
    """What the kernel would do: linux/filter.h's machine, with the checks of seccomp_check_filter."""
    data = struct.pack("=IIQ6Q", number, audit, 0x7FFF_1234_5678, *arguments)
    code = list(struct.iter_unpack("=HBBI", program))
    assert len(code) <= 4096
    at = accumulator = 0
    while True:
        instruction, true, false, k = code[at]
        at += 1
        if instruction == 0x20:
            assert k % 4 == 0
            assert k + 4 <= len(data)
            accumulator = int.from_bytes(data[k : k + 4], "little")
        elif instruction == 0x06:
            return k
        else:
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[instruction]
            at += true if holds else false


def allowed(checks, arguments):
    """What the list says, in the plainest way."""
    return all(
        (arguments[check.argument] & 0xFFFF_FFFF) in check.values
        if isinstance(check, Is)
        else not arguments[check.argument] & check.bits
        for check in checks
    )


@pytest.mark.parametrize("name", MACHINES)
def test_exactly_the_calls_of_the_list_are_allowed_of_every_number(name):
    machine = MACHINES[name]
    program = assemble(CALLS, machine)
    ways = {}
    for one in CALLS:
        ways.setdefault(number_of(one.name, machine), []).append(one.checks)
    for number in NUMBERS_TRIED:
        if number >= 0x4000_0000:
            expected = RET_KILL_PROCESS
        elif any(allowed(checks, ARGUMENTS) for checks in ways.get(number, ())):
            expected = RET_ALLOW
        else:
            expected = RET_EPERM
        assert run(program, number, machine.audit) == expected, number


@pytest.mark.parametrize("name", MACHINES)
def test_a_call_of_another_machine_ends_the_process_whatever_its_number(name):
    program = assemble(CALLS, MACHINES[name])
    others = {machine.audit for machine in MACHINES.values()} - {MACHINES[name].audit}
    for audit in {*others, 0x4000_0003, 0, 0xFFFF_FFFF}:  # 0x40000003: i386
        for number in NUMBERS_TRIED:
            assert run(program, number, audit) == RET_KILL_PROCESS


@pytest.mark.parametrize("name", MACHINES)
def test_arguments_are_checked_of_every_call_that_says_so(name):
    machine = MACHINES[name]
    program = assemble(CALLS, machine)
    ways = {}
    for one in CALLS:
        ways.setdefault(one.name, []).append(one.checks)
    seen = set()
    for call, checks in ways.items():
        number = number_of(call, machine)
        if number is None or not all(checks):
            continue
        values = {0, 1, 2, 3, 4, 7, 0xFFFF_FFFF, 1 << 32, (1 << 32) + 1}
        for check in itertools.chain(*checks):
            told = check.values if isinstance(check, Is) else (check.bits,)
            values |= {
                near & (1 << 64) - 1
                for value in told
                for near in (value - 1, value, value + 1, value | 1 << 32)
            }
        looked_at = sorted({check.argument for check in itertools.chain(*checks)})
        for tried in itertools.product(values, repeat=len(looked_at)):
            arguments = [dict(zip(looked_at, tried, strict=True)).get(at, 0) for at in range(6)]
            expected = any(allowed(one, arguments) for one in checks)
            got = run(program, number, machine.audit, arguments)
            assert got == (RET_ALLOW if expected else RET_EPERM), (call, arguments)
            seen.add((call, expected))
    assert (
        {call for call, expected in seen if expected}
        == {call for call, expected in seen if not expected}
        != set()
    )


def test_any_list_means_what_it_says():
    machine = MACHINES["x86_64"]
    dice = random.Random(7)
    names = sorted(NUMBERS)
    for _ in range(200):
        rules = []
        for _ in range(dice.randrange(1, 12)):
            checks = [
                dice.choice(
                    [
                        Is(dice.randrange(6), tuple(dice.sample(range(8), dice.randrange(1, 5)))),
                        Without(dice.randrange(6), dice.randrange(1, 8)),
                    ]
                )
                for _ in range(dice.randrange(4))
            ]
            rules.append(Allow(dice.choice(names), tuple(checks)))
        program = assemble(rules, machine)
        for _ in range(100):
            number = number_of(dice.choice([dice.choice(rules).name, dice.choice(names)]), machine)
            arguments = tuple(dice.randrange(8) for _ in range(6))
            expected = any(
                number_of(one.name, machine) == number and allowed(one.checks, arguments) for one in rules
            )
            assert run(program, number, machine.audit, arguments) == (RET_ALLOW if expected else RET_EPERM)


def test_no_family_that_leads_out_is_on_the_worker_s_list():
    out = {
        "socket", "socketpair", "unshare", "setns", "clone", "clone3", "fork", "vfork", "execve", "execveat",
        "mount", "open", "openat", "openat2", "creat", "memfd_create", "ptrace", "process_vm_readv", "keyctl", "kill",
        "perf_event_open", "io_uring_setup", "io_uring_enter", "userfaultfd", "prctl", "seccomp", "chroot", "dup2",
    }  # fmt: skip
    assert not out & {one.name for one in CALLS}


def test_no_two_calls_have_one_number():
    for machine in MACHINES.values():
        numbers = [number_of(name, machine) for name in NUMBERS]
        known = [number for number in numbers if number is not None]
        assert len(known) == len(set(known))


def number_named(argument):
    """Of an option that is Python's, or that Python has no name for."""
    return getattr(tcp, argument.id) if isinstance(argument, ast.Name) else getattr(socket, argument.attr)


def test_every_option_of_a_socket_that_the_worker_s_code_names_is_on_its_list():
    """Some are asked for where an error is of no matter: they would be missed by nobody."""
    allowed = {name: set() for name in ("setsockopt", "getsockopt")}
    for one in CALLS:
        if one.name in allowed:
            levels, *options = (check.values for check in one.checks)
            allowed[one.name] |= set(itertools.product(levels, *options))
    script = "import sys, tpnet.proxy.worker; print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('tpnet.')))"
    loaded = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    found = 0
    for file in map(Path, loaded):
        for call in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(call, ast.Call)
                and getattr(call.func, "attr", "") in allowed
                and file.name != "channel.py"
            ):
                named = tuple(number_named(argument) for argument in call.args[:2])
                known = allowed[call.func.attr]
                assert named in known or named[:1] in known, (file.name, ast.unparse(call))
                found += 1
    assert found >= 6


@pytest.mark.parametrize("name", MACHINES)
@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_child_is_refused_fails_and_the_rest_does_not(name, profile):
    machine = MACHINES[name]
    rules = (*NEVER, *PROFILES[profile].calls)
    program = assemble(rules, machine, otherwise=RET_ALLOW)
    refused = {number_of(one.name, machine): one for one in rules if isinstance(one, Refuse)}
    checked = {number_of(one.name, machine): one.checks for one in rules if isinstance(one, Allow)}
    assert not refused.keys() & (checked.keys() - {None})
    for number in NUMBERS_TRIED:
        got = run(program, number, machine.audit, (1, 0, 0, 0, 0, 0))
        if number >= 0x4000_0000:
            assert got == RET_KILL_PROCESS
        elif number in refused and allowed(refused[number].checks, (1, 0, 0, 0, 0, 0)):
            assert got == RET_EPERM & ~0xFFFF | refused[number].error
        elif number in checked:
            assert got == (RET_ALLOW if allowed(checked[number], (1, 0, 0, 0, 0, 0)) else RET_EPERM)
        else:
            assert got == RET_ALLOW
    for one in refused.values():
        for value in (value for check in one.checks for value in check.values):
            arguments = (1, value, 0, 0, 0, 0)
            assert run(program, number_of(one.name, machine), machine.audit, arguments) & 0xFFFF == one.error
    clone = number_of("clone", machine)
    for bit in (17, 18, 25, 26, 27, 28, 29, 30):  # CLONE_NEW…: 18 is VFORK's neighbour, and no namespace
        flags = 1 << bit
        assert run(program, clone, machine.audit, (flags, 0, 0, 0, 0, 0)) == (
            RET_ALLOW if bit == 18 else RET_EPERM
        )
    thread = 0x3D0F00  # CLONE_VM, FS, FILES, SIGHAND, THREAD, SYSVSEM, SETTLS, PARENT_SETTID, CHILD_CLEARTID
    assert run(program, clone, machine.audit, (thread, 0, 0, 0, 0, 0)) == RET_ALLOW
