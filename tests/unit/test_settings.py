from __future__ import annotations

from pathlib import Path

import pytest

from taskforge.errors import ConfigurationError
from taskforge.settings import TABLE, Settings, describe, load, redacted_url

HOME = {"HOME": "/home/ann"}


@pytest.fixture(autouse=True)
def in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_table_and_struct_have_the_same_names_in_the_same_order() -> None:
    assert (*(row.name for row in TABLE), "origins") == Settings.__struct_fields__


def test_defaults_need_no_environment() -> None:
    settings = load(environ=HOME)
    assert (settings.host, settings.port, settings.concurrency) == ("127.0.0.1", 8000, 50)
    assert settings.data_dir == Path("/home/ann/.local/share/taskforge")
    assert settings.outbox_dir == settings.data_dir / "outbox"
    assert set(settings.origins.values()) == {"default"}


def test_flags_beat_environment_beats_file_beats_defaults(tmp_path: Path) -> None:
    (tmp_path / "taskforge.toml").write_text("concurrency = 1\nprefetch = 2\nport = 3\n")
    settings = load(
        environ={**HOME, "TASKFORGE_PREFETCH": "20", "TASKFORGE_PORT": "30"},
        flags={"port": 300, "host": None},
    )
    assert (settings.concurrency, settings.prefetch, settings.port) == (1, 20, 300)
    assert settings.origins["concurrency"] == "taskforge.toml"
    assert settings.origins["prefetch"] == "TASKFORGE_PREFETCH"
    assert settings.origins["port"] == "--port"
    assert settings.origins["host"] == "default"


def test_the_specific_port_variable_wins() -> None:
    assert load(environ={**HOME, "PORT": "1", "TASKFORGE_PORT": "2"}).port == 2
    assert load(environ={**HOME, "PORT": "1"}).port == 1


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(environ={**HOME, "DATABASE_URL": ""}).database_url is None


@pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+asyncpg"])
def test_database_addresses_are_accepted_in_three_spellings(scheme: str) -> None:
    settings = load(environ={**HOME, "DATABASE_URL": f"{scheme}://ann@db/jobs?sslmode=require"})
    assert settings.database_url == "postgresql://ann@db/jobs?sslmode=require"


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("TASKFORGE_PORT", "http", "a whole number from 0 to 65535"),
        ("TASKFORGE_PORT", "65536", "a whole number from 0 to 65535"),
        ("TASKFORGE_CONCURRENCY", "0", "a whole number of jobs from 1 to 100000"),
        ("TASKFORGE_CONCURRENCY", "9" * 5000, "a whole number of jobs"),
        ("TASKFORGE_WORKER_TTL", "nan", "a number of seconds from 0.1"),
        ("TASKFORGE_ENV", "prod", "one of development, production"),
        ("TASKFORGE_MAX_BODY_BYTES", "16 MB", "or one with KiB, MiB or GiB"),
        ("TASKFORGE_URL", "ftp://x", "an address like https://"),
    ],
)
def test_a_bad_value_is_refused_with_variable_value_and_expectation(
    variable: str, value: str, expected: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(environ={**HOME, variable: value})
    assert caught.value.code == "config.invalid"
    assert variable in caught.value.detail
    assert value in caught.value.detail
    assert expected in caught.value.detail


def test_a_bad_secret_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(environ={**HOME, "DATABASE_URL": "mysql://ann:hunter2@db/jobs"})
    assert "DATABASE_URL" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_boolean_is_not_a_number(tmp_path: Path) -> None:
    (tmp_path / "taskforge.toml").write_text("port = true\n")
    with pytest.raises(ConfigurationError, match=r"port in taskforge\.toml: True is not a whole number"):
        load(environ=HOME)


def test_an_unknown_key_in_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "taskforge.toml").write_text("prot = 1\n")
    with pytest.raises(ConfigurationError, match="prot"):
        load(environ=HOME)


def test_a_named_file_must_exist_and_parse(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        load(environ=HOME, config=tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("port = ")
    with pytest.raises(ConfigurationError, match=r"broken\.toml"):
        load(environ={**HOME, "TASKFORGE_CONFIG": str(broken)})


def test_secrets_can_come_from_files(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("k" * 40 + "\n")
    settings = load(environ={**HOME, "JWT_SECRET_FILE": str(secret)})
    assert settings.jwt_secret == "k" * 40
    assert settings.origins["jwt_secret"] == "JWT_SECRET_FILE"
    with pytest.raises(ConfigurationError, match="both set"):
        load(environ={**HOME, "JWT_SECRET_FILE": str(secret), "JWT_SECRET": "x"})
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load(environ={**HOME, "JWT_SECRET_FILE": str(tmp_path / "none")})


def test_secrets_never_print() -> None:
    settings = load(
        environ={
            **HOME,
            "DATABASE_URL": "postgres://ann:canary@db/jobs?password=canary",
            "DATABASE_DIRECT_URL": "postgres://ann:canary@db/jobs",
            "JWT_SECRET": "canary",
            "TASKFORGE_TOKEN": "canary",
        }
    )
    printed = repr(settings) + str(settings) + repr(describe(settings)) + repr(list(settings.__rich_repr__()))
    assert "canary" not in printed
    assert "postgresql://ann:***@db/jobs" in printed


def test_a_redacted_address_keeps_what_helps() -> None:
    assert redacted_url("postgresql://db:5432/jobs") == "postgresql://db:5432/jobs"
    assert redacted_url("postgresql://a:p%40@db/jobs?host=/run") == "postgresql://a:***@db/jobs?host=***"


def test_sizes_and_lists_have_their_own_spelling() -> None:
    settings = load(
        environ={**HOME, "TASKFORGE_MAX_BODY_BYTES": "2 MiB", "TASKFORGE_QUEUES": "email, default,"}
    )
    assert settings.max_body_bytes == 2 * 1024 * 1024
    assert settings.queues == ("email", "default")


def test_data_folder_follows_xdg() -> None:
    assert load(environ={**HOME, "XDG_DATA_HOME": "/data"}).data_dir == Path("/data/taskforge")
