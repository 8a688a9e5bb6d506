"""Logins to Kafka: OAuth tokens, those of AWS, and what files hold now."""

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from bridge.kafka.clients import login_arguments
from bridge.kafka.errors import LoginError
from bridge.kafka.login import Login, _seconds, login_of
from bridge.settings import KafkaSettings, SettingsError, load_settings
from tests.support.oauth import CLIENT_ID, CLIENT_SECRET, OAuthServer

ROOT = Path(__file__).parents[2]


def settings(server: OAuthServer, **others: Any) -> KafkaSettings:
    return KafkaSettings.model_validate(
        {
            "security_protocol": "SASL_PLAINTEXT",
            "sasl_mechanism": "OAUTHBEARER",
            "oauth_token_url": server.url,
            "oauth_client_id": CLIENT_ID,
            "oauth_client_secret": CLIENT_SECRET,
        }
        | others
    )


async def test_connections_share_a_token_that_is_renewed_before_it_ends() -> None:
    """All connections use one token, and the first connection after four fifths of its life has a new one."""
    async with OAuthServer(lifetime=1.0).serving() as server:
        login = Login(settings(server))
        first = {await token for token in [login.token() for _ in range(5)]}
        assert (len(first), server.granted) == (1, 1)
        await asyncio.sleep(0.85)
        assert await login.token() not in first
        assert server.granted == 2


@pytest.mark.parametrize(("stated", "lifetime"), [(True, 60.0), (False, 60.0)])
async def test_an_outage_of_the_token_url_is_bridged_while_the_token_is_valid(stated: bool, lifetime: float) -> None:
    """A token that should be renewed is used until it ends if no new one can be had; where the answer does not say how
    long it is valid, the token itself does.
    """
    async with OAuthServer(lifetime).serving() as server:
        server.says_lifetime = stated
        login = Login(settings(server))
        token = await login.token()
        assert login._token is not None
        assert 0.7 * lifetime < login._token.renew_at - time.monotonic() < 0.9 * lifetime
        server.down = True
        login._token = login._token._replace(renew_at=0.0)
        assert await login.token() == token
        login._token = login._token._replace(ends_at=0.0)
        with pytest.raises(LoginError, match="HTTP 503"):
            await login.token()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"oauth_client_secret": "wr0ng"}, "HTTP 401 (invalid_client"),
        ({"oauth_scope": "forbidden"}, "HTTP 400 (invalid_scope): check kafka.oauth_scope"),
        ({"oauth_token_url": "http://127.0.0.1:1/token"}, "does not answer (connection refused): check"),
    ],
)
async def test_why_there_is_no_token(given: dict[str, str], text: str) -> None:
    """A wrong secret, a wrong scope and a wrong address are distinguished, and no secret is shown."""
    async with OAuthServer().serving() as server:
        server.secret = CLIENT_SECRET
        with pytest.raises(LoginError) as caught:
            await Login(settings(server, **given)).token()
    assert text in str(caught.value)
    assert "check kafka.oauth_" in str(caught.value)
    assert "wr0ng" not in str(caught.value)


async def test_a_rotated_secret_is_read_again(tmp_path: Path) -> None:
    """A client secret that was replaced in the secrets directory is used for the next token, without a restart."""
    file = tmp_path / "asm_bridge_kafka__oauth_client_secret"
    file.write_text("old")
    async with OAuthServer().serving() as server:
        given = settings(server).model_dump(include={"security_protocol", "sasl_mechanism", "oauth_token_url"})
        overrides = {f"kafka.{name}": value for name, value in given.items()}
        overrides |= {"kafka.oauth_client_id": CLIENT_ID, "secrets_dir": str(tmp_path)}
        login = Login(load_settings(None, overrides).kafka)
        with pytest.raises(LoginError):
            await login.token()
        file.write_text(f"{CLIENT_SECRET}\n")
        assert await login.token()


def test_every_connection_has_the_password_as_it_is_now(tmp_path: Path) -> None:
    """A password file of the secrets directory is read for each connection; while it is missing, the last value from
    the start is used.
    """
    file = tmp_path / "asm_bridge_kafka__sasl_password"
    file.write_text("first")
    overrides = {"kafka.security_protocol": "SASL_PLAINTEXT", "kafka.sasl_username": "u", "secrets_dir": str(tmp_path)}
    connection = load_settings(None, overrides).kafka.client_arguments()
    assert login_arguments(connection)["sasl_plain_password"] == "first"
    file.write_text("second")
    assert login_arguments(connection)["sasl_plain_password"] == "second"
    file.unlink()
    assert login_arguments(connection)["sasl_plain_password"] == "first"


def test_a_rotated_certificate_is_loaded_again(authority: Path, tmp_path: Path) -> None:
    """Certificates are loaded again once a file was replaced; one that cannot be loaded is an error that says so."""
    certificate, key = tmp_path / "client.pem", tmp_path / "client.key"
    certificate.write_bytes((authority / "good.pem").read_bytes())
    key.write_bytes((authority / "good.key").read_bytes())
    kafka = KafkaSettings(security_protocol="SSL", ssl_certfile=certificate, ssl_keyfile=key)
    first = login_arguments(kafka.client_arguments())["ssl_context"]
    assert login_arguments(kafka.client_arguments())["ssl_context"] is first
    key.write_bytes((authority / "other.key").read_bytes())
    with pytest.raises(LoginError, match="ssl_keyfile"):
        login_arguments(kafka.client_arguments())
    certificate.write_bytes((authority / "other.pem").read_bytes())
    assert login_arguments(kafka.client_arguments())["ssl_context"] is not first


# -- AWS


def aws(servers: str = "b-1.x.kafka.eu-west-1.amazonaws.com:9098") -> KafkaSettings:
    return KafkaSettings(security_protocol="SASL_SSL", sasl_mechanism="AWS_MSK_IAM", bootstrap_servers=servers)


async def test_a_token_of_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_MSK_IAM sends a token of Amazon's signer for the region in the brokers' name, as OAUTHBEARER."""
    regions: list[str] = []

    def generate(region: str) -> tuple[str, int]:
        regions.append(region)
        return "signed", int((time.time() + 900) * 1000)

    signer: Any = ModuleType("aws_msk_iam_sasl_signer")
    signer.MSKAuthTokenProvider = SimpleNamespace(generate_auth_token=generate)
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", signer)
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    login = Login(aws())
    assert [await login.token(), await login.token()] == ["signed", "signed"]
    assert regions == ["eu-west-1"]
    assert login.arguments()["sasl_mechanism"] == "OAUTHBEARER"
    assert login._token is not None
    assert 700 < login._token.renew_at - time.monotonic() < 725
    with pytest.raises(LoginError, match="set AWS_REGION"):
        await Login(aws("kafka.example.com:9098")).token()


async def test_the_real_signer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Amazon's package signs with the environment's credentials, and makes no request."""
    pytest.importorskip("aws_msk_iam_sasl_signer", reason="the extra aws is not installed")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cret")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    token = await Login(aws()).token()
    assert "s3cret" not in token
    assert token


async def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without Amazon's package the error says what to install."""
    monkeypatch.setitem(sys.modules, "aws_msk_iam_sasl_signer", None)
    with pytest.raises(LoginError, match=r"pip install 'asm-kafka-bridge\[aws\]'"):
        await Login(aws()).token()


def test_amazons_package_is_imported_only_when_it_is_used() -> None:
    """Neither a client of Kafka nor the settings import Amazon's package."""
    code = "import sys, bridge.app; print(sorted(m for m in sys.modules if m.split('.')[0] in ('boto3', 'botocore')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "[]"


# -- settings


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"sasl_mechanism": "OAUTHBEARER"}, "kafka.oauth_token_url: is missing: kafka.sasl_mechanism=OAUTHBEARER"),
        (
            {"sasl_mechanism": "OAUTHBEARER", "sasl_username": "x"},
            "sasl_username: is not used with kafka.sasl",
        ),
        ({"sasl_mechanism": "AWS_MSK_IAM", "oauth_scope": "x"}, "oauth_scope: is not used with kafka.sasl_mechanism"),
        (
            {"sasl_username": "u", "sasl_password": "p", "oauth_client_id": "x"},
            "oauth_client_id: is not used",
        ),
        ({"oauth_token_url": "http://me:pw@login/token"}, "must not contain a user name or password"),
        ({"oauth_token_url": "login.example.com"}, "must be an address such as https://"),
    ],
)
def test_wrong_combinations_are_named(given: dict[str, str], problem: str) -> None:
    """Each mechanism requires its own settings, and those of another one are a fault."""
    overrides = {f"kafka.{name}": value for name, value in given.items()} | {"kafka.security_protocol": "SASL_SSL"}
    with pytest.raises(SettingsError) as caught:
        load_settings(None, overrides)
    assert problem in str(caught.value)


def test_one_login_for_the_same_settings() -> None:
    """All clients with the same settings share one login, and so one token."""
    assert login_of(aws()) is login_of(aws())


@pytest.mark.parametrize("value", [10**400, "9" * 5000, "NaN", "1e999", -1, 0, None, [], {}])
def test_a_lifetime_that_is_none_is_not_known(value: object) -> None:
    """A lifetime that is not a number of seconds, or larger than any number, counts as missing."""
    assert _seconds(value) is None
