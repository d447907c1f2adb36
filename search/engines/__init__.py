"""Evaluators that are many: local processes, or actors of a Ray cluster; a search sees one evaluator all the same."""
