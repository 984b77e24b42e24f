"""A diff as one JSON document."""

from __future__ import annotations

from typing import Any

from graphopt.diff.changes import Differences, NodeChange, Rewired
from graphopt.diff.describe import place_of
from graphopt.ir.graph import Node


def document(diff: Differences) -> dict[str, Any]:
    """The keys are part of the stable interface; ``docs/diff.md`` says what each means."""
    return {
        "equal": diff.equal,
        "nodes": {
            "matched": len(diff.partners),
            "changed": len(diff.changed),
            "added": len(diff.added),
            "removed": len(diff.removed),
            "moved": len(diff.moved),
        },
        "signature": [change.to_json() for change in diff.signature],
        "changed": [_changed(entry) for entry in diff.changed],
        "removed": [node_json(node) for node in diff.removed],
        "added": [node_json(node) for node in diff.added],
        "moved": [{"before": node_json(move.before), "after": node_json(move.after)} for move in diff.moved],
        "rewired": [_rewired(entry) for entry in diff.rewired],
        "followed_types": diff.followed,
    }


def node_json(node: Node) -> dict[str, Any]:
    """What names a node: its operator, name, first output, and region."""
    return {
        "op": node.op_type,
        "name": node.name,
        "output": node.outputs[0].name if node.outputs else "",
        "region": place_of(node.parent),
    }


def _changed(entry: NodeChange) -> dict[str, Any]:
    return {
        "before": node_json(entry.before),
        "after": node_json(entry.after),
        "changes": [change.to_json() for change in entry.changes],
    }


def _rewired(entry: Rewired) -> dict[str, Any]:
    return {
        "user": entry.user,
        "where": entry.where,
        "before": entry.before,
        "after": entry.after,
        "removed": None if entry.removed is None else node_json(entry.removed),
        "added": None if entry.added is None else node_json(entry.added),
    }
