import contextlib
import os
import pty
import re
import subprocess
import sys
import termios
import threading
import time

import pytest

from tpnet.log import LONGEST, ROOM, Outlet

# What the three processes do: records, prints, warnings, an exception in a thread; far more than there is room for.
NOISE = """
import logging, sys, threading, time, warnings
from tpnet.log import to_stderr
from tpnet.proxy.loop import report
began = time.monotonic()
with to_stderr():
    log = logging.getLogger("x")
    for number in range(3000):
        log.info("%d %s", number, "x" * 200)
        report(ValueError())
        print("printed", number, file=sys.stderr)
    log.info("a template %d", "that does not fit")
    warnings.warn("something")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
    said = time.monotonic() - began
print(said < 20)
"""


@pytest.fixture
def pipe():
    """A pipe that is full, and both of its ends."""
    read, write = os.pipe()
    fill(write)
    yield read, write
    for fd in (read, write):
        with contextlib.suppress(OSError):
            os.close(fd)


def fill(fd):
    os.set_blocking(fd, False)
    size = 1 << 12
    while size:
        try:
            os.write(fd, b"." * size)
        except BlockingIOError:
            size //= 2
    os.set_blocking(fd, True)


def drain(fd, until, seconds=20):
    """What is read until it ends with the text."""
    data = b""
    ends = time.monotonic() + seconds
    os.set_blocking(fd, False)
    while not data.endswith(until):
        assert time.monotonic() < ends, data[-500:]
        try:
            data += os.read(fd, 1 << 16)
        except BlockingIOError:
            time.sleep(0.005)
    return data


def stopped_terminal(stack):
    """A terminal on which somebody has typed Ctrl-S."""
    master, slave = pty.openpty()
    stack.callback(os.close, master)
    stack.callback(os.close, slave)
    termios.tcflow(slave, termios.TCOOFF)
    return slave


def nobody_reads(stack):
    read, write = os.pipe()
    stack.callback(os.close, read)
    stack.callback(os.close, write)
    fill(write)
    return write


def reader_is_gone(stack):
    read, write = os.pipe()
    os.close(read)
    stack.callback(os.close, write)
    return write


def full_disk(stack):
    return stack.enter_context(open("/dev/full", "wb")).fileno()


def closed(stack):
    return None


@pytest.mark.parametrize("behind", [nobody_reads, reader_is_gone, full_disk, stopped_terminal, closed])
def test_no_line_blocks_or_raises_whatever_is_behind_standard_error(behind):
    with contextlib.ExitStack() as stack:
        fd = behind(stack)
        command = [sys.executable, "-c", NOISE]
        if fd is None:
            command = ["sh", "-c", 'exec "$@" 2>&-', "sh", *command]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=fd, timeout=50, check=False)
    assert (done.returncode, done.stdout) == (0, b"True\n")


def test_what_python_itself_writes_goes_the_same_way():
    few = NOISE.replace("range(3000)", "range(30)")  # of many more, some may find no room
    done = subprocess.run(
        [sys.executable, "-c", few], capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0
    assert "ZeroDivisionError" in done.stderr
    assert "UserWarning: something" in done.stderr
    assert "a template %d" in done.stderr  # Python's own complaint of the record
    assert "tpnet worker: ValueError at ?" in done.stderr


def test_what_found_no_room_is_counted_where_it_is_missing(pipe):
    read, write = pipe
    outlet = Outlet(write)
    line = "x" * 999
    for _ in range(2 * ROOM // 1000):
        outlet.write(line)
    said = drain(read, b"written\n").lstrip(b".").splitlines()
    whole = [one for one in said if one == line.encode()]
    (told,) = [one for one in said if b"dropped" in one]
    assert said[-1] == told
    assert len(whole) <= ROOM // 1000
    assert int(told.split()[0]) + len(whole) == 2 * ROOM // 1000
    outlet.write("after it")
    assert drain(read, b"it\n") == b"after it\n"


def test_lines_that_come_after_the_gap_stand_after_it(pipe):
    read, write = pipe
    outlet = Outlet(write)
    while not outlet._dropped:
        outlet.write("early")
    os.read(read, 1 << 16)  # room for some
    for _ in range(10_000):
        outlet.write("late")
        if not outlet._dropped:
            break
        time.sleep(0.001)
    said = drain(read, b"late\n")  # there is room again for what comes
    outlet.write("last")
    said = (said + drain(read, b"last\n")).splitlines()
    kinds = [one for at, one in enumerate(said) if not at or said[at - 1] != one]
    assert kinds[-2:] == [b"late", b"last"]
    assert b"dropped" in kinds[-3]


def test_a_disk_that_was_full_is_told_of(tmp_path):
    with open("/dev/full", "wb") as full, open(tmp_path / "log", "w+b") as file:
        fd = os.dup(full.fileno())
        outlet = Outlet(fd)
        for number in range(50):
            outlet.write(f"line {number}")
        assert outlet.flush(10)
        os.dup2(file.fileno(), fd)  # somebody has made room
        outlet.write("again")
        assert outlet.flush(10)
        assert (tmp_path / "log").read_text().splitlines() == [
            "50 lines were dropped: nobody read them, or they could not be written",
            "again",
        ]
        os.close(fd)


def test_a_descriptor_that_does_not_block_is_waited_for(pipe):
    read, write = pipe
    os.set_blocking(write, False)
    outlet = Outlet(write)
    outlet.write("patience")
    assert not outlet.flush(0.1)
    assert drain(read, b"patience\n")


def test_long_lines_are_cut_and_several_in_one_are_several():
    read, write = os.pipe()
    outlet = Outlet(write)
    outlet.write("ä" * LONGEST + "\nshort\n")
    first, second = drain(read, b"short\n").splitlines()
    assert len(first) == LONGEST
    assert second == b"short"
    os.close(read)
    os.close(write)


def test_writers_at_once_lose_nothing_uncounted(tmp_path):
    with open(tmp_path / "log", "wb") as file:
        outlet = Outlet(file.fileno())
        threads = [
            threading.Thread(target=lambda: [outlet.write("x" * 99) for _ in range(3000)]) for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert outlet.flush(20)
    lines = (tmp_path / "log").read_text().splitlines()
    lost = sum(int(line.split()[0]) for line in lines if "dropped" in line)
    assert lost + lines.count("x" * 99) == 12_000


def test_nothing_is_written_into_what_took_the_place_of_standard_error(tmp_path):
    """A process without one: the next that it opens would be descriptor 2."""
    code = f"""
import os
from tpnet.log import to_stderr
with to_stderr() as outlet:
    file = open({str(tmp_path / "data")!r}, "w")
    print(file.fileno() != 2, os.fstat(2).st_rdev == os.stat("/dev/null").st_rdev)
    outlet.write("a line")
"""
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        timeout=20,
        check=True,
    )
    assert done.stdout == b"True True\n"
    assert (tmp_path / "data").read_bytes() == b""


def test_the_duplicate_is_not_inherited():
    code = "from tpnet.log import to_stderr\nimport os\nwith to_stderr() as o: print(os.get_inheritable(o._fd), os.get_inheritable(2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=True)
    assert done.stdout == b"False True\n"


def test_the_duplicate_is_none_of_the_three_though_they_are_closed():
    read, write = os.pipe()
    code = (
        f"from tpnet.log import to_stderr\nimport os\nwith to_stderr() as o: os.write({write}, b'%d' % o._fd)"
    )
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 0<&- 1>&- 2>&-', "sh", sys.executable, "-c", code],
        pass_fds=[write],
        timeout=20,
        check=False,
    )
    os.close(write)
    with os.fdopen(read) as file:
        assert int(file.read()) > 2
    assert done.returncode == 0


HOSTILE = [
    "\x1b[2J",
    "\x1b]52;c;ZXZpbA==\x07",
    "\x9b31m",
    "a\rb",
    "\u202egnirts",
    "x\u2028y",
    "\x00",
    "a\x85b",
    "\x0c",
    "\ud800",
]


def test_what_others_wrote_is_shown_in_its_own_line_and_obeyed_by_no_terminal():
    code = f"""
import logging, sys
from tpnet.log import to_stderr
with to_stderr():
    for text in {HOSTILE!r}:
        logging.warning("handler %s", text + "\\n2026-11-27 W forged")
        print("said", text, file=sys.stderr)
        try:
            raise ValueError(text)
        except ValueError:
            logging.exception("it failed")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=30)
    text = done.stderr.decode()
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", text)
    assert not re.search("^2026-11-27 W forged", text, re.MULTILINE)
    assert text.count("handler ") == text.count("\nsaid ") == text.count("\nValueError: ") == len(HOSTILE)
