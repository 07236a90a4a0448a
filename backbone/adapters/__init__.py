"""The networks inside other projects' detectors. Each file imports its project, and nothing here imports the files."""
