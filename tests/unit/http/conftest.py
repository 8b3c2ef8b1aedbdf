"""Fixtures for tests of conversations."""

import pytest
from http_wire import APP, DEV


@pytest.fixture(params=[APP, DEV], ids=["app", "dev"])
def side(request):
    """The side that answers: what holds of the one holds of the other."""
    return request.param
