"""taskforge token"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import click

from taskforge.cli.command import Command, Common, pass_common
from taskforge.cli.kinds import duration


@click.command(cls=Command)
@click.option(
    "--tenant", type=click.UUID, help="The tenant that the token speaks for; the default one if not given."
)
@click.option(
    "--subject", default="cli", show_default=True, help="Who the token speaks for; it shows in audit trails."
)
@click.option(
    "--expires", type=duration, default="1d", show_default=True, metavar="DURATION", help="How long it lives."
)
@pass_common
def token(common: Common, tenant: UUID | None, subject: str, expires: float) -> None:
    """Make a token for the API.

    It is signed with JWT_SECRET; in development, without one, with a secret that is kept in the data folder.

    \b
    Example:
      export TOKEN=$(taskforge token --subject billing --expires 30d)
    """
    from taskforge.cli.output import emit
    from taskforge.domain.tenants import DEFAULT_TENANT
    from taskforge.secrets_store import with_jwt_secret
    from taskforge.tokens import MAX_LIFETIME_SECONDS, Tokens

    if not 1 <= expires <= MAX_LIFETIME_SECONDS:
        raise click.BadParameter(
            f"a token lives 1 s to {MAX_LIFETIME_SECONDS // 86_400} days", param_hint="--expires"
        )
    settings = with_jwt_secret(common.settings())
    tokens = Tokens(settings.jwt_secret, is_development=settings.is_development)
    tenant_id = tenant or DEFAULT_TENANT
    made = tokens.make(tenant_id=tenant_id, subject=subject, lifetime_seconds=int(expires))
    if common.is_json:
        expires_at = datetime.now(UTC) + timedelta(seconds=int(expires))
        emit({"token": made, "tenant_id": tenant_id, "subject": subject, "expires_at": expires_at})
    else:
        click.echo(made)
