"""Facts about captured graphs: nodes, symbols, schemas, guards, what a Program is. Imports no stage."""
