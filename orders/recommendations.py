"""What product-recommendations and index-products say, and what travels between them and their activities."""

from collections.abc import Sequence
from enum import StrEnum

from orders.models import Model

WANTED = 5  # recommendations
CANDIDATES = 10  # among which they are chosen


class Source(StrEnum):
    """Who put the recommendations in their order."""

    MODEL = "model"
    SIMILARITY = "similarity"
    POPULAR = "popular"


class Recommendation(Model):
    product_id: str
    name: str
    reason: str


class RecommendationsOutcome(Model):
    """What product-recommendations answers. `fallback` says why the model had no say, where it was to have one."""

    recommendations: Sequence[Recommendation]
    source: Source
    fallback: str | None = None


class Candidate(Model):
    """A product in stock that the customer does not own. `near` is the purchase that it is most like."""

    product_id: str
    name: str
    description: str
    near: str | None = None


class Purchase(Model):
    name: str
    description: str


class Choice(Model):
    """What a customer may be recommended, best first.

    `deadline` is how long (in seconds) the model may be asked for its choice; None: there is no model.
    """

    purchases: Sequence[Purchase]
    candidates: Sequence[Candidate]
    source: Source
    deadline: int | None


class Ranking(Model):
    """The model's choice, checked; or what was wrong with its answer."""

    recommendations: Sequence[Recommendation] = ()
    problem: str | None = None


class IndexTarget(Model):
    """The embeddings that an index is made of."""

    model: str
    dimensions: int


class IndexBatch(Model):
    """Products after this one, in the order of their ids; the first batch comes after the empty id."""

    target: IndexTarget
    after: str = ""


class IndexedBatch(Model):
    """`last` is the id of the last product looked at; None: there are no more."""

    embedded: int
    last: str | None


class IndexProgress(Model):
    """How far an index run is; its `status` query answers it, and its end.

    It is `finished` when the target is what is searched; otherwise the next run goes on. `after` is the last product
    looked at.
    """

    target: IndexTarget
    embedded: int = 0
    products: int = 0
    after: str = ""
    finished: bool = False
