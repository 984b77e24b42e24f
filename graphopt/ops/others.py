"""Operators that are carried through, with types from ONNX's own inference."""

from __future__ import annotations

from graphopt.ops.registry import Kind, declare

declare(
    Kind.OTHER, "ArrayFeatureExtractor", "Binarizer", "CastMap", "CategoryMapper", "DictVectorizer",
    "FeatureVectorizer", "Imputer", "LabelEncoder", "LinearClassifier", "LinearRegressor", "Normalizer",
    "OneHotEncoder", "SVMClassifier", "SVMRegressor", "Scaler", "TreeEnsemble", "TreeEnsembleClassifier",
    "TreeEnsembleRegressor", "ZipMap", domain="ai.onnx.ml",
)  # fmt: skip

# Newer than the canonical opset: kept as they are.
declare(Kind.HEAVY, "LinearAttention", "CausalConvWithState")
declare(Kind.ELEMENTWISE, "SwiGLU")
