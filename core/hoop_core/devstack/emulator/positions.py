"""`$1`, `$2`, ...: the columns of a VALUES clause by position.

https://docs.snowflake.com/en/sql-reference/constructs/values
"""

from __future__ import annotations

from sqlglot import exp


def name_positions(tree: exp.Expr) -> exp.Expr:
    """The positions replaced by names, for SELECTs whose one source is a VALUES clause."""
    for select in list(tree.find_all(exp.Select)):
        source = select.args.get("from_")
        values = source.this if source is not None else None
        if isinstance(values, exp.Values) and not select.args.get("joins"):
            _name(select, values)
    return tree


def _name(select: exp.Select, values: exp.Values) -> None:
    found = [p for p in select.find_all(exp.Parameter) if p.find_ancestor(exp.Select) is select]
    if not found or not values.expressions:
        return
    alias = values.args.get("alias") or exp.TableAlias(this=exp.to_identifier("_VALUES"))
    width = len(values.expressions[0].expressions)
    columns = alias.columns or [exp.to_identifier(f"COLUMN{i + 1}") for i in range(width)]
    alias.set("columns", [c.copy() for c in columns])
    values.set("alias", alias)
    for parameter in found:
        number = parameter.name
        if number.isdecimal() and 0 < int(number) <= len(columns):
            name = columns[int(number) - 1].copy()
            holder = parameter.parent
            if isinstance(holder, exp.Column):
                parameter.replace(name)
            else:
                parameter.replace(exp.Column(this=name))
