"""What product-recommendations and index-products answer, and what they exchange with their activities."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from orders.models import Model

WANTED: Final = 5  # recommendations
CANDIDATES: Final = 10  # from which they are chosen
MAX_REASON: Final = 200  # characters

# The error type of a language model that refuses our API key: the error lasts until an operator changes the key.
KEY_REFUSED: Final = "openai_key_refused"


class Source(StrEnum):
    """What decided the order of the recommendations."""

    MODEL = "model"
    SIMILARITY = "similarity"
    POPULAR = "popular"


class Recommendation(Model):
    product_id: str
    name: str
    reason: str


class RecommendationsOutcome(Model):
    """What product-recommendations answers. `fallback` says why the model did not decide, where it should have."""

    recommendations: Sequence[Recommendation]
    source: Source
    fallback: str | None = None


class Candidate(Model):
    """A product in stock that the customer does not own. `near` names the purchase that is most like it."""

    product_id: str
    name: str
    description: str
    near: str | None = None


class Purchase(Model):
    name: str
    description: str


class Choice(Model):
    """What can be recommended to a customer, best first.

    `deadline` is how long the model may take to choose, in seconds; None: there is no model.
    """

    purchases: Sequence[Purchase]
    candidates: Sequence[Candidate]
    source: Source
    deadline: int | None


class Ranking(Model):
    """The model's choice, checked; or in `problem` why its answer cannot be used."""

    recommendations: Sequence[Recommendation] = ()
    problem: str | None = None


class IndexTarget(Model):
    """The model and the dimensions of the embeddings in an index."""

    model: str
    dimensions: int


class IndexBatch(Model):
    """The products whose ids come after `after`; the first batch comes after the empty id."""

    target: IndexTarget
    after: str = ""


class IndexedBatch(Model):
    """`last` is the id of the last product that was read; None: there are no more products."""

    embedded: int
    last: str | None


class IndexProgress(Model):
    """How far index-products is: the answer of its `status` query, and its outcome.

    It is `finished` when the target is the index in use; otherwise the next run goes on. `after` is the id of the last
    product that was read.
    """

    target: IndexTarget
    embedded: int = 0
    products: int = 0
    after: str = ""
    finished: bool = False


def shorten(line: str) -> str:
    """The line, cut at a word if it is longer than MAX_REASON characters."""
    if len(line) <= MAX_REASON:
        return line
    return line[:MAX_REASON].rsplit(" ", 1)[0][: MAX_REASON - 1].rstrip(" ,;:.") + "…"
