//! What was read and is doubtful, counted by name.

/// A note. Names are the variants', in `NAMES`.
#[derive(Debug, Clone, Copy)]
pub enum Note {
    EventTimeClamped,
    EndMissing,
    EndBeforeStart,
    TracestateMalformed,
    FieldTypeUnexpected,
    FeatureDuplicate,
    FeatureNotScalar,
    FeaturesLengthMismatch,
    FeaturesSchemaUnknown,
    FeaturesEncodingUnknown,
    FeaturesBase64Malformed,
    FeaturesJsonMalformed,
    BatchLengthMismatch,
    AttributeUnknown,
}

pub const NAMES: [&str; 14] = [
    "event_time_clamped",
    "end_missing",
    "end_before_start",
    "tracestate_malformed",
    "field_type_unexpected",
    "feature_duplicate",
    "feature_not_scalar",
    "features_length_mismatch",
    "features_schema_unknown",
    "features_encoding_unknown",
    "features_base64_malformed",
    "features_json_malformed",
    "batch_length_mismatch",
    "attribute_unknown",
];

#[derive(Debug, Default, Clone, Copy)]
pub struct Notes([u32; NAMES.len()]);

impl Notes {
    #[inline]
    pub fn add(&mut self, note: Note) {
        self.0[note as usize] += 1;
    }

    pub fn add_many(&mut self, note: Note, count: usize) {
        self.0[note as usize] += count as u32;
    }

    /// Those that occurred.
    pub fn counts(&self) -> Vec<(&'static str, u64)> {
        let counts = NAMES.iter().zip(self.0).filter(|(_, count)| *count > 0);
        counts
            .map(|(name, count)| (*name, u64::from(count)))
            .collect()
    }
}
