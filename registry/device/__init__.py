"""Check on your device: a page on which the attribution network runs in the auditor's browser.

The page fetches a network that its reader may resolve with (:mod:`registry.device.pages`), reads images with
it in a worker (``web/src/device*.js``), and sends nothing but the readings to resolve.
"""
