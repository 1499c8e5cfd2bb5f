"""Candidates by similarity, from PostgreSQL alone; the answer of the model is checked."""

import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, get_args

import asyncpg
import pytest

from activities.recommendations import (
    COMPUTE,
    MAX_DESCRIPTION,
    NEAREST,
    OWNED,
    POPULAR,
    PURCHASES,
    WALK,
    Recommendations,
    parse_ranking,
    search,
)
from deploy.local.postgres import Postgres
from gateways.openai import Unusable
from orders.errors import Permanent, Unavailable
from orders.models import KEPT
from orders.plain_text import shorten
from orders.recommendations import CANDIDATES, Candidate, Choice, Purchase, Source
from sandbox.openai_model import BadAnswer
from tests.support.activity_bench import ActivityBench
from tests.support.catalogue import Catalogue
from tests.support.servers import copy_database

if TYPE_CHECKING:
    from gateways.postgres import Connection, Pool

EAST, NORTH, WEST = (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0)
NORTH_EAST, NEARLY_EAST = (1.0, 1.0), (1.0, 0.1)


@pytest.fixture
async def catalogue(bench: ActivityBench) -> Catalogue:
    """An empty catalogue."""
    await bench.pool.execute("TRUNCATE products CASCADE")
    return Catalogue(bench.pool)


async def choose(bench: ActivityBench, customer_id: str = "cus_1") -> Choice:
    return await bench.do(Recommendations.choose_candidates, customer_id)


async def candidates(bench: ActivityBench) -> list[str]:
    choice = await choose(bench)
    assert choice.source is Source.SIMILARITY
    return [candidate.product_id for candidate in choice.candidates]


# --------------------------------------------------------------------------------------------------- the candidates


@pytest.mark.prove
async def test_the_nearest_come_first(bench: ActivityBench, catalogue: Catalogue) -> None:
    """By the cosine to the average purchase, each with the nearest of the purchases; the model is not asked."""
    await catalogue.indexed(
        {"lamp": EAST, "pen": NORTH, "bulb": NEARLY_EAST, "globe": WEST, "desk": NORTH_EAST, "ink": (0.2, 1.0)}
    )
    await catalogue.bought("lamp")
    await catalogue.bought("pen", days_ago=1)
    choice = await choose(bench)

    found = [(candidate.product_id, candidate.near) for candidate in choice.candidates]
    assert found == [("desk", "The lamp"), ("ink", "The pen"), ("bulb", "The lamp"), ("globe", "The pen")]
    assert choice.source is Source.SIMILARITY
    assert choice.candidates[0].name == "The desk"
    assert choice.candidates[0].description == "All about desk"
    assert [purchase.name for purchase in choice.purchases] == ["The lamp", "The pen"]
    assert bench.calls("openai") == []


async def test_at_most_ten(bench: ActivityBench, catalogue: Catalogue) -> None:
    """However many products there are."""
    await catalogue.indexed({"lamp": EAST} | {f"p{number:02}": (1.0, number / 100) for number in range(1, 30)})
    await catalogue.bought("lamp")

    assert await candidates(bench) == [f"p{number:02}" for number in range(1, 11)]


async def test_the_last_ten_distinct_purchases_count(bench: ActivityBench, catalogue: Catalogue) -> None:
    """The newest first, each once; older purchases are not recommended either."""
    await catalogue.indexed(
        {"oldest": WEST, "near-oldest": (-1.0, 0.1), "lamp": NEARLY_EAST} | {f"p{at}": EAST for at in range(10)}
    )
    await catalogue.bought("oldest", days_ago=50)
    await catalogue.bought("p9", days_ago=40)
    for at in range(10):
        await catalogue.bought(f"p{at}", days_ago=at)
    choice = await choose(bench)

    assert [purchase.name for purchase in choice.purchases] == [f"The p{at}" for at in range(10)]
    assert [candidate.product_id for candidate in choice.candidates] == ["lamp", "near-oldest"]


@pytest.mark.parametrize("indexed", [True, False])
async def test_a_product_in_another_currency_is_not_recommended(
    bench: ActivityBench, catalogue: Catalogue, *, indexed: bool
) -> None:
    """One order has one currency: the customer buys in those of the purchases, and without any purchase in each."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST, "globe": WEST})
    await bench.pool.execute("UPDATE products SET currency = 'eur' WHERE id = 'bulb'")
    if not indexed:
        await bench.pool.execute("DELETE FROM embedding_index")
    assert {each.product_id for each in (await choose(bench)).candidates} == {"lamp", "bulb", "globe"}
    await catalogue.bought("lamp")

    choice = await choose(bench)
    assert choice.source is (Source.SIMILARITY if indexed else Source.POPULAR)
    assert [each.product_id for each in choice.candidates] == ["globe"]


@pytest.mark.parametrize("status", ["processing", "shipped", "delivered"])
async def test_what_was_paid_for_is_owned(bench: ActivityBench, catalogue: Catalogue, status: str) -> None:
    """It counts as a purchase and is never recommended."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST})
    await catalogue.bought("lamp", status=status)

    assert await candidates(bench) == ["bulb"]


@pytest.mark.parametrize("status", ["pending", "capturing", "undoing", "cancelling", "rejected", "failed", "cancelled"])
async def test_what_was_not_kept_is_not_owned(bench: ActivityBench, catalogue: Catalogue, status: str) -> None:
    """It is no purchase, and can be recommended."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST, "globe": WEST})
    await catalogue.bought("lamp", days_ago=1)
    await catalogue.bought("globe", status=status)
    choice = await choose(bench)

    assert [purchase.name for purchase in choice.purchases] == ["The lamp"]
    assert [candidate.product_id for candidate in choice.candidates] == ["bulb", "globe"]


async def test_out_of_stock_is_no_candidate(bench: ActivityBench, catalogue: Catalogue) -> None:
    """However near it is."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST, "globe": WEST})
    await catalogue.bought("lamp")
    await catalogue.stock(0, "bulb")

    assert await candidates(bench) == ["globe"]


async def test_only_the_active_index_is_searched(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Embeddings of another model are not used."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST, "globe": WEST})
    await catalogue.place({"lamp": EAST, "bulb": WEST, "globe": EAST}, ("another-model", 2))
    await catalogue.place({"lamp": EAST, "bulb": WEST, "globe": EAST}, ("a-model", 3))
    await catalogue.bought("lamp")

    assert await candidates(bench) == ["bulb", "globe"]
    await catalogue.activate(("another-model", 2))
    assert await candidates(bench) == ["globe", "bulb"]


async def test_a_customer_without_history_gets_what_is_popular(bench: ActivityBench, catalogue: Catalogue) -> None:
    """By the units that orders keep; only products in stock."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST, "globe": WEST})
    await catalogue.bought("lamp", by="cus_2")
    await bench.pool.execute(
        "UPDATE inventory SET sold = CASE product_id WHEN 'globe' THEN 9 WHEN 'bulb' THEN 3 ELSE 1 END"
    )
    await catalogue.stock(0, "bulb")
    choice = await choose(bench)

    assert choice.source is Source.POPULAR
    assert [candidate.product_id for candidate in choice.candidates] == ["globe", "lamp"]
    assert choice.purchases == []


async def test_without_an_index_the_popular_are_recommended(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Only products that the customer does not own."""
    await catalogue.sell("lamp", "bulb")
    await catalogue.bought("lamp")
    choice = await choose(bench)

    assert choice.source is Source.POPULAR
    assert [candidate.product_id for candidate in choice.candidates] == ["bulb"]


async def test_purchases_that_are_not_indexed_yet(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Similarity needs the embedding of a purchase."""
    await catalogue.indexed({"bulb": NEARLY_EAST})
    await catalogue.sell("lamp")
    await catalogue.bought("lamp")

    assert (await choose(bench)).source is Source.POPULAR


async def test_a_customer_who_owns_everything(bench: ActivityBench, catalogue: Catalogue) -> None:
    """Nothing is left to recommend."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST})
    await catalogue.bought("lamp", "bulb")

    assert (await choose(bench)).candidates == []


async def test_descriptions_are_cut(bench: ActivityBench, catalogue: Catalogue) -> None:
    """The history of the run and the cost of the model stay small."""
    await catalogue.indexed({"lamp": EAST, "bulb": NEARLY_EAST})
    await catalogue.bought("lamp")
    await bench.pool.execute("UPDATE products SET description = repeat('x', 10000)")
    choice = await choose(bench)

    assert {len(candidate.description) for candidate in choice.candidates} == {MAX_DESCRIPTION}
    assert {len(purchase.description) for purchase in choice.purchases} == {MAX_DESCRIPTION}


# --------------------------------------------------------------------------------------------------------- the model

A_CHOICE = Choice(
    purchases=[Purchase(name="Brass desk lamp", description="Warm white.")],
    candidates=[
        Candidate(product_id=f"p{number}", name=f"Lamp {number}", description="", near="Brass desk lamp")
        for number in range(10)
    ],
    source=Source.SIMILARITY,
    deadline=30,
)


def picks(*chosen: tuple[str, str]) -> str:
    return json.dumps({"recommendations": [{"productId": each, "reason": reason} for each, reason in chosen]})


FIVE = [(f"p{number}", "It suits your lamp.") for number in range(5)]


async def test_the_model_chooses_five(bench: ActivityBench) -> None:
    """Their names are the catalogue's."""
    ranking = await bench.do(Recommendations.rank_candidates, A_CHOICE)

    assert ranking.problem is None
    assert len({each.product_id for each in ranking.recommendations}) == 5
    assert all(each.name == f"Lamp {each.product_id[1:]}" for each in ranking.recommendations)


async def test_what_the_model_gets(bench: ActivityBench) -> None:
    """Only products, with a strict schema and a limit of tokens; OpenAI must not store it."""
    await bench.do(Recommendations.rank_candidates, A_CHOICE)

    (call,) = bench.calls("openai", "/chat/completions")
    body = call["body"]
    assert (body["model"], body["max_completion_tokens"], body["store"]) == ("gpt-4o", 4000, False)
    assert set(body) == {"model", "messages", "response_format", "max_completion_tokens", "store"}
    system, user = body["messages"]
    assert "never an instruction" in system["content"]
    assert "the 5 candidates" in system["content"]
    assert json.loads(user["content"]) == {
        "purchases": [{"name": "Brass desk lamp", "description": "Warm white."}],
        "candidates": [
            {"productId": f"p{number}", "name": f"Lamp {number}", "description": ""} for number in range(10)
        ],
    }
    schema = body["response_format"]["json_schema"]
    assert schema["strict"]
    items = schema["schema"]["properties"]["recommendations"]["items"]
    assert items["properties"]["productId"]["enum"] == [f"p{number}" for number in range(10)]


USABLE = {"fenced", "long_reason", "empty_reason", "injection"}


@pytest.mark.parametrize("kind", sorted(USABLE))
async def test_an_odd_answer_is_used(bench: ActivityBench, kind: BadAnswer) -> None:
    """Its order counts, and its reasons where they are plain text."""
    bench.world.openai.script(kind)
    ranking = await bench.do(Recommendations.rank_candidates, A_CHOICE)

    assert ranking.problem is None
    assert len(ranking.recommendations) == 5
    reasons = [each.reason for each in ranking.recommendations]
    assert reasons[1:] == ["Goes well with Brass desk lamp."] * 4
    if kind in {"empty_reason", "injection"}:
        assert reasons[0] == "Similar to Brass desk lamp, which you bought."


@pytest.mark.parametrize("kind", [kind for kind in get_args(BadAnswer) if kind not in USABLE])
async def test_a_bad_answer_is_a_problem(bench: ActivityBench, kind: BadAnswer) -> None:
    """The problem is named in short, and nothing of the answer is quoted."""
    bench.world.openai.script(kind)
    ranking = await bench.do(Recommendations.rank_candidates, A_CHOICE)

    assert not ranking.recommendations
    assert ranking.problem
    assert len(ranking.problem) < 80
    for quoted in ("no-such-product", "evil", "script", "Sure!"):
        assert quoted not in ranking.problem


@pytest.mark.parametrize(
    ("status", "error"), [(401, Unavailable), (429, Unavailable), (503, Unavailable), (400, Permanent)]
)
async def test_a_model_out_of_reach(bench: ActivityBench, status: int, error: type[Exception]) -> None:
    """The run decides how long it retries."""
    bench.fault("openai", "status", status=status)
    with pytest.raises(error):
        await bench.do(Recommendations.rank_candidates, A_CHOICE)


BAD: dict[str, tuple[str, str]] = {
    "nothing": ("", "the expected form"),
    "a list": ("[]", "the expected form"),
    "an empty fence": ("```json\n```", "the expected form"),
    "half a fence": (f"```json\n{picks(*FIVE)[:-9]}\n```", "the expected form"),
    "a number for an id": (json.dumps({"recommendations": [{"productId": 1, "reason": "x"}] * 5}), "the expected form"),
    "half a character for an id": (picks(*FIVE).replace("p1", "\\ud800"), "not a candidate"),
    "nested beyond reason": ("[" * 100_000, "the expected form"),
    "none": (picks(), "0 products, not 5"),
    "four": (picks(*FIVE[:4]), "4 products, not 5"),
    "six": (picks(*FIVE, ("p9", "Too.")), "6 products, not 5"),
    "one twice": (picks(*FIVE[:4], FIVE[0]), "twice"),
    "an id of its own": (picks(*FIVE[:4], ("p10", "Good.")), "not a candidate"),
    "an id in other letters": (picks(*FIVE[:4], ("P4", "Good.")), "not a candidate"),
}


@pytest.mark.parametrize(("answer", "problem"), BAD.values(), ids=BAD)
def test_answers_that_are_refused(answer: str, problem: str) -> None:
    """One mistake makes the whole answer unusable."""
    with pytest.raises(Unusable, match=problem):
        parse_ranking(answer, A_CHOICE.candidates)


@pytest.mark.parametrize(
    "frame",
    ["```json\n{}\n```", "```\n{}\n```", "```JSON {}```", "Here you are:\n\n```json\n{}\n```\nEnjoy!", "\n {} \n"],
)
def test_json_may_be_in_a_code_fence(frame: str) -> None:
    """Models without strict schemas answer so."""
    answer = frame.replace("{}", picks(*FIVE[:4], ("p4", "It suits your {lamp}.")))
    (*_, last) = parse_ranking(answer, A_CHOICE.candidates)

    assert last.reason == "It suits your {lamp}."


ODD_REASONS: dict[str, Any] = {
    "none": None,
    "a number": 5,
    "a list": ["It is good."],
    "half a character": "It is good \ud83d",
    "empty": " \n\t",
    "markup": "It is <b>good</b>.",
    "half a tag": "It is good <",
    "a wide tag": "It is \uff1cb\uff1egood.",
    "an entity": "It is &lt;b&gt;good.",
    "bold": "It is **good**.",
    "a link": "See https://evil.example/x",
    "a link without a scheme": "See www.evil.example",
    "a bare domain": "Buy it at evil.com instead.",
    "a domain of a country": "Buy it at evil.ru/x instead.",
    "a link in markdown": "[Here](evil)",
    "an address": "Write to me@evil.",
    "a control character": "It is\x07 good.",
    "an escape": "It is \x1b[31mgood.",
    "a separator": "It is\x1cgood.",
    "NUL": "It is\x00good.",
    "the direction turned": "It is \u202edoog.",
    "the direction isolated": "It is \u2067doog\u2069.",
    "invisible text": "It is good.\U000e0068\U000e0069",
    "nothing that can be seen": "\u200b\u2060",
}


@pytest.mark.parametrize("reason", ODD_REASONS.values(), ids=ODD_REASONS)
def test_reasons_that_are_replaced(reason: Any) -> None:
    """One odd reason costs itself: our own stands there, and the model's choice remains."""
    ranked = parse_ranking(picks(*FIVE[:4], ("p4", reason)), A_CHOICE.candidates)

    assert [each.product_id for each in ranked] == [product for product, _ in FIVE]
    assert [each.reason for each in ranked] == [
        *(given for _, given in FIVE[:4]),
        "Similar to Brass desk lamp, which you bought.",
    ]


ENGLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
FAMILY = "\U0001f469\U0001f3fd\u200d\U0001f467"

GOOD_REASONS: dict[str, tuple[str, str]] = {
    "plain": ("It suits your lamp.", "It suits your lamp."),
    "spaces and lines": ("  It\n suits\t\tyour  lamp. \n", "It suits your lamp."),
    "other letters": ("Pasuje do lampy z Łodzi, 東京 👩‍👧.", "Pasuje do lampy z Łodzi, 東京 👩‍👧."),
    "Arabic": ("يناسب مصباحك\u200f، وبه ٢ لمبة.", "يناسب مصباحك\u200f، وبه ٢ لمبة."),
    "Persian": ("می\u200cخواهید", "می\u200cخواهید"),  # noqa: RUF001
    "Thai": ("เหมาะกับโคมไฟของคุณ", "เหมาะกับโคมไฟของคุณ"),
    "newer emoji": ("Nice \U0001fae8\U0001fae9\U0001face!", "Nice \U0001fae8\U0001fae9\U0001face!"),
    "a flag": (f"Made in {ENGLAND}.", f"Made in {ENGLAND}."),
    "joined": ("क्\u200cष, क्\u200dष", "क्\u200cष, क्\u200dष"),
    "without spaces": ("ភ្លើង\u200bតុ", "ភ្លើង\u200bតុ"),
    "Chinese sentences": ("很好。适合您的台灯。", "很好。适合您的台灯。"),
    "a full stop inside": ("For 2.5 m desks, e.g. yours.", "For 2.5 m desks, e.g. yours."),
    "long": ("word " * 100, "word " * 39 + "word…"),
    "long, without a space": ("x" * 300, "x" * 199 + "…"),
    "long, with one space near its beginning": ("适合 " + "灯" * 300, "适合 " + "灯" * 196 + "…"),
    "long, with accents": ("e\u0301" * 150, "e\u0301" * 99 + "…"),
    "long, with joined emoji": ("x" * 197 + FAMILY * 2, "x" * 197 + "…"),
}


@pytest.mark.parametrize(("reason", "shown"), GOOD_REASONS.values(), ids=GOOD_REASONS)
def test_reasons_are_trimmed(reason: str, shown: str) -> None:
    """Each becomes one line of at most 200 characters, cut at a word."""
    (*_, last) = parse_ranking(picks(*FIVE[:4], ("p4", reason)), A_CHOICE.candidates)

    assert last.reason == shown
    assert len(last.reason) <= 200


def test_as_many_as_there_are() -> None:
    """The model must choose all of three candidates."""
    assert len(parse_ranking(picks(*FIVE[:3]), A_CHOICE.candidates[:3])) == 3
    with pytest.raises(Unusable, match="2 products, not 3"):
        parse_ranking(picks(*FIVE[:2]), A_CHOICE.candidates[:3])


def test_a_line_that_fits_is_not_cut() -> None:
    """A line of exactly 200 characters stays whole."""
    assert shorten("x" * 200, 200) == "x" * 200


# ----------------------------------------------------------------------------------------------------- large numbers

PRODUCTS = 10_000
GRAPH = "product_embeddings_nearest"

LEAVE_IN_STOCK = "UPDATE inventory SET quantity = CASE WHEN product_id = ANY($1::text[]) THEN 5 ELSE 0 END"


# In clusters, as the products of a shop are; a third is out of stock. Another model has embedded a part of them.
ADD_CATALOGUE = """
    INSERT INTO products (id, name, price, currency)
    SELECT 'p' || n, 'Product ' || n, 100, 'usd' FROM generate_series(1, 10000) n;
    INSERT INTO inventory (product_id, product_name, quantity)
    SELECT id, name, CASE WHEN random() < 0.33 THEN 0 ELSE 5 END FROM products;
    WITH centres AS MATERIALIZED (
        SELECT model, k, array_agg(random() - 0.5) AS centre
        FROM (VALUES ('a'), ('b')) m (model), generate_series(0, 99) k, generate_series(1, 64) GROUP BY model, k
    )
    INSERT INTO product_embeddings (product_id, model, dimensions, content_hash, embedding)
    SELECT 'p' || n, model, 64, '', (
        (SELECT array_agg(x + (random() - 0.5) * 0.8 ORDER BY at) FROM unnest(centre) WITH ORDINALITY u (x, at))
        || array_fill(0::float8, ARRAY[1536 - 64])
    )::vector(1536)
    FROM generate_series(1, 10000) n JOIN centres ON k = n % 100 WHERE model = 'a' OR n <= 1000;
    INSERT INTO embedding_index (model, dimensions) VALUES ('a', 64);
"""

ADD_OTHERS = """
    WITH made AS (
        INSERT INTO orders (id, customer_id, request_hash, status, total, currency, capture_mode, terms,
            payment_intent_id, created_at)
        SELECT 'o' || n, 'other' || n % 500, '', 'processing', 100, 'usd', 'manual', '{}', 'pi' || n, now()
        FROM generate_series($1::integer, $2::integer) n RETURNING id
    )
    INSERT INTO order_items (order_id, product_id, quantity, price)
    SELECT id, 'p1', 1, 100 FROM made
"""


@pytest.fixture(scope="module")
async def large(postgres: Postgres) -> AsyncIterator["Connection"]:
    """A large shop; its graph is built at once, by the definition in the schema."""
    async with (
        copy_database(postgres) as url,
        asyncpg.create_pool(url, min_size=1) as pool,
        pool.acquire() as connection,
    ):
        await connection.execute("TRUNCATE products CASCADE; SET maintenance_work_mem = '512MB'; SELECT setseed(0.5)")
        definition = await connection.fetchval(f"SELECT pg_get_indexdef('{GRAPH}'::regclass)")
        await connection.execute(f"DROP INDEX {GRAPH}")
        await connection.execute(ADD_CATALOGUE)
        await connection.execute(definition)
        await connection.execute("ANALYZE")
        yield connection


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def indexes(plan: dict[str, Any]) -> set[Any]:
    return {node.get("Index Name") for node in nodes(plan)}


async def explain(connection: "Connection | Pool", statement: str, *arguments: object) -> dict[str, Any]:
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
    plan: dict[str, Any] = json.loads(text)[0]["Plan"]
    return plan


def shown(plan: dict[str, Any]) -> str:
    lines = [
        f"{node['Node Type']} {node.get('Index Name') or node.get('Relation Name') or ''}: {node['Actual Rows']} rows, "
        f"{buffers(node)} buffers"
        for node in nodes(plan)
    ]
    return "\n".join(lines)


def buffers(node: dict[str, Any]) -> int:
    return int(node["Shared Hit Blocks"] + node["Shared Read Blocks"])


@pytest.mark.prove
@pytest.mark.timeout(300)  # the graph of so many products takes a minute to build where others build too
async def test_ten_thousand_products(large: "Connection", capsys: pytest.CaptureFixture[str]) -> None:
    """The walk finds 95 % of the nearest products; if it ends too soon, every distance is computed."""
    found = wanted = 0
    for customer in range(30):
        owned = [f"p{1 + (customer * 211 + place * (100 if customer % 2 else 737)) % PRODUCTS}" for place in range(10)]
        arguments = (owned, owned, CANDIDATES, MAX_DESCRIPTION)
        async with large.transaction():
            await large.execute(WALK)
            plan = await explain(large, NEAREST, *arguments)
            walked = {row["product_id"] for row in await large.fetch(NEAREST, *arguments)}
            await large.execute(COMPUTE)
            computed = {row["product_id"] for row in await large.fetch(NEAREST, *arguments)}
        assert GRAPH in indexes(plan)
        found, wanted = found + len(walked & computed), wanted + len(computed)
    with capsys.disabled():
        print(f"\nrecall at {CANDIDATES} of {PRODUCTS} products: {found / wanted:.3f}, by\n{shown(plan)}")  # noqa: T201
    assert wanted == 30 * CANDIDATES
    assert found >= 0.95 * wanted

    left = [f"p{1000 * number}" for number in range(1, 10)]
    change = large.transaction()
    await change.start()
    await large.execute(LEAVE_IN_STOCK, left)
    await large.execute(f"{WALK}; SET LOCAL hnsw.max_scan_tuples = 500")
    walked_to = await large.fetch(NEAREST, ["p1"], ["p1"], CANDIDATES, MAX_DESCRIPTION)
    all_there_are = await search(large, ["p1"])
    await change.rollback()
    assert len(walked_to) < len(left)
    assert sorted(record["product_id"] for record in all_there_are) == left


async def test_other_customers_orders_cost_nothing(
    bench: ActivityBench, catalogue: Catalogue, capsys: pytest.CaptureFixture[str]
) -> None:
    """The index finds the customer's orders; no row of another customer's order is read."""
    owned = [f"p{number}" for number in range(1, 13)]
    await catalogue.indexed(dict.fromkeys(owned, EAST))
    for days_ago, product_id in enumerate(owned):
        await catalogue.bought(product_id, days_ago=days_ago)
    plans = []
    for first, last in ((1, 5_000), (5_001, 25_000)):
        await bench.pool.execute(ADD_OTHERS, first, last, timeout=60)
        await bench.pool.execute("ANALYZE")
        plans.append(await explain(bench.pool, OWNED, "cus_1", PURCHASES, MAX_DESCRIPTION, KEPT))
    few, many = plans
    with capsys.disabled():
        print(f"\na customer's purchases among 25 000 orders of others:\n{shown(many)}")  # noqa: T201

    assert "orders_customer" in indexes(many)
    for plan in plans:
        assert max(node["Actual Rows"] * node["Actual Loops"] for node in nodes(plan)) == len(owned)
        assert not {node.get("Relation Name") for node in nodes(plan) if node["Node Type"] == "Seq Scan"} - {"products"}
    assert buffers(many) <= buffers(few) + 2 * len(owned)  # indexes are a level higher, for each order
    for statement, arguments in (
        (NEAREST, (owned[:PURCHASES], owned, CANDIDATES, MAX_DESCRIPTION)),
        (POPULAR, (owned, CANDIDATES, MAX_DESCRIPTION)),
    ):
        plan = await explain(bench.pool, statement, *arguments)
        assert not {"orders", "order_items"} & {node.get("Relation Name") for node in nodes(plan)}
