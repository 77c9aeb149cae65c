"""The command line: thin; each verb parses, calls and prints. See ``verbs`` for the list."""
