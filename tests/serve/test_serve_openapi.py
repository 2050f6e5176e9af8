"""Requests that schemathesis makes from the OpenAPI description."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="no fastapi: pip install 'monoskd[serve]'")
pytest.importorskip("schemathesis", reason="no schemathesis: pip install schemathesis")

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode, checks

from monoskd.serve.app import create_app
from monoskd.serve.limits import Limits
from monoskd.serve.question import Model
from monoskd.serve.worker import Worker

REQUESTS = [
    *(
        (route, GenerationMode.POSITIVE)
        for route in ("POST /predict", "GET /healthz", "GET /line/{ticket}", "GET /about")
    ),
    ("POST /predict", GenerationMode.NEGATIVE),  # the others take nothing that could be wrong
]


@pytest.fixture(scope="module")
def api() -> Iterator[schemathesis.BaseSchema]:
    """The description of a server that decodes pictures and detects nothing: no random bytes are a picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "detectors"))
        from told import Decoding

        limits = Limits()
        worker = Worker(Model(Path("good")), limits, load=Decoding)
        worker.start()
        yield schemathesis.openapi.from_asgi("/openapi.json", create_app([worker], limits))
        worker.stop()


@pytest.mark.parametrize(("route", "mode"), REQUESTS)
def test_no_request_that_fits_the_description_or_not_breaks_the_server(
    api: schemathesis.BaseSchema, route: str, mode: GenerationMode
) -> None:
    """Statuses, headers and bodies are those of the description. It cannot say which bytes are a picture."""
    method, path = route.split()

    @given(case=api[path][method].as_strategy(generation_mode=mode))
    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])

    check()
