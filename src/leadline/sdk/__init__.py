"""The SDK: in the model server. Needs opentelemetry-api alone; `setup` needs OpenTelemetry's SDK and an exporter (``leadline[sdk]``).

If you answer one request at a time: ``with monitor.prediction() as p: p.features(row); p.output(label)``. If that is a function already:
``@monitor.observe``. If you score tables: ``monitor.record_batch(table, predicted=labels)``. When the truth is known:
``monitor.feedback(id, actual)``.

    import leadline.sdk as leadline

    leadline.setup(service="checkout")                   # or your own OpenTelemetry set-up
    monitor = leadline.Monitor("fraud", "2026-11-01")

    with monitor.prediction(features={"amount": 12.5, "country": "DE"}) as prediction:
        label, score = model(...)
        prediction.output(label, score=score)
"""

from leadline.sdk.monitor import Monitor
from leadline.sdk.prediction import Prediction, current
from leadline.sdk.providers import Providers, setup

__all__ = ["Monitor", "Prediction", "Providers", "current", "setup"]
