"""OTLP in: gRPC and HTTP, the limits on both, and what clients are told.

`grpc.py` and `http.py` are the shells; both hand `(signal, protobuf body)` to `model.ports.Intake` and turn its receipt
or error into a reply by `replies.py`. `otlp_json.py` turns JSON into protobuf, `compression.py` decompresses, `limits.py`
bounds the bytes in hand, `outcomes.py` counts what became of requests.

    budget, outcomes = Budget(config.max_in_flight), Outcomes()
    receivers = [kind(config, intake, budget=budget, outcomes=outcomes) for kind in (GrpcReceiver, HttpReceiver)]

The package imports nothing by itself: `from leadline.receive.grpc import GrpcReceiver`.
"""
