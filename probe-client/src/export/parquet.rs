//! Apache Parquet: one optional column each, in groups of rows that fit into memory.

use std::io::{self, Write};
use std::sync::Arc;

use ::parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical};
use ::parquet::data_type::{BoolType, ByteArray, ByteArrayType, DoubleType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use ::parquet::schema::types::Type;

use super::Rows;
use super::table::{Cell, Column, Kind};

/// Rows of a group.
const GROUP: usize = 65_536;

pub(super) struct Parquet<'a> {
    out: SerializedFileWriter<&'a mut (dyn Write + Send)>,
    columns: Vec<Values>,
    rows: usize,
}

/// One column of the group under way. A level says whether the row has a value (Dremel's definition level).
struct Values {
    levels: Vec<i16>,
    of: Of,
}

enum Of {
    Int(Vec<i64>),
    Float(Vec<f64>),
    Text(Vec<ByteArray>),
    Bool(Vec<bool>),
}

fn failed(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        ParquetError::General(_)
        | ParquetError::NYI(_)
        | ParquetError::EOF(_)
        | ParquetError::IndexOutOfBound(..)
        | ParquetError::NeedMoreData(_)
        | _ => io::Error::other(error),
    }
}

impl<'a> Parquet<'a> {
    pub(super) fn new(columns: &[Column], out: &'a mut (dyn Write + Send)) -> io::Result<Self> {
        let fields = columns.iter().map(field).collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let schema = Type::group_type_builder("probe").with_fields(fields).build().map_err(failed)?;
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by(format!("probe-client {}", env!("CARGO_PKG_VERSION")))
            .build();
        let out = SerializedFileWriter::new(out, Arc::new(schema), Arc::new(properties)).map_err(failed)?;
        let columns = columns.iter().map(|column| Values::new(column.kind)).collect();
        Ok(Self { out, columns, rows: 0 })
    }

    fn group(&mut self) -> io::Result<()> {
        if self.rows == 0 {
            return Ok(());
        }
        let mut group = self.out.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            let Some(mut writer) = group.next_column().map_err(failed)? else { break };
            column.write(&mut writer).map_err(failed)?;
            writer.close().map_err(failed)?;
        }
        group.close().map_err(failed)?;
        self.rows = 0;
        Ok(())
    }
}

fn field(column: &Column) -> Result<Arc<Type>, ParquetError> {
    let (physical, logical) = match column.kind {
        Kind::Int => (Physical::INT64, None),
        Kind::Float => (Physical::DOUBLE, None),
        Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
        Kind::Bool => (Physical::BOOLEAN, None),
        Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::NANOS))),
    };
    Type::primitive_type_builder(column.name, physical)
        .with_repetition(Repetition::OPTIONAL)
        .with_logical_type(logical)
        .build()
        .map(Arc::new)
}

impl Values {
    fn new(kind: Kind) -> Self {
        let of = match kind {
            Kind::Int | Kind::Time => Of::Int(Vec::new()),
            Kind::Float => Of::Float(Vec::new()),
            Kind::Text => Of::Text(Vec::new()),
            Kind::Bool => Of::Bool(Vec::new()),
        };
        Self { levels: Vec::new(), of }
    }

    fn push(&mut self, cell: &Cell<'_>) {
        let is_there = match (&mut self.of, cell) {
            (Of::Int(values), Cell::Int(n) | Cell::Time(n)) => {
                values.push(*n);
                true
            }
            (Of::Float(values), Cell::Float(n)) => {
                values.push(*n);
                true
            }
            (Of::Text(values), Cell::Text(words)) => {
                values.push(ByteArray::from(*words));
                true
            }
            (Of::Bool(values), Cell::Bool(is)) => {
                values.push(*is);
                true
            }
            (Of::Int(_) | Of::Float(_) | Of::Text(_) | Of::Bool(_), _) => false,
        };
        self.levels.push(i16::from(is_there));
    }

    fn write(&mut self, writer: &mut SerializedColumnWriter<'_>) -> Result<(), ParquetError> {
        let levels = Some(self.levels.as_slice());
        match &mut self.of {
            Of::Int(values) => {
                writer.typed::<Int64Type>().write_batch(values, levels, None)?;
                values.clear();
            }
            Of::Float(values) => {
                writer.typed::<DoubleType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Of::Text(values) => {
                writer.typed::<ByteArrayType>().write_batch(values, levels, None)?;
                values.clear();
            }
            Of::Bool(values) => {
                writer.typed::<BoolType>().write_batch(values, levels, None)?;
                values.clear();
            }
        }
        self.levels.clear();
        Ok(())
    }
}

impl Rows for Parquet<'_> {
    fn row(&mut self, cells: &[Cell<'_>]) -> io::Result<()> {
        self.columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        self.rows += 1;
        if self.rows >= GROUP { self.group() } else { Ok(()) }
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        self.group()?;
        self.out.finish().map_err(failed)?;
        Ok(())
    }
}
