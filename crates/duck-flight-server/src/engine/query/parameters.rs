//! Values for the parameters of a statement: rows, for each of which it runs once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use super::readable::Readable;
use crate::engine::ffi::value::Value;
use crate::engine::ffi::{Parameter, Prepared};
use crate::error::{Error, Result};

/// Rows of values, a column for each parameter: as many as the statement is to run times. By default none were sent, and
/// it runs once.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters(Option<Sent>);

/// Rows that a client has sent; there may be none among them.
#[derive(Debug, Clone)]
struct Sent {
    schema: SchemaRef,
    batches: Arc<[RecordBatch]>,
}

impl Parameters {
    /// Takes batches of this schema. Without columns there are no values in them.
    pub(crate) fn new(schema: SchemaRef, batches: Vec<RecordBatch>) -> Self {
        if schema.fields().is_empty() {
            return Self::default();
        }
        let batches = batches.into_iter().filter(|batch| batch.num_rows() > 0);
        let batches = batches.collect();
        Self(Some(Sent { schema, batches }))
    }

    /// Fails where values of these columns cannot be bound, whatever they are.
    pub(crate) fn check_types(schema: &Schema) -> Result<()> {
        for (number, field) in (1..).zip(schema.fields()) {
            Value::check_type(field)
                .map_err(|error| Error::Malformed(format!("parameter {number}: {error}")))?;
        }
        Ok(())
    }

    /// Whether any were sent, be it none at all.
    pub(crate) fn are_sent(&self) -> bool {
        self.0.is_some()
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        let batches = self.batches().iter();
        batches.map(RecordBatch::get_array_memory_size).sum()
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.batches().iter().map(RecordBatch::num_rows).sum()
    }

    /// Fails where they are not as many columns as that.
    pub(crate) fn check_columns(&self, wanted: usize) -> Result<()> {
        let given = self.0.as_ref().map(|sent| sent.schema.fields().len());
        match given {
            Some(given) if given != wanted => Err(Error::ParameterCount { wanted, given }),
            _ => Ok(()),
        }
    }

    fn batches(&self) -> &[RecordBatch] {
        self.0.as_ref().map_or(&[], |sent| &sent.batches)
    }

    /// Calls `run` for each row, with the row bound; once where none were sent.
    pub(super) fn for_each(
        &self,
        statement: &Prepared<'_>,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Some(Sent { schema, batches }) = &self.0 else {
            return run();
        };
        let names = statement.parameter_names();
        self.check_columns(names.len())?;
        let columns = columns_in_order(&names, schema);
        let mut number = 0;
        for batch in &**batches {
            for row in 0..batch.num_rows() {
                number += 1;
                let values = Value::of_row(batch, &columns, row);
                let values = values.map_err(|error| Error::Parameter {
                    row: number,
                    reason: error.message,
                })?;
                statement.bind(values)?;
                run()?;
            }
        }
        Ok(())
    }
}

/// The column of each parameter: by name where all parameters have one that the columns know, else by place.
fn columns_in_order(names: &[String], schema: &Schema) -> Vec<usize> {
    let by_name = names.iter().map(|name| {
        let is_number = name.bytes().all(|byte| byte.is_ascii_digit());
        (!is_number).then(|| schema.index_of(name).ok())?
    });
    let by_name: Option<Vec<_>> = by_name.collect();
    by_name.unwrap_or_else(|| (0..names.len()).collect())
}

/// The schema that values for these parameters should have: the types in which clients read such values. One whose type its
/// value decides is text: drivers cannot set a parameter of no type.
pub(super) fn schema(parameters: &[Parameter]) -> SchemaRef {
    let exported = parameters.iter().map(|parameter| {
        let text = || Arc::new(Field::new(&parameter.name, DataType::Utf8, true));
        parameter.field.clone().unwrap_or_else(text)
    });
    let exported = Arc::new(Schema::new(exported.collect::<Vec<_>>()));
    let readable = Readable::new(&exported);
    let fields = parameters.iter().zip(readable.schema().fields());
    let fields = fields.map(|(parameter, field)| {
        let data_type = field.data_type().clone();
        Field::new(&parameter.name, data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
