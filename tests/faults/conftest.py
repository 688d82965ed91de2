"""One real stack for all of these tests; some of them kill a part of it, and it is whole again when they end."""

from collections.abc import Iterator

import pytest
from stacks import Stack


@pytest.fixture
def whole(stack: Stack) -> Iterator[Stack]:
    """The stack, with nothing to do at the beginning of a test and ready again at its end."""
    stack.calm()
    yield stack
    stack.recovered()
