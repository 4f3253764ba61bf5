"""The analyses behind the chapters: stored sweeps become tidy tables, figures and claims.

A lesson and its evidence page call the same study. ``studies`` is no installed package: chapters
run in the folder beside it, and ``import studies`` finds it there.
"""

from . import phone

phone.register()
