from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from taskforge.errors import ConfigurationError
from taskforge.secrets_store import kept_secret, with_jwt_secret
from taskforge.settings import load
from taskforge.tokens import check_secret


def test_everybody_who_asks_at_once_gets_the_same_secret_which_others_cannot_read(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with ThreadPoolExecutor(8) as pool:
        secrets = set(pool.map(lambda _: kept_secret(folder), range(32)))
    [secret] = secrets
    assert check_secret(secret, is_development=False)
    assert (folder / "jwt-secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in folder.iterdir()] == ["jwt-secret"]


def test_a_secret_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    secret = kept_secret(tmp_path)
    os.chmod(tmp_path / "jwt-secret", 0o644)
    assert kept_secret(tmp_path) == secret
    assert (tmp_path / "jwt-secret").stat().st_mode & 0o777 == 0o600


def test_a_secret_that_is_set_wins_and_production_makes_none(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "TASKFORGE_DATA_DIR": str(tmp_path)}
    given = load(environ={**environ, "JWT_SECRET": "x" * 40})
    assert with_jwt_secret(given).jwt_secret == "x" * 40
    assert with_jwt_secret(load(environ={**environ, "TASKFORGE_ENV": "production"})).jwt_secret is None
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_used_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="TASKFORGE_DATA_DIR"):
        kept_secret(tmp_path / "file")
