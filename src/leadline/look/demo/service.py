"""The model server: scikit-learn behind FastAPI, two versions of one model, and three lines of instrumentation.

The three lines are marked. Half of the patients are answered by v1, a logistic regression, and half by v2, gradient boosted
trees, by a hash of the patient. `POST /faults` breaks v2's feature store, as an operator would have it break.

    python -m leadline.look.demo.service --port 8000 --otlp http://127.0.0.1:4317
"""

from __future__ import annotations

import argparse
import importlib
import random
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from opentelemetry import trace
from pydantic import BaseModel, Field
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import leadline.sdk as leadline
from leadline.look.demo.patients import FEATURES, MODEL, Patients, Row, load
from leadline.look.up import end_with_parent

VERSIONS: Final = ("v1", "v2")
DURATION_HEADER: Final = "x-span-duration-ns"
"""How long the span of this prediction took: what the demo's tally and Leadline's sketches must agree on."""


class FeatureStoreTimeout(Exception):
    """The service in front of the model's features did not answer in time."""


class Faults(BaseModel):
    """How v2's feature store misbehaves: some lookups are slow, some are slow and fail."""

    error_share: float = Field(0.0, ge=0, le=1)
    slow_share: float = Field(0.0, ge=0, le=1)
    delay_ms: float = Field(0.0, ge=0, le=2000)


class Patient(BaseModel):
    """A request."""

    patient: str
    features: dict[str, float | str]


class Outcome(BaseModel):
    """What became of a patient."""

    id: str
    fast: bool


@dataclass
class FeatureStore:
    """Looks features up; in the demo they come with the request, and this is where time is lost and errors begin."""

    faults: Faults = field(default_factory=Faults)
    dice: random.Random = field(default_factory=lambda: random.Random(7))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def complete(self, row: Row, version: str) -> list[float]:
        with trace.get_tracer("clinic").start_as_current_span("feature store"):
            with self.lock:
                roll = self.dice.random()
            if version == "v2" and roll < self.faults.error_share + self.faults.slow_share:
                time.sleep(self.faults.delay_ms / 1000)
                if roll < self.faults.error_share:
                    raise FeatureStoreTimeout
            return [float(row[name]) for name in FEATURES]


def train(patients: Patients) -> dict[str, Any]:
    """Two versions of the model, fitted here and now."""
    table = np.array([[float(row[name]) for name in FEATURES] for row in patients.rows])
    v1 = make_pipeline(StandardScaler(), LogisticRegression())
    v2 = GradientBoostingClassifier(n_estimators=40, max_depth=2, random_state=0)
    return {version: model.fit(table, patients.fast) for version, model in zip(VERSIONS, (v1, v2), strict=True)}


def version_of(patient: str) -> str:
    """Which version answers this patient: always the same one."""
    return VERSIONS[zlib.crc32(patient.encode()) & 1]


def create_app(models: dict[str, Any]) -> FastAPI:
    """The service. `leadline.setup` is the caller's, so that tests may bring their own OpenTelemetry."""
    app, store = FastAPI(title="clinic"), FeatureStore()
    monitors = {version: leadline.Monitor(MODEL, version, task="classification", features=FEATURES) for version in VERSIONS}  # line 2

    @app.post("/predict")
    def predict(request: Patient, response: Response) -> Any:
        version = version_of(request.patient)
        prediction = monitors[version].prediction(features=request.features)
        failed = False
        try:
            with prediction:  # line 3
                fast = models[version].predict_proba([store.complete(request.features, version)])[0, 1]
                prediction.output("fast" if fast > 0.5 else "slow", score=fast, confidence=max(fast, 1 - fast))
        except FeatureStoreTimeout:
            failed = True
        span: Any = prediction.span
        took = {DURATION_HEADER: str(span.end_time - span.start_time)}
        if failed:
            return JSONResponse({"error": "the feature store did not answer", "version": version}, status_code=503, headers=took)
        response.headers.update(took)
        return {"id": prediction.id, "version": version, "fast": bool(fast > 0.5), "score": float(fast)}

    @app.post("/outcome", status_code=204)
    def outcome(request: Outcome) -> None:
        monitors["v1"].feedback(request.id, "fast" if request.fast else "slow", source="HUMAN")

    @app.post("/faults")
    def faults(request: Faults) -> Faults:
        store.faults = request
        return request

    @app.get("/healthz")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    return app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--otlp", default="http://127.0.0.1:4317", help="where spans and outcomes go")
    options = parser.parse_args()
    end_with_parent()
    leadline.setup(options.otlp, service="clinic")  # line 1
    app = create_app(train(load()))
    # Longer than clients keep an idle connection (httpx: 5 s, as long as uvicorn's own): else both may close it as a request sets out.
    uvicorn.run(app, host="127.0.0.1", port=options.port, log_level="warning", timeout_keep_alive=60)


if __name__ == "__main__":
    importlib.import_module("leadline.look.demo.service").main()  # so that error types bear this module's name, not __main__
