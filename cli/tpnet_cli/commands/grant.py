"""``tpnet grant`` and ``tpnet revoke``: who may intercept what."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tpnet.model import InvalidInput
from tpnet_cli.output import is_data, is_wide, output_option, say, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from tpnet.control.kubernetes.api import Object


@click.command()
@click.argument("name")
@click.option("--group", "kind", flag_value="Group", help="NAME is a group.")
@click.option("--service-account", "kind", flag_value="ServiceAccount", help="NAME is NAMESPACE/NAME of one.")
@click.option(
    "-n", "--namespace", "namespaces", multiple=True, metavar="NAME", help="Where; as often as needed."
)
@click.option("-A", "--all-namespaces", "everywhere", is_flag=True, help="In all namespaces, later ones too.")
@click.option("--global", "everybodys", is_flag=True, help="Also intercepts that take everybody's requests.")
@click.option("--admin", is_flag=True, help="Also to see and end everybody's, in the whole cluster.")
@where_options(cluster_only=True)
@output_option()
def grant(
    where: Where,
    name: str,
    kind: str | None,
    namespaces: tuple[str, ...],
    everywhere: bool,
    everybodys: bool,
    admin: bool,
    output: str | None,
) -> None:
    """Let somebody intercept: the user NAME, in a namespace. Without -n or -A: in the context's own.

    It makes role bindings of tpnet's roles, which kubectl shows: kubectl get rolebindings,clusterrolebindings -A -l
    app.kubernetes.io/part-of=tpnet
    """
    from tpnet.control.kubernetes import grant as work

    if namespaces and everywhere:
        raise InvalidInput("-A is all namespaces, and -n is some.", "Say one or the other.")
    subject = work.Subject(kind or "User", name)
    with where.cluster() as control:
        places = [] if everywhere else list(namespaces or [control.namespace])
        wanted = work.bindings(subject, places, everybodys=everybodys, admin=admin)
        control.call(lambda api: work.grant(api, wanted))
    made = [_binding(obj) for _, obj in wanted]
    if is_data(output):
        write_data([{"role": role, "in": place} for role, place in made], output)
        return
    what = "make intercepts, global ones too," if everybodys else "make intercepts"
    say(f"✓ {name} may now {what} in {', '.join(places) or 'all namespaces'}")
    if admin:
        say(f"✓ {name} may see and end everybody's")
    if is_wide(output):
        for role, place in made:
            say(f"  bound  {role}   in {place}")
    say(f"back   tpnet revoke {name}{_kind_flag(kind)}")


@click.command()
@click.argument("name")
@click.option("--group", "kind", flag_value="Group", help="NAME is a group.")
@click.option("--service-account", "kind", flag_value="ServiceAccount", help="NAME is NAMESPACE/NAME of one.")
@where_options(cluster_only=True)
@output_option()
def revoke(where: Where, name: str, kind: str | None, output: str | None) -> None:
    """Take back all that tpnet grant gave to NAME, in every namespace.

    What they intercept at this moment stands until their session ends; tpnet leave --force ends it at once.
    """
    from tpnet.control.kubernetes import grant as work

    subject = work.Subject(kind or "User", name)
    with where.cluster() as control:
        removed = control.call(lambda api: work.revoke(api, subject))
    if is_data(output):
        write_data(removed, output)
    elif not removed:
        say(f"{name} had nothing that tpnet grant gave.")
    else:
        say(f"✓ taken from {name}")
        for text in removed:
            say(f"  {text}")


def _binding(obj: Object) -> tuple[str, str]:
    return obj["roleRef"]["name"], obj["metadata"].get("namespace") or "all namespaces"


def _kind_flag(kind: str | None) -> str:
    return {"Group": " --group", "ServiceAccount": " --service-account"}.get(kind or "", "")
