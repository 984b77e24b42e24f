from graphopt.backend.kernels.shifted import emit_shifted as emit_pointwise
