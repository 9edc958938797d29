"""Everything that is written to disk; nobody else opens an artefact."""
