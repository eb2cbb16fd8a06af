"""What every part of the package may use: errors, files, processes, progress, packages, terminals."""
