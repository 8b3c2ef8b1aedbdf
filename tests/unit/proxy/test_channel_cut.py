"""Messages whose descriptors find no room in the process that they come to."""

import subprocess
import sys

import pytest

from tpnet.proxy import channel
from tpnet.proxy.channel import AddTarget, Purpose, SetRules, Sockets

# A process that may open ``free`` more descriptors than it has, says what came, and how many it has in the end.
RECEIVER = """
import os, resource, socket, sys
from pathlib import Path
from tpnet.proxy import channel
end = socket.socket(fileno=int(sys.argv[1]))
end.setblocking(True)
have = lambda: len(list(Path("/proc/self/fd").iterdir())) - 1
before = have()
highest = max(int(one.name) for one in Path("/proc/self/fd").iterdir())
held = [os.open("/dev/null", os.O_RDONLY) for _ in range(highest + 1 - before)]
limit = before + len(held) + int(sys.argv[2])
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
said = []
while True:
    try:
        received = channel.receive(end)
    except channel.CutShortError as cut:
        said.append(("cut", type(cut.message).__name__))
        continue
    if received is None:
        break
    message, fds = received
    said.append((type(message).__name__, len(fds)))
    for fd in fds:
        os.fstat(fd)
        os.close(fd)
end.close()
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
print(said, have() + 1 - before - len(held))
"""


@pytest.fixture
def receiver():
    def run(free, *messages):
        ours, theirs = channel.pair()
        process = subprocess.Popen(
            [sys.executable, "-c", RECEIVER, str(theirs.fileno()), str(free)],
            pass_fds=[theirs.fileno()],
            stdout=subprocess.PIPE,
        )
        theirs.close()
        with open("/dev/null") as null:
            for message, count in messages:
                ours.setblocking(True)
                channel.send(ours, message, [null.fileno()] * count)
        ours.close()
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        return out.decode().strip()

    return run


def test_sockets_come_as_far_as_there_is_room_and_the_next_message_too(receiver):
    batch = (Sockets(Purpose.APP4, 1), 64)
    assert receiver(10, batch, batch, (SetRules(1), 0)) == (
        "[('Sockets', 10), ('Sockets', 10), ('SetRules', 0)] 0"
    )


def test_with_no_room_at_all_a_batch_is_empty(receiver):
    assert (
        receiver(0, (Sockets(Purpose.SESSION), 8), (SetRules(1), 0)) == "[('Sockets', 0), ('SetRules', 0)] 0"
    )


def test_a_target_without_all_of_its_descriptors_is_none_and_none_is_left_open(receiver):
    assert (
        receiver(1, (AddTarget(1, "t", 80), 2), (SetRules(1), 0))
        == "[('cut', 'AddTarget'), ('SetRules', 0)] 0"
    )


def test_where_there_is_room_nothing_is_cut(receiver):
    assert receiver(100, (Sockets(Purpose.APP4, 1), 64), (AddTarget(1, "t", 80), 2)) == (
        "[('Sockets', 64), ('AddTarget', 2)] 0"
    )
