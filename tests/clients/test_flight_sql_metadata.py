"""The metadata commands by hand: schemas to the letter, and true answers."""

import pyarrow as pa
import pytest
from conftest import execute
from flight_sql import info_of, read_command

TEXT, NUMBER = pa.string(), pa.int32()


def needed(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


SCHEMAS = {
    "CommandGetCatalogs": [needed("catalog_name", TEXT)],
    "CommandGetDbSchemas": [("catalog_name", TEXT), needed("db_schema_name", TEXT)],
    "CommandGetTables": [
        ("catalog_name", TEXT),
        ("db_schema_name", TEXT),
        needed("table_name", TEXT),
        needed("table_type", TEXT),
    ],
    "CommandGetTableTypes": [needed("table_type", TEXT)],
    "CommandGetPrimaryKeys": [
        ("catalog_name", TEXT),
        ("db_schema_name", TEXT),
        needed("table_name", TEXT),
        needed("column_name", TEXT),
        ("key_name", TEXT),
        needed("key_sequence", NUMBER),
    ],
    "CommandGetXdbcTypeInfo": [
        needed("type_name", TEXT),
        needed("data_type", NUMBER),
        ("column_size", NUMBER),
        ("literal_prefix", TEXT),
        ("literal_suffix", TEXT),
        # A list of texts, whose inner field has no agreed name.
        ("create_params", None),
        needed("nullable", NUMBER),
        needed("case_sensitive", pa.bool_()),
        needed("searchable", NUMBER),
        ("unsigned_attribute", pa.bool_()),
        needed("fixed_prec_scale", pa.bool_()),
        ("auto_increment", pa.bool_()),
        ("local_type_name", TEXT),
        ("minimum_scale", NUMBER),
        ("maximum_scale", NUMBER),
        needed("sql_data_type", NUMBER),
        ("datetime_subcode", NUMBER),
        ("num_prec_radix", NUMBER),
        ("interval_precision", NUMBER),
    ],
}

FOREIGN_KEYS = [
    ("pk_catalog_name", TEXT),
    ("pk_db_schema_name", TEXT),
    needed("pk_table_name", TEXT),
    needed("pk_column_name", TEXT),
    ("fk_catalog_name", TEXT),
    ("fk_db_schema_name", TEXT),
    needed("fk_table_name", TEXT),
    needed("fk_column_name", TEXT),
    needed("key_sequence", NUMBER),
    ("fk_key_name", TEXT),
    ("pk_key_name", TEXT),
    needed("update_rule", pa.uint8()),
    needed("delete_rule", pa.uint8()),
]

# The code of every SqlInfo by the type drivers expect of its value; JDBC casts to exactly these.
TEXTS = {0, 1, 2, 504, 513, 514, 529, 530, 531}
NULLABLE_TEXTS = {6, 7}
TRUTHS = {
    *(3, 4, 5, 9, 10, 11, 500, 501, 502, 506, 515, 516, 518, 519, 520, 521, 523, 524, 527, 532, 536, 537, 539),
    *(556, 563, 565, 566, 572, 573, 574, 575, 576),
}
MASKS = {8, 100, 101, 522, 525, 526, 528, 533, 534, 535, 538, 540, 564, 567, 568, 569, 570, 571}
LIMITS = set(range(541, 563)) - {556}
LISTS = {508, 509, 510, 511, 512}
MAPS = {517}
ORDINALS = {503, 505, 507}
TYPE_NAME = b"ARROW:FLIGHT:SQL:TYPE_NAME"


def assert_schema(schema: pa.Schema, fields: list) -> None:
    fields = [field if isinstance(field, pa.Field) else pa.field(field[0], field[1] or pa.null()) for field in fields]
    assert schema.names == [field.name for field in fields]
    for actual, field in zip(schema, fields, strict=True):
        assert actual.nullable == field.nullable, field
        assert field.type in (pa.null(), actual.type), field


def sql_info(client, *codes: int) -> dict[int, object]:
    result = read_command(client, "CommandGetSqlInfo", {1: list(codes)})
    return dict(zip(result["info_name"].to_pylist(), result["value"].to_pylist(), strict=True))


@pytest.fixture(scope="module")
def family(server):
    """Tables that refer to each other."""
    with server.client() as client:
        execute(
            client,
            """
            CREATE SCHEMA zoo;
            CREATE TABLE zoo.species (genus VARCHAR, name VARCHAR, latin VARCHAR UNIQUE, PRIMARY KEY (name, genus));
            CREATE TABLE zoo.birds (
                id INTEGER PRIMARY KEY, genus VARCHAR, species VARCHAR, mother INTEGER REFERENCES zoo.birds (id),
                FOREIGN KEY (species, genus) REFERENCES zoo.species (name, genus)
            );
            CREATE TABLE zoo.unkeyed (i INTEGER);
            """,
        )


@pytest.mark.parametrize("name", SCHEMAS)
def test_an_answer_has_the_schema_of_the_specification(client, name):
    fields = {3: "nowhere"} if name == "CommandGetPrimaryKeys" else {}
    assert_schema(read_command(client, name, fields).schema, SCHEMAS[name])


@pytest.mark.parametrize("name", ["CommandGetImportedKeys", "CommandGetExportedKeys", "CommandGetCrossReference"])
def test_an_answer_about_foreign_keys_has_the_schema_of_the_specification(client, name):
    fields = {3: "nowhere", 6: "nowhere"} if name == "CommandGetCrossReference" else {3: "nowhere"}
    result = read_command(client, name, fields)
    assert_schema(result.schema, FOREIGN_KEYS)
    assert result.num_rows == 0


def test_the_schema_of_a_table_comes_with_it_when_asked_for(client, family):
    result = read_command(client, "CommandGetTables", {2: "zoo", 3: "birds", 5: True})
    assert_schema(result.schema, [*SCHEMAS["CommandGetTables"], needed("table_schema", pa.binary())])
    (row,) = result.to_pylist()
    schema = pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))
    assert schema.names == ["id", "genus", "species", "mother"]
    metadata = schema.field("id").metadata
    # The specification and the drivers name the schema's key differently.
    for key, value in [("CATALOG", b"test"), ("DB_SCHEMA", b"zoo"), ("SCHEMA", b"zoo"), ("TABLE", b"birds")]:
        assert metadata[f"ARROW:FLIGHT:SQL:{key}_NAME".encode()] == value
    assert metadata[TYPE_NAME] == b"INTEGER"


def test_catalogs_schemas_and_tables_come_in_order_and_once(client, family):
    for name in ["CommandGetCatalogs", "CommandGetDbSchemas", "CommandGetTables", "CommandGetTableTypes"]:
        rows = [tuple(row.values()) for row in read_command(client, name).to_pylist()]
        assert len(rows) == len(set(rows)), name
        keys = [(row[3], *row[:3]) for row in rows] if name == "CommandGetTables" else rows
        assert keys == sorted(keys), name


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({1: "test", 2: "zoo"}, ["birds", "species", "unkeyed"]),
        ({2: "zo_", 3: "b%s"}, ["birds"]),
        ({2: "zoo", 3: "%e%"}, ["species", "unkeyed"]),
        ({1: "te%", 2: "zoo"}, []),
        ({1: "nowhere"}, []),
        ({2: ""}, []),
        ({2: "zoo", 4: ["no such type"]}, []),
    ],
)
def test_tables_are_filtered_by_catalog_pattern_and_type(client, family, fields, names):
    found = read_command(client, "CommandGetTables", fields)
    assert found["table_name"].to_pylist() == names


def test_schemas_are_filtered_by_catalog_and_pattern(client, family):
    assert read_command(client, "CommandGetDbSchemas", {1: "test", 2: "z%"})["db_schema_name"].to_pylist() == ["zoo"]
    assert read_command(client, "CommandGetDbSchemas", {1: "nowhere"}).num_rows == 0


def test_the_columns_of_a_primary_key_come_in_its_order(client, family):
    rows = read_command(client, "CommandGetPrimaryKeys", {1: "test", 2: "zoo", 3: "species"}).to_pylist()
    assert [(row["column_name"], row["key_sequence"]) for row in rows] == [("name", 1), ("genus", 2)]
    assert {(row["catalog_name"], row["db_schema_name"], row["table_name"]) for row in rows} == {
        ("test", "zoo", "species")
    }
    assert read_command(client, "CommandGetPrimaryKeys", {2: "zoo", 3: "unkeyed"}).num_rows == 0


def foreign(rows: pa.Table) -> list[tuple]:
    names = ["pk_table_name", "pk_column_name", "fk_table_name", "fk_column_name", "key_sequence"]
    return sorted(tuple(row[name] for name in names) for row in rows.to_pylist())


SELF = ("birds", "id", "birds", "mother", 1)
SPECIES = [("species", "genus", "birds", "genus", 2), ("species", "name", "birds", "species", 1)]


def test_foreign_keys_are_shown_from_both_ends(client, family):
    assert foreign(read_command(client, "CommandGetImportedKeys", {2: "zoo", 3: "birds"})) == [SELF, *SPECIES]
    assert foreign(read_command(client, "CommandGetExportedKeys", {2: "zoo", 3: "species"})) == SPECIES
    assert foreign(read_command(client, "CommandGetExportedKeys", {2: "zoo", 3: "birds"})) == [SELF]
    between = {2: "zoo", 3: "species", 5: "zoo", 6: "birds"}
    assert foreign(read_command(client, "CommandGetCrossReference", between)) == SPECIES
    assert read_command(client, "CommandGetCrossReference", {3: "birds", 6: "species"}).num_rows == 0


def test_every_info_is_known_and_of_the_type_that_drivers_cast_it_to(client):
    info = sql_info(client)
    assert info.keys() == TEXTS | NULLABLE_TEXTS | TRUTHS | MASKS | LIMITS | LISTS | MAPS | ORDINALS
    result = read_command(client, "CommandGetSqlInfo")
    kinds = dict(
        zip(result["info_name"].to_pylist(), result["value"].combine_chunks().type_codes.to_pylist(), strict=True)
    )
    for code, kind in kinds.items():
        expected = {
            0: TEXTS | NULLABLE_TEXTS,
            1: TRUTHS,
            2: LIMITS | ORDINALS,
            3: MASKS | ORDINALS,
            4: LISTS,
            5: MAPS,
        }[kind]
        assert code in expected, (code, kind)
    for code in TEXTS:
        assert info[code] is not None, code


def test_the_infos_asked_for_come_and_no_others(client):
    assert sql_info(client, 0, 8, 504).keys() == {0, 8, 504}


def test_an_info_that_nobody_knows_is_left_out_or_refused(client):
    try:
        assert sql_info(client, 0, 9999).keys() == {0}
    except (pa.ArrowInvalid, KeyError, pa.ArrowNotImplementedError):
        pass


def test_the_infos_are_true(client):
    info = sql_info(client)
    assert info[1].startswith("duckdb v1.")
    assert (info[3], info[4], info[5], info[8], info[9], info[10], info[11]) == (
        False,  # read only
        True,  # SQL
        False,  # Substrait
        1,  # transactions, no savepoints
        True,  # cancel
        True,  # ingest
        True,  # in a transaction
    )
    assert (info[504], info[563], info[573]) == ('"', True, False)
    assert info[503] == 1  # without regard to case
    assert {"SELECT", "QUALIFY"} <= {word.upper() for word in info[508]}
    functions = {name.lower() for kind in [509, 510, 511, 512] for name in info[kind]}
    assert {"abs", "upper", "current_database", "date_trunc"} <= functions


def test_types_are_described_and_found_by_number(client):
    rows = read_command(client, "CommandGetXdbcTypeInfo").to_pylist()
    names = {row["type_name"] for row in rows}
    assert {"INTEGER", "BIGINT", "DOUBLE", "VARCHAR", "BOOLEAN", "DATE", "TIMESTAMP", "DECIMAL", "BLOB"} <= names
    assert [row["data_type"] for row in rows] == sorted(row["data_type"] for row in rows)
    (integer,) = [row for row in rows if row["type_name"] == "INTEGER"]
    assert (integer["data_type"], integer["unsigned_attribute"], integer["nullable"]) == (4, False, 1)
    only = read_command(client, "CommandGetXdbcTypeInfo", {1: 4}).to_pylist()
    assert integer in only
    assert {row["data_type"] for row in only} == {4}
    assert read_command(client, "CommandGetXdbcTypeInfo", {1: 30000}).num_rows == 0


def test_the_columns_of_a_result_say_what_drivers_ask(client):
    sql = "SELECT 1::DECIMAL(10, 3) AS price, 'duck' AS name, 1::HUGEINT AS big, uuid() AS u, [1] AS l"
    fields = read_command(client, "CommandStatementQuery", {1: sql}).schema
    types = [field.metadata[TYPE_NAME] for field in fields]
    assert types == [b"DECIMAL", b"VARCHAR", b"HUGEINT", b"UUID", b"INTEGER[]"]
    price = fields.field("price").metadata
    assert (price[b"ARROW:FLIGHT:SQL:PRECISION"], price[b"ARROW:FLIGHT:SQL:SCALE"]) == (b"10", b"3")


def test_a_metadata_ticket_is_good_for_any_connection(server, client):
    with server.client() as other:
        info = info_of(client, "CommandGetCatalogs")
        assert "test" in other.do_get(info.endpoints[0].ticket).read_all()["catalog_name"].to_pylist()
