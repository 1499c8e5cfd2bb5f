"""The embeddings of the catalogue: only new and changed products are embedded, and one index is always in use."""

import asyncio
import hashlib
from typing import Any

import pytest

from activities import product_index
from activities.product_index import ProductIndex
from gateways.openai import LanguageModel
from orders.errors import Permanent, Unavailable
from orders.recommendations import IndexBatch, IndexedBatch, IndexProgress, IndexTarget
from tests.support.activity_bench import ActivityBench, Gate
from tests.support.catalogue import Catalogue
from tests.support.sample import one_in

SMALL = IndexTarget(model="text-embedding-3-small", dimensions=1536)
SHORT = IndexTarget(model="text-embedding-3-small", dimensions=8)
LARGE = IndexTarget(model="text-embedding-3-large", dimensions=1536)
SEEDED = ["1", "2", "3", "4", "5"]


@pytest.fixture
def catalogue(bench: ActivityBench) -> Catalogue:
    return Catalogue(bench.pool)


@pytest.fixture
def without_key(bench: ActivityBench) -> ProductIndex:
    model = LanguageModel(None, model="gpt-4o", max_tokens=100)
    return ProductIndex(bench.database, model, SMALL)


async def embed(bench: ActivityBench, target: IndexTarget = SMALL, after: str = "") -> IndexedBatch:
    return await bench.do(ProductIndex.embed_batch, IndexBatch(target=target, after=after))


async def activate(bench: ActivityBench, target: IndexTarget = SMALL) -> bool:
    return await bench.do(ProductIndex.activate_index, target)


def asked(bench: ActivityBench) -> list[list[str]]:
    """The texts of each request to the model."""
    return [call["body"]["input"] for call in bench.calls("openai", "/embeddings")]


async def test_the_plan_names_the_settings_model_and_counts_the_catalogue(bench: ActivityBench) -> None:
    """It is the first answer of the run's status query."""
    plan = await bench.do(ProductIndex.plan_index, None)

    assert plan == IndexProgress(target=SMALL, products=5)


async def test_new_products_are_embedded_in_one_request(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Each text is name and description, in the order of the ids; each vector is kept with the hash of its text."""
    assert await embed(bench) == IndexedBatch(embedded=5, last=None)

    ((first, *_),) = asked(bench)
    assert first == "Walnut desk organiser\nSix compartments, oiled walnut."
    stored = await catalogue.vectors()
    assert sorted(stored) == [(product_id, SMALL.model) for product_id in SEEDED]
    assert sum(each**2 for each in stored["1", SMALL.model]) == pytest.approx(1)
    content_hash = await bench.pool.fetchval("SELECT content_hash FROM product_embeddings WHERE product_id = '1'")
    assert content_hash == hashlib.sha256(first.encode()).hexdigest()


async def test_an_unchanged_catalogue_makes_no_request(bench: ActivityBench) -> None:
    """Also after a change of price."""
    await embed(bench)
    await bench.pool.execute("UPDATE products SET price = price + 1")

    assert await embed(bench) == IndexedBatch(embedded=0, last=None)
    assert len(asked(bench)) == 1


@pytest.mark.parametrize("column", ["name", "description"])
async def test_only_what_changed_is_embedded_anew(bench: ActivityBench, catalogue: Catalogue, column: str) -> None:
    """And new products."""
    await embed(bench)
    before = await catalogue.vectors()
    await bench.pool.execute(f"UPDATE products SET {column} = 'Something else' WHERE id = '3'")  # noqa: S608
    await catalogue.sell("new")

    assert await embed(bench) == IndexedBatch(embedded=2, last=None)
    assert [text.count("Something else") for text in asked(bench)[-1]] == [1, 0]
    after = await catalogue.vectors()
    assert {key for key in after if before.get(key) != after[key]} == {("3", SMALL.model), ("new", SMALL.model)}


async def test_batches_go_through_the_catalogue(bench: ActivityBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each begins after the last product that the batch before has read, up to date or not."""
    monkeypatch.setattr(product_index, "BATCH", 2)
    monkeypatch.setattr(product_index, "WINDOW", 3)
    after: str | None = ""
    seen = []
    while after is not None:
        batch = await embed(bench, after=after)
        seen.append((batch.embedded, batch.last))
        after = batch.last

    assert seen == [(2, "2"), (2, "4"), (1, None)]
    assert [len(texts) for texts in asked(bench)] == [2, 2, 1]
    assert await embed(bench) == IndexedBatch(embedded=0, last="3")
    assert await embed(bench, after="3") == IndexedBatch(embedded=0, last=None)


async def test_an_empty_catalogue_is_indexed_at_once(bench: ActivityBench) -> None:
    """It is complete at once."""
    await bench.pool.execute("TRUNCATE products CASCADE")

    assert await embed(bench) == IndexedBatch(embedded=0, last=None)
    assert await activate(bench)


async def test_a_long_text_is_cut(bench: ActivityBench) -> None:
    """A batch stays below the limit of one request."""
    await bench.pool.execute("UPDATE products SET description = repeat('x', 100000)")
    await embed(bench)

    ((*texts,),) = asked(bench)
    assert {len(text) for text in texts} == {product_index.MAX_TEXT}
    assert await embed(bench) == IndexedBatch(embedded=0, last=None)


@pytest.mark.parametrize("character", one_in(3, ["x", "ж", "ქ", "한", "𓀀", "👩"]))
async def test_batches_fit_into_a_request_in_any_script(
    bench: ActivityBench, catalogue: Catalogue, character: str
) -> None:
    """A hundred long texts, which are more than one request of OpenAI may have."""
    await catalogue.sell(*(f"p{number:02}" for number in range(95)))
    await bench.pool.execute("UPDATE products SET description = repeat($1, 3000)", character)
    after: str | None = ""
    embedded = 0
    while after is not None:
        batch = await embed(bench, after=after)
        after, embedded = batch.last, embedded + batch.embedded

    assert embedded == 100
    assert {call["status"] for call in bench.calls("openai")} == {200}
    assert await activate(bench)


def refuse(bench: ActivityBench, times: int | None, status: int = 400) -> None:
    """As a service does whose limits are smaller than OpenAI's."""
    body = {"error": {"message": "This model's maximum context length is 512 tokens.", "code": None}}
    bench.fault("openai", "status", status=status, body=body, times=times)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_batch_that_is_refused_is_split(bench: ActivityBench, catalogue: Catalogue, status: int) -> None:
    """In halves, until they are accepted."""
    refuse(bench, 2, status)

    assert await embed(bench) == IndexedBatch(embedded=5, last=None)
    assert [len(texts) for texts in asked(bench)] == [5, 2, 1, 1, 3]
    assert sorted(product_id for product_id, _ in await catalogue.vectors()) == SEEDED


async def test_a_text_that_is_refused_is_shortened(bench: ActivityBench) -> None:
    """One product that is too long for the model does not keep others from being found; it is embedded once."""
    await bench.pool.execute("DELETE FROM inventory WHERE product_id <> '1'")
    await bench.pool.execute("DELETE FROM products WHERE id <> '1'")
    await bench.pool.execute("UPDATE products SET description = repeat('x', 3000)")
    refuse(bench, 2)

    assert await embed(bench) == IndexedBatch(embedded=1, last=None)
    assert [len(text) for texts in asked(bench) for text in texts] == [2000, 1000, 500]
    assert await embed(bench) == IndexedBatch(embedded=0, last=None)


async def test_a_model_that_refuses_everything(bench: ActivityBench, catalogue: Catalogue) -> None:
    """It is asked a few times, and the run fails."""
    await catalogue.sell(*(f"p{number:02}" for number in range(95)))
    await bench.pool.execute("UPDATE products SET description = repeat('x', 3000)")
    refuse(bench, None)
    with pytest.raises(Permanent) as refused:
        await embed(bench)

    assert refused.value.type == "openai_refused"
    assert len(asked(bench)) == 12


async def test_what_a_split_batch_has_is_kept(bench: ActivityBench, catalogue: Catalogue) -> None:
    """An attempt that fails in the second half leaves the first one done."""
    refuse(bench, 1)
    gate = Gate(before=2)
    late = await bench.stop_at(gate, ProductIndex.embed_batch, IndexBatch(target=SMALL))
    bench.fault("openai", "status", status=503)
    gate.opened.set()
    with pytest.raises(Unavailable):
        await late
    assert len(await catalogue.vectors()) == 2

    assert await embed(bench) == IndexedBatch(embedded=3, last=None)


async def test_short_vectors_are_filled_up(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Zeros do not change a cosine."""
    await embed(bench, SHORT)

    vector = (await catalogue.vectors())["1", SHORT.model]
    assert len(vector) == 1536
    assert any(vector[:8])
    assert not any(vector[8:])


async def test_an_index_is_used_once_it_is_complete(bench: ActivityBench, catalogue: Catalogue) -> None:
    """The old index stays, with its rows, as long as one product lacks its embedding."""
    await embed(bench)
    assert await activate(bench)
    await embed(bench, LARGE)
    await catalogue.sell("late")

    assert not await activate(bench, LARGE)
    assert await catalogue.active() == ("text-embedding-3-small", 1536)
    assert len(await catalogue.vectors()) == 10

    await embed(bench, LARGE)
    assert await activate(bench, LARGE)
    assert await catalogue.active() == ("text-embedding-3-large", 1536)
    assert {model for _, model in await catalogue.vectors()} == {"text-embedding-3-large"}


async def test_the_index_in_use_stays_in_use(bench: ActivityBench, catalogue: Catalogue) -> None:
    """A product that was just added does not end its use."""
    await embed(bench)
    assert await activate(bench)
    await catalogue.sell("late")

    assert await activate(bench)


async def test_old_rows_are_deleted_in_small_transactions(
    bench: ActivityBench, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that dies after the switch leaves rows that nothing reads; the next attempt deletes them."""
    monkeypatch.setattr(product_index, "SWEEP", 2)
    await embed(bench)
    await activate(bench)
    await embed(bench, LARGE)
    attempt = await bench.stop_at(Gate(before=3), ProductIndex.activate_index, LARGE)
    attempt.cancel()
    await asyncio.wait([attempt])
    assert await catalogue.active() == ("text-embedding-3-large", 1536)
    assert len(await catalogue.vectors()) == 8

    assert await activate(bench, LARGE)
    assert len(await catalogue.vectors()) == 5


async def test_bad_vectors_leave_nothing_behind(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Not even the good ones."""
    body = {"data": [{"index": index, "embedding": [float(index)] * 8} for index in range(5)]}
    bench.fault("openai", "status", status=200, body=body)
    with pytest.raises(Permanent) as refused:
        await embed(bench, SHORT)

    assert refused.value.type == "embeddings_refused"
    assert await catalogue.vectors() == {}


async def test_runs_at_the_same_time_do_no_harm(bench: ActivityBench, catalogue: Catalogue) -> None:
    """The second one writes the same rows again."""
    gate = Gate(before=2)
    late = await bench.stop_at(gate, ProductIndex.embed_batch, IndexBatch(target=SMALL))
    await embed(bench)
    assert await activate(bench)
    gate.opened.set()

    assert (await late).embedded == 5
    assert len(await catalogue.vectors()) == 5
    await asyncio.gather(*(embed(bench, LARGE) for _ in range(5)))
    assert await asyncio.gather(*(activate(bench, LARGE) for _ in range(5))) == [True] * 5
    assert len(await catalogue.vectors()) == 5


async def test_a_product_that_is_deleted_meanwhile(bench: ActivityBench, catalogue: Catalogue) -> None:
    """The batch fails as a whole, and the next attempt succeeds."""
    await catalogue.sell("gone")
    gate = Gate(before=2)
    late = await bench.stop_at(gate, ProductIndex.embed_batch, IndexBatch(target=SMALL))
    await bench.pool.execute("DELETE FROM inventory WHERE product_id = 'gone'")
    await bench.pool.execute("DELETE FROM products WHERE id = 'gone'")
    gate.opened.set()
    with pytest.raises(Unavailable):
        await late

    assert await embed(bench) == IndexedBatch(embedded=5, last=None)


async def test_without_a_key_what_is_up_to_date_stays_so(bench: ActivityBench, without_key: ProductIndex) -> None:
    """It fails only if there is a product to embed."""
    await embed(bench)
    assert (await without_key.embed_batch(IndexBatch(target=SMALL))).embedded == 0

    await bench.pool.execute("UPDATE products SET name = 'Something else'")
    with pytest.raises(Permanent, match="OPENAI_API_KEY is empty"):
        await without_key.embed_batch(IndexBatch(target=SMALL))


HOSTILE: dict[str, Any] = {
    "SQL": "'); DROP TABLE products; --",
    "JSON": '"], "model": "x", "input": ["',
    "unicode": "Łódź 東京 🏠 \u202e",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
async def test_any_text_is_a_text(bench: ActivityBench, text: str) -> None:
    """It arrives unchanged, and nothing executes it."""
    await bench.pool.execute("UPDATE products SET name = $1, description = '' WHERE id = '1'", text)
    assert (await embed(bench)).embedded == 5
    assert asked(bench)[0][0] == f"{text}\n"
    assert (await embed(bench)).embedded == 0
