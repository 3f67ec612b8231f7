"""The attribute keys, scope and event names that the SDK writes and the `ml` dialect reads.

Where OpenTelemetry has a name, it is used (`service.name`, `error.type`, span status, `user.id`); what follows is what it lacks.
Renaming one of these is a change of the dialect file, and the old name stays there.
"""

from __future__ import annotations

from typing import Final

SCOPE_NAME: Final = "leadline"
"""Instrumentation scope of every span and event of the SDK."""

# Who answered.
MODEL_NAME: Final = "ml.model.name"
MODEL_VERSION: Final = "ml.model.version"
TASK: Final = "ml.task"
ROLE: Final = "ml.experiment.role"
SAMPLING_WEIGHT: Final = "ml.sampling.weight"

# What was answered. In a batch (BATCH_SIZE rows in one span) each of these is an array with one entry a row.
PREDICTION_ID: Final = "ml.prediction.id"
PREDICTION_LABEL: Final = "ml.prediction.label"
PREDICTION_SCORE: Final = "ml.prediction.score"
PREDICTION_CONFIDENCE: Final = "ml.prediction.confidence"
PREDICTION_CLASS_NAMES: Final = "ml.prediction.class_names"
PREDICTION_CLASS_SCORES: Final = "ml.prediction.class_scores"
BATCH_SIZE: Final = "ml.batch.size"
SEGMENT_PREFIX: Final = "ml.segment."

# What was asked. `ml.features.<name>` is a feature, unless <name> is one of FEATURES_RESERVED.
FEATURES_PREFIX: Final = "ml.features."
FEATURES_PACKED: Final = "ml.features.packed"
"""Bytes: the values of the schema's non-categorical features in its order, little-endian, row after row."""
FEATURES_PACKED_B64: Final = "ml.features.packed_b64"
"""The same in base64, for SDKs that cannot put bytes on a span (opentelemetry-sdk before 1.45)."""
FEATURES_ENCODING: Final = "ml.features.encoding"
"""`f32le` or `f64le`."""
FEATURES_LEN: Final = "ml.features.len"
"""Entries in the packed vector, all rows together: a cut value is refused, not decoded."""
FEATURES_NULL_MASK: Final = "ml.features.null_mask"
"""Bytes (or base64 text): bit row * features + i, least significant first, is set where feature i of the whole schema is missing."""
FEATURES_CATEGORICAL: Final = "ml.features.categorical"
"""Strings: the schema's categorical features in its order, row after row; empty where missing."""
FEATURES_VALUES: Final = "ml.features.values"
FEATURES_JSON: Final = "ml.features.json"

# The schema: attributes of the instrumentation scope, so that every request describes itself.
FEATURES_SCHEMA_ID: Final = "ml.features.schema_id"
"""16 hex digits of sha256 over the ordered names and dtypes; on the scope and on each span."""
FEATURES_NAMES: Final = "ml.features.names"
FEATURES_DTYPES: Final = "ml.features.dtypes"
FEATURES_ROLES: Final = "ml.features.roles"

FEATURES_RESERVED: Final = frozenset(
    ["packed", "packed_b64", "encoding", "len", "null_mask", "categorical", "values", "json", "schema_id", "names", "dtypes", "roles"]
)

# Ground truth: an OTLP log event.
FEEDBACK_EVENT: Final = "ml.feedback"
ACTUAL_LABEL: Final = "ml.actual.label"
ACTUAL_SCORE: Final = "ml.actual.score"
FEEDBACK_NAME: Final = "ml.feedback.name"
FEEDBACK_SOURCE: Final = "ml.feedback.source"
"""HUMAN, LLM, CODE or SYSTEM."""
FEEDBACK_ID: Final = "ml.feedback.id"
FEEDBACK_TIME: Final = "ml.feedback.time"
"""When the label became known, RFC 3339; the event's own time if not said."""
FEEDBACK_SUPERSEDES: Final = "ml.feedback.supersedes"

ERROR_TYPE: Final = "error.type"
