"""The engine cache: built engines by the keys of their requests, kept across processes.

`entry` is what is stored, `stores` where, `builder` puts it before whatever builds.
"""
