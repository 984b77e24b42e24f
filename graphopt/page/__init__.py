"""Pages: one HTML file each that needs nothing else, and graphs drawn on them.

:class:`Drawing` lays a graph out, :class:`Pair` puts two drawings side by side, :func:`page` is the frame of
every page. For a page of another kind, ``view.js`` draws one graph on a canvas::

    page("A graph", "<canvas id=c></canvas>", data={"graph": Drawing(graph).to_json()}, scripts=[
        asset("view.js"),
        "new GraphView(c, JSON.parse(document.getElementById('graph').textContent)).fit()",
    ])
"""

from graphopt.page.drawing import Drawing
from graphopt.page.html import asset, page
from graphopt.page.pair import Entry, Mark, Pair

__all__ = ["Drawing", "Entry", "Mark", "Pair", "asset", "page"]
