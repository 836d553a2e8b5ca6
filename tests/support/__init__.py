"""Helpers that several test files share: fixtures, small models, sounds and checkpoints, and builds for the emulator.

pytest puts ``tests/`` on ``sys.path`` for its ``conftest.py``; a program of ``benchmarks/`` that needs a helper has to
put it there.
"""
