"""The decorator on every form of function."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import numpy as np
import pytest
from opentelemetry.trace import StatusCode
from tests.sdk.conftest import Recorder

from leadline import names
from leadline.sdk import current


def labels(recorder: Recorder) -> list[Any]:
    return [(span.attributes or {}).get(names.PREDICTION_LABEL) for span in recorder.spans]


@pytest.mark.parametrize(
    ("result", "key", "value"),
    [
        ("yes", names.PREDICTION_LABEL, "yes"),
        (True, names.PREDICTION_LABEL, "true"),
        (np.int64(2), names.PREDICTION_LABEL, "2"),
        (0.25, names.PREDICTION_SCORE, 0.25),
        (np.array([0.25]), names.PREDICTION_SCORE, 0.25),
        ({"label": "no", "score": 0.1}, names.PREDICTION_LABEL, "no"),
    ],
    ids=str,
)
def test_a_function(recorder: Recorder, result: Any, key: str, value: Any) -> None:
    """The first argument holds the features, the result the answer."""

    @recorder.monitor().observe
    def predict(row: dict[str, float]) -> Any:
        """Predicts."""
        return result

    assert predict({"a": 1.0}) is result
    assert (predict.__name__, predict.__doc__) == ("predict", "Predicts.")
    assert recorder.attributes[key] == value
    assert names.FEATURES_PACKED in recorder.attributes


def test_a_method_with_named_features_and_an_output_function(recorder: Recorder) -> None:
    """Features by the parameter's name; the answer by a function of the result."""

    class Model:
        @recorder.monitor().observe(features="row", output=lambda result: {"label": result[0]})
        def predict(self, context: str, row: list[float]) -> tuple[str, int]:
            prediction = current()
            assert prediction is not None
            prediction.segment(context=context)
            return "yes", 1

    assert Model().predict("web", row=[1.0]) == ("yes", 1)
    assert labels(recorder) == ["yes"]
    assert recorder.attributes["ml.segment.context"] == "web"
    with pytest.raises(ValueError, match="expected a parameter of"):
        recorder.monitor().observe(features="rows")(lambda row: row)


def test_a_table_through_a_function(recorder: Recorder) -> None:
    """What scikit-learn's predict does: a matrix in, an array out."""

    @recorder.monitor(features=["a", "b"]).observe
    def predict(table: Any) -> Any:
        return np.array([1, 0, 1])

    predict(np.ones((3, 2)))
    assert labels(recorder) == [("1", "0", "1")]
    assert recorder.attributes[names.BATCH_SIZE] == 3


async def test_a_coroutine_and_an_async_generator(recorder: Recorder) -> None:
    """The span covers the awaits; of a generator, the last item is the answer."""
    monitor = recorder.monitor()

    @monitor.observe
    async def predict(row: dict[str, float]) -> str:
        return "yes"

    @monitor.observe
    async def stream(row: dict[str, float]) -> AsyncIterator[str]:
        yield "maybe"
        yield "no"

    assert await predict({"a": 1.0}) == "yes"
    assert [item async for item in stream({"a": 1.0})] == ["maybe", "no"]
    assert labels(recorder) == ["yes", "no"]


def test_a_generator(recorder: Recorder) -> None:
    """Sent values and the return value pass through; a consumer that stops early is no error."""
    monitor = recorder.monitor()

    @monitor.observe
    def stream(row: dict[str, float]) -> Iterator[str]:
        got = yield "first"
        yield f"got {got}"
        return "done"

    running = stream({"a": 1.0})
    assert next(running) == "first"
    assert running.send("it") == "got it"
    with pytest.raises(StopIteration, match="done"):
        next(running)
    assert labels(recorder) == ["got it"]
    early = stream({"a": 1.0})
    next(early)
    early.close()
    assert recorder.spans[1].status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("form", ["function", "coroutine", "generator", "async generator"])
async def test_errors_pass_through_every_form(recorder: Recorder, form: str) -> None:
    """error.type is set, the exception goes on to the caller."""
    monitor = recorder.monitor()

    @monitor.observe
    def function(row: Any) -> None:
        raise LookupError

    @monitor.observe
    async def coroutine(row: Any) -> None:
        raise LookupError

    @monitor.observe
    def generator(row: Any) -> Iterator[str]:
        yield "one"
        raise LookupError

    @monitor.observe
    async def async_generator(row: Any) -> AsyncIterator[str]:
        yield "one"
        raise LookupError

    async def run() -> None:
        if form == "function":
            function([1.0])
        elif form == "coroutine":
            await coroutine([1.0])
        elif form == "generator":
            list(generator([1.0]))
        else:
            [item async for item in async_generator([1.0])]

    with pytest.raises(LookupError):
        await run()
    assert recorder.attributes[names.ERROR_TYPE] == "LookupError"
    assert recorder.span.status.status_code is StatusCode.ERROR
