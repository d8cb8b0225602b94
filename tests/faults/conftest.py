"""The processes of all tests come from one nursery: importing takes seconds."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from faults.process_federation import Nursery


@pytest.fixture(scope="session")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    nursery = Nursery(tmp_path_factory.mktemp("nursery"))
    yield nursery
    nursery.close()
