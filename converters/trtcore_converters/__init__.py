"""The built-in converter pack: ATen operators, a module per operator family.

Adding an op: find its family's module, add one decorated function (or one line in its table), and one entry in
``tests/converters/test_<family>.py``. `trtcore_converters.pack` is what the entry point names.
"""
