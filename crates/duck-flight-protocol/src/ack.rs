//! What a put is answered with, and what its batches carry: JSON in `app_metadata`.

use serde::{Deserialize, Serialize};

use crate::OptionsError;

/// What a record batch of a put may carry in its `app_metadata`, as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BatchMetadata {
    /// The sequence of this batch in a put with [`Commit::Batch`](crate::Commit::Batch).
    pub sequence: Option<u64>,
}

impl BatchMetadata {
    /// The metadata as the bytes of a message's `app_metadata`.
    pub fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("numbers are always JSON")
    }

    /// Reads a message's `app_metadata`; no bytes are no sequence.
    ///
    /// # Errors
    /// When there are bytes that are not the JSON of this type.
    pub fn from_json(json: &[u8]) -> Result<Self, OptionsError> {
        if json.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_slice(json).map_err(OptionsError::BatchMetadata)
    }
}

/// The acknowledgement of one unit: its rows are durable. It is `PutResult.app_metadata`, as JSON.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// Rows of the unit that took effect; of a duplicate, those that were sent again.
    pub rows: u64,
    /// The unit's sequence, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// Whether the unit had been committed before and was therefore not applied again.
    pub duplicate: bool,
    /// Rows that went to the rejects instead, with [`OnError::Reject`](crate::OnError::Reject).
    #[serde(default, skip_serializing_if = "is_zero")]
    pub rejected: u64,
}

/// serde asks through a reference.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Ack {
    /// The ack as the bytes of `PutResult.app_metadata`.
    pub fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("numbers are always JSON")
    }

    /// Reads `PutResult.app_metadata`.
    ///
    /// # Errors
    /// When it is not the JSON of an ack.
    pub fn from_json(json: &[u8]) -> Result<Self, OptionsError> {
        serde_json::from_slice(json).map_err(OptionsError::Ack)
    }
}

/// The first answer to a put with a producer and [`Commit::Batch`](crate::Commit::Batch): where the producer was.
/// It is `PutResult.app_metadata`, as JSON, and comes before any ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// The last sequence of this producer that is durable in this table; 0 where there is none, for sequences
    /// start at 1.
    pub resume_after: u64,
}

impl Resume {
    /// The message as the bytes of `PutResult.app_metadata`.
    pub fn to_json(self) -> Vec<u8> {
        serde_json::to_vec(&self).expect("numbers are always JSON")
    }

    /// Reads `PutResult.app_metadata`.
    ///
    /// # Errors
    /// When it is not the JSON of this message.
    pub fn from_json(json: &[u8]) -> Result<Self, OptionsError> {
        serde_json::from_slice(json).map_err(OptionsError::Ack)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_reads_as_the_contract_writes_it() {
        let ack = Ack {
            rows: 1000,
            sequence: Some(17),
            ..Ack::default()
        };
        assert_eq!(
            ack.to_json(),
            br#"{"rows":1000,"sequence":17,"duplicate":false}"#
        );
        assert_eq!(Ack::from_json(&ack.to_json()).unwrap(), ack);
    }

    #[test]
    fn a_batch_without_metadata_has_no_sequence() {
        assert_eq!(
            BatchMetadata::from_json(b"").unwrap(),
            BatchMetadata::default()
        );
        let error = BatchMetadata::from_json(br#"{"sequenze":1}"#).unwrap_err();
        assert!(error.to_string().contains("sequenze"), "{error}");
    }
}
