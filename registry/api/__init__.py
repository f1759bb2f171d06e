"""What all HTTP routes share: who asks, what is refused and how, pages, repeats, the OpenAPI document.

The routes themselves are in the ``routes.py`` of the feature that they belong to; :mod:`registry.app` lists
them.
"""
