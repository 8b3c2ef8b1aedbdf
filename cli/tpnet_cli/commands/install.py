"""``tpnet install``, ``upgrade`` (the same), ``uninstall`` and ``grant``: for admins of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from tpnet.model import InvalidInput, Refused
from tpnet_cli.output import is_data, output_option, write_data
from tpnet_cli.where import Where, where_options

if TYPE_CHECKING:
    from tpnet.control.kubernetes.client import ClusterControl
    from tpnet.control.kubernetes.install import Step


def _cluster(where: Where) -> ClusterControl:
    """Raises ``InvalidInput`` when no cluster is named."""
    if where.options is None:
        raise InvalidInput(
            "tpnet is installed in a cluster, and no kubeconfig names one.",
            "Give one: --kubeconfig FILE, or KUBECONFIG. Without a cluster: tpnet agent run --local",
        )
    from tpnet.control.kubernetes.client import connect

    return connect(where.options)


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--wait/--no-wait", default=True, help="Wait until every node's agent is ready. Default: yes.")
@click.option(
    "--image", default="", metavar="IMAGE", help="The agents' image. Default: that of this version."
)
@where_options()
@output_option()
def install(where: Where, dry_run: bool, wait: bool, image: str, output: str | None) -> None:
    """Install tpnet in a cluster, or upgrade it: kinds, rights, policies, and an agent on each node.

    Doing it again changes nothing. Nothing of any service is touched until somebody intercepts it.
    """
    from tpnet.control.kubernetes.install import apply, manifests, preview, wait_ready
    from tpnet_cli.terminal import OK, Steps, make_console

    objects = manifests(image)
    steps = Steps(make_console(), quiet=is_data(output))
    with _cluster(where) as control:
        if dry_run:
            done = control.call(lambda api: preview(api, objects))
        else:
            with steps.doing(f"installing in {control.server}"):
                done = control.call(lambda api: apply(api, objects))
        changed = [step for step in done if str(step.change) != "unchanged"]
        if is_data(output):
            write_data([_data(step) for step in done], output)
        else:
            for step in changed:
                click.echo(f"  {step.change}  {step.what}{_fields(step)}")
            what = "would change" if dry_run else "changed"
            steps.done(OK, "objects", f"{len(changed)} of {len(done)} {what}")
        if dry_run or not wait:
            return
        with steps.doing("waiting for the agents") as watch:
            ready = control.call(wait_ready)
        steps.done(OK, "agents", f"{ready.ready}/{ready.nodes} nodes ready", watch.seconds)
    if not is_data(output):
        click.echo("\ntry  tpnet grant --help        then  tpnet intercept SERVICE")


@click.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@where_options()
@output_option()
def uninstall(where: Where, yes: bool, output: str | None) -> None:
    """Remove tpnet from a cluster. Names what is intercepted, and asks first."""
    from tpnet.control.kubernetes.install import intercepted
    from tpnet.control.kubernetes.install import uninstall as remove
    from tpnet_cli.terminal import OK, Steps, make_console

    steps = Steps(make_console(), quiet=is_data(output))
    with _cluster(where) as control:
        there = control.call(intercepted)
        names = [
            f"{one['metadata']['namespace']}/{one['metadata']['name']} ({one['spec']['user']})"
            for one in there
        ]
        if names and not is_data(output):
            click.echo(f"These intercepts end, and their requests go to the pods again: {', '.join(names)}")
        if not yes and (is_data(output) or not click.confirm("Remove tpnet from the cluster?", err=True)):
            raise Refused("Nothing was removed.", "Say so with --yes, or answer y.")
        with steps.doing("removing it") as watch:
            done = control.call(remove)
        if is_data(output):
            write_data([_data(step) for step in done], output)
        steps.done(OK, "removed", f"{len(done)} objects; nothing of tpnet is left", watch.seconds)


@click.command()
@click.argument("who", metavar="USER|GROUP", nargs=1)
@click.option("--group", is_flag=True, help="WHO is a group, not a user.")
@click.option("--all-requests", is_flag=True, help="Global intercepts as well.")
@click.option("--admin", is_flag=True, help="To see and end everybody's, in the whole cluster.")
@where_options(listing=True)
@output_option()
def grant(where: Where, who: str, group: bool, all_requests: bool, admin: bool, output: str | None) -> None:
    """Give somebody the right to intercept: in the namespace, or with -A in all of them."""
    from tpnet.control.kubernetes.grant import Subject, bindings
    from tpnet.control.kubernetes.grant import grant as give

    with _cluster(where) as control:
        everywhere = where.options is not None and where.options.all_namespaces
        namespaces = [] if everywhere or admin else [control.namespace]
        subject = Subject("Group" if group else "User", who)
        wanted = bindings(subject, namespaces, everybodys=all_requests, admin=admin)
        control.call(lambda api: give(api, wanted))
        made = [f"{resource.kind} {obj['metadata']['name']}" for resource, obj in wanted]
    if is_data(output):
        write_data(made, output)
        return
    scope = "everywhere" if not namespaces else f"in {namespaces[0]}"
    click.echo(f"✓ {who} may intercept {scope}{', global intercepts too' if all_requests else ''}")


def _data(step: Step) -> dict[str, object]:
    return {"what": step.what, "change": str(step.change), "fields": list(step.fields)}


def _fields(step: Step) -> str:
    return f": {', '.join(step.fields[:4])}" if step.fields else ""
