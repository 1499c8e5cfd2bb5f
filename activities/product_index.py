"""The embeddings of the catalogue: only what is new or changed, beside the index in use until all is there."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from temporalio import activity

from gateways.openai import LanguageModel
from gateways.postgres import Database
from orders.recommendations import IndexBatch, IndexedBatch, IndexProgress, IndexTarget

if TYPE_CHECKING:
    import asyncpg

BATCH: Final = 100  # products in one request to the model
WINDOW: Final = 10_000  # products that one statement looks at
SWEEP: Final = 5_000  # rows that one statement deletes

# Of vectors in the table, whatever the model's are.
DIMENSIONS: Final = 1536

# A hundred texts of this length stay below what OpenAI takes in one request: 300 000 tokens, 8192 in each text.
MAX_TEXT: Final = 2000  # characters

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

# Vectors travel as text: a type of their own would have to be made known on every connection.
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


class ProductIndex:
    """Every activity can be tried again, or run twice at a time: the same texts lead to the same rows.

    Raises, in all activities:
        Unavailable: PostgreSQL.
    """

    def __init__(self, database: Database, model: LanguageModel, target: IndexTarget) -> None:
        self._database = database
        self._model = model
        self._target = target

    @activity.defn
    async def plan_index(self, _nothing: None) -> IndexProgress:
        """What the index is to be made of, and how many products there are."""
        async with self._database.transaction() as connection:
            return IndexProgress(target=self._target, products=await connection.fetchval(COUNT_PRODUCTS))

    @activity.defn
    async def embed_batch(self, batch: IndexBatch) -> IndexedBatch:
        """Embed the next products that are new, or whose text has changed; the model is asked only if there are any.

        Raises:
            Unavailable: the model is out of reach, or refuses the key.
            Permanent: it refuses the request or answers with bad vectors, of which none is kept; or there is no key.
        """
        target = batch.target
        async with self._database.transaction() as connection:
            ahead = await connection.fetchrow(LOOK_AHEAD, batch.after, WINDOW)
            last, looked = (ahead["last"], ahead["looked"]) if ahead else (None, 0)
            stale = await connection.fetch(
                FIND_STALE, batch.after, last, target.model, target.dimensions, BATCH, MAX_TEXT
            )
        if stale:
            await self._embed(stale, target)
        if len(stale) == BATCH:
            return IndexedBatch(embedded=BATCH, last=stale[-1]["id"])
        return IndexedBatch(embedded=len(stale), last=last if looked == WINDOW else None)

    @activity.defn
    async def activate_index(self, target: IndexTarget) -> bool:
        """Let the target's embeddings be searched, and delete all others; not as long as a product lacks its own."""
        async with self._database.transaction() as connection:
            await connection.execute(ACTIVATE, target.model, target.dimensions)
            active: bool = await connection.fetchval(IS_ACTIVE, target.model, target.dimensions)
        if active:
            await self._sweep()
        return active

    async def _embed(self, stale: Sequence["asyncpg.Record"], target: IndexTarget) -> None:
        vectors = await self._model.embed([each["text"] for each in stale], target)
        async with self._database.transaction() as connection:
            await connection.execute(
                KEEP_VECTORS,
                target.model,
                target.dimensions,
                [each["id"] for each in stale],
                [each["hash"] for each in stale],
                [_text(vector) for vector in vectors],
            )

    async def _sweep(self) -> None:
        """In small transactions, after the switch: nobody reads these rows, and one DELETE could outlast its time."""
        deleted = None
        while deleted != "DELETE 0":
            async with self._database.transaction() as connection:
                deleted = await connection.execute(DELETE_INACTIVE, SWEEP)


def _text(vector: Sequence[float]) -> str:
    return json.dumps([*vector, *[0.0] * (DIMENSIONS - len(vector))])
