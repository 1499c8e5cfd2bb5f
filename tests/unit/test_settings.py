"""Settings refuse what would charge real money, or leak a key, by mistake."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from config.settings import SANDBOX, STRIPE, Settings, read_settings, read_trace_settings
from orders.errors import InvalidInput


@pytest.mark.parametrize("key", ["sk_live_canary", "rk_live_canary"])
def test_a_live_key_is_refused_unless_it_is_meant(key: str) -> None:
    """It needs ALLOW_LIVE_STRIPE, and is not in the message."""
    with pytest.raises(ValidationError, match="ALLOW_LIVE_STRIPE") as refusal:
        Settings(stripe_secret_key=SecretStr(key))

    assert key not in str(refusal.value)
    assert Settings(stripe_secret_key=SecretStr(key), allow_live_stripe=True).stripe_base == STRIPE


def test_a_live_key_goes_to_stripe_only() -> None:
    """Any other address would receive the key."""
    with pytest.raises(ValidationError, match="leak"):
        Settings(stripe_secret_key=SecretStr("sk_live_x"), allow_live_stripe=True, stripe_api_base=SANDBOX)


def test_where_stripe_is() -> None:
    """It is the sandbox for the sandbox's key, Stripe for any other key, or what is set."""
    assert Settings().stripe_base == f"{SANDBOX}/stripe"
    assert Settings(stripe_secret_key=SecretStr("sk_test_other")).stripe_base == STRIPE
    assert Settings(stripe_api_base="http://127.0.0.1:1").stripe_base == "http://127.0.0.1:1"


def test_secrets_are_not_shown() -> None:
    """Their representation, which a log may hold, has no secret in it."""
    shown = repr(Settings(fulfillment_key=SecretStr("canary"), database_url=SecretStr("postgresql://u:canary@h/d")))

    assert "canary" not in shown
    assert "sk_test_sandbox" not in shown


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_TIMEOUT_SECONDS", "7"),
        ("HTTP_TIMEOUT_SECONDS", "0"),
        ("DATABASE_POOL_SIZE", "0"),
        ("PAYMENT_CAPTURE", "later"),
        ("FULFILLMENT_DEADLINE_SECONDS", "-1"),
    ],
)
def test_a_setting_out_of_range_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """The error names the field that the environment sets."""
    monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()


@pytest.mark.parametrize(
    "address", ["8420", ":8420", "127.0.0.1", "127.0.0.1:", "a b:1", "http://a:1", "::1:65536", "a:99999"]
)
def test_an_address_to_listen_at_has_a_host_and_a_port(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """The error names a form that works."""
    monkeypatch.setenv("HEALTH_ADDRESS", address)
    with pytest.raises(InvalidInput, match=r"HEALTH_ADDRESS: must have the form host:port, for example"):
        read_settings()
    for good in ("", "127.0.0.1:8420", "localhost:0", "[::1]:8420"):
        assert Settings(health_address=good).health_address == good


@pytest.mark.parametrize(
    ("name", "build_id", "message"),
    [
        ("orders", "", "TEMPORAL_DEPLOYMENT_NAME, TEMPORAL_WORKER_BUILD_ID: set both, or none"),
        ("", "1", "TEMPORAL_DEPLOYMENT_NAME, TEMPORAL_WORKER_BUILD_ID: set both, or none"),
        ("a.b", "1", "TEMPORAL_DEPLOYMENT_NAME: must have up to 128 letters"),
        ("orders", "a:b", "TEMPORAL_WORKER_BUILD_ID: must have up to 128 letters"),
    ],
)
def test_a_version_has_a_name_and_a_build_id(
    monkeypatch: pytest.MonkeyPatch, name: str, build_id: str, message: str
) -> None:
    """One without the other is refused, and so are the marks by which Temporal joins them."""
    monkeypatch.setenv("TEMPORAL_DEPLOYMENT_NAME", name)
    monkeypatch.setenv("TEMPORAL_WORKER_BUILD_ID", build_id)
    with pytest.raises(InvalidInput, match=message):
        read_settings()
    good = Settings(temporal_deployment_name="shop/order-sagas", temporal_worker_build_id="2026.11-3f9c2ab")
    assert good.temporal_worker_build_id == "2026.11-3f9c2ab"


@pytest.mark.parametrize(
    "address", ["8430", ":8430", "127.0.0.1", "localhost:8430", "::1:8430", "[127.0.0.1]:1", "::1"]
)
def test_metrics_are_served_at_a_number(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    """The SDK resolves no name, and a port that it chooses itself is known to nobody."""
    for bad in (address, "127.0.0.1:0", "127.0.0.1:65536"):
        monkeypatch.setenv("METRICS_ADDRESS", bad)
        with pytest.raises(InvalidInput, match=r"METRICS_ADDRESS: must have the form ip:port, for example"):
            read_settings()
    for good in ("", "0.0.0.0:8430", "[::]:8430"):
        assert Settings(metrics_address=good).metrics_address == good


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4318", "grpc://a:4317", "http://", "http://user:canary@a:4318", "http://a b"]
)
def test_traces_go_to_an_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """The error names one that works; credentials go into OTEL_EXPORTER_OTLP_HEADERS."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with pytest.raises(InvalidInput, match=r"OTEL_EXPORTER_OTLP_ENDPOINT: must have the form") as refusal:
        read_trace_settings()
    assert "canary" not in str(refusal.value)
    for good in ("", "http://127.0.0.1:4318", "https://collector.example.com/otlp"):
        assert Settings(otel_exporter_otlp_endpoint=good).otel_exporter_otlp_endpoint == good


SECRETS = {
    "STRIPE_SECRET_KEY": "sk_test_canary",
    "FULFILLMENT_KEY": "canary",
    "OPENAI_API_KEY": "canary",
    "STRIPE_WEBHOOK_SECRET": "whsec_canary",
    "FULFILLMENT_WEBHOOK_SECRET": "canary",
}


@pytest.mark.parametrize("name", SECRETS)
def test_spaces_around_a_secret_are_ignored(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A secret that comes from a file often ends in a newline."""
    monkeypatch.setenv(name, f" \t{SECRETS[name]}\r\n")
    assert getattr(Settings(), name.lower()).get_secret_value() == SECRETS[name]


@pytest.mark.parametrize("key", [" sk_live_canary", "\nrk_live_canary", "sk_live_canary\n"])
def test_a_live_key_behind_a_space_is_a_live_key(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """It would charge real money."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    with pytest.raises(InvalidInput, match="ALLOW_LIVE_STRIPE"):
        read_settings()


@pytest.mark.parametrize(
    "key", ['"sk_live_canary"', "\u200bsk_live_canary", "SK_LIVE_canary", "pk_live_canary", "", " "]
)
def test_only_a_secret_key_of_stripe_is_one(monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """Any other form might be a live key that no guard knows."""
    monkeypatch.setenv("STRIPE_SECRET_KEY", key)
    with pytest.raises(InvalidInput) as refusal:
        read_settings()
    assert refusal.value.problems == (
        "STRIPE_SECRET_KEY: must begin with one of sk_test_, rk_test_, sk_live_, rk_live_",
    )


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("form", ["{0} {0}", "{0}\n{0}", '"{0}"', "{0}\u200b", "{0}\u00e9"])
def test_a_secret_that_no_header_can_carry_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, form: str) -> None:
    """By its name, without its value."""
    monkeypatch.setenv(name, form.format(SECRETS[name]))
    with pytest.raises(InvalidInput, match=f"^{name}: must be") as refusal:
        read_settings()
    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("name", ["FULFILLMENT_KEY", "STRIPE_WEBHOOK_SECRET", "FULFILLMENT_WEBHOOK_SECRET"])
@pytest.mark.parametrize("value", ["", " \n"])
def test_a_secret_that_is_needed_is_not_empty(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Only OPENAI_API_KEY may be: there is no model then."""
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=f"{name}: must not be empty"):
        read_settings()


def test_signing_secrets_are_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """A comma without a secret is none."""
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", " a , b,\n")
    assert Settings().stripe_webhook_secret.get_secret_value() == "a,b"
    monkeypatch.setenv("STRIPE_WEBHOOK_SECRET", " , ")
    with pytest.raises(InvalidInput, match="STRIPE_WEBHOOK_SECRET: must not be empty"):
        read_settings()


def test_any_setting_may_have_spaces_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a choice, a number and a truth value."""
    for name, value in {"LOG_LEVEL": " DEBUG\n", "WEBHOOKS_PORT": " 8411\n", "ALLOW_LIVE_STRIPE": " true\n"}.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.log_level, settings.webhooks_port, settings.allow_live_stripe) == ("DEBUG", 8411, True)


ELSEWHERE = {
    "database_url": "postgresql://orders:canary@db.example/orders",
    "stripe_secret_key": "sk_test_canary",
    "stripe_api_base": STRIPE,
    "fulfillment_api": "https://warehouse.example",
    "email_service_url": "https://email.example",
    "analytics_url": "https://analytics.example",
    "slack_webhook": "https://hooks.slack.com/services/canary",
    "openai_base_url": "https://api.openai.com/v1",
}


EXTERNAL_SERVICES = [name for name, value in ELSEWHERE.items() if value.startswith("https:")]


@pytest.mark.parametrize("name", EXTERNAL_SERVICES)
@pytest.mark.parametrize(
    "url",
    [
        "http://canary.example/in",
        "http://127.0.0.1.example/canary",
        "http://127.0.0.1@canary.example",
        "ftp://127.0.0.1/canary",
        "//127.0.0.1/canary",
        "canary",
        "https:///canary",
        "https://canary.example:x",
        "https://canary.example:70000",
        "https://[canary",
        "https://canary.example\n/in",
        "https://canary.example /in",
        "https://canary\u200b.example",
    ],
)
def test_nobody_listens_in_on_the_way_to_a_external_services(name: str, url: str) -> None:
    """Keys and orders go by https, or stay on this machine; the error names the setting and hides the address."""
    with pytest.raises(ValidationError, match=f"{name.upper()}: must be an https address") as refusal:
        Settings.model_validate({name: url})

    assert "canary" not in str(refusal.value)


@pytest.mark.parametrize("name", EXTERNAL_SERVICES)
@pytest.mark.parametrize(
    "url",
    ["https://x.example:8443/in", "http://[::1]:1", "http://localhost", "HTTP://127.0.0.1:1", " https://x.example\n"],
)
def test_an_address_that_nobody_listens_in_on_is_taken(name: str, url: str) -> None:
    """That is https anywhere, or http on this machine."""
    assert Settings.model_validate({name: url})


@pytest.mark.parametrize("name", EXTERNAL_SERVICES)
def test_plain_http_in_the_shops_own_network(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Only to the hosts that INNER_HOSTS names, each by its whole name."""
    monkeypatch.setenv("INNER_HOSTS", "warehouse.inner, Mail \n")
    monkeypatch.setenv(name.upper(), "http://warehouse.inner:8080/api")
    assert read_settings().inner_host_names == ("warehouse.inner", "mail")

    for url in ("http://other.warehouse.inner", "http://warehouse.inner.example", "http://warehouse.inner@x.example"):
        monkeypatch.setenv(name.upper(), url)
        with pytest.raises(InvalidInput, match=f"{name.upper()}: must be an https address"):
            read_settings()


def test_a_live_key_goes_to_no_inner_host() -> None:
    """Only to Stripe."""
    with pytest.raises(ValidationError, match="leak"):
        Settings.model_validate(
            {
                "stripe_secret_key": "sk_live_x",
                "allow_live_stripe": True,
                "stripe_api_base": "http://inner",
                "inner_hosts": "inner",
            }
        )


@pytest.mark.parametrize("hosts", ["*.inner", "http://inner", "inner:80", "a b", "inner/x"])
def test_an_inner_host_is_a_name(monkeypatch: pytest.MonkeyPatch, hosts: str) -> None:
    """A pattern could name a stranger's host."""
    monkeypatch.setenv("INNER_HOSTS", hosts)
    with pytest.raises(InvalidInput, match="INNER_HOSTS: must be names of hosts"):
        read_settings()


@pytest.mark.parametrize("url", ["canary", "proxy:3128", "socks5://p:1", "http://p", "http://p:1/canary", "http://p:x"])
def test_a_proxy_is_an_address(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """It may have a password, which no message shows."""
    monkeypatch.setenv("OUTBOUND_PROXY", url)
    with pytest.raises(InvalidInput, match="OUTBOUND_PROXY: must have the form") as refusal:
        read_settings()
    assert "canary" not in str(refusal.value)
    monkeypatch.setenv("OUTBOUND_PROXY", "http://user:canary@proxy.inner:3128")
    assert "canary" not in repr(read_settings())


@pytest.mark.parametrize("content", [None, "", "no certificate"])
def test_a_ca_file_has_certificates(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None) -> None:
    """Without them no service could be reached."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(InvalidInput, match="SSL_CERT_FILE: must name a file with certificates"):
        read_settings()


@pytest.mark.parametrize("name", ["fulfillment_api", "email_service_url", "analytics_url", "slack_webhook"])
def test_an_external_service_with_no_default_has_an_address(name: str) -> None:
    """Only a setting with another default for that case may be empty."""
    with pytest.raises(ValidationError, match=name.upper()):
        Settings.model_validate({name: ""})
    assert Settings(stripe_api_base="", openai_base_url="")


@pytest.mark.parametrize("name", ELSEWHERE)
def test_no_worker_crashes_on_purpose_outside_the_sandbox(name: str) -> None:
    """CRASH_AT is refused where a service is real, or the database elsewhere; the error names the setting."""
    with pytest.raises(ValidationError, match=rf"CRASH_AT .*{name.upper()}") as refusal:
        Settings.model_validate({"crash_at": "reserve_stock:begin", name: ELSEWHERE[name]})

    assert "canary" not in str(refusal.value)
    assert not Settings.model_validate({name: ELSEWHERE[name]}).crash_at


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://127.0.0.1:5432,db.example:5432/orders",
        "postgresql://db.example,127.0.0.1/orders",
        "postgresql:///orders?host=db.example",
        "postgresql:///orders",
        "postgresql://127.0.0.1@db.example/orders",
        "postgresql://127.0.0.1.example/orders",
    ],
)
def test_only_one_plain_loopback_address_is_here(url: str) -> None:
    """An address with several hosts, or none, may be anywhere."""
    with pytest.raises(ValidationError, match=r"CRASH_AT .*DATABASE_URL"):
        Settings(crash_at="reserve_stock:begin", database_url=SecretStr(url))


def test_a_worker_may_crash_on_purpose_in_the_sandbox() -> None:
    """The defaults, which are the local stack's, allow it."""
    assert Settings(crash_at="reserve_stock:begin").crash_at
