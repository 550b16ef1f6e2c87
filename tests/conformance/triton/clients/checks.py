"""How a client script reports: named checks, run one after the other, printed as JSON.

A check returns something JSON can hold. One that raises an `InferenceServerException` reports the
status and the message that the caller saw.
"""

import asyncio
import json
import sys

from tritonclient.utils import InferenceServerException


class Checks:
    """The checks of one script, in the order in which they are written."""

    def __init__(self):
        self._checks = []

    def __call__(self, check):
        """Decorator: report the function's result under its name."""
        self._checks.append(check)
        return check

    def run(self, client):
        """Print every result of plain functions."""
        results = {}
        for check in self._checks:
            try:
                results[check.__name__] = check(client)
            except InferenceServerException as error:
                results[check.__name__] = failure(error)
        json.dump(results, sys.stdout)

    async def run_async(self, client):
        """Print every result of coroutine functions."""
        results = {}
        for check in self._checks:
            try:
                results[check.__name__] = await asyncio.wait_for(check(client), 60)
            except InferenceServerException as error:
                results[check.__name__] = failure(error)
        json.dump(results, sys.stdout)


def failure(error):
    """What the caller sees of an error."""
    return {"status": error.status(), "message": error.message()}
