"""The ``balog_*`` settings."""

from __future__ import annotations

import pytest
from pydantic import SecretStr

from balog_celery.errors import ConfigurationError
from balog_celery.settings import Settings


def test_only_keys_with_the_prefix_are_read() -> None:
    """Only keys with the prefix are read."""
    settings = Settings.from_conf({"balog_region": "eu-west-1", "broker_url": "x", "os": object()})
    assert settings.region == "eu-west-1"
    assert settings.wait_time == 20


def test_a_misspelt_setting_is_an_error_that_names_the_nearest() -> None:
    """A misspelt setting is an error that names the nearest one."""
    with pytest.raises(ConfigurationError, match=r"unknown setting balog_regoin: did you mean balog_region\?"):
        Settings.from_conf({"balog_regoin": "eu-west-1"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("wait_time", 21),
        ("wait_time", "soon"),
        ("engine", "perhaps"),
        ("drain", -1),
        ("dead_letter", "{env}-dead"),
        ("dead_letter", ""),
    ],
)
def test_a_wrong_value_is_an_error_that_names_setting_and_value(key: str, value: object) -> None:
    """A wrong value is an error that names the setting, the value and the setting's meaning."""
    with pytest.raises(ConfigurationError, match=rf"bad value .*{value}.* for setting balog_{key}"):
        Settings.from_conf({f"balog_{key}": value})


@pytest.mark.parametrize("name", sorted(Settings.model_fields.keys() - {"dead_letter"}))
@pytest.mark.parametrize("empty", ["", " \n", SecretStr("")], ids=["empty", "blank", "secret"])
def test_an_empty_text_is_a_setting_that_is_not_set(name: str, empty: object) -> None:
    """An empty text, as of an empty variable of the environment, leaves any setting but the dead letters' unset."""
    settings = Settings.from_conf({f"balog_{name}": empty})
    assert (settings, settings.model_fields_set) == (Settings(), set())


def test_a_wrong_secret_is_not_shown() -> None:
    """A wrong secret is neither in the error nor in the repr of the settings."""
    with pytest.raises(ConfigurationError) as error:
        Settings.from_conf({"balog_aws_secret_access_key": 123456})
    assert "123456" not in str(error.value)
    assert "hush" not in repr(Settings.from_conf({"balog_aws_secret_access_key": "hush"}))


def test_one_payload_bucket_needs_no_list() -> None:
    """One payload bucket may be given without a list."""
    assert Settings.from_conf({"balog_payload_bucket": "b"}).payload_bucket == ("b",)
    assert Settings.from_conf({"balog_payload_bucket": ["b", "c"]}).payload_bucket == ("b", "c")


def test_one_package_needs_no_list() -> None:
    """One package may be given without a list."""
    assert Settings.from_conf({"balog_packages": "proj.events"}).packages == ("proj.events",)


def test_every_setting_is_described() -> None:
    """Every setting has a description."""
    assert all(field.description for field in Settings.model_fields.values())
