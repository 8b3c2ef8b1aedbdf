import dataclasses

import cli_cluster_samples as on_cluster
import cli_samples as samples
import pytest
from cli_samples import check_snapshot, text_of
from rich.cells import cell_len

from tpnet.model import HeaderRule, OnFailure, PathKind, PathRule
from tpnet.rules import Rules
from tpnet_cli.own import open_here, with_own
from tpnet_cli.views.cluster import cluster_view
from tpnet_cli.views.explain import explain_view
from tpnet_cli.views.listing import list_view
from tpnet_cli.views.made import Place, curl_line, made_view
from tpnet_cli.views.status import group_name, status_view
from tpnet_cli.views.watch import Sample, watch_view

EVERYTHING = (samples.BOB, samples.ALICE, samples.BROKEN, samples.DEAD, samples.LONG)
RULES = Rules(samples.BOB.intercept.headers, samples.BOB.intercept.path)
AUTO = dataclasses.replace(samples.BROKEN, ready=1, problems=())


def later():
    bob = dataclasses.replace(samples.BOB, hits=1254, last_hit=samples.NOW)
    targets = tuple(dataclasses.replace(t, app_requests=t.app_requests + 3) for t in samples.TARGETS)
    return dataclasses.replace(
        samples.STATUS, intercepts=(bob, *samples.STATUS.intercepts[1:]), targets=targets
    )


def of_cluster(width, own=on_cluster.SESSION, **more):
    status = with_own(on_cluster.STATUS, own)
    return cluster_view(status, own, samples.NOW, width, place="shop", **more)


NAMED = {
    "cluster-status": of_cluster,
    "cluster-status-none": lambda width: cluster_view(
        dataclasses.replace(on_cluster.STATUS, intercepts=(), targets=()),
        None,
        samples.NOW,
        width,
        place="shop",
        skew="This is tpnet 0.1.0, and the cluster has agents of 1.2.0. Upgrade tpnet on this computer.",
    ),
    "cluster-list": lambda width: list_view(
        with_own(on_cluster.STATUS, on_cluster.SESSION).intercepts, "bob@example.org", samples.NOW, width
    ),
    "cluster-watch": lambda width: watch_view(
        Sample(on_cluster.STATUS, samples.NOW, open_here(on_cluster.SESSION)), None, "", width
    ),
    "cluster-made": lambda width: made_view(
        on_cluster.BOB,
        RULES,
        (on_cluster.INFO,),
        place=Place("orders-bob", "the pods", "kubectl tpnet", "-n shop"),
    ),
    "list-other-computer": lambda width: list_view(
        with_own(on_cluster.STATUS, on_cluster.SESSION).intercepts,
        "bob@example.org",
        samples.NOW,
        width,
        wide=True,
    ),
    "list": lambda width: list_view(EVERYTHING, "bob", samples.NOW, width),
    "list-plain": lambda width: list_view(
        (samples.BOB, samples.ALICE, samples.DEAD), "bob", samples.NOW, width
    ),
    "list-empty": lambda width: list_view((), "bob", samples.NOW, width),
    "status": lambda width: status_view(samples.STATUS, samples.NOW, width),
    "status-left": lambda width: status_view(
        dataclasses.replace(
            samples.EMPTY,
            targets=(
                dataclasses.replace(samples.TARGETS[0], ready=False, left=True, open=1),
                dataclasses.replace(samples.TARGETS[1], ready=False, left=True, open=12),
            ),
        ),
        samples.NOW,
        width,
    ),
    "status-empty": lambda width: status_view(samples.EMPTY, samples.NOW, width),
    "explain": lambda width: explain_view(samples.EXPLANATION, width),
    "explain-app": lambda width: explain_view(samples.TO_THE_APP, width),
    "watch": lambda width: watch_view(
        Sample(later(), samples.NOW + 1), Sample(samples.STATUS, samples.NOW), "", width
    ),
    "watch-one": lambda width: watch_view(Sample(samples.STATUS, samples.NOW), None, "cart-bob", width),
    "watch-empty": lambda width: watch_view(Sample(samples.EMPTY, samples.NOW), None, "", width),
    "made": lambda width: made_view(samples.BOB, RULES, samples.INFOS),
    "made-auto": lambda width: made_view(AUTO, Rules((samples.ID,), auto=True), samples.INFOS),
}


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize("name", NAMED)
def test_view_looks_as_it_is_known_to(name, width):
    check_snapshot(f"{name}-{width}", text_of(NAMED[name](width), width))


def test_wide_shows_every_column_whatever_the_terminal():
    check_snapshot("list-wide", text_of(list_view(EVERYTHING, "bob", samples.NOW, 10_000, wide=True), 10_000))
    check_snapshot(
        "status-wide", text_of(status_view(samples.STATUS, samples.NOW, 10_000, wide=True), 10_000)
    )
    now, before = Sample(later(), samples.NOW + 1), Sample(samples.STATUS, samples.NOW)
    check_snapshot("cluster-status-wide", text_of(of_cluster(10_000, wide=True), 10_000))
    check_snapshot("watch-wide", text_of(watch_view(now, before, "", 10_000, wide=True), 10_000))


def test_wide_says_which_session_and_which_targets():
    view = made_view(samples.BOB, RULES, samples.INFOS, wide=True)
    check_snapshot("made-wide", text_of(view, 80))


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize(
    "name", ["list", "status", "watch", "explain", "cluster-status", "cluster-list", "cluster-watch"]
)
def test_no_table_is_wider_than_the_terminal(name, width):
    lines = text_of(NAMED[name](width), width).splitlines()
    assert max(cell_len(line) for line in lines) <= width


@pytest.mark.parametrize("name", NAMED)
def test_a_pipe_gets_no_control_codes_and_no_blanks_at_line_ends(name, monkeypatch):
    text = text_of(NAMED[name](80), 80)
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_a_terminal_gets_colour_and_the_same_words():
    plain, coloured = (text_of(NAMED["list"](80), 80, tty=tty) for tty in (False, True))
    assert "\x1b[" in coloured
    import re

    stripped = re.sub(r"\x1b\[[0-9;]*m", "", coloured)
    assert [line.rstrip() for line in stripped.splitlines()] == plain.splitlines()


def test_no_color_takes_the_colours_away(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    text = text_of(NAMED["list"](80), 80, tty=True)
    assert "\x1b[3" not in text  # no foreground colour; bold may stay
    assert "shop-bob" in text


def test_a_pipe_is_not_cut():
    text = text_of(NAMED["list"](10_000), 10_000)
    assert samples.LONG.intercept.name in text
    assert "path =~ /api/v[0-9]+/checkout/.*" in text


def test_replicas_are_named_together():
    assert group_name(["netns/lab-shop-2", "netns/lab-shop-1"]) == "netns/lab-shop-{1,2}"
    assert group_name(["netns/lab-shop-1"]) == "netns/lab-shop-1"
    assert group_name([f"p{n}" for n in range(6)]) == "p{0,1,2,… 3 more}"


def test_curl_line_is_what_one_can_paste():
    assert curl_line(samples.BOB, RULES, samples.INFOS) == "curl -H 'Coder: Bob' http://10.77.1.11/api"
    six = [dataclasses.replace(info, addresses=("fd77::1",)) for info in samples.INFOS]
    other = dataclasses.replace(samples.BOB, intercept=samples.intercept(port=9000))
    assert (
        curl_line(other, Rules(other.intercept.headers), six)
        == "curl -H 'Coder: Bob' 'http://[fd77::1]:9000/'"
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"headers": (HeaderRule("Coder", "B.*", regex=True),)},
        {"path": PathRule(PathKind.REGEX, "/a.*")},
        {"path": PathRule(PathKind.EQUAL, "*")},
    ],
)
def test_no_curl_line_is_made_up_for_patterns(changes):
    made = dataclasses.replace(samples.BOB, intercept=samples.intercept(**changes))
    assert not curl_line(made, Rules(made.intercept.headers, made.intercept.path), samples.INFOS)


def test_on_failure_error_is_said():
    made = dataclasses.replace(samples.BOB, intercept=samples.intercept(on_failure=OnFailure.ERROR))
    assert "502" in text_of(made_view(made, RULES, samples.INFOS), 80)
