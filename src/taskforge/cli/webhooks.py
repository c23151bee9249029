"""taskforge webhooks"""

from __future__ import annotations

from uuid import UUID

import click

from taskforge.api import path_of
from taskforge.cli.command import ClientGroup, Common, pass_common
from taskforge.cli.output import confirm, details, emit, say, table
from taskforge.cli.queues import ask, tenant_option
from taskforge.domain.webhooks import DeliveryState, DeliveryView, SecretView
from taskforge.rest.schemas import DeliveryPage, SecretMade, Secrets


@click.group(cls=ClientGroup)
def webhooks() -> None:
    """See which webhooks arrived, send them again, and manage the secrets that sign them."""


@webhooks.command()
@click.option(
    "--state", type=click.Choice([state.value for state in DeliveryState]), help="Only in this state."
)
@click.option(
    "--limit", type=click.IntRange(1, 1_000), default=50, show_default=True, help="How many at most."
)
@tenant_option
@pass_common
def deliveries(common: Common, state: str | None, limit: int, tenant: UUID | None) -> None:
    """List messages, newest first."""
    path = path_of("webhooks", "deliveries", query={"state": state, "limit": limit})
    page = ask(common, tenant, lambda access: access.api.call("GET", path, reads=DeliveryPage))
    if common.is_json:
        for delivery in page.data:
            emit(delivery)
        return
    columns = ("id", "event", "subject", "state", "attempts", "status", "error", "due", "url")
    rows = [
        (d.id, d.event, d.subject, d.state.value, d.attempts, d.status, d.error, d.due_at, d.url)
        for d in page.data
    ]
    table(columns, rows, right=("attempts", "status"))


@webhooks.command()
@click.argument("delivery_id")
@tenant_option
@pass_common
def redeliver(common: Common, delivery_id: str, tenant: UUID | None) -> None:
    """Send a message again, with the same id and all attempts anew."""
    path = path_of("webhooks", "deliveries", delivery_id, "redeliver")
    found = ask(common, tenant, lambda access: access.api.call("POST", path, reads=DeliveryView))
    if common.is_json:
        emit(found)
    else:
        say(f"delivery {found.id} will be sent to {found.url}")


@webhooks.group(cls=ClientGroup)
def secrets() -> None:
    """The secrets that sign webhooks; two can be active while receivers learn the new one."""


@secrets.command("list")
@tenant_option
@pass_common
def list_secrets(common: Common, tenant: UUID | None) -> None:
    """List the secrets, without what they are."""
    path = path_of("webhooks", "secrets")
    found = ask(common, tenant, lambda access: access.api.call("GET", path, reads=Secrets)).data
    if common.is_json:
        for secret in found:
            emit(secret)
        return
    rows = [(s.id, f"...{s.hint}", s.created_at, s.created_by, s.retired_at) for s in found]
    table(("id", "ends with", "created", "by", "retired"), rows)


@secrets.command()
@tenant_option
@pass_common
def create(common: Common, tenant: UUID | None) -> None:
    """Make a secret; it is shown this once."""
    path = path_of("webhooks", "secrets")
    made = ask(common, tenant, lambda access: access.api.call("POST", path, reads=SecretMade))
    if common.is_json:
        emit(made)
    else:
        click.echo(made.secret)
        say(f"secret {made.id} signs from now on; it will not be shown again")


@secrets.command()
@click.argument("secret_id")
@click.option("--yes", is_flag=True, help="Do not ask.")
@tenant_option
@pass_common
def retire(common: Common, secret_id: str, yes: bool, tenant: UUID | None) -> None:
    """Sign nothing with a secret any more."""
    confirm(f"Retire secret {secret_id}? Receivers that know no other will refuse what is sent.", is_sure=yes)
    path = path_of("webhooks", "secrets", secret_id, "retire")
    found = ask(common, tenant, lambda access: access.api.call("POST", path, reads=SecretView))
    if common.is_json:
        emit(found)
    else:
        details([("id", found.id), ("retired", found.retired_at)])
