"""The demonstration: issue copies, attack their images, resolve them back, through the command lines.

python -m registry.demo --out demo
"""
