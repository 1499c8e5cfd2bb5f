"""The clients that the worker and the web process make from the same settings."""

import httpx
from stripe import StripeClient

from config.settings import Settings
from gateways.stripe import stripe_client
from gateways.warehouse import Warehouse


def stripe_of(settings: Settings, http: httpx.AsyncClient) -> StripeClient:
    return stripe_client(http, settings.stripe_secret_key.get_secret_value(), settings.stripe_base)


def warehouse_of(settings: Settings, http: httpx.AsyncClient, shop_id: str) -> Warehouse:
    return Warehouse(http, settings.fulfillment_api, settings.fulfillment_key.get_secret_value(), shop_id)
