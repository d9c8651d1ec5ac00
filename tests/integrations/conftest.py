"""One taught model for all tests of other people's trainers."""

import pytest

from tests.integrations import trained


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return trained.make_taught(tmp_path_factory.mktemp("taught"))
