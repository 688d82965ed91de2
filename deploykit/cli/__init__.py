"""The command line: a file for each verb, which parses, calls one stage, and prints one result."""
