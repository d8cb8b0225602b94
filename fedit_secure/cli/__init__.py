"""Commands: parse, load a configuration, call one function."""
