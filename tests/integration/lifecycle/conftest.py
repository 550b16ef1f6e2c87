"""How a server starts and ends does not depend on who speaks HTTP/2 in it."""

import pytest


@pytest.fixture(params=("grpcio", "builtin"))
def transport(request):
    """Both."""
    return request.param
