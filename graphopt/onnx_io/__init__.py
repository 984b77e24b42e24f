"""ONNX models in and out."""

from graphopt.onnx_io.api import from_onnx_ir, load, save, to_onnx_ir, to_proto

__all__ = ["from_onnx_ir", "load", "save", "to_onnx_ir", "to_proto"]
