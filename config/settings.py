"""Every setting of the project, in one object. Environment variables have the fields' names in upper case.

The defaults are those of the local stack, so that `make up` needs none. A test compares the table in docs/settings.md
with this module. The connection to Temporal is configured elsewhere: `temporalio.envconfig` reads TEMPORAL_ADDRESS,
TEMPORAL_NAMESPACE, TEMPORAL_API_KEY, TEMPORAL_TLS…, or a profile (see config/temporal.py).
"""

import re
import ssl
from collections.abc import Collection
from ipaddress import ip_address
from typing import Annotated, Final, Literal, Self, TypeVar
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, SettingsConfigDict

from config.database_url import parse_database_url
from config.payload_keys import Key, parse_payload_keys
from orders.errors import InvalidInput

SANDBOX = "http://127.0.0.1:8400"
SANDBOX_STRIPE_KEY = "sk_test_sandbox"
STRIPE = "https://api.stripe.com"
SANDBOX_STRIPE_WEBHOOK_SECRET = "whsec_sandbox"  # noqa: S105 (public)
SANDBOX_FULFILLMENT_WEBHOOK_SECRET = "fhsec_sandbox"  # noqa: S105
SANDBOX_OPENAI_KEY = "sk-sandbox"
OPENAI = "https://api.openai.com/v1"

IS_ADDRESS: Final = "the address of an external service"
# The types of the settings that are such an address: its default is that of the sandbox.
Address = Annotated[str, IS_ADDRESS]
SecretAddress = Annotated[SecretStr, IS_ADDRESS]

LOOPBACK: Final = {"127.0.0.1", "::1", "localhost"}
MAX_PORT: Final = 65535
MAX_HELD: Final = 1_000_000_000
STRIPE_KEYS: Final = ("sk_test_", "rk_test_", "sk_live_", "rk_live_")


class Environment(BaseSettings):
    """Spaces around the value of any setting are ignored."""

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _without_spaces_around(cls, value: object) -> object:
        """A secret that comes from a file often ends in a newline."""
        if isinstance(value, SecretStr):
            return SecretStr(value.get_secret_value().strip())
        return value.strip() if isinstance(value, str) else value


class PayloadSettings(Environment):
    """The keys of encrypted payloads: all that a client of Temporal needs."""

    payload_keys: SecretStr = Field(
        default=SecretStr(""),
        description="id:base64, separated by commas: payloads are encrypted with the first. Empty: they are not.",
    )

    @field_validator("payload_keys")
    @classmethod
    def _are_keys(cls, keys: SecretStr) -> SecretStr:
        parse_payload_keys(keys.get_secret_value())
        return keys


class TraceSettings(Environment):
    """Where traces are sent; the other variables of OpenTelemetry are read by its SDK."""

    otel_exporter_otlp_endpoint: str = Field(
        default="", description="Base URL of a collector that takes traces by OTLP over HTTP. Empty: none are sent."
    )
    otel_service_name: str = Field(default="order-sagas", description="The name of this program in traces.")

    @field_validator("otel_exporter_otlp_endpoint")
    @classmethod
    def _is_a_collector(cls, url: str) -> str:
        if not re.fullmatch(r"(https?://[^\s/?#@]+(/[^\s?#]*)?)?", url):
            raise ValueError("must have the form http://host:port or https://host/path, e.g. http://127.0.0.1:4318")
        return url


class DatabaseSettings(Environment):
    """Where PostgreSQL is: all that the migrations need."""

    database_url: SecretStr = Field(
        default=SecretStr("postgresql://orders:orders@127.0.0.1:54329/orders"),
        description="PostgreSQL with the migrations applied. "
        "A pgbouncer in transaction mode works, see DATABASE_PREPARED_STATEMENTS.",
    )

    @field_validator("database_url")
    @classmethod
    def _in_one_form(cls, url: SecretStr) -> SecretStr:
        return SecretStr(parse_database_url(url.get_secret_value()))


SettingsT = TypeVar("SettingsT", bound=Environment)


class Settings(PayloadSettings, TraceSettings, DatabaseSettings):
    """Each program reads them once and passes them on; workflows never read them."""

    database_pool_size: int = Field(default=8, ge=1, le=200, description="Connections per worker process.")
    database_prepared_statements: bool = Field(
        default=True, description="false: for a pgbouncer in transaction mode that does not track prepared statements."
    )

    stripe_secret_key: SecretStr = Field(
        default=SecretStr(SANDBOX_STRIPE_KEY),
        description="Stripe API key; a restricted one writes PaymentIntents, Refunds, reads Disputes, Radar, Reviews.",
    )
    stripe_api_base: str = Field(
        default="", description="Base URL of Stripe. Empty: the sandbox for the sandbox's key, else api.stripe.com."
    )
    allow_live_stripe: bool = Field(default=False, description="Must be true before a live key is accepted.")
    payment_capture: Literal["manual", "automatic"] = Field(
        default="manual",
        description="manual: authorize, ship, then capture. automatic: charge at confirmation, undo by refund.",
    )

    fulfillment_api: Address = Field(default=f"{SANDBOX}/fulfillment", description="Base URL of the warehouse's API.")
    fulfillment_key: SecretStr = Field(default=SecretStr("sandbox-fulfillment-key"), description="Its bearer key.")
    fulfillment_remembers_cancels: bool = Field(
        default=False, description="Whether the warehouse refuses an order whose cancel came before it."
    )
    email_service_url: Address = Field(default=f"{SANDBOX}/email", description="Base URL of the e-mail service.")
    analytics_url: Address = Field(default=f"{SANDBOX}/analytics", description="Base URL of the analytics service.")
    slack_webhook: SecretAddress = Field(
        default=SecretStr(f"{SANDBOX}/slack/webhook"), description="Incoming webhook that gets the alerts."
    )
    openai_api_key: SecretStr = Field(
        default=SecretStr(SANDBOX_OPENAI_KEY), description="API key of the language model. Empty: no model is used."
    )
    openai_base_url: str = Field(
        default="",
        description="Base URL of the language model. Empty: the sandbox for the sandbox's key, else api.openai.com.",
    )
    ssl_cert_file: str = Field(
        default="",
        description="PEM file with the CAs that external services are checked by. Empty: the public CAs, of certifi.",
    )
    outbound_proxy: SecretStr = Field(
        default=SecretStr(""),
        description="Proxy to external services, for https. HTTPS_PROXY is not read.",
    )
    inner_hosts: str = Field(
        default="",
        description="Hosts of your own network, separated by commas: plain http is allowed, and no proxy is used.",
    )
    http_timeout_seconds: float = Field(
        default=5, gt=0, le=5, description="Longest wait for one answer of an external service, in seconds."
    )

    authentication_deadline_seconds: int = Field(
        default=15 * 60, ge=1, le=24 * 3600, description="How long a customer has to authenticate a payment (3DS)."
    )
    authentication_poll_seconds: int = Field(
        default=30, ge=1, le=3600, description="How often the run reads the payment meanwhile, in case no signal comes."
    )
    payment_retry_seconds: int = Field(
        default=0,
        ge=0,
        le=24 * 3600,
        description="How long an order keeps its stock after a refused payment, for another card. 0: it is rejected.",
    )
    customer_max_held_orders: int = Field(
        default=0, ge=0, le=MAX_HELD, description="How many unfinished orders one customer may have. 0: no limit."
    )
    customer_max_held_units: int = Field(
        default=0, ge=0, le=MAX_HELD, description="How many units they may hold together. 0: no limit."
    )
    fulfillment_deadline_seconds: int = Field(
        default=10 * 60, ge=1, le=24 * 3600, description="How long the warehouse may be out before the order is undone."
    )
    shipped_email: bool = Field(
        default=True, description="Whether customers get an e-mail for each parcel that leaves."
    )
    shorted_stock: Literal["write_off", "restock"] = Field(
        default="write_off",
        description="What becomes of units that the warehouse can never ship: lost, or in stock again.",
    )
    notification_deadline_seconds: int = Field(
        default=24 * 3600, ge=1, le=7 * 24 * 3600, description="How long an e-mail or event is retried, then given up."
    )

    low_stock_realert_seconds: int = Field(
        default=24 * 3600,
        ge=60,
        le=90 * 24 * 3600,
        description="After how long a product that is still low is alerted again.",
    )
    check_inventory_every_seconds: int = Field(
        default=15 * 60, ge=60, le=7 * 24 * 3600, description="How often the schedule looks for low stock."
    )
    recommendation_model: str = Field(default="gpt-4o", description="The chat model that picks recommendations.")
    recommendation_max_tokens: int = Field(
        default=4000, ge=100, le=32_000, description="The longest answer of that model, in tokens."
    )
    recommendation_timeout_seconds: float = Field(
        default=15, gt=0, le=25, description="Longest wait for one answer of the language model."
    )
    recommendation_deadline_seconds: int = Field(
        default=30,
        ge=1,
        le=600,
        description="How long that model is asked; then products are recommended by similarity.",
    )
    model_concurrency: int = Field(
        default=20, ge=1, le=500, description="How many requests to language models one worker makes at a time."
    )
    embedding_model: str = Field(default="text-embedding-3-small", description="The model that embeds products.")
    embedding_dimensions: int = Field(default=1536, ge=1, le=1536, description="The length of its vectors.")
    index_products_every_seconds: int = Field(
        default=3600, ge=60, le=7 * 24 * 3600, description="How often the schedule embeds new and changed products."
    )

    reconcile_every_seconds: int = Field(
        default=15 * 60, ge=60, le=24 * 3600, description="How often the schedule compares orders, runs and payments."
    )
    reconcile_after_seconds: int = Field(
        default=15 * 60, ge=0, le=24 * 3600, description="How old an order or payment must be before it is reconciled."
    )
    reconcile_window_seconds: int = Field(
        default=24 * 3600, ge=3600, le=30 * 24 * 3600, description="How far back payments are listed."
    )
    verify_every_seconds: int = Field(
        default=24 * 3600, ge=60, le=30 * 24 * 3600, description="How often the schedule verifies the invariants."
    )
    verify_window_seconds: int = Field(
        default=2 * 24 * 3600, ge=3600, le=30 * 24 * 3600, description="How far back orders are verified."
    )

    webhooks_host: str = Field(default="127.0.0.1", description="Where webhooks.py listens.")
    webhooks_port: int = Field(default=8410, ge=0, le=MAX_PORT, description="Its port.")
    stripe_webhook_secret: SecretStr = Field(
        default=SecretStr(SANDBOX_STRIPE_WEBHOOK_SECRET),
        description="Signing secret of Stripe's events; several, separated by commas, while it is rotated.",
    )
    fulfillment_webhook_secret: SecretStr = Field(
        default=SecretStr(SANDBOX_FULFILLMENT_WEBHOOK_SECRET), description="The same for the warehouse's events."
    )
    webhook_tolerance_seconds: int = Field(
        default=300, ge=1, le=3600, description="How old, or how far ahead of us, a signature may be."
    )

    payloads_must_be_sealed: bool = Field(
        default=False, description="true: an order whose input came to Temporal unencrypted is refused."
    )
    codec_address: str = Field(default="127.0.0.1:8440", description="host:port where codec_server.py listens.")
    codec_origins: str = Field(
        default="",
        description="Web UIs that it answers, separated by commas. Empty: that of TEMPORAL_UI_URL.",
    )
    codec_tokens: SecretStr = Field(
        default=SecretStr(""),
        description="Who may decrypt: tokens, separated by commas; several, while they are rotated.",
    )
    health_address: str = Field(
        default="",
        description="host:port where worker and web process answer probes: `/healthz`, `/readyz`. Empty: nowhere.",
    )
    temporal_deployment_name: str = Field(
        default="",
        description="The worker deployment that this worker is a version of. Empty: workers are unversioned.",
    )
    temporal_worker_build_id: str = Field(
        default="", description="Its version: a name of the build, set together with TEMPORAL_DEPLOYMENT_NAME."
    )
    metrics_address: str = Field(
        default="",
        description="ip:port where worker and web process serve `/metrics` to Prometheus. Empty: nowhere.",
    )
    step_execution: Literal["regular", "local-first"] = Field(
        default="regular",
        description="local-first: a new order tries its steps inside the workflow task first: faster, less to see.",
    )
    workflow_sandbox: bool = Field(
        default=True,
        description="false: workflows run outside the SDK's sandbox, and on uvloop: faster, without its checks.",
    )
    worker_ready_file: str = Field(default="", description="A file that the worker creates once it polls.")
    temporal_ui_url: str = Field(default="http://127.0.0.1:8233", description="Base URL of the Web UI, for links.")
    log_format: Literal["json", "console"] = Field(
        default="json", description="json: one object per line. console: colored text."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="The lowest level that is logged."
    )
    crash_at: str = Field(
        default="", description="For tests: the crash point at which a worker kills itself. Sandbox only."
    )

    @property
    def stripe_base(self) -> str:
        if self.stripe_api_base:
            return self.stripe_api_base
        return f"{SANDBOX}/stripe" if self.stripe_secret_key.get_secret_value() == SANDBOX_STRIPE_KEY else STRIPE

    @property
    def restocks_shortages(self) -> bool:
        """Whether units that the warehouse can never ship are in stock again."""
        return self.shorted_stock == "restock"

    @property
    def inner_host_names(self) -> tuple[str, ...]:
        return _names(self.inner_hosts)

    @property
    def is_live(self) -> bool:
        """Whether real money is charged."""
        return self.stripe_secret_key.get_secret_value().startswith(("sk_live_", "rk_live_"))

    @property
    def openai_base(self) -> str:
        if self.openai_base_url:
            return self.openai_base_url
        return f"{SANDBOX}/openai/v1" if self.openai_api_key.get_secret_value() == SANDBOX_OPENAI_KEY else OPENAI

    @property
    def codec_origin_list(self) -> tuple[str, ...]:
        """The origins of the Web UIs that the codec server answers."""
        ui = urlsplit(self.temporal_ui_url)
        return _names(self.codec_origins) or (f"{ui.scheme}://{ui.netloc}",)

    @property
    def codec_token_list(self) -> tuple[str, ...]:
        """The tokens of those who may decrypt."""
        return _listed(self.codec_tokens)

    @property
    def stripe_webhook_secret_list(self) -> tuple[str, ...]:
        """The signing secrets of Stripe's events, each of which is accepted."""
        return _listed(self.stripe_webhook_secret)

    @property
    def fulfillment_webhook_secret_list(self) -> tuple[str, ...]:
        """The same of the warehouse's events."""
        return _listed(self.fulfillment_webhook_secret)

    @field_validator("stripe_secret_key")
    @classmethod
    def _is_a_secret_key_of_stripe(cls, key: SecretStr) -> SecretStr:
        """Known by its beginning: a live key in another form, e.g. in quotation marks, must not pass for a test key."""
        if not key.get_secret_value().startswith(STRIPE_KEYS):
            raise ValueError(f"must begin with one of {', '.join(STRIPE_KEYS)}")
        return key

    @field_validator("stripe_webhook_secret", "fulfillment_webhook_secret")
    @classmethod
    def _without_spaces_between(cls, secrets: SecretStr) -> SecretStr:
        return SecretStr(",".join(_listed(secrets)))

    @field_validator("fulfillment_key", "stripe_webhook_secret", "fulfillment_webhook_secret")
    @classmethod
    def _is_given(cls, secret: SecretStr) -> SecretStr:
        if not secret.get_secret_value():
            raise ValueError("must not be empty")
        return secret

    @field_validator(
        "stripe_secret_key", "fulfillment_key", "openai_api_key", "stripe_webhook_secret", "fulfillment_webhook_secret"
    )
    @classmethod
    def _fits_a_header(cls, secret: SecretStr) -> SecretStr:
        if not re.fullmatch(r"(?![\"'])[!-~]*", secret.get_secret_value()):
            raise ValueError("must be printable ASCII, without spaces inside and without quotation marks around it")
        return secret

    @field_validator("ssl_cert_file")
    @classmethod
    def _has_certificates(cls, path: str) -> str:
        try:
            if path:
                ssl.create_default_context(cafile=path)
        except OSError:
            raise ValueError(
                "must name a file with certificates in PEM that this program may read, "
                "e.g. /etc/ssl/certs/ca-certificates.crt"
            ) from None
        return path

    @field_validator("outbound_proxy")
    @classmethod
    def _is_a_proxy(cls, url: SecretStr) -> SecretStr:
        if not re.fullmatch(r"(https?://([^\s/?#@]+@)?[^\s/?#@:]+:[0-9]{1,5}/?)?", url.get_secret_value()):
            raise ValueError("must have the form http://host:port or http://user:password@host:port")
        return url

    @field_validator("health_address", "codec_address")
    @classmethod
    def _is_a_place(cls, address: str) -> str:
        parts = re.fullmatch(r"(?:\[[0-9a-f:.]+\]|[a-z0-9_.-]+):([0-9]{1,5})", address, re.IGNORECASE)
        if address and not (parts and int(parts[1]) <= MAX_PORT):
            raise ValueError("must have the form host:port, for example 0.0.0.0:8420 or [::]:8420")
        return address

    @field_validator("temporal_deployment_name")
    @classmethod
    def _is_a_deployment(cls, name: str) -> str:
        """Temporal joins it with the build id by a colon or a dot."""
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9/_-]{0,127})?", name):
            raise ValueError("must have up to 128 letters, digits, hyphens, underscores and slashes, e.g. order-sagas")
        return name

    @field_validator("temporal_worker_build_id")
    @classmethod
    def _is_a_build(cls, build_id: str) -> str:
        if not re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9._/-]{0,127})?", build_id):
            raise ValueError(
                "must have up to 128 letters, digits, dots, hyphens, underscores and slashes, e.g. 2026.11-3f9c2ab"
            )
        return build_id

    @field_validator("metrics_address")
    @classmethod
    def _is_a_numeric_place(cls, address: str) -> str:
        if not address:
            return address
        host, _, port = address.rpartition(":")
        try:
            is_valid = (":" in (ip := host.strip("[]"))) == host.startswith("[") and bool(ip_address(ip))
        except ValueError:
            is_valid = False
        if not (is_valid and re.fullmatch("[0-9]{1,5}", port) and 0 < int(port) <= MAX_PORT):
            raise ValueError("must have the form ip:port, for example 0.0.0.0:8430 or [::]:8430")
        return address

    @field_validator("codec_address")
    @classmethod
    def _is_given_too(cls, address: str) -> str:
        if not address:
            raise ValueError("must have the form host:port, for example 0.0.0.0:8440")
        return address

    @field_validator("codec_origins")
    @classmethod
    def _are_origins(cls, origins: str) -> str:
        if not all(re.fullmatch(r"https?://[a-z0-9_.-]+(:[0-9]{1,5})?", name) for name in _names(origins)):
            raise ValueError(
                "must be the exact origins of Web UIs, without path or wildcard, e.g. https://temporal.example.com"
            )
        return origins

    @field_validator("codec_tokens")
    @classmethod
    def _are_tokens(cls, tokens: SecretStr) -> SecretStr:
        for number, token in enumerate(_listed(tokens), start=1):
            if not re.fullmatch(r"[A-Za-z0-9_.~-]{32,}", token):
                raise ValueError(
                    f"token {number} must have 32 or more letters, digits, dashes, dots, tildes and underscores: "
                    "`openssl rand -hex 32` makes one"
                )
        return tokens

    @field_validator("inner_hosts")
    @classmethod
    def _are_hosts(cls, hosts: str) -> str:
        if not all(re.fullmatch(r"[a-z0-9_.-]+", name) for name in _names(hosts)):
            raise ValueError(
                "must be names of hosts, without scheme, port or wildcard, e.g. warehouse.internal,mail.internal"
            )
        return hosts

    @model_validator(mode="after")
    def _who_demands_seals_has_keys(self) -> Self:
        if self.payloads_must_be_sealed and not self.payload_keys.get_secret_value():
            raise ValueError("PAYLOADS_MUST_BE_SEALED is true, but PAYLOAD_KEYS is empty: set the keys, or unset both")
        return self

    @model_validator(mode="after")
    def _live_keys_are_deliberate(self) -> Self:
        if self.is_live and not self.allow_live_stripe:
            raise ValueError("STRIPE_SECRET_KEY is a live key; set ALLOW_LIVE_STRIPE=true to charge real money")
        if self.is_live and self.stripe_base != STRIPE:
            raise ValueError("STRIPE_SECRET_KEY is a live key, but STRIPE_API_BASE is not Stripe: it would leak")
        return self

    @model_validator(mode="after")
    def _versions_have_both_names(self) -> Self:
        if bool(self.temporal_deployment_name) != bool(self.temporal_worker_build_id):
            raise ValueError(
                "TEMPORAL_DEPLOYMENT_NAME, TEMPORAL_WORKER_BUILD_ID: set both, or none for workers without versions"
            )
        return self

    @model_validator(mode="after")
    def _addresses_are_private(self) -> Self:
        services = self._external_services().items()
        if exposed := ", ".join(name for name, url in services if not _is_private(url, self.inner_host_names)):
            raise ValueError(
                f"{exposed}: must be an https address without spaces, e.g. https://service.example.com, "
                "or one on this machine or in INNER_HOSTS"
            )
        return self

    @model_validator(mode="after")
    def _crash_points_are_for_the_sandbox(self) -> Self:
        if self.crash_at and (outside := self._outside()):
            raise ValueError(f"CRASH_AT kills workers: everything must be the sandbox on this machine, not {outside}")
        return self

    def _outside(self) -> str:
        """The settings whose value is not the sandbox's, or not on this machine."""
        places = {"DATABASE_URL": self.database_url.get_secret_value()} | self._external_services()
        keys = ["STRIPE_SECRET_KEY"] if self.stripe_secret_key.get_secret_value() != SANDBOX_STRIPE_KEY else []
        return ", ".join(keys + [name for name, url in places.items() if not _is_here(url)])

    def _external_services(self) -> dict[str, str]:
        """The addresses to which orders and keys are sent, by setting."""
        addresses = {name.upper(): _text(getattr(self, name)) for name in _address_fields()}
        return {"STRIPE_API_BASE": self.stripe_base, **addresses, "OPENAI_BASE_URL": self.openai_base}


def sandbox_addresses(url: str) -> dict[str, str]:
    """Where the external services are at the sandbox with this URL, by setting."""
    defaults = {name.upper(): _text(field.default) for name, field in _address_fields().items()}
    others = {"STRIPE_API_BASE": f"{SANDBOX}/stripe", "OPENAI_BASE_URL": f"{SANDBOX}/openai/v1"}
    return {name: default.replace(SANDBOX, url) for name, default in (others | defaults).items()}


def public_values(settings: Settings) -> list[str]:
    """The settings whose value is the local stack's, and must not be in production: addresses, and its public keys."""
    names = [*_address_fields(), "fulfillment_key", "temporal_ui_url"]
    return [
        name.upper() for name in names if _text(getattr(settings, name)) == _text(Settings.model_fields[name].default)
    ]


def read_settings() -> Settings:
    """The settings of the environment.

    Raises:
        InvalidInput: naming every setting that is wrong, without its value.
    """
    return _read(Settings)


def read_database_settings() -> DatabaseSettings:
    """Only what migrations need: they run without the keys of the external services. Raises InvalidInput."""
    return _read(DatabaseSettings)


def read_payload_keys() -> tuple[Key, ...]:
    """The keys of the environment; none: payloads are not encrypted. Raises InvalidInput."""
    return parse_payload_keys(_read(PayloadSettings).payload_keys.get_secret_value())


def read_trace_settings() -> TraceSettings:
    """Where the traces of a program go. Raises InvalidInput."""
    return _read(TraceSettings)


def _read(kind: type[SettingsT]) -> SettingsT:
    try:
        return kind()
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    raise InvalidInput([_problem(kind, each["loc"], each["msg"]) for each in problems])


def _problem(kind: type[Environment], path: tuple[int | str, ...], message: str) -> str:
    """What is wrong with a setting, with a value that is right."""
    text = message.removeprefix("Value error, ").replace("Input should", "must")
    if not path:
        return text
    name, default = str(path[0]), kind.model_fields[str(path[0])].default
    right = "" if isinstance(default, SecretStr) or default == "" else f"; e.g. {name.upper()}={default}"
    return f"{name.upper()}: {text}{right}"


def _address_fields() -> dict[str, FieldInfo]:
    return {name: field for name, field in Settings.model_fields.items() if IS_ADDRESS in field.metadata}


def _text(value: str | SecretStr) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else value


def _names(hosts: str) -> tuple[str, ...]:
    return tuple(name for part in hosts.lower().split(",") if (name := part.strip()))


def _listed(secrets: SecretStr) -> tuple[str, ...]:
    return tuple(each for part in secrets.get_secret_value().split(",") if (each := part.strip()))


def _is_here(url: str) -> bool:
    """Whether an address is this machine's. One with several hosts is not, nor one without: the driver chooses."""
    parts = urlsplit(url)
    return parts.hostname in LOOPBACK and "," not in parts.netloc


def _is_private(url: str, inner_hosts: Collection[str]) -> bool:
    """Whether it is a valid address on which no stranger can listen in: https, on this machine, or on an inner host."""
    try:
        parts = urlsplit(url)
        is_an_address = url.isprintable() and " " not in url and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    is_inner = _is_here(url) or parts.hostname in inner_hosts
    return is_an_address and (parts.scheme == "https" or (parts.scheme == "http" and is_inner))
