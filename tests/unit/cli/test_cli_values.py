"""Values of headers may be tokens: who sees which, in everything that shows intercepts."""

import dataclasses
import json

import cli_samples as samples
import pytest
from cli_samples import ID, ID_MARK

from tpnet.model import HeaderRule
from tpnet.model.codec import encode
from tpnet.rules import RuleSet
from tpnet.rules.sealed import mark_of, sealed
from tpnet_cli.main import run

BOBS, ALICES = "Bearer-bobs-own-token", "Bearer-alices-own-token"
SHOWING = [["list"], ["status"], ["watch", "--once"], ["explain", "shop", "/"]]


class Nobody:
    """A request without a header."""

    path = b"/"

    def values(self, name):
        return []

    def names(self):
        return []


@pytest.fixture
def shop(agent, home):
    """Bob, who asks, and Alice have an exact rule and a regex each; and bob an id, which this computer keeps."""
    (home / "state").mkdir()
    (home / "state" / "intercept-id").write_text(f"{ID.value}\n")
    made = [
        samples.intercept(f"{user}-{n}", user, headers=(rule, HeaderRule("x", "1")), serial=n)
        for user, secret in (("bob", BOBS), ("alice", ALICES))
        for n, rule in enumerate(
            [HeaderRule("Authorization", secret), HeaderRule("Authorization", f"{secret}.*", regex=True)], 1
        )
    ]
    made.append(samples.intercept("bob-auto", "bob", headers=(sealed(ID, "bob"),), serial=9))
    statuses = tuple(dataclasses.replace(samples.BOB, intercept=one) for one in made)
    agent.answers["status"] = encode(dataclasses.replace(samples.STATUS, intercepts=statuses))
    agent.answers["explain"] = encode(
        dataclasses.replace(samples.EXPLANATION, steps=tuple(RuleSet(made).explain(Nobody())))
    )
    return agent


def shown(capsys, *args):
    assert run(list(args)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("args", SHOWING, ids=lambda args: args[0])
@pytest.mark.parametrize("form", [[], ["-o", "wide"], ["-o", "json"], ["-o", "yaml"]], ids=" ".join)
def test_nobody_sees_what_others_rules_ask_for(args, form, shop, capsys, monkeypatch):
    out = shown(capsys, *args, *form)
    assert ALICES not in out
    assert BOBS in out or not form or args[0] == "explain"
    monkeypatch.setenv("TPNET_USER", "carol")
    out = shown(capsys, *args, *form)
    assert ALICES not in out
    assert BOBS not in out
    assert ID.value not in out


@pytest.mark.parametrize("args", SHOWING[:3], ids=lambda args: args[0])
def test_no_default_column_says_a_value(args, shop, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    out = shown(capsys, *args)
    assert BOBS not in out
    assert ID.value not in out
    assert f"Authorization: #{mark_of(HeaderRule('', BOBS))}" in out
    assert f"x-tpnet-intercept-id: {ID_MARK}" in out


@pytest.mark.parametrize("args", SHOWING, ids=lambda args: args[0])
@pytest.mark.parametrize("form", ["wide", "json"])
def test_the_owner_sees_values_and_the_id_where_all_is_shown(args, form, shop, capsys):
    out = shown(capsys, *args, "-o", form)
    assert BOBS in out
    assert f"{BOBS}.*" in out
    assert ID.value in out


def test_a_dry_run_shows_the_owner_what_the_rules_ask_for(shop, capsys):
    out = " ".join(shown(capsys, "explain", "shop", "/").split())
    assert f"header Authorization = {BOBS} ✗" in out
    assert f"header x-tpnet-intercept-id = {ID_MARK} ✗" in out


def test_on_another_computer_the_owner_is_told_where_the_id_is(shop, home, capsys):
    (home / "state" / "intercept-id").write_text("0" * 32)
    out = shown(capsys, "list", "-o", "wide")
    assert ID.value not in out
    where = "what x-tpnet-intercept-id has to be is kept on the computer on which the intercept was made"
    assert f"  bob-auto: {where}" in out.splitlines()
    assert "is kept on the computer" not in shown(capsys, "list")


@pytest.mark.parametrize("kept", [None, b"", b"\xff"])
def test_without_an_id_here_none_is_shown_and_none_made(kept, shop, home, capsys):
    path = home / "state" / "intercept-id"
    path.unlink() if kept is None else path.write_bytes(kept)
    assert "is kept on the computer" in shown(capsys, "list", "-o", "wide")
    assert path.exists() is (kept is not None)


def test_an_id_that_stands_in_an_object_is_told_to_its_owner(agent, capsys, monkeypatch):
    old = dataclasses.replace(samples.BOB, intercept=samples.intercept(headers=(ID,)))
    agent.answers["status"] = encode(dataclasses.replace(samples.STATUS, intercepts=(old,)))
    monkeypatch.setenv("COLUMNS", "200")
    assert "  shop-bob: its id can be read by others. Leave it" in shown(capsys, "list")
    monkeypatch.setenv("TPNET_USER", "carol")
    assert "can be read" not in shown(capsys, "list")


def test_what_intercept_gives_programs_has_the_id(shop, capsys, monkeypatch):
    from test_cli_commands import FakeSession

    monkeypatch.setattr("tpnet.session.ensure_session", lambda run_dir, user: FakeSession())
    out = shown(capsys, "intercept", "lab-shop-*", "-o", "json")
    (rule,) = json.loads(out)["intercept"]["headers"]
    assert (rule["value"], rule["digest"]) == (ID.value, sealed(ID, "bob").digest)
