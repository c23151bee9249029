"""The secret that signs tokens: JWT_SECRET, or in development one that is made once and kept in the data folder."""

from __future__ import annotations

import os
import secrets
import tempfile
from pathlib import Path

from msgspec import structs

from taskforge.errors import ConfigurationError
from taskforge.settings import Settings

FILE = "jwt-secret"


def with_jwt_secret(settings: Settings) -> Settings:
    """Settings with a secret, the same for every process that shares the data folder. In production none is made."""
    if settings.jwt_secret is not None or not settings.is_development:
        return settings
    return structs.replace(settings, jwt_secret=kept_secret(settings.data_dir))


def kept_secret(data_dir: Path) -> str:
    """The data folder's own secret, for its owner only; made when there is none. Safe to call at once by many."""
    path = data_dir / FILE
    try:
        return _read(path) or _make(path)
    except OSError as error:
        raise ConfigurationError(
            "config.secret_unreadable",
            f"the secret in {path} cannot be used: {error.strerror}; set JWT_SECRET, or TASKFORGE_DATA_DIR to a folder "
            "of yours",
        ) from error


def _read(path: Path) -> str | None:
    try:
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return path.read_text(encoding="ascii").strip() or None
    except FileNotFoundError:
        return None


def _make(path: Path) -> str:
    if not path.parent.exists():
        # As root, the embedded server's account has to pass through.
        path.parent.mkdir(parents=True, exist_ok=True)
        path.parent.chmod(0o711 if os.geteuid() == 0 else 0o700)
    descriptor, aside = tempfile.mkstemp(prefix=f".{FILE}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        try:
            # Unlike a rename, a link never replaces the secret that another process has just put there.
            os.link(aside, path)
        except FileExistsError:
            pass
    finally:
        os.unlink(aside)
    return path.read_text(encoding="ascii").strip()
