"""Tables first, then plotly figures, then self-contained pages; knows no model and no disk.

Each module states one plot as ``<x>_table(...)``, plain rows with the values that are shown, and
``<x>_figure(table)``, a plotly Figure of these rows. ``page`` puts figures and tables into one
HTML text.
"""
