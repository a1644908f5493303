//! What clients ask about the server itself: GetSqlInfo and GetXdbcTypeInfo.
//!
//! Every code of `SqlInfo` has an answer, for drivers take one that is missing for an error of their own.

mod types;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::SqlInfo::{self, *};
use arrow_flight::sql::metadata::{SqlInfoData, SqlInfoDataBuilder};
use arrow_flight::sql::{
    SqlNullOrdering, SqlOuterJoinsSupportLevel, SqlSupportedCaseSensitivity,
    SqlSupportedElementActions, SqlSupportedGroupBy, SqlSupportedResultSetConcurrency,
    SqlSupportedResultSetType, SqlSupportedSubqueries, SqlSupportedTransaction, SqlSupportedUnions,
    SqlSupportsConvert, SqlTransactionIsolationLevel, SupportedSqlGrammar,
};

use crate::engine::{SqlError, SqlErrorKind};
use crate::error::{Error, Result};
use crate::session::Expiry;

pub(super) use types::{xdbc_type_info, xdbc_type_info_schema};

/// The version of DuckDB that the facts here are about.
const DUCKDB_VERSION: &str = "v1.5.5";

/// The bit of `SupportedAnsi92SqlGrammarLevel` for the entry level, an enum that arrow-flight does not export.
const ANSI92_ENTRY: i32 = 1;

/// What these codes of `SqlInfo` ask for, or all of them where there is none. Unknown codes have no answer.
pub(super) fn sql_info(codes: &[u32], expiry: Expiry) -> Result<RecordBatch> {
    let answers = all(expiry).map_err(unbuilt)?;
    // Each once: arrow-flight goes over all answers for each.
    let codes: BTreeSet<u32> = codes.iter().copied().collect();
    answers.record_batch(codes).map_err(unbuilt)
}

/// The schema of [`sql_info`].
pub(super) fn sql_info_schema() -> SchemaRef {
    SqlInfoDataBuilder::schema().clone().into()
}

fn all(expiry: Expiry) -> arrow_flight::error::Result<SqlInfoData> {
    let mut infos = SqlInfoDataBuilder::new();
    server(&mut infos, expiry);
    names(&mut infos);
    functions(&mut infos);
    queries(&mut infos);
    for limit in LIMITS {
        // None, or none that is known: memory is the limit.
        infos.append(*limit, 0_i64);
    }
    infos.append(SqlMaxRowSizeIncludesBlobs, true);
    transactions(&mut infos);
    results(&mut infos);
    infos.build()
}

fn server(infos: &mut SqlInfoDataBuilder, expiry: Expiry) {
    let version = format!(
        "duckdb {DUCKDB_VERSION} (duck-flight {})",
        env!("CARGO_PKG_VERSION")
    );
    infos.append(FlightSqlServerName, "Duck Flight");
    // Adapters for DuckDB know their database by this start.
    infos.append(FlightSqlServerVersion, version.as_str());
    infos.append(FlightSqlServerArrowVersion, arrow::ARROW_VERSION);
    infos.append(FlightSqlServerReadOnly, false);
    infos.append(FlightSqlServerSql, true);
    infos.append(FlightSqlServerSubstrait, false);
    infos.append(FlightSqlServerSubstraitMinVersion, "");
    infos.append(FlightSqlServerSubstraitMaxVersion, "");
    infos.append(
        FlightSqlServerTransaction,
        SqlSupportedTransaction::Transaction as i32,
    );
    infos.append(FlightSqlServerCancel, true);
    infos.append(FlightSqlServerBulkIngestion, true);
    infos.append(FlightSqlServerIngestTransactionsSupported, true);
    infos.append(FlightSqlServerStatementTimeout, millis(expiry.session));
    let transaction = millis(expiry.transaction);
    infos.append(FlightSqlServerTransactionTimeout, transaction);
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}

fn names(infos: &mut SqlInfoDataBuilder) {
    let any_case = SqlSupportedCaseSensitivity::SqlCaseSensitivityCaseInsensitive as i32;
    // There are no procedures or privileges to name.
    let actions = bits(&[SqlSupportedElementActions::SqlElementInIndexDefinitions as i32]);
    infos.append(SqlInfo::SqlIdentifierCase, any_case);
    infos.append(SqlIdentifierQuoteChar, "\"");
    infos.append(SqlQuotedIdentifierCase, any_case);
    infos.append(SqlKeywords, lines(include_str!("info/keywords.txt")));
    infos.append(SqlSearchStringEscape, "\\");
    infos.append(SqlExtraNameCharacters, "$");
    infos.append(SqlSchemaTerm, "schema");
    infos.append(SqlProcedureTerm, "procedure");
    infos.append(SqlCatalogTerm, "database");
    infos.append(SqlCatalogAtStart, true);
    infos.append(SqlSchemasSupportedActions, actions);
    infos.append(SqlCatalogsSupportedActions, actions);
    // ATTACH brings in a database that exists.
    infos.append(SqlDdlCatalog, false);
    infos.append(SqlDdlSchema, true);
    infos.append(SqlDdlTable, true);
    infos.append(SqlAllTablesAreSelectable, true);
}

fn functions(infos: &mut SqlInfoDataBuilder) {
    let numeric = include_str!("info/numeric_functions.txt");
    let string = include_str!("info/string_functions.txt");
    let system = include_str!("info/system_functions.txt");
    let datetime = include_str!("info/datetime_functions.txt");
    infos.append(SqlNumericFunctions, lines(numeric));
    infos.append(SqlStringFunctions, lines(string));
    infos.append(SqlSystemFunctions, lines(system));
    infos.append(SqlDatetimeFunctions, lines(datetime));
    infos.append(SqlInfo::SqlSupportsConvert, conversions());
}

fn queries(infos: &mut SqlInfoDataBuilder) {
    use SqlSupportedSubqueries::*;
    infos.append(
        SqlInfo::SqlNullOrdering,
        SqlNullOrdering::SqlNullsSortedAtEnd as i32,
    );
    infos.append(SqlSupportsColumnAliasing, true);
    infos.append(SqlNullPlusNullIsNull, true);
    infos.append(SqlSupportsTableCorrelationNames, true);
    infos.append(SqlSupportsDifferentTableCorrelationNames, false);
    infos.append(SqlSupportsExpressionsInOrderBy, true);
    infos.append(SqlSupportsOrderByUnrelated, true);
    let group_by = [
        SqlSupportedGroupBy::SqlGroupByUnrelated as i32,
        SqlSupportedGroupBy::SqlGroupByBeyondSelect as i32,
    ];
    infos.append(SqlInfo::SqlSupportedGroupBy, bits(&group_by));
    infos.append(SqlSupportsLikeEscapeClause, true);
    infos.append(SqlSupportsNonNullableColumns, true);
    // The extended grammar has cursors and procedures.
    let grammar = [
        SupportedSqlGrammar::SqlMinimumGrammar as i32,
        SupportedSqlGrammar::SqlCoreGrammar as i32,
    ];
    infos.append(SqlSupportedGrammar, bits(&grammar));
    infos.append(SqlAnsi92SupportedLevel, ANSI92_ENTRY);
    infos.append(SqlSupportsIntegrityEnhancementFacility, true);
    let full = SqlOuterJoinsSupportLevel::SqlFullOuterJoins as i32;
    infos.append(SqlInfo::SqlOuterJoinsSupportLevel, full);
    let subqueries = [
        SqlSubqueriesInComparisons as i32,
        SqlSubqueriesInExists as i32,
        SqlSubqueriesInIns as i32,
        SqlSubqueriesInQuantifieds as i32,
    ];
    infos.append(SqlInfo::SqlSupportedSubqueries, bits(&subqueries));
    infos.append(SqlCorrelatedSubqueriesSupported, true);
    let unions = [
        SqlSupportedUnions::SqlUnion as i32,
        SqlSupportedUnions::SqlUnionAll as i32,
    ];
    infos.append(SqlInfo::SqlSupportedUnions, bits(&unions));
}

const LIMITS: &[SqlInfo] = &[
    SqlMaxBinaryLiteralLength,
    SqlMaxCharLiteralLength,
    SqlMaxColumnNameLength,
    SqlMaxColumnsInGroupBy,
    SqlMaxColumnsInIndex,
    SqlMaxColumnsInOrderBy,
    SqlMaxColumnsInSelect,
    SqlMaxColumnsInTable,
    SqlMaxConnections,
    SqlMaxCursorNameLength,
    SqlMaxIndexLength,
    SqlDbSchemaNameLength,
    SqlMaxProcedureNameLength,
    SqlMaxCatalogNameLength,
    SqlMaxRowSize,
    SqlMaxStatementLength,
    SqlMaxStatements,
    SqlMaxTableNameLength,
    SqlMaxTablesInSelect,
    SqlMaxUsernameLength,
];

fn transactions(infos: &mut SqlInfoDataBuilder) {
    // Snapshot isolation: what a transaction has read stays as it was, yet two may write what neither saw.
    let isolation = SqlTransactionIsolationLevel::SqlTransactionRepeatableRead as i32;
    // A long, as drivers read it, although its values are an enum's.
    infos.append(SqlDefaultTransactionIsolation, i64::from(isolation));
    infos.append(SqlTransactionsSupported, true);
    infos.append(SqlSupportedTransactionsIsolationLevels, bits(&[isolation]));
    infos.append(SqlDataDefinitionCausesTransactionCommit, false);
    infos.append(SqlDataDefinitionsInTransactionsIgnored, false);
    infos.append(SqlSavepointsSupported, false);
}

fn results(infos: &mut SqlInfoDataBuilder) {
    let forward = bits(&[SqlSupportedResultSetType::SqlResultSetTypeForwardOnly as i32]);
    let read = bits(&[SqlSupportedResultSetConcurrency::SqlResultSetConcurrencyReadOnly as i32]);
    infos.append(SqlSupportedResultSetTypes, forward);
    infos.append(SqlSupportedConcurrenciesForResultSetUnspecified, 0);
    infos.append(SqlSupportedConcurrenciesForResultSetForwardOnly, read);
    infos.append(SqlSupportedConcurrenciesForResultSetScrollSensitive, 0);
    infos.append(SqlSupportedConcurrenciesForResultSetScrollInsensitive, 0);
    infos.append(SqlInfo::SqlSupportedPositionedCommands, 0);
    infos.append(SqlSelectForUpdateSupported, false);
    infos.append(SqlStoredProceduresSupported, false);
    infos.append(SqlBatchUpdatesSupported, true);
    infos.append(SqlNamedParametersSupported, false);
    infos.append(SqlLocatorsUpdateCopy, false);
    infos.append(SqlStoredFunctionsUsingCallSyntaxSupported, false);
}

/// Which types CAST turns into which.
fn conversions() -> BTreeMap<i32, Vec<i32>> {
    use SqlSupportsConvert::*;
    // What JDBC calls a bit is a truth value.
    let numbers: &[_] = &[
        SqlConvertBigint,
        SqlConvertBit,
        SqlConvertDecimal,
        SqlConvertFloat,
        SqlConvertInteger,
        SqlConvertNumeric,
        SqlConvertReal,
        SqlConvertSmallint,
        SqlConvertTinyint,
    ];
    let texts: &[_] = &[SqlConvertChar, SqlConvertLongvarchar, SqlConvertVarchar];
    let blobs: &[_] = &[
        SqlConvertBinary,
        SqlConvertLongvarbinary,
        SqlConvertVarbinary,
    ];
    let intervals: &[_] = &[SqlConvertIntervalDayTime, SqlConvertIntervalYearMonth];
    let moments: &[_] = &[SqlConvertDate, SqlConvertTime, SqlConvertTimestamp];
    let everything = [numbers, texts, blobs, intervals, moments].concat();
    let groups: &[(&[SqlSupportsConvert], &[SqlSupportsConvert])] = &[
        (numbers, numbers),
        (texts, &everything),
        (blobs, blobs),
        (intervals, intervals),
        (&[SqlConvertDate], &[SqlConvertDate, SqlConvertTimestamp]),
        (&[SqlConvertTime], &[SqlConvertTime]),
        (&[SqlConvertTimestamp], moments),
    ];
    let mut conversions = BTreeMap::new();
    for (from, to) in groups {
        let mut to: Vec<_> = [to, texts].concat().iter().map(|&to| to as i32).collect();
        to.sort_unstable();
        to.dedup();
        conversions.extend(from.iter().map(|&from| (from as i32, to.clone())));
    }
    conversions
}

/// A mask with the bit of each number set.
fn bits(numbers: &[i32]) -> i32 {
    numbers.iter().fold(0, |mask, number| mask | 1 << number)
}

fn lines(text: &str) -> Vec<String> {
    text.lines().map(str::to_owned).collect()
}

fn unbuilt(error: impl Display) -> Error {
    Error::Sql(SqlError {
        kind: SqlErrorKind::Internal,
        message: format!("what the server says about itself cannot be built: {error}"),
    })
}

#[cfg(test)]
mod tests;
