"""Products of floats on AMX, the matrix unit of x86-64 servers, which multiplies bfloat16 only.

tiles.py     the instructions
parts.py     floats as sums of bfloat16 parts, and what that costs in exactness and time
product.py   register tiles of a product, the reduction, and the order of the loops
conv.py      convolutions whose channels lie in blocks
gemm.py      matrix products with constant weights
"""
