import dataclasses
import io
import json
import time

import cli_samples as samples
import pytest
import yaml

from tpnet.model import Conflict, HeaderRule, NotThere, TargetInfo
from tpnet.model.codec import decode, encode
from tpnet.model.status import Explanation, InterceptStatus, Status
from tpnet.rules.sealed import sealed
from tpnet_cli.main import run
from tpnet_cli.own import for_programs


def one_line(text):
    return " ".join(text.split())


class FakeSession:
    """A session daemon that has what it is told."""

    def __init__(self, handler_up=True):
        self.added = []
        self.removed = []
        self.handler_up = handler_up
        self.handler_problem = ""
        self.there = True
        self.started = False
        self.quitted = False
        self.told = True
        self.behind = {}
        self.cut = 0
        self.names = ["shop-bob", "cart-bob"]
        self.failure = None

    def info(self):
        if not self.there:
            raise NotThere("bob has no session on this computer.")
        return {
            "session": "bob@laptop",
            "started": time.time(),
            "endpoint": "10.0.0.1:21820",
            "draining": 0,
            "intercepts": [
                {
                    "name": name,
                    "handler": "127.0.0.1:8080",
                    "handler_up": self.handler_up,
                    "handler_problem": "",
                    "problem": "",
                    "open": 1,
                    "total": 1204,
                }
                for name in self.names
            ],
            "agents": [{"node": "", "up": True}],
        }

    def add(self, intercept):
        if self.failure:
            raise self.failure
        self.added.append(intercept)
        stood = dataclasses.replace(intercept, session="bob@laptop", targets=samples.SHOPS, tunnel_port=20000)
        problem = self.handler_problem or (
            "" if self.handler_up else f"nothing listens on {intercept.handler}"
        )
        return InterceptStatus(stood, 2, 2, not problem, True, handler_problem=problem)

    def remove(self, name):
        self.info()
        if name not in self.names:
            raise NotThere(f"This session has no intercept {name}.")
        self.names.remove(name)
        self.removed.append(name)
        return {"draining": int(self.told), "last": not self.names, "told": self.told}

    def quit(self):
        self.quitted = True
        return {"behind": self.behind, "cut": self.cut}


@pytest.fixture
def lonely_session(monkeypatch, home):
    """A session whose agent is not there."""
    fake = FakeSession()

    def ensure(run_dir, user):
        fake.started = True
        return fake

    monkeypatch.setattr("tpnet.session.ensure_session", ensure)
    monkeypatch.setattr("tpnet.session.SessionClient", lambda run_dir, user: fake)
    return fake


@pytest.fixture
def session(lonely_session, agent):
    return lonely_session


@pytest.mark.parametrize("args", [["list"], ["status"], ["watch", "--once"]])
def test_json_and_yaml_carry_the_same_whole(args, agent, capsys):
    agent.busy()
    found = []
    for kind, load in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert run([*args, "-o", kind]) == 0
        found.append(load(capsys.readouterr().out))
    if args[0] == "watch":
        for each in found:
            each.pop("time")
    assert found[0] == found[1]


def test_status_as_json_is_the_model(agent, capsys):
    agent.busy()
    assert run(["status", "-o", "json"]) == 0
    assert decode(Status, json.loads(capsys.readouterr().out)) == for_programs(samples.STATUS, "bob")


def test_list_can_be_of_ones_own(agent, capsys):
    agent.busy()
    assert run(["list", "--mine", "--user", "alice", "-o", "json"]) == 0
    assert [item["intercept"]["name"] for item in json.loads(capsys.readouterr().out)] == ["shop-all"]


@pytest.mark.parametrize("args", [["list"], ["list", "-o", "wide"], ["status"], ["status", "-o", "wide"]])
def test_tables_show_every_intercept(args, agent, capsys):
    agent.busy()
    assert run(args) == 0
    out = capsys.readouterr().out
    assert "shop-bob" in out
    assert f"x-tpnet-intercept-id: {samples.ID_MARK[:4]}" in out


def test_intercept_says_what_it_does_and_what_is_true_now(session, agent, capsys):
    assert (
        run(
            ["intercept", "lab-shop-*", "-p", "8080:80", "--http-header=Coder=Bob", "--http-path-prefix=/api"]
        )
        == 0
    )
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0].startswith("✓ session   bob@laptop · WireGuard to 10.0.0.1:21820")
    assert lines[1].startswith("✓ targets   2/2 redirected (ebpf) and probed")
    assert "lab-shop-bob is on." in lines
    assert "  takes   lab-shop-*:80   Coder: Bob   /api…" in lines
    assert "try    curl -H 'Coder: Bob' http://10.77.1.11/api" in lines
    (added,) = session.added
    assert (added.name, added.user, added.port, added.handler) == (
        "lab-shop-bob",
        "bob",
        80,
        "localhost:8080",
    )


@pytest.mark.parametrize(
    ("to", "port", "handler", "remote"),
    [
        ("localhost", "8080:80", "localhost:8080", 80),
        ("::1", "8080:80", "[::1]:8080", 80),
        ("[::1]", "8080:80", "[::1]:8080", 80),
        ("[::1]:5173", "5173:80", "[::1]:5173", 80),
        ("[::1]:5173", None, "[::1]:5173", 80),
        ("localhost:5173", None, "localhost:5173", 80),
        ("dev-box:5173", None, "dev-box:5173", 80),
        (":5173", None, "localhost:5173", 80),
        ("5173", None, "localhost:5173", 80),
    ],
)
def test_to_takes_a_host_an_address_or_either_with_the_port(session, to, port, handler, remote):
    assert run(["intercept", "lab-shop-*", "--to", to, *(["--port", port] if port else [])]) == 0
    (added,) = session.added
    assert (added.handler, added.port) == (handler, remote)


@pytest.mark.parametrize(
    ("to", "port", "hint"),
    [
        ("localhost:5173", "8080:80", "--port 5173:80"),
        ("localhost:5173", "80", "--port 5173:80"),
        ("http://localhost:5173/", "80", "Only its host and port: localhost:5173"),
        ("::1:5173", "80", "[::1]:5173"),
        ("my host", "80", "localhost:8080"),
    ],
)
def test_to_that_is_none_is_refused_with_what_is_right(session, capsys, to, port, hint):
    assert run(["intercept", "lab-shop-*", "--to", to, "--port", port]) == 2
    assert hint in capsys.readouterr().err
    assert session.added == []


def test_connect_timeout_is_in_seconds_and_bounded(session, capsys):
    assert run(["intercept", "lab-shop-*", "--connect-timeout", "30"]) == 0
    assert session.added[0].connect_timeout == 30
    for wrong in ("0", "301", "soon"):
        assert run(["intercept", "lab-shop-*", "--connect-timeout", wrong]) == 2
    assert len(session.added) == 1


def test_unknown_host_is_told_as_unknown(session, capsys):
    session.handler_problem = "the host dev-box is unknown"
    assert run(["intercept", "lab-shop-*", "--to", "dev-box:8080"]) == 0
    out = one_line(capsys.readouterr().out)
    assert "! handler the host dev-box is unknown; requests go to the app until that changes" in out


def test_intercept_without_a_port_means_the_only_one_for_both(session, capsys):
    assert run(["intercept", "lab-shop-*", "--http-header=all", "--to", "::1", "--on-failure=error"]) == 0
    (added,) = session.added
    assert (added.port, added.handler, added.headers, added.on_failure) == (80, "[::1]:80", (), "error")
    assert "502" in capsys.readouterr().out


def test_intercept_without_a_header_uses_the_own_id_and_shows_all_of_it(session, home, capsys):
    assert run(["intercept", "lab-shop-*"]) == 0
    own = (home / "state" / "intercept-id").read_text().strip()
    assert f"  header  x-tpnet-intercept-id: {own}" in capsys.readouterr().out.splitlines()
    (added,) = session.added
    assert added.headers == (sealed(HeaderRule("x-tpnet-intercept-id", own), "bob"),)
    assert own not in repr(added)


def test_intercept_by_another_header_makes_no_id(session, home):
    assert run(["intercept", "lab-shop-*", "--http-header=a=b"]) == 0
    assert not (home / "state").exists()


def test_default_names_do_not_collide(session, agent):
    taken = dataclasses.replace(samples.BOB, intercept=samples.intercept("lab-shop-bob"))
    agent.answers["status"] = encode(dataclasses.replace(samples.EMPTY, intercepts=(taken,)))
    assert run(["intercept", "lab-shop-*", "--http-header=a=b"]) == 0
    assert session.added[0].name == "lab-shop-bob-2"


def test_a_name_that_another_has_is_refused_before_a_session_starts(session, agent, capsys):
    taken = dataclasses.replace(samples.BOB, intercept=samples.intercept("mine", user="alice"))
    agent.answers["status"] = encode(dataclasses.replace(samples.EMPTY, intercepts=(taken,)))
    assert run(["intercept", "lab-shop-*", "--http-header=a=b", "--name", "mine"]) == 4
    assert "✗ alice has an intercept named mine already." in capsys.readouterr().err
    assert session.added == []


def test_a_missing_handler_is_said_and_no_failure(session, capsys):
    session.handler_up = False
    assert run(["intercept", "lab-shop-*", "-p", "8080:80", "--http-header=a=b"]) == 0
    said = "! handler nothing listens on localhost:8080; requests go to the app until that changes"
    assert said in one_line(capsys.readouterr().out)


def test_intercept_as_json_says_nothing_else(session, capsys):
    assert run(["intercept", "lab-shop-*", "--http-header=a=b", "-o", "json"]) == 0
    made = decode(InterceptStatus, json.loads(capsys.readouterr().out))
    assert made.intercept.session == "bob@laptop"


def test_a_conflict_is_shown_as_the_agent_words_it(session, capsys):
    session.failure = Conflict(
        "alice's intercept a already takes requests with Coder: Bob.", "Use another value."
    )
    assert run(["intercept", "lab-shop-*", "--http-header=Coder=Bob"]) == 4
    assert "✗ alice's intercept a already takes" in capsys.readouterr().err


def test_several_ports_are_named_where_nobody_can_be_asked(session, agent, capsys):
    agent.answers["resolve"] = [encode(TargetInfo("netns/a", (80, 443)))]
    assert run(["intercept", "a", "--http-header=a=b"]) == 2
    err = capsys.readouterr().err
    assert "a listens on 80 and 443" in err
    assert "--port 8080:80" in err
    assert session.added == []


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--port", "x"], "a port number is wanted"),
        (["--port", "70000"], "there is no port 70000"),
        (["--name", "../a"], "'../a' is no name for an intercept."),
        (["--name", ""], "'' is no name for an intercept."),
        (["--name", "x" * 129], "is no name for an intercept."),
        (["--to", "a b"], "is not HOST:PORT"),
        (["--http-path-equal=/a", "--http-path-prefix=/b"], "Only one of --http-path-equal"),
        (["--http-header=all", "--http-header=a=b"], "--http-header=all takes requests whatever"),
        (["--http-header=nonsense"], "there is no value"),
        (["--http-header=a=~("], "--http-header=a=~("),
        (["--user", "../x"], "--user=../x: a user's name is lower-case letters"),
        (["--on-failure", "panic"], "Invalid value for '--on-failure'"),
    ],
)
def test_malformed_flags_are_told_before_anything_is_asked(flags, says, session, agent, capsys):
    assert run(["intercept", "a", *flags]) == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""
    assert agent.calls == []
    assert not session.started


def test_a_port_that_nothing_listens_on_is_told_before_a_session_starts(session, agent, capsys):
    assert run(["intercept", "lab-shop-*", "--port", "8080:81", "--http-header=a=b"]) == 5
    out, err = capsys.readouterr()
    assert err == "✗ Nothing listens on port 81 of netns/lab-shop-1.\n  Listening there: 80.\n"
    assert out == ""
    assert not session.started


def test_a_port_that_only_the_target_itself_reaches_can_be_named(session, agent):
    agent.answers["resolve"] = [encode(TargetInfo("netns/a", (80,), loopback=(81,)))]
    assert run(["intercept", "a", "--port", "8080:81", "--http-header=a=b"]) == 0
    assert session.added[0].port == 81


def test_intercept_wide_says_more(session, capsys):
    assert run(["intercept", "lab-shop-*", "--http-header=a=b", "-o", "wide"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "  session bob@laptop   tunnel port 20000" in lines
    assert "  targets netns/lab-shop-1   10.77.1.11" in lines


def test_leave_goes_through_ones_own_session(session, agent, capsys):
    agent.busy()
    assert run(["leave", "shop-bob"]) == 0
    assert session.removed == ["shop-bob"]
    said = "✓ left shop-bob: its requests go to the app again; 1 open connection may finish"
    assert one_line(capsys.readouterr().out) == said


def test_leave_of_the_last_says_that_the_session_ends_when_what_is_under_way_has(session, agent, capsys):
    session.names = ["shop-bob"]
    agent.busy()
    assert run(["leave", "shop-bob"]) == 0
    assert one_line(capsys.readouterr().out).endswith(
        "; 1 open connection may finish, and then your session ends"
    )


def test_leave_works_without_a_session(session, agent, capsys):
    agent.busy()
    agent.answers["delete_intercept"] = {"draining": 0}
    session.there = False
    assert run(["leave", "shop-bob"]) == 0
    assert agent.calls[-1] == ("delete_intercept", {"name": "shop-bob", "user": "bob", "force": False})


def test_leave_of_somebody_else_s_needs_force(session, agent, capsys):
    agent.busy()
    agent.answers["delete_intercept"] = {"draining": 2}
    assert run(["leave", "shop-all", "--force"]) == 0
    assert agent.calls[-1][1] == {"name": "shop-all", "user": "bob", "force": True}
    assert "2 open connections may finish" in one_line(capsys.readouterr().out)


def test_leave_all_is_all_of_ones_own(session, agent, capsys):
    agent.busy()
    assert run(["leave", "--all"]) == 0
    assert session.removed == ["shop-bob", "cart-bob"]


def test_leave_all_of_nothing_is_no_failure(session, capsys):
    session.names = []
    assert run(["leave", "--all"]) == 0
    assert capsys.readouterr().out == "bob has no intercepts.\n"


def test_leave_does_what_it_can_and_names_what_is_not_there(session, agent, capsys):
    agent.busy()
    assert run(["leave", "nope", "shop-bob", "neither"]) == 5
    assert session.removed == ["shop-bob"]
    err = capsys.readouterr().err
    assert "✗ There is no intercept nope." in err
    assert "✗ There is no intercept neither." in err
    assert "There are: cart-bob, pay-carol, shop-all, shop-bob." in err


def test_leave_without_an_agent_takes_it_out_of_the_session(lonely_session, capsys):
    lonely_session.told = False
    assert run(["leave", "shop-bob"]) == 0
    assert lonely_session.removed == ["shop-bob"]
    out, err = capsys.readouterr()
    assert one_line(out).startswith(
        "✓ left shop-bob; no agent answers: what it may have of it goes with its lease"
    )
    assert err == ""


def test_leave_all_without_an_agent_is_all_of_the_session(lonely_session, capsys):
    lonely_session.told = False
    assert run(["leave", "--all"]) == 0
    assert lonely_session.removed == ["shop-bob", "cart-bob"]


def test_leave_without_an_agent_of_what_the_session_has_not(lonely_session, capsys):
    assert run(["leave", "shop-all"]) == 5
    err = capsys.readouterr().err
    assert err.startswith("✗ bob has no intercept shop-all on this computer. No agent answers at ")
    assert "tpnet agent run --local" in err


@pytest.mark.parametrize("args", [["shop-bob"], ["--all"]])
def test_leave_without_an_agent_and_without_a_session(args, lonely_session, capsys):
    lonely_session.there = False
    assert run(["leave", *args]) == 5
    assert "No agent answers at " in capsys.readouterr().err


def test_leave_of_what_the_agent_has_forgotten_takes_it_out_of_the_session(session, agent, capsys):
    assert run(["leave", "shop-bob"]) == 0
    assert session.removed == ["shop-bob"]


def test_leave_as_data_and_wide(session, agent, capsys):
    agent.busy()
    assert run(["leave", "nope", "shop-bob", "-o", "json"]) == 5
    out, err = capsys.readouterr()
    assert json.loads(out) == [{"name": "shop-bob", "draining": 1, "agent_told": True, "last": False}]
    assert "There is no intercept nope." in err
    assert run(["leave", "cart-bob", "-o", "wide"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "to 127.0.0.1:8081" in lines[-1]
    assert "0 requests" in lines[-1]
    assert run(["leave", "--all", "--user", "dora", "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == []


def test_leave_takes_names_or_all(session, capsys):
    assert run(["leave", "a", "--all"]) == 2


def test_explain_asks_the_agent_as_curl_is_told(agent, capsys):
    agent.answers["explain"] = encode(samples.EXPLANATION)
    assert (
        run(["explain", "shop", "-X", "POST", "/api/pay", "-H", "Coder: Bob", "-H", "a:b:c", "--port", "80"])
        == 0
    )
    asked = {"target": "shop", "port": 80, "method": "POST", "path": "/api/pay"}
    assert agent.calls[0] == ("explain", {**asked, "headers": [["Coder", "Bob"], ["a", "b:c"]]})
    assert capsys.readouterr().out.splitlines()[-1] == "goes to bob 127.0.0.1:8080"
    assert run(["explain", "shop", "-o", "json"]) == 0
    assert decode(Explanation, json.loads(capsys.readouterr().out)) == samples.EXPLANATION


def test_explain_refuses_what_is_no_header(agent, capsys):
    assert run(["explain", "shop", "/", "-H", "nonsense"]) == 2
    assert "curl" in capsys.readouterr().err


def test_watch_of_an_unknown_name_ends_at_once(agent, capsys):
    agent.busy()
    assert run(["watch", "nope"]) == 5
    assert "There is no intercept nope." in capsys.readouterr().err


def interrupted_after(monkeypatch, times):
    naps = iter(range(times))

    def sleep(seconds):
        if next(naps, None) is None:
            raise KeyboardInterrupt

    monkeypatch.setattr("tpnet_cli.commands.watch.time.sleep", sleep)


def test_watch_into_a_pipe_writes_only_what_changes(agent, capsys, monkeypatch):
    agent.busy()
    interrupted_after(monkeypatch, 3)
    assert run(["watch"]) == 130
    out = capsys.readouterr().out
    assert "\x1b" not in out
    # Once without rates, once with; what follows is the same again.
    assert 1 <= out.count("NAME ") <= 2


def test_watch_streams_an_object_a_line(agent, capsys, monkeypatch):
    agent.busy()
    interrupted_after(monkeypatch, 2)
    assert run(["watch", "shop-bob", "-o", "json"]) == 130
    seen = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(seen) == 3
    assert [item["intercept"]["name"] for item in seen[0]["intercepts"]] == ["shop-bob"]


def test_watch_on_a_terminal_stays_in_place(agent, capsys, monkeypatch):
    agent.busy()
    interrupted_after(monkeypatch, 2)
    terminal = samples.Tty()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("TERM", "xterm")
    assert run(["watch"]) == 130
    assert "\x1b[" in terminal.getvalue()
    assert "shop-bob" in terminal.getvalue()


def test_quit_says_what_it_left(session, capsys):
    assert run(["quit"]) == 0
    assert session.quitted
    assert capsys.readouterr().out == (
        "! 2 connections to your process may finish, for 5 s at most\n"
        "✓ bob's session is over; left shop-bob, cart-bob\n"
    )
    session.there = False
    assert run(["quit"]) == 0
    assert capsys.readouterr().out == "bob has no session on this computer.\n"


def test_quit_names_what_could_not_be_removed(session, capsys):
    session.behind = {"cart-bob": "bob may not delete intercepts.tpnet.dev in shop."}
    assert run(["quit"]) == 0
    said = one_line(capsys.readouterr().out)
    assert (
        "✓ bob's session is over; left shop-bob ! cart-bob goes by itself within a minute: bob may not"
        in said
    )


def test_quit_says_what_it_cut(session, capsys):
    session.cut = 2
    assert run(["quit"]) == 0
    said = one_line(capsys.readouterr().out)
    assert said.endswith("! 2 connections to your process did not finish in time and were cut off")


def test_quit_as_data_and_wide(session, capsys):
    assert run(["quit", "-o", "wide"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "  session  bob@laptop   was on for 0 s   to 10.0.0.1:21820"
    assert lines[3] == "  left     shop-bob   to 127.0.0.1:8080   1,204 connections, 1 open"
    assert run(["quit", "-o", "json"]) == 0
    said = {"user": "bob", "session": "bob@laptop", "left": ["shop-bob", "cart-bob"], "behind": {}, "cut": 0}
    assert json.loads(capsys.readouterr().out) == said
    session.there = False
    assert run(["quit", "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == {
        "user": "bob",
        "session": None,
        "left": [],
        "behind": {},
        "cut": 0,
    }


def test_every_command_with_a_result_takes_the_same_outputs():
    from tpnet_cli.group import cli

    for name in ("intercept", "leave", "list", "status", "explain", "watch", "quit", "version"):
        options = {option.name: option for option in cli.get_command(None, name).params}
        assert tuple(options["output"].type.choices) == ("json", "yaml", "wide"), name


def test_explain_and_watch_wide_are_not_cut(agent, capsys):
    agent.busy()
    agent.answers["explain"] = encode(samples.EXPLANATION)
    for args in (["explain", "shop"], ["watch", "--once"]):
        assert run([*args, "-o", "wide"]) == 0
        out = capsys.readouterr().out
        assert "…" not in out.replace("/api…", "")
    assert "ON FAILURE" in out
    assert (
        "  netns/lab-shop-1:80   41 open connections   16,000 requests, 15,935 the app's" in out.splitlines()
    )


def test_version_tells_the_agent_s_where_one_answers(agent, capsys):
    assert run(["version", "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["tpnet"], said["agent"], said["agent_kernel"]) == ("0.1.0", "0.1.0", "6.1.0-50-amd64")
    assert run(["version", "-o", "wide"]) == 0
    assert "\nwireguard    wireguard-go\n" in capsys.readouterr().out
    assert run(["version", "--client"]) == 0
    assert capsys.readouterr().out == "tpnet  0.1.0\n"


def test_version_without_an_agent_is_no_failure(home, capsys):
    assert run(["version"]) == 0
    assert capsys.readouterr().out == "tpnet  0.1.0\n"


def test_what_takes_long_turns_on_a_terminal_only(monkeypatch):
    from tpnet_cli.terminal import Steps, make_console

    monkeypatch.setattr("tpnet_cli.terminal.PATIENCE", 0.01)
    monkeypatch.setenv("TERM", "xterm")
    for stream, turns in ((samples.Tty(), True), (io.StringIO(), False)):
        with Steps(make_console(stream, 80)).doing("building") as watch:
            time.sleep(0.15)
        assert ("building" in stream.getvalue()) is turns
        assert watch.seconds >= 0.15


def test_what_is_quick_shows_no_progress(monkeypatch):
    from tpnet_cli.terminal import Steps, make_console

    monkeypatch.setenv("TERM", "xterm")
    stream = samples.Tty()
    with Steps(make_console(stream, 80)).doing("building"):
        pass
    assert stream.getvalue() == ""
