"""The built-in converter pack: ATen operators, a module per operator family.

Adding an op: find its family's module, add one decorated function (or one line in its table), and one entry in
``tests/converters/test_<family>.py``; what torch ops can say is an entry in a table of decompositions. CONTRIBUTING.md
has the steps. `trtcore_converters.pack` is what the entry point names.
"""
