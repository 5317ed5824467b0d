"""The commands of the workbench, each in a file of its own."""
