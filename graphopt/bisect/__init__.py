"""From a compile that gives wrong numbers to what makes them wrong: a rewrite of a pass, a kernel, its schedule."""
