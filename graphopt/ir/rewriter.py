"""The one gate for mutation.

All changes happen inside transactions::

    with rewriter.rewrite("fuse-relu", root=node):
        fused = rewriter.create("Conv", [...])
        rewriter.replace_node(node, fused.outputs)

A transaction is the unit of fuel, provenance, rollback and bisection: an exception inside undoes
it, and listeners hear of its events only when it is done.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from graphopt.errors import PassError, RewriteError
from graphopt.ir import edits
from graphopt.ir.analyses import A, Analyses
from graphopt.ir.attributes import held
from graphopt.ir.builder import Builder, copy_node
from graphopt.ir.graph import FUSED_DOMAIN, FUSED_OP, Graph, Node, Region, Use, Value, dominates
from graphopt.ir.semantics import Semantics
from graphopt.ir.tensor import Array, Tensor
from graphopt.ir.transaction import Event, EventKind, Listener, OutOfFuel, Relation, Transaction
from graphopt.ir.types import Type, UnknownType, merge_types, refines

_FEWEST_REWRITES = 10_000
_FEWEST_EVENTS = 50_000


class Rewriter:
    """Changes a graph in transactions.

    Args:
        graph: what to change.
        semantics: knowledge of operators, for the types of new nodes.
        fuel: how many transactions may begin; None for any number. Work ends quietly there.
        max_rewrites: how many transactions there may be at most, to stop work without an end; by default
            in proportion to the size of the graph.
        listeners: who hears of finished transactions.
        analyses: what is known of the graph from rewriters before this one.

    Attributes:
        count: transactions that changed something.
        failed: the transaction that an exception undid last, to say where it came from.
    """

    def __init__(
        self,
        graph: Graph,
        semantics: Semantics,
        *,
        fuel: int | None = None,
        max_rewrites: int | None = None,
        listeners: Sequence[Listener] = (),
        analyses: Analyses | None = None,
    ) -> None:
        size = len(graph._values)
        self.graph = graph
        self.semantics = semantics
        self.fuel = fuel
        self.max_rewrites = _FEWEST_REWRITES + 8 * size if max_rewrites is None else max_rewrites
        self._max_events = _FEWEST_EVENTS + 64 * size
        self.listeners = list(listeners)
        self.count = 0
        self.failed: Transaction | None = None
        self._analyses = analyses or Analyses(graph)
        self._builder = Builder(graph)
        self._current: Transaction | None = None

    @contextlib.contextmanager
    def rewrite(self, rule: str, root: Node | None = None) -> Iterator[Transaction]:
        """A transaction. A transaction that changes nothing is free; an exception inside undoes all of it.

        Raises:
            OutOfFuel: the fuel is spent.
            PassError: there were more transactions, or more events in this one, than a pass that ends needs.
            RewriteError: transactions don't nest.
        """
        if self._current is not None:
            raise RewriteError(f'rule "{rule}" began inside rule "{self._current.rule}"')
        if self.fuel is not None and self.count >= self.fuel:
            raise OutOfFuel
        if self.count >= self.max_rewrites:
            at = f" at {root.label}" if root is not None else ""
            raise PassError(
                f'rule "{rule}"{at}: the pass goes on and on, {self.max_rewrites} rewrites were not enough',
                hint="what it writes matches again, or it needs more: --max-rewrites, max_rewrites=",
            )
        transaction = Transaction(rule, root, self.count)
        self._current = transaction
        try:
            yield transaction
        except BaseException:
            self.roll_back()
            raise
        self._current = None
        if not (transaction.events or transaction.undo):
            return
        self.count += 1
        self._note_origin(transaction)
        self._analyses.committed(transaction)
        self._tell(transaction)

    def roll_back(self) -> None:
        """Undoes the open transaction, if there is one."""
        transaction = self._current
        if transaction is None:
            return
        while transaction.undo:
            transaction.undo.pop()()
        self._current, self.failed = None, transaction

    def analysis(self, kind: type[A]) -> A:
        """What ``kind`` says of the graph as it is now; computed only when a rewrite may have changed it since it
        was last asked for."""
        if self._current is not None and self._current.events:
            return kind.of(self.graph)  # not kept: the transaction may be undone
        return self._analyses.get(kind)

    # --- making -------------------------------------------------------------------------------

    def create(
        self,
        op: str,
        inputs: Sequence[Value | None],
        attrs: Mapping[str, object] | None = None,
        *,
        domain: str = "",
        outputs: int | Sequence[str] = 1,
        types: Sequence[Type] | None = None,
        name: str = "",
        before: Node | None = None,
        region: Region | None = None,
    ) -> Node:
        """Inserts a node before ``before``, by default before the transaction's root, else at the end of
        ``region``. Types are inferred unless given; outputs are named after the root's first output. Attributes
        may be lists or NumPy's, see :func:`~graphopt.ir.attributes.held`.

        Raises:
            RewriteError: no transaction, inputs are no values, or one is not visible at this place.
            TypeInferenceError: the inputs don't fit the operator.
        """
        transaction = self._transaction()
        if isinstance(inputs, Value) or not all(v is None or isinstance(v, Value) for v in inputs):
            raise RewriteError(f"{op}: inputs is a list of values, None where one is absent")
        if before is None and region is None:
            before = transaction.root
        if before is not None and before.erased:
            raise RewriteError(f"{op} can't be inserted before {before.label}: it was erased")
        region = before.parent if before is not None else region
        hint = (
            transaction.root.outputs[0].name if transaction.root and transaction.root.outputs else op.lower()
        )
        names = [hint] * outputs if isinstance(outputs, int) else list(outputs)
        declared = list(types) if types is not None else [UnknownType() for _ in names]
        node = self._builder.node(
            op, inputs, list(zip(names, declared, strict=True)), held(attrs or {}),
            domain=domain, name=name, region=region, before=before,
        )  # fmt: skip
        transaction.undo.append(edits.inserted(self.graph, node))
        for value in node.inputs:
            if value is not None and not dominates(value, node):
                raise RewriteError(
                    f'rule "{transaction.rule}": {node.label} can\'t see %{value.name} at its place'
                )
        transaction.events.append(Event(EventKind.INSERTED, node))
        transaction.made.add(node)
        if types is None:
            for output, type in zip(node.outputs, self._infer(node), strict=False):
                output.type = type
        return node

    def fuse(self, nodes: Sequence[Node], output: Value, *, name: str = "") -> Node:
        """Moves ``nodes`` (program order) into the body of a new fused node that stands where the last
        of them stood, and replaces ``output``, the only one of their values used outside.

        The fused node's inputs are the values that the body uses from outside, in order of first use.

        Raises:
            RewriteError: another value of theirs is used outside, or a node is named twice.
        """
        transaction = self._transaction()
        inside = dict.fromkeys(nodes)
        if len(inside) != len(nodes):
            twice = next(node for node in inside if nodes.count(node) > 1)
            raise RewriteError(f'rule "{transaction.rule}": {twice.label} is twice among the nodes to fuse')
        escaping = [
            v
            for n in nodes
            for v in n.outputs
            if v is not output and any(u.user not in inside for u in v.uses)
        ]
        if escaping:
            raise RewriteError(f'rule "{transaction.rule}": %{escaping[0].name} is used outside the region')
        captured = list(
            dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v.producer not in inside)
        )
        fused = self.create(
            FUSED_OP,
            captured,
            domain=FUSED_DOMAIN,
            outputs=[output.name],
            types=[output.type],
            name=name,
            before=nodes[-1],
        )
        fused.origin = tuple(
            dict.fromkeys(o for n in nodes for o in (n.origin or ((n.name,) if n.name else ())))
        )
        body = self._builder.region(fused, "body")
        mapping: dict[Value, Value] = {}
        for value in captured:
            mapping[value] = self._builder.input(value.name, value.type, body)
        for node in nodes:
            copy_node(node, self._builder, mapping, region=body)
        self._builder.outputs([mapping[output]], body)
        self.replace(output, fused.output)
        for node in reversed(nodes):
            self.erase(node)
        self.rename(fused.output, output.name)
        for old, new in mapping.items():
            if not new.is_input and not self.graph.has_value(old.name):
                self.rename(new, old.name)
        return fused

    def inline(self, region: Region, arguments: Sequence[Value], before: Node) -> list[Value]:
        """Copies the nodes of ``region`` to the place before ``before``, with ``arguments`` for its inputs.

        Returns:
            What the outputs of ``region`` are there.
        """
        transaction = self._transaction()
        mapping = dict(zip(region.inputs, arguments, strict=True))
        copies: list[Node] = []
        for node in region:
            copy = copy_node(node, self._builder, mapping, region=before.parent, before=before)
            transaction.undo.append(edits.inserted(self.graph, copy))
            transaction.events.append(Event(EventKind.INSERTED, copy))
            copies.append(copy)
        self._reinfer(copies)  # arguments, and what was refined around the region, may say more than before
        return [mapping.get(value, value) for value in region.outputs]

    def constant(self, data: Tensor | Array, name: str = "") -> Value:
        """A new constant of the graph, named after the transaction's root unless ``name`` is given."""
        transaction = self._transaction()
        hint = name or (transaction.root.outputs[0].name + "_const" if transaction.root else "const")
        value = self._builder.constant(data if isinstance(data, Tensor) else Tensor.of(data), hint)
        transaction.undo.append(edits.added_constant(self.graph, value))
        return value

    # --- changing -----------------------------------------------------------------------------

    def replace(
        self,
        old: Value,
        new: Value,
        relation: Relation = Relation.EQUAL,
        *,
        uses: Sequence[Use] | None = None,
    ) -> None:
        """Redirects every use of ``old``, or those in ``uses``, to ``new``; the new type reaches the users.

        Raises:
            RewriteError: the types contradict each other (under EQUAL), or a user can't see ``new``.
        """
        transaction = self._transaction()
        if relation is Relation.EQUAL and not refines(new.type, old.type):
            raise RewriteError(
                f'rule "{transaction.rule}": %{new.name} of type {new.type} can\'t replace '
                f"%{old.name} of type {old.type}"
            )
        if relation is Relation.EQUAL and new.owner is not None:
            self.set_type(new, merge_types(old.type, new.type))
        for use in old.uses if uses is None else uses:
            if isinstance(use.user, Node):
                if use.user is new.producer:
                    continue
                if not dominates(new, use.user):
                    raise RewriteError(
                        f'rule "{transaction.rule}": {use.user.label} can\'t see %{new.name}, '
                        f"which should replace %{old.name}"
                    )
                transaction.undo.append(edits.set_use(use, new))
                transaction.events.append(Event(EventKind.CHANGED, use.user))
            else:
                transaction.undo.append(edits.set_use(use, new))
        transaction.events.append(Event(EventKind.REPLACED, None, old, new, relation))
        if new.type != old.type:
            self._reinfer(new.users)

    def replace_node(
        self, node: Node, values: Sequence[Value | None], relation: Relation = Relation.EQUAL
    ) -> None:
        """Replaces the outputs of ``node`` by ``values`` (None for an unused one) and erases it.

        A value that this transaction made takes over the name of the one it replaces, so that what
        stands for a value of the source model is called as there.
        """
        pairs = [(old, new) for old, new in zip(node.outputs, values, strict=True) if new is not None]
        for old, new in pairs:
            self.replace(old, new, relation)
        self.erase(node)
        made = self._transaction().made
        for old, new in pairs:
            if new.producer in made and not self.graph.has_value(old.name):
                self.rename(new, old.name)

    def erase(self, node: Node) -> None:
        """Removes ``node`` and what its regions hold.

        Raises:
            RewriteError: one of its outputs is still used.
        """
        transaction = self._transaction()
        for output in node.outputs:
            if output._uses:
                user = next(iter(output._uses)).user
                who = user.label if isinstance(user, Node) else "a region's output"
                raise RewriteError(f'rule "{transaction.rule}": {node.label} can\'t be erased, {who} uses it')
        transaction.undo.append(edits.erase(self.graph, node))
        transaction.events.append(Event(EventKind.ERASED, node))

    def set_input(self, node: Node, index: int, value: Value | None) -> None:
        """Changes one input of ``node``; an index past the end adds absent inputs up to it.

        Raises:
            RewriteError: ``value`` is not visible there.
        """
        transaction = self._transaction()
        if value is not None and not dominates(value, node):
            raise RewriteError(f'rule "{transaction.rule}": {node.label} can\'t see %{value.name}')
        inputs = list(node.inputs)
        inputs += [None] * (index + 1 - len(inputs))
        inputs[index] = value
        self.set_inputs(node, inputs)

    def set_inputs(self, node: Node, inputs: Sequence[Value | None]) -> None:
        """Changes all inputs of ``node``."""
        transaction = self._transaction()
        old = node.inputs
        transaction.undo.append(edits.set_inputs(node, inputs))
        transaction.events.append(Event(EventKind.CHANGED, node))
        for value in dict.fromkeys(old):
            if value is not None and value not in inputs:
                transaction.events.append(Event(EventKind.RELEASED, None, value))

    def set_attr(self, node: Node, name: str, value: object) -> None:
        """Sets an attribute, see :func:`~graphopt.ir.attributes.held`; None removes it."""
        transaction = self._transaction()
        kept = {k: v for k, v in node.attrs.items() if k != name}
        attrs = kept if value is None else {**kept, **held({name: value})}
        transaction.undo.append(edits.set_attrs(node, attrs))
        transaction.events.append(Event(EventKind.CHANGED, node))

    def set_type(self, value: Value, type: Type) -> None:
        """Changes the type of a value; types of users don't follow by this."""
        if value.type == type:
            return
        transaction = self._transaction()
        transaction.undo.append(edits.set_type(value, type))
        transaction.events.append(Event(EventKind.RETYPED, None, value))

    def rename(self, value: Value, name: str) -> None:
        """Gives ``value`` a name, or the nearest free one."""
        transaction = self._transaction()
        if name != value.name:
            transaction.undo.append(edits.rename(self.graph, value, self.graph.fresh_name(name)))

    def move(self, node: Node, before: Node) -> None:
        """Moves ``node`` in its region to the place before ``before``; the verifier judges the order."""
        transaction = self._transaction()
        assert before.parent is node.parent
        if node is before:
            return
        transaction.undo.append(edits.move(node, before))
        transaction.events.append(Event(EventKind.CHANGED, node))

    def erase_constant(self, value: Value) -> None:
        """Removes an unused constant.

        Raises:
            RewriteError: it is used.
        """
        transaction = self._transaction()
        if value._uses:
            raise RewriteError(f'rule "{transaction.rule}": constant %{value.name} is still used')
        transaction.undo.append(edits.erase_constant(self.graph, value))
        transaction.events.append(Event(EventKind.RELEASED, None, value))

    # --- inside -------------------------------------------------------------------------------

    def _transaction(self) -> Transaction:
        if self._current is None:
            raise RewriteError(
                "graphs change only inside a transaction: with rewriter.rewrite(rule, root): ..."
            )
        if len(self._current.events) >= self._max_events:
            raise PassError(
                f'rule "{self._current.rule}": one rewrite goes on and on, {self._max_events} changes were not enough',
                hint="make many rewrites of one that changes so much",
            )
        return self._current

    def _reinfer(self, users: Sequence[Node]) -> None:
        pending = dict.fromkeys(users)
        while pending:
            node = next(iter(pending))
            del pending[node]
            if node.erased or node.is_fused:
                continue
            for output, type in zip(node.outputs, self._infer(node), strict=False):
                if refines(type, output.type):
                    merged = merge_types(output.type, type)
                    if merged != output.type:
                        self.set_type(output, merged)
                        pending.update(dict.fromkeys(output.users))

    def _infer(self, node: Node) -> list[Type]:
        """Types of a node's outputs, by code that may be a user's: all that was changed can be undone by now."""
        return self.semantics.infer(node)

    def _tell(self, transaction: Transaction) -> None:
        """Calls the listeners, when all is done."""
        for listener in self.listeners:
            listener.committed(transaction)

    def _note_origin(self, transaction: Transaction) -> None:
        sources: dict[str, None] = {}
        for event in transaction.events:
            if event.kind is EventKind.ERASED and event.node is not None:
                sources.update(
                    dict.fromkeys(event.node.origin or ((event.node.name,) if event.node.name else ()))
                )
        if not sources and transaction.root is not None:
            sources.update(dict.fromkeys(transaction.root.origin))
        for event in transaction.events:
            if event.kind is EventKind.INSERTED and event.node is not None and not event.node.origin:
                event.node.origin = tuple(sources)
