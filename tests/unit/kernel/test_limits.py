"""What a process may use, as its control groups say it."""

import pytest

from tpnet.kernel.limits import memory_limit, memory_limit_of

TREE = {
    # /proc/PID/cgroup, files, the limit
    "a container of version 2": ("0::/\n", {"memory.max": "1073741824\n"}, 1 << 30),
    "no limit": ("0::/\n", {"memory.max": "max\n"}, None),
    "nothing there": ("0::/a/b\n", {}, None),
    "the strictest above": (
        "0::/a/b\n",
        {"a/b/memory.max": "max", "a/memory.max": "900", "memory.max": "5000"},
        900,
    ),
    "version 1": ("9:cpu:/x\n4:memory:/k\n0::/\n", {"memory/k/memory.limit_in_bytes": "800\n"}, 800),
    "another's is not its own": ("4:memory:/k\n", {"memory/other/memory.limit_in_bytes": "800\n"}, None),
}


@pytest.mark.parametrize("name", TREE)
def test_the_memory_of_a_process_is_the_least_that_its_groups_may_use(tmp_path, name):
    cgroup, files, limit = TREE[name]
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    assert memory_limit_of(cgroup, tmp_path) == limit


def test_it_can_be_told_of_this_one():
    limit = memory_limit()
    assert limit is None or limit > 1 << 20
