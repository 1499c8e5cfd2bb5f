"""Where the codec server is put together. It needs the keys and tokens, and neither Temporal nor PostgreSQL."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from app.codec.endpoints import application
from app.health import serve_health
from app.startup_checks import CannotStart
from app.web.server import serve
from config.payload_keys import parse_payload_keys
from config.sealing import Seal
from config.settings import Settings

log = structlog.get_logger()


@asynccontextmanager
async def codec_program(settings: Settings) -> AsyncIterator[None]:
    """The codec server: it serves while the block lasts, then finishes the requests under way.

    Raises:
        CannotStart: there are no keys or no tokens; or see serve_health and serve.
    """
    keys = parse_payload_keys(settings.payload_keys.get_secret_value())
    if not keys:
        raise CannotStart("PAYLOAD_KEYS is empty: there is nothing to decrypt")
    if not settings.codec_token_list:
        raise CannotStart("CODEC_TOKENS is empty: everybody could decrypt. `openssl rand -hex 32` makes a token")
    host, _, port = settings.codec_address.rpartition(":")
    app = application(Seal(keys), settings.codec_token_list, settings.codec_origin_list)
    async with (
        serve_health(settings) as health,
        serve(app, host.strip("[]"), int(port), setting="CODEC_ADDRESS") as url,
    ):
        log.info("codec server ready", url=url, keys=[key.id for key in keys], origins=settings.codec_origin_list)
        with health.ready():
            yield
    log.info("codec server stopped")
