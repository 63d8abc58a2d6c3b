"""The questions of an incident, answered from the record and the tables beside it. Everything here only reads.

A module a question. Each takes the `Sight` of the caller, and answers as if what lies outside it did not exist.
"""
