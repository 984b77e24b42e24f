"""A page that says what an optimization did: passes, graphs before and after, kernels.

A :class:`Recording` is an instrument; after the run it makes a :class:`Run`, and :func:`html_page` a page of runs::

    recording = Recording()
    report = Pipeline.parse("O2").run(graph, instruments=[recording])
    text = html_page("model.onnx", [recording.run(report)])
"""

from graphopt.report.document import html_page
from graphopt.report.recording import Build, Recording, Run, Stages

__all__ = ["Build", "Recording", "Run", "Stages", "html_page"]
