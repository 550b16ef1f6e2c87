"""Start, drain and stop are tested with both transports."""

import pytest


@pytest.fixture(params=("grpcio", "builtin"))
def transport(request):
    """Both."""
    return request.param
