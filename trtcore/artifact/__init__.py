"""What an engine is, as data: manifest, network snapshot, engine file. Imports no stage."""
