//! What clients read of a result's columns beside Arrow's types: SQL types, in the metadata of the fields.

use std::sync::Arc;

use arrow::datatypes::{Schema, SchemaRef};

use crate::engine::sql_type_metadata;

/// The schema with the SQL type of each column in its metadata, as Flight SQL names it.
pub(super) fn with_types(schema: &Schema, type_names: &[String]) -> SchemaRef {
    let fields = schema.fields().iter().zip(type_names);
    let fields = fields.map(|(field, type_name)| {
        let mut metadata = field.metadata().clone();
        metadata.extend(sql_type_metadata(type_name));
        field.as_ref().clone().with_metadata(metadata)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
