"""Schema and columnLineage facets (ColumnLineageDatasetFacet 1-2-0)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from openlineage.client.facet_v2 import column_lineage_dataset as lineage
from openlineage.client.facet_v2 import schema_dataset

from hoop_core.lineage.descriptions import Columns
from hoop_core.lineage.facets import PRODUCER
from hoop_core.lineage.naming import source_column
from hoop_core.model import Json, TableName


def schema_of(
    columns: Iterable[tuple[str, str | None]],
) -> list[schema_dataset.SchemaDatasetFacetFields]:
    return [schema_dataset.SchemaDatasetFacetFields(name=n, type=t) for n, t in columns]


def column_lineage(
    told: Sequence[Json],
    masked: Sequence[Json],
    namespace: str,
    read: Mapping[str, Columns | None],
) -> lineage.ColumnLineageDatasetFacet:
    """`told` is the intent's `lineage`, `read` the tables that it reads.

    A source that is masked says so: what was computed from it was computed from the mask's values. An output
    whose sources are not known may depend on every column that is read, which is told of the whole dataset.
    """
    masks = {(m["table"], m["column"]): m["mask"] for m in masked}

    def field(table: TableName, column: str) -> lineage.InputField:
        mask = masks.get((str(table), column))
        return lineage.InputField(
            namespace, str(table), column, transformations=[_transformation(mask)]
        )

    fields: dict[str, lineage.Fields] = {}
    unknown = False
    for column in told:
        unknown = unknown or column["unknown"]
        found = [source for source in map(source_column, column["sources"] or ()) if source]
        if found:
            fields[column["output"]] = lineage.Fields([field(*source) for source in found])
    everything = _everything(namespace, read) if unknown else []
    return lineage.ColumnLineageDatasetFacet(fields=fields, dataset=everything, producer=PRODUCER)


def _transformation(mask: str | None) -> lineage.Transformation:
    if mask is None:
        return lineage.Transformation(type="DIRECT", masking=False)
    return lineage.Transformation(
        type="DIRECT", subtype="TRANSFORMATION", description=f"mask {mask}", masking=True
    )


def _everything(namespace: str, read: Mapping[str, Columns | None]) -> list[lineage.InputField]:
    return [
        lineage.InputField(
            namespace, table, column, transformations=[lineage.Transformation(type="INDIRECT")]
        )
        for table, columns in read.items()
        for column, _ in columns or ()
    ]
