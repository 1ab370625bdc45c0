"""The command line: parse, call one function, render. docs/cli.md is made from it."""
