"""`Monitor.observe`: functions, coroutines, generators and async generators as predictions."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from leadline.sdk.monitor import Monitor

Features = str | Callable[..., Any] | None


def observed(monitor: Monitor, function: Callable[..., Any], features: Features, output: Callable[[Any], Any] | None) -> Callable[..., Any]:
    """Wraps `function` in the form it has: a coroutine stays a coroutine, a generator a generator."""
    asked = _reader(function, features)

    def answered(result: Any) -> Any:
        return result if output is None else output(result)

    if inspect.isasyncgenfunction(function):

        @functools.wraps(function)
        async def async_generator(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
            # The span is not made current: the code between two items belongs to the consumer.
            prediction = monitor.prediction(features=asked(args, kwargs))
            prediction.start()
            item = None
            try:
                async for item in function(*args, **kwargs):
                    yield item
            except GeneratorExit:
                prediction.end()
                raise
            except BaseException as error:
                prediction.end(error)
                raise
            prediction.answer(answered(item))
            prediction.end()

        return async_generator

    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def generator(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
            prediction = monitor.prediction(features=asked(args, kwargs))
            prediction.start()
            last = None

            def kept() -> Generator[Any, Any, Any]:
                nonlocal last
                inner = function(*args, **kwargs)
                try:
                    last = next(inner)
                    while True:
                        last = inner.send((yield last))
                except StopIteration as stop:
                    return stop.value
                finally:
                    inner.close()

            try:
                result = yield from kept()
            except GeneratorExit:
                prediction.end()
                raise
            except BaseException as error:
                prediction.end(error)
                raise
            prediction.answer(answered(last))
            prediction.end()
            return result

        return generator

    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def coroutine(*args: Any, **kwargs: Any) -> Any:
            with monitor.prediction(features=asked(args, kwargs)) as prediction:
                result = await function(*args, **kwargs)
                prediction.answer(answered(result))
                return result

        return coroutine

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with monitor.prediction(features=asked(args, kwargs)) as prediction:
            result = function(*args, **kwargs)
            prediction.answer(answered(result))
            return result

    return call


def _reader(function: Callable[..., Any], features: Features) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """What finds the features among a call's arguments."""
    if callable(features):
        return lambda args, kwargs: features(*args, **kwargs)
    parameters = list(inspect.signature(function).parameters)
    if features is not None:
        if features not in parameters:
            raise ValueError(f"observe(features={features!r}): expected a parameter of {function.__qualname__} ({', '.join(parameters)})")
        place = parameters.index(features)
    else:
        place = 1 if parameters and parameters[0] in {"self", "cls"} else 0
    name = parameters[place] if place < len(parameters) else ""
    return lambda args, kwargs: args[place] if place < len(args) else kwargs.get(name)
