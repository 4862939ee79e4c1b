"""The catalog file for offline use: tables, views, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path

import pytest

from hoop_core.errors import ConfigError
from hoop_core.model import TableName
from hoop_core.sql.catalog import Catalog, CatalogObject, load_catalog


def load(tmp_path: Path, text: str) -> Catalog:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_catalog(path)


def test_a_view_has_columns_and_a_definition(tmp_path: Path) -> None:
    catalog = load(
        tmp_path,
        "tables: {A.B.T: {X: NUMBER}}\n"
        'views:\n  a.b.v:\n    columns: {x: NUMBER, "q": VARCHAR}\n'
        "    definition: |\n      CREATE VIEW v AS SELECT x, 'q' FROM t\n",
    )
    found = catalog.get(TableName("A", "B", "V"))
    assert found is not None
    assert dict(found.columns) == {"X": "NUMBER", "Q": "VARCHAR"}
    assert found.definition == "CREATE VIEW v AS SELECT x, 'q' FROM t\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("table: {A.B.T: {X: NUMBER}}", r"c\.yaml:1: unknown key of a catalog `table`.*`tables`"),
        ("tables: {}\nviews:\n  A.B.V: {columns: {X: N}}", r"c\.yaml:3: .*needs `definition`"),
        (
            "views:\n  A.B.V: {column: {X: N}, definition: x}",
            r"c\.yaml:2: unknown key .* `column`.*`columns`",
        ),
        ("views:\n  A.B.V: SELECT 1", r"c\.yaml:2: .*must be a mapping"),
        ("tables:\n  A.B.T: {X: NUMBER}\n  A.B.T: {X: NUMBER}", r"c\.yaml:3: .*given twice"),
        (
            "tables:\n  A.B.T: {X: NUMBER}\n  a.b.t: {X: NUMBER}",
            r"c\.yaml:3: A\.B\.T is given twice",
        ),
        (
            "tables:\n  A.B.T: {X: N}\nviews:\n  A.B.T: {columns: {X: N}, definition: x}",
            r"c\.yaml:4: .*twice",
        ),
        ("tables:\n  A.B.T: {X: NUMBER, x: NUMBER}", r"c\.yaml:2: the column X .* given twice"),
        ("tables:\n  A.B: {X: NUMBER}", r"c\.yaml:2: `A\.B` is not DATABASE\.SCHEMA\.TABLE"),
        (
            "views:\n  A.*.V: {columns: {X: N}, definition: x}",
            r"c\.yaml:2: .*DATABASE\.SCHEMA\.VIEW",
        ),
        ("tables:\n  A.B.T: {X: 3}", r"c\.yaml:2: the type of A\.B\.T\.X must be a text"),
        ("tables:\n  A.B.T: &x {X: N}\n  A.B.U: *x", r"c\.yaml:2: anchors and aliases"),
        ("tables: &t\n  A.B.T: *t", r"c\.yaml:"),
        ("tables: !!python/object/apply:os.getcwd []", r"c\.yaml:1: "),
        ("[" * 5000, r"c\.yaml.*nested too deeply"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load(tmp_path, text)


def test_a_bomb_of_aliases_is_refused(tmp_path: Path) -> None:
    lines = ["a0: &a0 {X: N}"]
    lines += [
        f"a{i}: &a{i} {{{', '.join(f'k{j}: *a{i - 1}' for j in range(9))}}}" for i in range(1, 40)
    ]
    with pytest.raises(ConfigError, match=r"anchors and aliases|nested deeper"):
        load(tmp_path, "\n".join(lines))


def test_a_refused_object_has_no_columns_for_anybody() -> None:
    name = TableName("A", "B", "V")
    catalog = Catalog.of({name: CatalogObject({"X": "NUMBER"}, refused="is a secure view")})
    assert catalog.columns(name) is None
    assert catalog.get(name) is not None
    open_ = Catalog.of({name: CatalogObject({"X": "NUMBER"})})
    assert catalog.digest([name]) != open_.digest([name])
