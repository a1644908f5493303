//! Flight's session options, as far as arrow-flight lacks them: the messages of `format/Flight.proto`.

use std::collections::HashMap;

/// The action that sets options of the caller's session; its body is a [`SetSessionOptionsRequest`].
pub const ACTION_SET_SESSION_OPTIONS: &str = "SetSessionOptions";

/// The action that reads the options of the caller's session; its answer is a [`GetSessionOptionsResult`].
pub const ACTION_GET_SESSION_OPTIONS: &str = "GetSessionOptions";

/// The action that ends the caller's session; its answer is a [`CloseSessionResult`].
pub const ACTION_CLOSE_SESSION: &str = "CloseSession";

/// The cookie that keeps a client in its session.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";

/// The value of a session option. None at all unsets the option.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SessionOptionValue {
    /// The value.
    #[prost(oneof = "OptionValue", tags = "1, 2, 3, 4, 5")]
    pub option_value: Option<OptionValue>,
}

/// The kinds of value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum OptionValue {
    /// Text.
    #[prost(string, tag = "1")]
    StringValue(String),
    /// A truth value.
    #[prost(bool, tag = "2")]
    BoolValue(bool),
    /// An integer.
    #[prost(sfixed64, tag = "3")]
    Int64Value(i64),
    /// A number.
    #[prost(double, tag = "4")]
    DoubleValue(f64),
    /// Several texts.
    #[prost(message, tag = "5")]
    StringListValue(StringListValue),
}

/// Several texts.
#[derive(Clone, PartialEq, prost::Message)]
pub struct StringListValue {
    /// The texts.
    #[prost(string, repeated, tag = "1")]
    pub values: Vec<String>,
}

/// Sets options of the caller's session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsRequest {
    /// The options by name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// Says which options were not set; all others were.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionsResult {
    /// What is wrong with each option that was not set.
    #[prost(map = "string, message", tag = "1")]
    pub errors: HashMap<String, SetSessionOptionError>,
}

/// What is wrong with an option.
#[derive(Clone, PartialEq, prost::Message)]
pub struct SetSessionOptionError {
    /// The reason.
    #[prost(enumeration = "SetSessionOptionReason", tag = "1")]
    pub value: i32,
}

/// Why an option was not set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum SetSessionOptionReason {
    /// Nobody knows.
    Unspecified = 0,
    /// There is no option of this name.
    InvalidName = 1,
    /// The option cannot have this value.
    InvalidValue = 2,
    /// The option cannot be set.
    Error = 3,
}

/// The options of the caller's session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct GetSessionOptionsResult {
    /// The options by name.
    #[prost(map = "string, message", tag = "1")]
    pub session_options: HashMap<String, SessionOptionValue>,
}

/// How the end of a session went.
#[derive(Clone, PartialEq, prost::Message)]
pub struct CloseSessionResult {
    /// How.
    #[prost(enumeration = "CloseSessionStatus", tag = "1")]
    pub status: i32,
}

/// What became of a session that was to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum CloseSessionStatus {
    /// Nobody knows.
    Unspecified = 0,
    /// It is closed.
    Closed = 1,
    /// It will be.
    Closing = 2,
    /// It cannot be closed.
    NotCloseable = 3,
}

/// Flight SQL's answer to `CreatePreparedStatement`, with the field that arrow-flight lacks.
#[derive(Clone, PartialEq, prost::Message)]
pub struct PreparedStatementResult {
    /// The statement's handle.
    #[prost(bytes = "bytes", tag = "1")]
    pub prepared_statement_handle: bytes::Bytes,
    /// The schema of its result, as an IPC message; empty where it has none.
    #[prost(bytes = "bytes", tag = "2")]
    pub dataset_schema: bytes::Bytes,
    /// The schema of its parameters, as an IPC message; empty where it has none.
    #[prost(bytes = "bytes", tag = "3")]
    pub parameter_schema: bytes::Bytes,
    /// Whether it is to be run as an update, for it has no result.
    #[prost(bool, optional, tag = "4")]
    pub is_update: Option<bool>,
}

impl arrow_flight::sql::ProstMessageExt for PreparedStatementResult {
    fn type_url() -> &'static str {
        "type.googleapis.com/arrow.flight.protocol.sql.ActionCreatePreparedStatementResult"
    }

    fn as_any(&self) -> arrow_flight::sql::Any {
        arrow_flight::sql::Any {
            type_url: Self::type_url().to_owned(),
            value: prost::Message::encode_to_vec(self).into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use arrow_flight::sql::ActionCreatePreparedStatementResult;
    use prost::Message;

    use super::*;

    #[test]
    fn options_have_the_bytes_of_the_protocol() {
        let value = OptionValue::StringValue("main".into());
        let request = SetSessionOptionsRequest {
            session_options: HashMap::from([(
                "schema".to_owned(),
                SessionOptionValue {
                    option_value: Some(value),
                },
            )]),
        };
        assert_eq!(
            request.encode_to_vec(),
            b"\x0a\x10\x0a\x06schema\x12\x06\x0a\x04main"
        );
        let number = SessionOptionValue {
            option_value: Some(OptionValue::Int64Value(1)),
        };
        assert_eq!(number.encode_to_vec(), b"\x19\x01\0\0\0\0\0\0\0");
    }

    #[test]
    fn older_clients_read_a_prepared_statement_without_its_new_field() {
        let result = PreparedStatementResult {
            prepared_statement_handle: "handle".into(),
            dataset_schema: "schema".into(),
            parameter_schema: bytes::Bytes::new(),
            is_update: Some(true),
        };
        let bytes = result.encode_to_vec();
        assert!(bytes.ends_with(b"\x20\x01"));
        let old = ActionCreatePreparedStatementResult::decode(&*bytes).unwrap();
        assert_eq!(old.prepared_statement_handle, "handle");
        assert_eq!(old.dataset_schema, "schema");
    }
}
