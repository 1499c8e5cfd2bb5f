"""The proof."""

import pytest

pytest.register_assert_rewrite("tests.books")  # or a broken rule would be an AssertionError without words
