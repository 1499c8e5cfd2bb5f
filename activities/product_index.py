"""The embeddings of the catalogue. A new index is filled beside the one in use, and replaces it once it is complete."""

import json
from collections.abc import Sequence
from itertools import accumulate
from typing import Final, NamedTuple

from temporalio import activity

from gateways.openai import LanguageModel, Refused
from gateways.postgres import Database
from orders.recommendations import IndexBatch, IndexedBatch, IndexProgress, IndexTarget

BATCH: Final = 100  # products in one request to the model
WINDOW: Final = 10_000  # products that one statement reads
SWEEP: Final = 5_000  # rows that one statement deletes

# Of the vectors in the table; those of the model may have fewer.
DIMENSIONS: Final = 1536

# OpenAI's limits for one request are 300,000 tokens, and 8192 in each text. A token is at least one byte of UTF-8, and
# a character at most four, so these hold for any script.
MAX_TEXT: Final = 2000  # characters
MAX_BATCH: Final = 300_000  # bytes

MIN_TEXT: Final = 100  # characters; a text that is refused is cut in half as long as it is longer

COUNT_PRODUCTS: Final = "SELECT count(*) FROM products"

LOOK_AHEAD: Final = """
    SELECT max(id) AS last, count(*) AS looked FROM (SELECT id FROM products WHERE id > $1 ORDER BY id LIMIT $2) ahead
"""

FIND_STALE: Final = """
    SELECT t.id, t.text, t.hash
    FROM (
        SELECT id, text, encode(sha256(convert_to(text, 'UTF8')), 'hex') AS hash
        FROM (SELECT id, left(name || E'\\n' || description, $6) AS text FROM products WHERE id > $1 AND id <= $2) p
    ) t
    LEFT JOIN product_embeddings e ON e.product_id = t.id AND e.model = $3 AND e.dimensions = $4
    WHERE e.content_hash IS DISTINCT FROM t.hash
    ORDER BY t.id
    LIMIT $5
"""

# Vectors are sent as text: asyncpg would need a codec for their type on every connection.
KEEP_VECTORS: Final = """
    INSERT INTO product_embeddings (product_id, model, dimensions, content_hash, embedding)
    SELECT id, $1, $2, hash, vector::vector FROM unnest($3::text[], $4::text[], $5::text[]) AS v (id, hash, vector)
    ON CONFLICT (product_id, model, dimensions) DO UPDATE
    SET content_hash = excluded.content_hash, embedding = excluded.embedding, embedded_at = now()
"""

ACTIVATE: Final = """
    INSERT INTO embedding_index (model, dimensions)
    SELECT $1, $2 WHERE NOT EXISTS (
        SELECT FROM products p WHERE NOT EXISTS (
            SELECT FROM product_embeddings e WHERE e.product_id = p.id AND e.model = $1 AND e.dimensions = $2
        )
    )
    ON CONFLICT (the_only) DO UPDATE
    SET model = excluded.model, dimensions = excluded.dimensions, activated_at = now()
    WHERE (embedding_index.model, embedding_index.dimensions) <> (excluded.model, excluded.dimensions)
"""

IS_ACTIVE: Final = "SELECT EXISTS (SELECT FROM embedding_index WHERE model = $1 AND dimensions = $2)"

DELETE_INACTIVE: Final = """
    DELETE FROM product_embeddings WHERE ctid = ANY(ARRAY(
        SELECT e.ctid FROM product_embeddings e JOIN embedding_index a
        ON (e.model, e.dimensions) <> (a.model, a.dimensions) LIMIT $1
    ))
"""


class _Product(NamedTuple):
    """A product to embed; `hash` is that of its whole text."""

    id: str
    text: str
    hash: str


class ProductIndex:
    """Every activity can be retried, and can run twice at a time: the same texts lead to the same rows.

    Raises, in all activities:
        Unavailable: PostgreSQL.
    """

    def __init__(self, database: Database, model: LanguageModel, target: IndexTarget) -> None:
        self._database = database
        self._model = model
        self._target = target

    @activity.defn
    async def plan_index(self, _nothing: None) -> IndexProgress:
        """The target that the settings name, and the number of products."""
        async with self._database.transaction() as connection:
            return IndexProgress(target=self._target, products=await connection.fetchval(COUNT_PRODUCTS))

    @activity.defn
    async def embed_batch(self, batch: IndexBatch) -> IndexedBatch:
        """Embed the next products that are new or whose text has changed. Without any the model is not asked.

        Raises:
            Unavailable: also the model: an outage, or a refused key.
            Permanent: the model refuses even one short text, or its answer cannot be used and nothing of it is kept; or
                there is no key.
        """
        target = batch.target
        async with self._database.transaction() as connection:
            ahead = await connection.fetchrow(LOOK_AHEAD, batch.after, WINDOW)
            last, looked = (ahead["last"], ahead["looked"]) if ahead else (None, 0)
            records = await connection.fetch(
                FIND_STALE, batch.after, last, target.model, target.dimensions, BATCH, MAX_TEXT
            )
        stale = _first_of([_Product(**record) for record in records])
        if stale:
            await self._embed(stale, target)
        if len(stale) < len(records) or len(stale) == BATCH:
            return IndexedBatch(embedded=len(stale), last=stale[-1].id)
        return IndexedBatch(embedded=len(stale), last=last if looked == WINDOW else None)

    @activity.defn
    async def activate_index(self, target: IndexTarget) -> bool:
        """Use the target's embeddings, and delete all others. False: a product still lacks its embedding."""
        async with self._database.transaction() as connection:
            await connection.execute(ACTIVATE, target.model, target.dimensions)
            active: bool = await connection.fetchval(IS_ACTIVE, target.model, target.dimensions)
        if active:
            await self._sweep()
        return active

    async def _embed(self, products: Sequence[_Product], target: IndexTarget) -> None:
        """Embed and keep them: in halves if they are refused together, and with half its text if one is refused alone.

        A model that refuses everything is asked about a dozen times.
        """
        try:
            vectors = await self._model.embed([each.text for each in products], target)
        except Refused:
            if not (parts := _smaller(products)):
                raise
            for part in parts:
                await self._embed(part, target)
            return
        async with self._database.transaction() as connection:
            await connection.execute(
                KEEP_VECTORS,
                target.model,
                target.dimensions,
                [each.id for each in products],
                [each.hash for each in products],
                [_text(vector) for vector in vectors],
            )

    async def _sweep(self) -> None:
        """Small transactions, because one DELETE of all rows might exceed the time-out. Nothing reads these rows."""
        deleted = None
        while deleted != "DELETE 0":
            async with self._database.transaction() as connection:
                deleted = await connection.execute(DELETE_INACTIVE, SWEEP)


def _first_of(products: Sequence[_Product]) -> Sequence[_Product]:
    """As many of them as fit into one request; always one."""
    sizes = accumulate(len(product.text.encode()) for product in products)
    return products[: max(1, sum(size <= MAX_BATCH for size in sizes))]


def _smaller(products: Sequence[_Product]) -> list[Sequence[_Product]]:
    """What to ask for instead of products that were refused; nothing, if one short text was."""
    middle, text = len(products) // 2, products[0].text
    if middle:
        return [products[:middle], products[middle:]]
    return [[products[0]._replace(text=text[: len(text) // 2])]] if len(text) > MIN_TEXT else []


def _text(vector: Sequence[float]) -> str:
    return json.dumps([*vector, *[0.0] * (DIMENSIONS - len(vector))])
