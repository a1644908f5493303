//! Values for the parameters of a statement: rows, for each of which it runs once.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{Field, Schema, SchemaRef};

use super::ffi::value::Value;
use super::ffi::{Parameter, Prepared};
use crate::error::{Error, Result};

/// Rows of values, a column for each parameter. None at all for a statement that has no parameters.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parameters(Arc<[RecordBatch]>);

impl Parameters {
    /// Takes batches of one schema.
    pub(crate) fn new(batches: Vec<RecordBatch>) -> Self {
        let batches = batches.into_iter().filter(|batch| batch.num_rows() > 0);
        Self(batches.collect())
    }

    /// The memory they take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(RecordBatch::get_array_memory_size).sum()
    }

    /// How many rows there are.
    pub(crate) fn rows(&self) -> usize {
        self.0.iter().map(RecordBatch::num_rows).sum()
    }

    /// Calls `run` for each row, with the row bound; once where there are no rows.
    pub(super) fn for_each(
        &self,
        statement: &Prepared<'_>,
        mut run: impl FnMut() -> Result<()>,
    ) -> Result<()> {
        let Some(first) = self.0.first() else {
            return run();
        };
        let columns = columns_in_order(&statement.parameters()?, &first.schema())?;
        let mut number = 0;
        for batch in &*self.0 {
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
fn columns_in_order(parameters: &[Parameter], schema: &Schema) -> Result<Vec<usize>> {
    let (wanted, given) = (parameters.len(), schema.fields().len());
    if wanted != given {
        return Err(Error::ParameterCount { wanted, given });
    }
    let by_name = parameters.iter().map(|parameter| {
        let is_number = parameter.name.bytes().all(|byte| byte.is_ascii_digit());
        (!is_number).then(|| schema.index_of(&parameter.name).ok())?
    });
    let by_name: Option<Vec<_>> = by_name.collect();
    Ok(by_name.unwrap_or_else(|| (0..wanted).collect()))
}

/// The schema that values for these parameters should have. One whose type its value decides is text: drivers
/// cannot set a parameter of no type.
pub(super) fn schema(parameters: &[Parameter]) -> SchemaRef {
    let fields = parameters.iter().map(|parameter| {
        let data_type = parameter.field.as_ref().map(|field| field.data_type());
        let data_type = data_type
            .cloned()
            .unwrap_or(arrow::datatypes::DataType::Utf8);
        Field::new(&parameter.name, data_type, true)
    });
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}
