"""The clients that the worker and the web process make from the same settings."""

import httpx
from stripe import StripeClient

from config.settings import Settings
from gateways.http import MAX_ANSWER, Network, open_http
from gateways.stripe import stripe_client
from gateways.warehouse import Warehouse


def http_of(settings: Settings, timeout_seconds: float, max_answer: int = MAX_ANSWER) -> httpx.AsyncClient:
    """A client for external services, which reaches them as the settings say."""
    network = Network(
        ca_file=settings.ssl_cert_file,
        proxy=settings.outbound_proxy.get_secret_value(),
        inner_hosts=settings.inner_host_names,
    )
    return open_http(timeout_seconds, max_answer, network)


def stripe_of(settings: Settings, http: httpx.AsyncClient) -> StripeClient:
    return stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)


def warehouse_of(settings: Settings, http: httpx.AsyncClient, shop_id: str) -> Warehouse:
    return Warehouse(http, settings.fulfillment_api, settings.fulfillment_key.get_secret_value(), shop_id)
