"""What product-recommendations and index-products answer, and what they exchange with their activities."""

import re
import unicodedata
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from orders.models import Model
from orders.plain_text import has_markup, is_harmful, is_visible, shorten

WANTED: Final = 5  # recommendations
CANDIDATES: Final = 10  # from which they are chosen
MAX_REASON: Final = 200  # characters

# What an e-mail or a page could take for markup, a mention or a link, beyond what no text may have.
NOT_PLAIN: Final = re.compile(
    r"[<>`]|\*\*|__|&#?\w+;|@\w|\b[\w-]+\.(?:com|net|org|info|biz|shop|store|app|example)\b|\b[\w-]+\.[a-z]{2,}/",
    re.IGNORECASE,
)
LINE_BREAKS: Final = str.maketrans("\t\n\r", "   ")

# The error type of a language model that refuses our API key: the error lasts until an operator changes the key.
KEY_REFUSED: Final = "openai_key_refused"

# The error type of a language model that is not asked for a while, because it failed several times in a row.
MODEL_SUSPENDED: Final = "openai_suspended"


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


def reason_for(candidate: Candidate, given: object = None) -> str:
    """The reason that the model has given, as one line of plain text; our own if there is none that can be shown."""
    if isinstance(given, str) and _is_plain(given):
        return shorten(" ".join(given.split()), MAX_REASON)
    if candidate.near:
        return shorten(f"Similar to {candidate.near}, which you bought.", MAX_REASON)
    return "Popular with other customers."


def _is_plain(text: str) -> bool:
    line = text.translate(LINE_BREAKS)
    if is_harmful(line) or has_markup(line) or not is_visible(line):
        return False
    return not NOT_PLAIN.search(unicodedata.normalize("NFKC", line))
