import subprocess
import sys

import pytest

ALL_OF_PYROUTE2 = "pyroute2.ndb.main"


def run(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_what_is_used_of_a_package_comes_without_the_rest():
    assert run(f"import sys, tpnet.kernel.netlink; print({ALL_OF_PYROUTE2!r} in sys.modules)") == "False"


def test_who_wants_the_rest_has_it_and_the_same_of_the_part():
    code = """
import tpnet.kernel.netlink as ours, pyroute2
from pyroute2 import netns
from pyroute2 import IPRoute, NDB
assert pyroute2.WireGuard is ours.WireGuard and IPRoute is ours.IPRoute
assert pyroute2.netns is netns and not hasattr(pyroute2, "Nothing")
"""
    assert run(code) == ""


def test_one_that_was_imported_whole_stays_as_it_is():
    assert (
        run("import pyroute2, tpnet.kernel.netlink as ours; print(pyroute2.IPRoute is ours.IPRoute)")
        == "True"
    )


@pytest.mark.parametrize("name", ["kubernetes", "pyroute2"])
def test_what_nobody_has_is_no_attribute_before_and_after(name):
    code = f"""
from tpnet.kernel.packages import package_without_init
module = package_without_init({name!r})
assert package_without_init({name!r}) is module
for _ in range(2):
    try:
        module.nothing
    except AttributeError as error:
        print(error)
"""
    assert run(code).splitlines() == [f"module '{name}' has no attribute 'nothing'"] * 2
