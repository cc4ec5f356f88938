"""Queries that DuckDB would answer by reading everything, rewritten so that the store's indexes help.

1. `stream like 'order-4%'` holds only in the category `order`: that is added as a condition.
2. `order by position … limit N` takes the first rows of a view that is read in that order, and no others.

DuckDB parses a query and writes it again; the tree between the two is changed. A query of another shape is
left as it is. The result is the same in every case, only faster.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

import duckdb

if TYPE_CHECKING:
    Node = dict[str, Any]

NEWEST_FIRST: Final = "events, the newest first"
_SIMPLE_COLUMNS: Final = ("replace_list", "rename_list", "exclude_list", "qualified_exclude_list")


def rewritten(connection: duckdb.DuckDBPyConnection, sql: str, views: Mapping[str, str | None]) -> str | None:
    """Return a statement that gives the same result faster; None if there is none.

    Args:
        views: by their names in lower case: of which event type each is, None for all.
    """
    text = sql.casefold()
    if "like" not in text and not ("order" in text and "limit" in text):
        return None
    tree = json.loads(_answer(connection, "select json_serialize_sql(?)", sql))
    if tree.get("error") or len(tree["statements"]) != 1:
        return None
    changed = False
    for node in _nodes(tree):
        if node.get("type") == "SELECT_NODE" and _is_view(node.get("from_table"), views):
            changed |= _add_categories(node)
            changed |= _take_in_order(node, views)
        elif any(each["key"].casefold() in views for each in node.get("map", ()) if isinstance(each, dict)):
            return None  # a common table expression with a view's name
    if not changed:
        return None
    return _answer(connection, "select json_deserialize_sql(?)", json.dumps(tree))


def _answer(connection: duckdb.DuckDBPyConnection, sql: str, value: str) -> str:
    ((answer,),) = connection.execute(sql, [value]).fetchall()
    return str(answer)


def _nodes(value: Any) -> Iterator[Node]:
    """Iterate over all objects of a tree."""
    if isinstance(value, dict):
        yield value
        for each in list(value.values()):
            yield from _nodes(each)
    elif isinstance(value, list):
        for each in value:
            yield from _nodes(each)


def _is_view(table: Any, views: Mapping[str, str | None]) -> bool:
    return (
        isinstance(table, dict)
        and table["type"] == "BASE_TABLE"
        and table["table_name"].casefold() in views
        and not any(
            table.get(name) for name in ("schema_name", "catalog_name", "sample", "column_name_alias")
        )
    )


def _add_categories(node: Node) -> bool:
    """Add the category to each condition on the beginning of a stream's name."""
    table = node["from_table"]
    added = False
    for condition in _conjuncts(node["where_clause"]):
        if condition["class"] != "FUNCTION" or condition["function_name"] != "~~":
            continue
        left, right = (argument["expression"] for argument in condition["arguments"])
        if not _is_column(left, "stream", table) or right.get("literal", {}).get("kind") != "STRING":
            continue
        beginning = right["literal"]["text"].partition("%")[0].partition("_")[0]
        category, dash, _ = beginning.partition("-")
        if category and dash:
            _require(node, left["column_names"][:-1], "category", category)
            added = True
    return added


def _take_in_order(node: Node, views: Mapping[str, str | None]) -> bool:
    """Read the view in the order that is asked for, instead of sorting all of it."""
    table, modifiers = node["from_table"], node["modifiers"]
    if (
        table["table_name"].casefold() == "streams"
        or [each["type"] for each in modifiers] != ["ORDER_MODIFIER", "LIMIT_MODIFIER"]
        or any(node[part] for part in ("group_expressions", "group_sets", "having", "qualify", "sample"))
        or any(each.get("class") in {"WINDOW", "SUBQUERY"} for each in _nodes(node["select_list"]))
        or any(not _keeps_position(each, table) for each in node["select_list"])
    ):
        return False
    orders = modifiers[0]["orders"]
    if len(orders) != 1 or not _is_column(orders[0]["expression"], "position", table):
        return False
    del modifiers[0]
    if orders[0]["type"] == "DESCENDING":
        name = table["table_name"]
        type = views[name.casefold()]
        table["alias"] = table["alias"] or name
        table["table_name"] = NEWEST_FIRST
        table["qualified_name"] = {"path": [NEWEST_FIRST]}
        if type is not None:
            _require(node, [table["alias"]], "type", type)
    return True


def _keeps_position(expression: Node, table: Node) -> bool:
    """Return whether `position` still means the view's column after this one of the result."""
    if expression["class"] == "STAR":
        return not any(expression.get(name) for name in _SIMPLE_COLUMNS)
    if expression["alias"].casefold() == "position":
        return _is_column(expression, "position", table)
    return True


def _is_column(expression: Node, name: str, table: Node) -> bool:
    """Return whether an expression is a column of the table."""
    if expression["class"] != "COLUMN_REF":
        return False
    *qualifier, column = (part.casefold() for part in expression["column_names"])
    own = (table["alias"] or table["table_name"]).casefold()
    return column == name and qualifier in ([], [own])


def _conjuncts(condition: Node | None) -> Iterator[Node]:
    if condition is None:
        return
    if condition["type"] == "CONJUNCTION_AND":
        for each in condition["children"]:
            yield from _conjuncts(each)
    else:
        yield condition


def _require(node: Node, qualifier: list[str], column: str, value: str) -> None:
    """Add a condition: that a column is this text."""
    plain = {"alias": "", "query_location": 0, "query_location_length": 0}
    left = {"class": "COLUMN_REF", "type": "COLUMN_REF", **plain, "column_names": [*qualifier, column]}
    literal = {"kind": "STRING", "text": value}
    right = {"class": "CONSTANT", "type": "VALUE_CONSTANT", **plain, "literal": literal}
    new = {"class": "COMPARISON", "type": "COMPARE_EQUAL", **plain, "left": left, "right": right}
    before = node["where_clause"]
    children = [new] if before is None else [before, new]
    node["where_clause"] = {"class": "CONJUNCTION", "type": "CONJUNCTION_AND", **plain, "children": children}
