"""Two runs of the suite on one machine do not notice each other: a part of every room, twice at once."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PART = [
    "test_redirect.py::test_a_connection_reaches_our_listener_and_looks_untouched",
    "test_source_address.py::test_the_app_sees_the_clients_own_address",
    "test_worker_process.py::test_a_killed_worker_resets_its_connections_and_new_ones_reach_the_app",
    "test_agent.py::test_several_intercepts_of_a_port_come_and_go_without_touching_each_other",
    "test_agent_faults.py::test_counts_survive_the_worker",
    "test_agent_session.py::test_two_developers_a_global_one_and_a_path_at_once",
    "test_tunnel_end.py::test_port_that_is_taken_fails_and_leaves_nothing",
    "test_session_daemon.py::test_one_daemon_serves_every_intercept_and_ends_with_the_last",
    "test_lab_network.py::test_lab_goes_up_answers_in_both_families_and_goes_down",
]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_two_runs_at_once_pass():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PART]
    runs = [
        subprocess.Popen(command, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    try:
        for run in runs:
            words = run.communicate(timeout=200)[0]
            assert run.returncode == 0, words
            assert " skipped" not in words
    finally:
        for run in runs:
            if run.poll() is None:
                run.terminate()  # pytest ends its fixtures
                run.wait(20)
