"""Everything that is written to disk; no other package opens an artefact."""
