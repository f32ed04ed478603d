"""The report of all records: a page of Markdown, a page of HTML, and pictures.

``figures.py`` makes figures of the records, ``reading.py`` says what they say; the other files show
them.
"""
