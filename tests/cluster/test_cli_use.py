"""The command line as a developer types it, on a laptop of a real cluster, and as an administrator does."""

import json
import os
import pty
import re
import signal
import sys
import time
from uuid import uuid4

import pytest
from desk import TPNET, Desk, admin
from kubelab.tools import wait_until

UUID = "126a72c7-be8b-4329-af64-768e207a184b"


@pytest.fixture
def shop(cluster, bed, namespace):
    """A service of two replicas in a namespace of its own."""
    cluster.run_shop(namespace, "orders", replicas=2)
    cluster.wait_served(namespace, "orders")
    return namespace


@pytest.fixture
def desk(cluster, shop):
    """bob at a laptop: granted, with a handler on the service's port."""
    with Desk(cluster, shop, f"bob-{uuid4().hex[:4]}") as desk:
        desk.grant("--global")
        desk.serve(80)
        yield desk


LINES = [
    (["--http-header=all"], [("/", ())], []),
    ([f"--http-header=Personal-Intercept={UUID}"], [("/x", (f"Personal-Intercept: {UUID}",))], [("/x", ())]),
    (
        ["--http-path-prefix=/api", "--http-header=Coder=Bob"],
        [("/api/pay", ("Coder: Bob",))],
        [("/api/pay", ()), ("/", ("Coder: Bob",))],
    ),
    (
        ["--http-path-equal=/api/version", "--http-header=auto"],
        [("/api/version", ("AUTO",))],
        [("/api/version", ())],
    ),
    (["--http-path-equal=/api/version"], [("/api/version", ("AUTO",))], [("/api/version", ())]),
    (
        ["--http-path-regex=/(staging-)?api/.*"],
        [("/api/a", ("AUTO",)), ("/staging-api/a", ("AUTO",))],
        [("/api/a", ()), ("/apis", ("AUTO",))],
    ),
]


@pytest.mark.parametrize(("flags", "taken", "others"), LINES, ids=[" ".join(flags) for flags, *_ in LINES])
def test_it_runs_as_it_stands(desk, flags, taken, others):
    said = desk.tpnet("intercept", "orders", *flags, "--namespace", desk.namespace).stdout
    assert f"orders-{desk.user} is on." in said
    assert re.search(r"✓ pods\s+2/2 on [12] nodes? redirected \(ebpf\) and probed", said), said
    own = re.search(r"header  (x-tpnet-intercept-id: [0-9a-f]{32})", said)

    if own is not None:
        secret = own[1].split()[1]
        shown = [
            desk.cluster.kubectl("-n", desk.namespace, "get", "tpi", "-o", form).stdout
            for form in ("yaml", "wide")
        ]
        assert not any(secret in text for text in shown), "others can read the id"
        assert secret in desk.tpnet("list", "-n", desk.namespace, "-o", "wide").stdout

    def full(headers):
        return [own[1] if header == "AUTO" else header for header in headers]

    for path, headers in taken:
        assert desk.answers(path, *full(headers)), f"{path} {headers}\n{said}"
    for path, headers in others:
        assert not desk.answers(path, *full(headers)), (path, headers)
    left = desk.tpnet("leave", f"orders-{desk.user}", "-n", desk.namespace).stdout
    assert f"left orders-{desk.user}: its requests go to the pods again" in " ".join(left.split())
    for path, headers in taken:
        wait_until(lambda p=path, h=headers: not desk.answers(p, *full(h)), 5, lambda: "it is still taken")


def test_the_last_lines_say_what_to_type_next_and_they_work(desk):
    said = desk.tpnet("intercept", "orders", "--http-header=Coder=Bob", "-n", desk.namespace).stdout
    lines = said.splitlines()
    assert f"try    curl -H 'Coder: Bob' http://orders.{desk.namespace}/" in lines
    hints = re.search(r"watch  tpnet (.*?)\s+stop   ?tpnet (.*)", said)
    assert f"orders-{desk.user}" in desk.tpnet(*hints[1].split(), "--once").stdout
    assert desk.tpnet(*hints[2].split()).returncode == 0
    assert desk.data("list", "-n", desk.namespace) == []


def test_list_status_watch_and_explain_tell_the_same_story(desk):
    desk.tpnet("intercept", "svc/orders", "--http-header=Coder=Bob", "-n", desk.namespace, "-p", "9999:80")
    name, place = f"orders-{desk.user}", ["-n", desk.namespace]
    (item,) = desk.data("list", *place)
    assert (item["intercept"]["name"], item["ready"], item["total"]) == (f"{desk.namespace}/{name}", 2, 2)
    assert not item["handler_up"]  # nobody listens on 9999, which this computer knows
    listed = desk.tpnet("list", *place).stdout
    assert f"{name}: nothing listens on localhost:9999; its requests go to the app" in listed
    assert f"{desk.namespace}/{name}" in admin(desk.cluster, "list", "-A").stdout
    wait_until(
        lambda: "down" not in desk.tpnet("status", *place).stdout,
        5,
        lambda: desk.tpnet("status", *place).stdout,
    )
    status = desk.tpnet("status", *place, "-o", "wide").stdout
    assert re.search(r"agents +2 nodes · tpnet \S+ · redirect ebpf", status)
    assert re.search(rf"session +{desk.user}-[0-9a-f]{{8}} · since", status)
    assert re.search(r"tunnel +n[12] +up +udp 172\.30\.0\.1[12]:21820", status)
    assert f"{desk.namespace}/orders:80   2/2 pods redirected" in status
    assert desk.data("status", *place)["session"]["intercepts"][0]["handler"] == "localhost:9999"
    told = desk.tpnet("explain", "orders", "/x", "-H", "Coder: Bob", *place).stdout
    assert "goes to" in told
    assert "localhost:9999" in told.splitlines()[-1]
    assert "goes to the app" in desk.tpnet("explain", "orders", "/x", *place).stdout
    assert name in desk.tpnet("watch", "--once", *place).stdout
    assert name in desk.tpnet("watch", name, "--once", *place).stdout
    assert name in desk.tpnet("list", *place, "-l", "tpnet.dev/session").stdout
    assert name not in desk.tpnet("list", *place, "-l", "no=such").stdout
    # The first requests are counted while somebody looks, not half a minute later.
    desk.serve(9999)
    wait_until(lambda: desk.answers("/", "Coder: Bob"), 5, lambda: "nothing comes")
    wait_until(lambda: desk.data("list", *place)[0]["hits"] > 0, 12, lambda: str(desk.data("list", *place)))


INTERCEPT = """
apiVersion: tpnet.dev/v1alpha1
kind: Intercept
metadata: {{name: mine}}
spec:
  user: {user}
  target: {{kind: Service, name: orders}}
  port: 80
  headers: [{{name: Coder, value: Bob}}]
"""


def test_kubectl_apply_does_what_the_command_line_does(desk):
    def kubectl(*args, stdin=None):
        place = ["--kubeconfig", desk.config, "-n", desk.namespace]
        return desk.machine.run(
            desk.cluster.programs / "kube", "kubectl", *place, *args, env=desk.env, stdin=stdin
        )

    text = INTERCEPT.format(user=desk.user)
    kubectl("apply", "--server-side", "-f", "-", stdin=text)
    kubectl(
        "wait",
        "--for=jsonpath={.status.conditions[?(@.type=='Ready')].reason}=NoSession",
        "--timeout=60s",
        "tpi/mine",
    )
    assert not desk.answers("/", "Coder: Bob")
    said = desk.tpnet("connect", "-n", desk.namespace).stdout
    assert f"serves {desk.user}'s Intercepts in {desk.namespace}" in said
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", "tpi/mine")
    wait_until(lambda: desk.answers("/", "Coder: Bob"), 5, lambda: "nothing comes")
    kubectl("apply", "--server-side", "-f", "-", stdin=text)  # again, as it is: nothing changes
    assert desk.answers("/", "Coder: Bob")
    kubectl("delete", "tpi/mine")
    wait_until(lambda: not desk.answers("/", "Coder: Bob"), 5, lambda: "it is still taken")
    # The session stays for the next one, until it is told to end.
    kubectl("apply", "--server-side", "-f", "-", stdin=text)
    wait_until(lambda: desk.answers("/", "Coder: Bob"), 15, lambda: "nothing comes")
    desk.tpnet("quit")
    assert not desk.answers("/", "Coder: Bob")


def test_a_missing_handler_is_a_warning_and_the_pods_answer(desk):
    done = desk.tpnet(
        "intercept", "orders", "--http-header=Coder=Bob", "-n", desk.namespace, "-p", "9998:p80"
    )
    assert (
        "! handler   nothing listens on localhost:9998; requests go to the app until that changes"
        in done.stdout
    )
    assert not desk.answers("/", "Coder: Bob")
    desk.serve(9998)
    wait_until(lambda: desk.answers("/", "Coder: Bob"), 5, lambda: "the handler gets nothing")


def test_workloads_and_pods_are_targets_too(desk):
    for target in (
        "deploy/orders",
        "pod/{}".format(desk.cluster.pods(desk.namespace)[0]["metadata"]["name"]),
    ):
        said = desk.tpnet(
            "intercept",
            target,
            "--http-header=Coder=Bob",
            "-n",
            desk.namespace,
            "--port",
            "80:8080",
            "--name",
            "one",
        ).stdout
        assert "one is on." in said
        wait_until(lambda: desk.answers("/", "Coder: Bob"), 5, lambda: "nothing comes")
        desk.tpnet("leave", "one", "-n", desk.namespace)


def test_leave_all_takes_what_is_ones_own_in_every_namespace_and_ends_the_session(desk):
    with desk.cluster.namespace(wait=False) as other:
        desk.cluster.run_shop(other, "cart", replicas=1)
        admin(desk.cluster, "grant", desk.user, "-n", other)
        desk.tpnet("intercept", "orders", "--http-header=a=b", "-n", desk.namespace)
        desk.tpnet("intercept", "cart", "--http-header=a=b", "-n", other)
        desk.tpnet("leave", "--all", "-n", other)
        assert len(desk.data("list", "-n", desk.namespace)) == 1
        assert "left" in desk.tpnet("leave", "--all").stdout
        assert desk.data("list", "-n", desk.namespace) == []
        # The daemon ends with its last intercept.
        wait_until(
            lambda: desk.data("status", "-n", other)["session"] is None, 15, lambda: "the session stays"
        )


def test_quit_works_while_the_api_server_is_away(desk, bed):
    desk.tpnet("intercept", "orders", "--http-header=a=b", "-n", desk.namespace)
    desk.cluster.stop_api()
    try:
        done = desk.tpnet("leave", f"orders-{desk.user}", check=False)
        assert done.returncode == 0, done.stderr
        assert "the API server does not answer" in " ".join(done.stdout.split())
        again = desk.tpnet("list", check=False)
        assert again.returncode == 5
        assert "does not answer" in again.stderr
    finally:
        desk.cluster.start_api()
        bed.caught_up()


REFUSED = [
    (["intercept", "nope"], 5, "There is no Service nope in "),
    (["intercept", "cm/x"], 2, "'cm' is nothing that can be intercepted."),
    (["intercept", "orders", "--port", "1:2"], 5, "has no TCP port 2"),
    (["intercept", "orders", "--port", "80:nope"], 5, "There is no port named nope."),
    (["intercept", "orders", "--name", "No_Name"], 2, "is no name for an intercept in a cluster"),
    (["intercept", "orders", "--user", "alice"], 2, "In a cluster you are who your kubeconfig says"),
    (["leave", "nope"], 5, "There is no intercept "),
    (["explain", "nope"], 5, "There is no Service nope in "),
]


def test_ones_own_is_kept_from_another_computer_and_goes_on_after_the_daemon_was_killed(desk):
    again = ["intercept", "orders", "--http-header=Coder=Bob", "-n", desk.namespace, "--name", "mine"]
    desk.tpnet(*again)
    other = Desk(desk.cluster, desk.namespace, desk.user, laptop=1)
    other.machine.run("mkdir", "-p", other.folder)
    refused = other.tpnet(*again, check=False)
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert f"your session {desk.user}-" in refused.stderr
    assert "on l1 has it" in " ".join(refused.stderr.split())
    other.tpnet("quit")
    assert desk.answers("/", "Coder: Bob")
    desk.machine.signal(desk.data("status", "-n", desk.namespace)["session"]["pid"], signal.SIGKILL)
    desk.tpnet(*again)
    wait_until(lambda: desk.answers("/", "Coder: Bob"), 5, lambda: "nothing comes")


def test_what_is_wrong_is_said_before_a_session_starts(desk):
    for args, code, says in REFUSED:
        done = desk.tpnet(*args, "-n", desk.namespace, check=False)
        assert (done.returncode, says in done.stderr) == (code, True), (args, done.stderr)
    assert desk.data("status", "-n", desk.namespace)["session"] is None


def test_a_missing_right_is_named_with_who_can_give_it(cluster, shop):
    with Desk(cluster, shop, f"eve-{uuid4().hex[:4]}") as eve:
        done = eve.tpnet("intercept", "orders", "--http-header=a=b", "-n", shop, check=False)
        assert done.returncode == 3
        assert f"{eve.user} may not " in done.stderr
        assert "tpnet grant --help" in done.stderr
        eve.grant()
        refused = eve.tpnet("intercept", "orders", "--http-header=all", "-n", shop, check=False)
        assert refused.returncode == 3
        assert f"A global intercept in {shop} needs the verb intercept-all" in refused.stderr
        assert "tpnet grant --help" in refused.stderr
        eve.serve(80)
        eve.tpnet("intercept", "orders", "--http-header=a=b", "-n", shop)
        eve.tpnet("leave", "--all")


def test_two_cannot_have_the_same_requests(desk, cluster):
    desk.tpnet("intercept", "orders", "--http-header=Coder=Bob", "-n", desk.namespace)
    with Desk(cluster, desk.namespace, f"alice-{uuid4().hex[:4]}", laptop=1) as alice:
        alice.grant()
        refused = alice.tpnet(
            "intercept", "orders", "--http-header=Coder=Bob", "-n", desk.namespace, check=False
        )
        assert refused.returncode == 4, refused.stderr
        assert desk.user in refused.stderr
        assert "--http-header=auto" in refused.stderr
        other = alice.tpnet("leave", f"orders-{desk.user}", "-n", desk.namespace, check=False)
        assert other.returncode == 3
        assert f"is {desk.user}'s" in other.stderr
        forced = alice.tpnet("leave", f"orders-{desk.user}", "-n", desk.namespace, "--force", check=False)
        assert forced.returncode == 3
        assert "delete-any" in forced.stderr
    assert desk.answers("/", "Coder: Bob")


def test_impersonation_and_expired_credentials(desk, cluster):
    mine = desk.tpnet(
        "list", "-n", desk.namespace, KUBECONFIG=cluster.kubeconfig("x", ["system:masters"])
    ).stdout
    assert "No intercepts in" in mine
    old = cluster.kubeconfig(desk.user, at="laptop", days=-1)
    done = desk.tpnet("list", "-n", desk.namespace, "--kubeconfig", str(old), check=False)
    assert done.returncode == 3
    assert "may have expired" in done.stderr
    as_bob = admin(cluster, "list", "-n", desk.namespace, "--as", desk.user)
    assert "No intercepts in" in as_bob.stdout
    refused = admin(cluster, "list", "-n", "kube-system", "--as", desk.user, check=False)
    assert refused.returncode == 3
    assert f"{desk.user} may not list intercepts.tpnet.dev in kube-system" in refused.stderr


def completed(desk, line):
    """What the shell offers at the end of ``line``, and how long that took."""
    words = line.split(" ")
    env = {"_TPNET_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    began = time.monotonic()
    done = desk.tpnet(check=False, **env)
    assert done.stderr == ""
    return [each.partition(",")[2] for each in done.stdout.split()], time.monotonic() - began


def test_the_shell_completes_services_ports_intercepts_and_namespaces(desk):
    place = f"-n {desk.namespace}"
    desk.tpnet("intercept", "orders", "--http-header=a=b", "-n", desk.namespace)

    def offered(line):
        # A busy machine may be too slow for a Tab; it then offers nothing, and one presses again.
        for _ in range(5):
            words, seconds = completed(desk, line)
            assert seconds < 20
            if words:
                return words
        return []

    assert offered(f"tpnet intercept {place} or") == ["orders"]
    assert offered(f"tpnet intercept {place} svc/or") == ["svc/orders"]
    assert offered(f"tpnet intercept {place} orders --port ") == ["80"]
    assert offered(f"tpnet leave {place} ord") == [f"orders-{desk.user}"]
    assert completed(desk, f"tpnet leave -n {desk.namespace} orders-{desk.user} ord")[0] == []
    line = "tpnet list --kubeconfig /no/such -n "
    assert completed(desk, line)[0] == []


def test_kubectl_finds_it_as_a_plugin(desk):
    bin_dir = f"{desk.folder}/bin"
    desk.machine.shell(
        f"mkdir {bin_dir}; printf '#!/bin/sh\\nexec {sys.executable} -c '\"'\"'"
        f'import sys; sys.argv[0] = "kubectl-tpnet"; from tpnet_cli.main import main; main()\'"\'"\' "$@"\\n\''
        f" > {bin_dir}/kubectl-tpnet; chmod +x {bin_dir}/kubectl-tpnet"
    )
    env = {**desk.env, "PATH": f"{bin_dir}:/usr/bin:/bin"}
    kubectl = [desk.cluster.programs / "kube", "kubectl", "tpnet"]
    said = desk.machine.run(*kubectl, "list", "-n", desk.namespace, env=env)
    assert "No intercepts in" in said.stdout
    assert "Usage: kubectl tpnet leave" in desk.machine.run(*kubectl, "leave", "--help", env=env).stdout
    made = desk.machine.run(*kubectl, "intercept", "orders", "-n", desk.namespace, env=env).stdout
    assert f"kubectl tpnet leave orders-{desk.user} -n {desk.namespace}" in made


def test_on_a_terminal_it_shows_how_far_it_is_and_colours(desk):
    main_end, end = pty.openpty()
    argv = [*TPNET, "intercept", "orders", "--http-header=a=b", "-n", desk.namespace]
    process = desk.machine.popen(
        *argv, env={**desk.env, "TERM": "xterm-256color"}, stdin=end, stdout=end, stderr=end
    )
    os.close(end)
    seen = b""
    try:
        while chunk := os.read(main_end, 4096):
            seen += chunk
    except OSError:
        pass  # the other end is closed
    assert process.wait(30) == 0
    os.close(main_end)
    text = seen.decode()
    assert "\x1b[32m✓" in text
    assert "is on." in text


def test_versions_are_told(desk):
    said = desk.data("version")
    assert said["agent"] == said["tpnet"]


def test_uninstall_names_what_ends_and_asks(desk, cluster):
    desk.tpnet("intercept", "orders", "--http-header=a=b", "-n", desk.namespace)
    done = admin(cluster, "uninstall", check=False, stdin="")
    assert done.returncode == 2
    assert f"{desk.namespace}/orders-{desk.user}   {desk.user}   Service orders" in done.stderr
    assert "With --yes it is not asked." in done.stderr
    assert len(desk.data("list", "-n", desk.namespace)) == 1


def test_a_dry_run_changes_nothing(bed, cluster):
    before = cluster.get("/api/v1/namespaces/tpnet")["metadata"]["resourceVersion"]
    said = json.loads(admin(cluster, "install", "--dry-run", "-o", "json").stdout)
    assert {step["what"]: step["change"] for step in said["steps"]}["Namespace tpnet"] == "unchanged"
    told = admin(cluster, "upgrade", "--dry-run").stdout
    assert "Nothing was changed. Without --dry-run:" in told
    assert cluster.get("/api/v1/namespaces/tpnet")["metadata"]["resourceVersion"] == before
