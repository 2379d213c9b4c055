"""A comparison for people and programs: terminal, page, JSON, JUnit, CSV and records, all of one ``Account``.

Pure functions of what ``comparing`` found and of what was measured beside it; nothing here runs a model.
"""
