"""The configuration: its one schema, and pure functions from and to TOML text.

`schema` says what exists, in terms of `kinds`; `values` what a text may be; `convert` turns
parsed data into `Settings`, collecting every fault in `faults`; `rules` holds what no single
key can say; `unbuilt` what this version refuses; `toml` reads and writes the text. Files are
opened in `bifrost_lite.load`.
"""
