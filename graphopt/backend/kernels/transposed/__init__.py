"""Transposed convolution as convolutions of stride 1, one for each phase of the output.

Along one axis with stride s, dilation d and padding p, tap t of output o reads input (o + p - t d) / s,
where that is whole. All outputs o = q s + r of one *phase* r thus read the same taps, which lie d / gcd(d, s)
inputs apart: an ordinary convolution over q, its taps in reverse. Neighbouring phases that read equally
many taps at the same places differ in weights alone. They are computed as one convolution with as many
times the output channels, whose store puts them where they belong: with kernel = stride everything is
one product. Phases without any tap are zero.

phases.py    which taps each phase reads, and the convolutions that makes
plan.py      what the two kernels share: a plan, and the weights of all convolutions in one buffer
blocked.py   channels in blocks
rows.py      row-major order
"""
