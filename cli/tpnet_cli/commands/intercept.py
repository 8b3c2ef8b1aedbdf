"""``tpnet intercept``: from flags to a standing intercept, saying each step as it is done."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from typing import TYPE_CHECKING

import click

from tpnet.model import (
    CONNECT_SECONDS,
    LOCALHOST,
    MAX_CONNECT_SECONDS,
    Conflict,
    Handler,
    Intercept,
    InvalidInput,
    OnFailure,
    TpnetError,
    split_handler,
)
from tpnet.model.names import check_name
from tpnet_cli import complete, identity, ports
from tpnet_cli.output import is_data, is_wide, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tpnet.control.base import Control
    from tpnet.model import InterceptStatus
    from tpnet.rules import Rules
    from tpnet_cli.terminal import Steps, Watch

_LOOK_EVERY = 0.5
"""Seconds between two looks at how far an intercept is."""

_HELP = """Make these requests of a service arrive at the process on this computer.

\b
In a cluster TARGET is a Service (NAME or svc/NAME), deploy/NAME, sts/NAME,
ds/NAME or pod/NAME. Without one it is a network namespace (NAME or netns/NAME,
wildcards allowed: 'shop-*'), a process (pid/N), a container (container/ID) or a
path; a comma separates several.

Without --http-header, or with --http-header auto, it takes the requests that carry your own id in the header
x-tpnet-intercept-id. Of several users' intercepts of one port that match, the oldest
personal one takes a request; of one's own, the most specific.

\b
Examples:
  tpnet intercept orders --http-header=Coder=Bob -n shop
  tpnet intercept deploy/orders --port 8080:80 --http-path-prefix=/api
  tpnet intercept orders --http-header=all
  tpnet intercept 'shop-*' --http-header=auto --local
"""


@click.command(help=_HELP)
@click.argument("target", shell_complete=complete.targets)
@click.option(
    "--port",
    "-p",
    metavar="LOCAL[:REMOTE]",
    shell_complete=complete.ports,
    help="Port of your process, and of the service. Default: the only one that the target has, for both.",
)
@click.option(
    "--http-header",
    "headers",
    multiple=True,
    metavar="KEY=VALUE",
    help="A header that requests must carry; all of several. KEY=~REGEX for a pattern; auto for an id "
    "of your own; all for every request.",
)
@click.option("--http-path-equal", "path_equal", multiple=True, metavar="PATH", help="Only this path.")
@click.option(
    "--http-path-prefix", "path_prefix", multiple=True, metavar="PATH", help="Only paths that begin so."
)
@click.option(
    "--http-path-regex", "path_regex", multiple=True, metavar="REGEX", help="Only paths that match wholly."
)
@click.option("--name", help="Its name. Default: the target's and yours.")
@click.option(
    "--on-failure",
    type=click.Choice([str(choice) for choice in OnFailure]),
    default=str(OnFailure.APP),
    show_default=True,
    help="Where its requests go while your process is not there: to the app, or to a 502.",
)
@click.option(
    "--shared", is_flag=True, help="Let narrower intercepts of others win over this one: a team's, say."
)
@click.option(
    "--connect-timeout",
    type=click.IntRange(1, MAX_CONNECT_SECONDS),
    default=CONNECT_SECONDS,
    metavar="SECONDS",
    show_default=True,
    help="How long a request waits for your process to be connected, while your session answers.",
)
@click.option(
    "--to",
    "to",
    default=LOCALHOST,
    metavar="HOST[:PORT]",
    show_default=True,
    help="Where your process listens: a host or an address, with the port if --port does not say it. An IPv6 address "
    "with a port is [::1]:8080.",
)
@click.option("--user", help="Your name. Default: TPNET_USER, or the login name.")
@where_options()
@output_option()
def intercept(
    where: Where,
    target: str,
    port: str | None,
    headers: tuple[str, ...],
    path_equal: tuple[str, ...],
    path_prefix: tuple[str, ...],
    path_regex: tuple[str, ...],
    name: str | None,
    on_failure: str,
    connect_timeout: int,
    to: str,
    shared: bool,
    user: str | None,
    output: str | None,
) -> None:
    """Hold the steps in order; each is a function below."""
    # What costs nothing to check comes first: a mistyped flag is told before anything is asked or started.
    local, remote = ports.parse_port(port) if port is not None else (None, None)
    if where.is_cluster:
        _check_words(target, name)
    else:
        identity.user_name(user)
    rules = _rules(headers, path_equal, path_prefix, path_regex)
    given = name is not None
    if name is not None:
        check_name("intercept", name)
    host, local = _handler(to, local, remote)

    from tpnet.model.codec import encode
    from tpnet_cli.terminal import Steps, make_console, show
    from tpnet_cli.views.made import Place, made_view

    console = make_console()
    steps = Steps(console, quiet=is_data(output))
    with where.control() as control:
        me = where.user(control, user)
        targets = control.resolve(target)
        ask = _ask_for_port if sys.stdin.isatty() and sys.stderr.isatty() and not is_data(output) else None
        chosen = ports.named_port(remote, targets) if isinstance(remote, str) else remote
        chosen = chosen or ports.choose_port(target, targets, local, ask)
        if where.is_cluster:
            ports.check_declared(chosen, targets[0])
        else:
            ports.check_listening(chosen, targets)
        before = control.status()
        name = where.name(control, name or identity.default_name(target, identity.slug(me)))
        owners = {item.intercept.name: item.intercept.user for item in before.intercepts}
        if not given:
            name = identity.free_name(name, owners)
        elif owners.get(name, me) != me:
            # One's own may be taken over from a session that is no more: the control plane judges that.
            raise Conflict(
                f"{owners[name]} has an intercept named {where.short(control, name)} already.",
                "Choose another name with --name.",
            )
        draft = Intercept(
            name=name,
            user=me,
            session="",
            target=target,
            targets=(),
            port=chosen,
            headers=rules.as_kept(me),
            path=rules.path,
            handler=str(Handler(host, local or chosen)),
            on_failure=OnFailure(on_failure),
            shared=shared,
            connect_timeout=connect_timeout,
        )
        made = _make(where, control, draft, before.agent.redirect, steps)
        place = Place(
            where.short(control, made.intercept.name),
            "the pods" if where.is_cluster else "the app",
            click.get_current_context().find_root().info_name or "tpnet",
            where.said,
        )
    if is_data(output):
        from tpnet_cli.own import revealed_one

        write_data(encode(revealed_one(made, me)), output)
    else:
        show(made_view(made, rules, targets, place=place, wide=is_wide(output)), console)


def _check_words(target: str, name: str | None) -> None:
    """Raise ``InvalidInput`` for what cannot be a target or a name in a cluster."""
    from tpnet.control.kubernetes.targets import parse_target, split_name

    parse_target(target)
    if name is not None:
        split_name(name, "default")


def _rules(
    headers: tuple[str, ...], equal: tuple[str, ...], prefix: tuple[str, ...], regex: tuple[str, ...]
) -> Rules:
    from tpnet.rules import parse_rules

    own_id = identity.auto_id() if not headers or "auto" in headers else ""
    return parse_rules(headers, equal, prefix, regex, own_id)


def _handler(to: str, local: int | None, remote: int | str | None) -> tuple[str, int | None]:
    """The host, and the port if it was given, of the developer's process. Raises ``InvalidInput``."""
    host, port = split_handler(to)
    if port is not None and local not in {None, port}:
        raise InvalidInput(
            f"--to={to} says that your process listens on port {port}, --port says {local}.",
            f"--port has your port in front, then the service's: --port {port}:{remote or local}",
        )
    return host, port or local


def _ask_for_port(choices: Sequence[int]) -> int:
    return int(
        click.prompt(
            "Which port of the service",
            type=click.Choice([str(port) for port in choices]),
            err=True,
            prompt_suffix="? ",
        )
    )


def _make(where: Where, control: Control, draft: Intercept, redirect: str, steps: Steps) -> InterceptStatus:
    """Start the session if need be and create the intercept, a line for each step."""
    from tpnet_cli import texts
    from tpnet_cli.terminal import OK, WAITING

    with steps.doing("starting your session") as watch:
        session = where.ensure_session(draft.user)
        facts = session.info()
    new = watch.seconds if time.time() - float(facts["started"]) < watch.seconds + 1 else None
    tunnel = f"WireGuard to {facts['endpoint']}" if facts["endpoint"] else "WireGuard"
    steps.done(OK, "session", f"{facts['session']} · {tunnel}", new)

    what = f"redirecting port {draft.port} of {draft.target}"
    with steps.doing(what) as watch, _told(control, draft.name, what, watch):
        made = session.add(draft)
    good = made.ready == made.total > 0
    if where.is_cluster:
        agents = session.info()["agents"]
        where_they_are = texts.counted(len(agents), "node")
        said = f"{made.ready}/{made.total} on {where_they_are} redirected ({redirect}) and probed"
        steps.done(OK if good else WAITING, "pods", said, watch.seconds)
    else:
        agents = []
        said = f"{made.ready}/{made.total} redirected ({redirect}) and probed"
        steps.done(OK if good else WAITING, "targets", said, watch.seconds)
    for problem in made.problems:
        steps.done(WAITING, "", problem)
    elsewhere = "to the app" if draft.on_failure is OnFailure.APP else "unanswered (502)"
    for agent in agents:
        if not agent["up"]:
            carrier = f" by UDP at {agent['endpoint']}" if agent["endpoint"] else ""
            said = f"node {agent['node']} does not answer{carrier} yet; requests there go {elsewhere} until it does"
            steps.done(WAITING, "tunnel", said)
    if not made.handler_up:
        said = f"{made.handler_problem}; requests go {elsewhere} until that changes"
        steps.done(WAITING, "handler", said)
    return made


@contextlib.contextmanager
def _told(control: Control, name: str, what: str, watch: Watch) -> Iterator[None]:
    """Show how far the intercept is while the block makes it, where something is shown at all."""
    if watch.say is None:
        yield
        return
    say, over = watch.say, threading.Event()

    def follow() -> None:
        while not over.wait(_LOOK_EVERY):
            with contextlib.suppress(TpnetError):
                for item in control.status().intercepts:
                    if item.intercept.name == name:
                        say(f"{what}: {item.ready}/{item.total}")

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
